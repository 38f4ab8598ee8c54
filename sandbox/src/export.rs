//! Bringing results out of a sandbox, to a machine that may have no Nix store.
//!
//! What is inside never writes to the host: it is read from outside, and written by this process. Names
//! that are made up inside are only ever used below a directory that this process made.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use seed_image::tree::{TreeError, Visitor, nar_hash, walk};

use crate::build::{Builder, path_in};
use crate::error::SandboxError;
use crate::record::{OutputRecord, TargetRecord};
use crate::spec::HOME;

/// Where results go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Links to copies of the outputs, which are ordinary files.
    ///
    /// Where an output refers to other store paths, what runs from a copy needs these: a binary cache has
    /// them, and so has `seed run`.
    Links {
        /// The first target's output `out`; its other outputs are at `LINK-NAME`, the outputs of further
        /// targets at `LINK-N` and `LINK-N-NAME`, with N from 1, as `nix build` names them. What is there
        /// must be a link.
        link: PathBuf,
        /// The directory for the copies, each by the name of its store path.
        copies: PathBuf,
    },
    /// Copies of the outputs, which are ordinary files, each by the name of its store path.
    Copies(PathBuf),
    /// A binary cache in a directory, `file://DIR` to Nix: the outputs with all that they refer to. What the
    /// cache holds already stays.
    BinaryCache(PathBuf),
}

/// Why a result could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] TreeError),
    /// It cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

/// Writes the outputs of all targets to one place.
pub(crate) fn export(
    builder: &mut Builder<'_>,
    targets: &[TargetRecord],
    destination: &Destination,
) -> Result<(), SandboxError> {
    match destination {
        Destination::Links { link, copies } => export_links(builder, targets, link, copies),
        Destination::Copies(copies) => export_copies(builder, targets, copies).map(drop),
        Destination::BinaryCache(cache) => export_cache(builder, targets, cache),
    }
}

fn export_links(
    builder: &mut Builder<'_>,
    targets: &[TargetRecord],
    link: &Path,
    copies: &Path,
) -> Result<(), SandboxError> {
    let mut copied = export_copies(builder, targets, copies)?.into_iter();
    for (number, target) in targets.iter().enumerate() {
        for (output, copy) in target.outputs.iter().zip(copied.by_ref()) {
            let link = link_path(link, number, &output.name);
            replace_link(&link, &copy).map_err(|e| failed(&link, writing(&link)(e)))?;
        }
    }
    Ok(())
}

/// Copies each output of each target; says where, in their order.
fn export_copies(
    builder: &mut Builder<'_>,
    targets: &[TargetRecord],
    copies: &Path,
) -> Result<Vec<PathBuf>, SandboxError> {
    let copies = std::path::absolute(copies).map_err(|e| failed(copies, writing(copies)(e)))?;
    fs::create_dir_all(&copies).map_err(|e| failed(&copies, writing(&copies)(e)))?;
    let store = builder.store()?;
    let mut copied = Vec::new();
    for output in targets.iter().flat_map(|target| &target.outputs) {
        builder.signals.check()?;
        copied.push(copy_output(&store, output, &copies).map_err(|e| failed(&copies, e))?);
    }
    Ok(copied)
}

fn failed(path: &Path, source: CopyError) -> SandboxError {
    SandboxError::Export { path: path.to_owned(), source }
}

/// Says that an error of the system came of writing to `path`.
fn writing(path: &Path) -> impl Fn(io::Error) -> CopyError + '_ {
    |source| CopyError::Write { path: path.to_owned(), source }
}

/// The name of an output's link.
fn link_path(link: &Path, number: usize, output: &str) -> PathBuf {
    let mut name = link.as_os_str().to_owned();
    if number > 0 {
        name.push(format!("-{number}"));
    }
    if output != "out" {
        name.push(format!("-{output}"));
    }
    name.into()
}

/// Copies an output, unless the same bytes are there already.
fn copy_output(store: &OwnedFd, output: &OutputRecord, copies: &Path) -> Result<PathBuf, CopyError> {
    let to = copies.join(output.path.base_name());
    if nar_hash(&to).is_ok_and(|(found, _)| found == output.nar_hash) {
        return Ok(to);
    }
    let new = beside(&to, "new");
    for path in [&new, &to] {
        remove(path).map_err(writing(path))?;
    }
    walk(&path_in(store, &output.path), &mut Copy { at: new.clone(), depth: 0, merge: false })?;
    fs::rename(&new, &to).map_err(writing(&to))?;
    Ok(to)
}

