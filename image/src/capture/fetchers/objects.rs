//! The objects of Git that evaluation read: in the repositories of Nix's cache, with nothing else in them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use git2::{Config, ObjectType, Odb, Oid, PackBuilder, Repository};

use super::{CaptureError, io_error, names};

/// Where repositories lie below Nix's cache: one of all tarballs, `tarball-cache` (`-v2` from Nix 2.34 on), and one
/// for each repository that was fetched, in this directory.
const FETCHED: &str = "gitv3";

/// A branch that is not there: what a new repository has, and what Nix takes for the head of the remote one.
const HEAD: &str = "ref: refs/heads/master\n";

const CONFIG: &str = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n";

/// Writes repositories below `to` that have the objects `named`, and the trees and files of them, where the ones
/// below `from` have them.
pub(super) fn write(from: &Path, named: &BTreeSet<String>, to: &Path) -> Result<(), CaptureError> {
    let named: BTreeSet<Oid> = named.iter().filter_map(|name| name.parse().ok()).collect();
    for repository in repositories(from)? {
        let source = from.join(&repository);
        let failed =
            |source_error| CaptureError::FetchedObjects { path: source.clone(), source: source_error };
        let objects = Objects::open(&source.join("objects")).map_err(failed)?;
        let reached = objects.reached(&named).map_err(failed)?;
        if !reached.is_empty() {
            let new = to.join(&repository);
            make_bare(&new)?;
            objects.pack(&reached, &new.join("objects/pack")).map_err(failed)?;
        }
    }
    Ok(())
}

/// The repositories of a cache, relative to it.
fn repositories(cache: &Path) -> Result<Vec<PathBuf>, CaptureError> {
    let list = |directory: &Path| names(directory).map_err(|source| io_error(directory, source));
    let tarballs = list(cache)?.into_iter().map(PathBuf::from);
    let fetched = list(&cache.join(FETCHED))?.into_iter().map(|name| Path::new(FETCHED).join(name));
    Ok(tarballs.chain(fetched).filter(|place| cache.join(place).join("objects").is_dir()).collect())
}

/// Makes a bare repository without objects.
fn make_bare(at: &Path) -> Result<(), CaptureError> {
    for directory in ["objects/pack", "refs"] {
        let path = at.join(directory);
        fs::create_dir_all(&path).map_err(|source| io_error(&path, source))?;
    }
    for (file, text) in [("HEAD", HEAD), ("config", CONFIG)] {
        let path = at.join(file);
        fs::write(&path, text).map_err(|source| io_error(&path, source))?;
    }
    Ok(())
}

/// The objects of a repository.
struct Objects(Repository);

impl Objects {
    /// Opens a directory of objects. No configuration of the user's or the machine's counts.
    fn open(directory: &Path) -> Result<Self, git2::Error> {
        let objects = Odb::new()?;
        objects.add_disk_alternate(&directory.to_string_lossy())?;
        let repository = Repository::from_odb(objects)?;
        repository.set_config(&Config::new()?)?;
        Ok(Self(repository))
    }

    /// Those of `named` that are here, their trees and all that is in these, in an order that follows from
    /// them. What came before a commit is left out, and so are other repositories, which have their own place.
    fn reached(&self, named: &BTreeSet<Oid>) -> Result<Vec<Oid>, git2::Error> {
        let objects = self.0.odb()?;
        let mut seen = BTreeSet::new();
        let mut reached = Vec::new();
        let mut todo: Vec<Oid> = named.iter().rev().filter(|id| objects.exists(**id)).copied().collect();
        while let Some(id) = todo.pop() {
            if !seen.insert(id) {
                continue;
            }
            reached.push(id);
            match objects.read_header(id)?.1 {
                ObjectType::Commit => todo.push(self.0.find_commit(id)?.tree_id()),
                ObjectType::Tree => {
                    let tree = self.0.find_tree(id)?;
                    let entries = tree.iter().filter(|entry| entry.kind() != Some(ObjectType::Commit));
                    todo.extend(entries.map(|entry| entry.id()).collect::<Vec<_>>().into_iter().rev());
                }
                _ => {}
            }
        }
        Ok(reached)
    }

    /// Writes a pack of the objects, and its index.
    fn pack(&self, objects: &[Oid], to: &Path) -> Result<(), git2::Error> {
        let mut pack: PackBuilder<'_> = self.0.packbuilder()?;
        // With more, it would depend on the machine which objects are stored as a difference to others.
        pack.set_threads(1);
        for id in objects {
            pack.insert_object(*id, None)?;
        }
        pack.write(to, 0o444)
    }
}