fn replace_link(link: &Path, target: &Path) -> io::Result<()> {
    match fs::symlink_metadata(link) {
        Ok(found) if !found.is_symlink() => return Err(io::ErrorKind::AlreadyExists.into()),
        _ => {}
    }
    let new = beside(link, "new");
    remove(&new)?;
    symlink(target, &new)?;
    fs::rename(&new, link)
}

/// A hidden neighbour of `path`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{suffix}"));
    path.with_file_name(name)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Has Nix make a cache of the outputs and all that they refer to inside, and merges it into the user's.
fn export_cache(
    builder: &mut Builder<'_>,
    targets: &[TargetRecord],
    cache: &Path,
) -> Result<(), SandboxError> {
    let inside = format!("{HOME}/cache");
    let store = format!("file://{inside}?compression=zstd");
    let outputs: Vec<String> =
        targets.iter().flat_map(|target| &target.outputs).map(|output| output.path.to_string()).collect();
    let arguments: Vec<&str> =
        ["--offline", "copy", "--to", &store].into_iter().chain(outputs.iter().map(String::as_str)).collect();
    builder.ask("nix", &arguments)?;

    // By way of the directory above it: a walk takes a name that is a link, as those of descriptors are, for
    // a link.
    let home = builder.sandbox.open(HOME.as_ref())?;
    let made = PathBuf::from(format!("/proc/self/fd/{}/cache", home.as_raw_fd()));
    merge(&made, cache).map_err(|source| failed(cache, source))
}

/// Merges the binary cache in the directory `from` into the one in `cache`, which is made if it is missing.
/// What is there stays, and gets the signatures that it lacks.
pub fn merge_cache(from: &Path, cache: &Path) -> Result<(), SandboxError> {
    merge(from, cache).map_err(|source| failed(cache, source))
}

/// Archives first, so that no entry of the cache is without its archive at any time.
fn merge(from: &Path, cache: &Path) -> Result<(), CopyError> {
    fs::create_dir_all(cache).map_err(writing(cache))?;
    for (from, to) in [(from.join("nar"), cache.join("nar")), (from.to_owned(), cache.to_owned())] {
        walk(&from, &mut Copy { at: to, depth: 0, merge: true })?;
    }
    Ok(())
}

/// Longest entry of a binary cache that is read, in bytes.
const MAX_ENTRY: u64 = 1 << 20;

/// The entry of a cache at `place` with the signatures that another entry for the same bytes has more;
/// `None` if there is none.
fn with_signatures(place: &Path, other: &mut dyn Read) -> io::Result<Option<String>> {
    let mut theirs = String::new();
    other.take(MAX_ENTRY).read_to_string(&mut theirs)?;
    let mut ours = String::new();
    File::open(place)?.take(MAX_ENTRY).read_to_string(&mut ours)?;
    let field = |entry: &str, name: &str| {
        entry.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned)).unwrap_or_default()
    };
    // A signature is of the path, the hash and the size of the bytes, and the references.
    let same = ["StorePath:", "NarHash:", "NarSize:", "References:"]
        .iter()
        .all(|name| field(&ours, name) == field(&theirs, name));
    let new: Vec<&str> = theirs
        .lines()
        .filter(|line| line.starts_with("Sig:") && !ours.lines().any(|our| our == *line))
        .collect();
    if !same || new.is_empty() {
        return Ok(None);
    }
    if !ours.ends_with('\n') {
        ours.push('\n');
    }
    for line in new {
        ours.push_str(line);
        ours.push('\n');
    }
    Ok(Some(ours))
}

/// Writes a tree that is being walked, with modes that let its owner change and remove it.
struct Copy {
    /// The place of the directory that was entered last; of the root before that.
    at: PathBuf,
    depth: usize,
    /// Whether directories may be there already, and files that are stay.
    merge: bool,
}

impl Copy {
    fn place(&self, name: &[u8]) -> PathBuf {
        if self.depth == 0 { self.at.clone() } else { self.at.join(OsStr::from_bytes(name)) }
    }

    fn write(&self, place: &Path, executable: bool, contents: &mut dyn Read) -> io::Result<()> {
        if !self.merge {
            return write_new(place, executable, contents);
        }
        // Others may read the cache meanwhile: they find a file whole or not at all.
        let partial = beside(place, "partial");
        remove(&partial)?;
        let written = if !place.exists() {
            write_new(&partial, executable, contents)
        } else if place.extension().is_some_and(|extension| extension == "narinfo") {
            match with_signatures(place, contents)? {
                Some(entry) => write_new(&partial, executable, &mut entry.as_bytes()),
                None => return Ok(()),
            }
        } else {
            return Ok(());
        };
        let written = written.and_then(|()| fs::rename(&partial, place));
        if written.is_err() {
            let _ = remove(&partial);
        }
        written
    }
}

impl Visitor for Copy {
    type Error = CopyError;

    fn enter(&mut self, name: &[u8]) -> Result<(), CopyError> {
        let place = self.place(name);
        match fs::create_dir(&place) {
            Err(error) if self.merge && error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(writing(&place))?,
        }
        self.at = place;
        self.depth += 1;
        Ok(())
    }

    fn leave(&mut self) -> Result<(), CopyError> {
        self.depth -= 1;
        if self.depth > 0 {
            self.at.pop();
        }
        Ok(())
    }

    fn symlink(&mut self, name: &[u8], target: &[u8]) -> Result<(), CopyError> {
        let place = self.place(name);
        symlink(OsString::from_vec(target.to_vec()), &place).map_err(writing(&place))
    }

    fn file(
        &mut self,
        name: &[u8],
        _size: u64,
        executable: bool,
        contents: &mut dyn Read,
    ) -> Result<(), CopyError> {
        let place = self.place(name);
        self.write(&place, executable, contents).map_err(writing(&place))
    }
}

fn write_new(path: &Path, executable: bool, contents: &mut dyn Read) -> io::Result<()> {
    let mode = if executable { 0o755 } else { 0o644 };
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    io::copy(contents, &mut file).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use seed_format::{Digest, StorePath};

    fn output(name: &str, base: &str, content: &Path) -> OutputRecord {
        let (nar_hash, nar_size) = nar_hash(content).unwrap();
        let path = StorePath::from_base_name(base).unwrap();
        OutputRecord { name: name.into(), path, nar_hash, nar_size, references: Vec::new() }
    }

    #[test]
    fn links_are_named_as_nix_names_them() {
        for (number, output, expected) in [
            (0, "out", "a/result"),
            (0, "dev", "a/result-dev"),
            (1, "out", "a/result-1"),
            (2, "bin", "a/result-2-bin"),
        ] {
            assert_eq!(link_path(Path::new("a/result"), number, output), Path::new(expected));
        }
    }

    #[test]
    fn a_copy_has_the_same_hash_and_is_made_once() {
        const BASE: &str = "00000000000000000000000000000001-a";
        let place = tempfile::tempdir().unwrap();
        let (store, copies) = (place.path().join("store"), place.path().join("copies"));
        fs::create_dir_all(store.join(BASE).join("bin")).unwrap();
        fs::create_dir(&copies).unwrap();
        fs::write(store.join(BASE).join("bin/tool"), "x").unwrap();
        symlink("/nowhere", store.join(BASE).join("link")).unwrap();
        let record = output("out", BASE, &store.join(BASE));
        let store = OwnedFd::from(File::open(&store).unwrap());

        let copy = copy_output(&store, &record, &copies).unwrap();
        assert_eq!(nar_hash(&copy).unwrap().0, record.nar_hash);
        let made = fs::metadata(&copy).unwrap().modified().unwrap();
        copy_output(&store, &record, &copies).unwrap();
        assert_eq!(fs::metadata(&copy).unwrap().modified().unwrap(), made);
        // One that was changed is made anew.
        fs::write(copy.join("bin/tool"), "y").unwrap();
        copy_output(&store, &record, &copies).unwrap();
        assert_eq!(nar_hash(&copy).unwrap().0, record.nar_hash);
        assert_ne!(record.nar_hash, Digest::of(b""));
    }

    #[test]
    fn only_links_are_replaced() {
        let place = tempfile::tempdir().unwrap();
        let link = place.path().join("result");
        for target in ["/one", "/two"] {
            replace_link(&link, Path::new(target)).unwrap();
            assert_eq!(fs::read_link(&link).unwrap(), Path::new(target));
        }
        fs::remove_file(&link).unwrap();
        fs::create_dir(&link).unwrap();
        let error = replace_link(&link, Path::new("/three")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_cache_keeps_what_it_has() {
        let place = tempfile::tempdir().unwrap();
        let (new, cache) = (place.path().join("new"), place.path().join("cache"));
        for (directory, text) in [(&new, "new"), (&cache, "old")] {
            fs::create_dir_all(directory.join("nar")).unwrap();
            fs::write(directory.join("nix-cache-info"), text).unwrap();
        }
        fs::write(new.join("nar/1.nar.zst"), "archive").unwrap();
        fs::write(new.join("1.narinfo"), "entry").unwrap();
        merge(&new, &cache).unwrap();
        for (name, text) in [("nix-cache-info", "old"), ("nar/1.nar.zst", "archive"), ("1.narinfo", "entry")]
        {
            assert_eq!(fs::read_to_string(cache.join(name)).unwrap(), text, "{name}");
        }
    }
}
