//! The project that a seed is for: a directory with a flake, and what git knows of it.

mod git;
mod lockfile;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use seed_format::Digest;
use seed_policy::{Ancestry, Commit, SourceUri};

use self::git::Git;
pub(crate) use self::lockfile::LockFile;
use crate::error::{Result, ResultExt, failed, usage};

/// Longest `flake.lock` that is read, in bytes.
const MAX_FLAKE_LOCK: u64 = 64 * 1024 * 1024;

/// A directory with a flake.
#[derive(Debug)]
pub(crate) struct Project {
    /// The directory of `flake.nix`.
    pub(crate) dir: PathBuf,
    git: Option<Git>,
}

/// A flake of this machine and an output of it, `FLAKE#ATTR`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Installable {
    /// The directory, as it was written.
    pub(crate) dir: PathBuf,
    /// The attribute path, where one is named.
    pub(crate) attr: Option<String>,
}

impl Installable {
    /// Reads `FLAKE#ATTR`, `FLAKE` or `#ATTR`, where FLAKE is a path: what is built is the source at hand.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (flake, attr) = match text.split_once('#') {
            Some((flake, attr)) => (flake, Some(attr).filter(|attr| !attr.is_empty())),
            None => (text, None),
        };
        let path = ["path:", "git+file://"].iter().find_map(|scheme| flake.strip_prefix(scheme));
        let path = match path.unwrap_or(flake) {
            "" => ".",
            path => path,
        };
        let looks_remote = path.split_once(':').is_some_and(|(scheme, _)| !scheme.contains('/'));
        if looks_remote || path.contains('?') {
            return Err(usage(format!("{text:?} does not name a flake in a directory of this machine")))
                .hint("check out the source and name its directory, for instance `.#hello`");
        }
        Ok(Self { dir: path.into(), attr: attr.map(str::to_owned) })
    }
}

impl Project {
    /// Looks at the flake in `dir` and the repository around it.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let dir = dir.canonicalize().context(|| format!("cannot find the directory {}", dir.display()))?;
        if !dir.join("flake.nix").is_file() {
            return Err(failed(format!("{} has no flake.nix", dir.display())))
                .hint("name the directory of the flake, or pack plain store paths with --paths");
        }
        Ok(Self { git: Git::find(&dir)?, dir })
    }

    /// The tree that the source is part of: the repository, or the directory where there is none.
    pub(crate) fn root(&self) -> &Path {
        self.git.as_ref().map_or(&self.dir, Git::root)
    }

    /// The directory of the flake below [`Project::root`]; empty where it is that.
    pub(crate) fn below_root(&self) -> &Path {
        self.dir.strip_prefix(self.root()).unwrap_or(Path::new(""))
    }

    /// Whether git keeps the source, and so says which files are part of it.
    pub(crate) fn in_git(&self) -> bool {
        self.git.is_some()
    }

    /// Gathers what belongs to the source in the directory `to`, which must not exist: what git tracks, or all
    /// of the directory where there is no repository. Files are linked where they can be: `to` is to be read
    /// only.
    pub(crate) fn gather_source(&self, to: &Path) -> Result<()> {
        let files = match &self.git {
            Some(git) => git.tracked()?,
            None => all_files(&self.dir)?,
        };
        let context = || format!("cannot copy the source to {}", to.display());
        fs::create_dir(to).context(context)?;
        for file in files {
            let (from, to) = (self.root().join(&file), to.join(&file));
            let Ok(meta) = fs::symlink_metadata(&from) else {
                // Tracked and deleted: so it is no part of the source.
                continue;
            };
            fs::create_dir_all(to.parent().unwrap_or(&to)).context(context)?;
            if meta.is_symlink() {
                std::os::unix::fs::symlink(fs::read_link(&from).context(context)?, &to).context(context)?;
            } else if meta.is_file() && fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to).context(context)?;
            }
        }
        Ok(())
    }

    /// Where the source is kept: the remote `origin`, else the repository on this machine.
    pub(crate) fn source(&self) -> Result<Option<SourceUri>> {
        self.git.as_ref().map(Git::source).transpose()
    }

    /// The commit that is checked out, unless there is none yet.
    pub(crate) fn head(&self) -> Result<Option<Commit>> {
        self.git.as_ref().map_or(Ok(None), Git::head)
    }

    /// Whether the working tree differs from HEAD in what git tracks, other than `.seed.lock`: a seed is
    /// recorded there after it was made.
    pub(crate) fn is_dirty(&self) -> Result<bool> {
        self.git.as_ref().map_or(Ok(false), Git::is_dirty)
    }

    /// What Nix says of the flake's source besides its files when it reads the repository itself: attributes
    /// of a flake reference. A changed source has none. The day of the last change is not among them: of a
    /// directory, Nix takes the newest time of its files, and fails where it is told another.
    pub(crate) fn nix_attributes(&self) -> Result<Vec<(&'static str, String)>> {
        self.git.as_ref().map_or_else(|| Ok(Vec::new()), Git::nix_attributes)
    }

    /// Whether `commit` is in the history of HEAD.
    pub(crate) fn ancestry(&self, commit: &Commit) -> Ancestry {
        match &self.git {
            Some(git) => git.ancestry(commit),
            None => Ancestry::Unknown { why: format!("{} is in no git repository", self.dir.display()) },
        }
    }

    /// SHA-256 of the bytes of `flake.lock`; of no bytes where there is no such file.
    pub(crate) fn flake_lock(&self) -> Result<Digest> {
        let file = self.dir.join("flake.lock");
        let context = || format!("cannot read {}", file.display());
        match fs::metadata(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Digest::of(b"")),
            Err(error) => Err(error).context(context),
            Ok(meta) if meta.len() > MAX_FLAKE_LOCK => {
                Err(failed(format!("{} has {} bytes, which no lock has", file.display(), meta.len())))
            }
            Ok(_) => Ok(Digest::of(&fs::read(&file).context(context)?)),
        }
    }

    /// What a policy needs to know of the project.
    pub(crate) fn facts(&self) -> Result<seed_policy::Project> {
        Ok(seed_policy::Project {
            source: self.source()?,
            head: self.head()?,
            flake_lock: self.flake_lock()?,
        })
    }

    /// The `.seed.lock` beside the flake.
    pub(crate) fn lock_file(&self) -> LockFile {
        LockFile::beside(&self.dir)
    }

    /// Commits the `.seed.lock` and nothing else; says whether there was anything to commit.
    pub(crate) fn commit_lock(&self, message: &str) -> Result<bool> {
        match &self.git {
            Some(git) => git.commit_only(self.lock_file().path(), message),
            None => Err(failed(format!(
                "{} is in no git repository, so nothing can be committed",
                self.dir.display()
            ))),
        }
    }
}

/// Every file and link below `dir`, relative to it.
fn all_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("cannot list {}", dir.display());
    let (mut files, mut todo) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(below) = todo.pop() {
        for entry in fs::read_dir(dir.join(&below)).context(context)? {
            let entry = entry.context(context)?;
            let path = below.join(entry.file_name());
            let is_dir = entry.file_type().context(context)?.is_dir();
            if is_dir { todo.push(path) } else { files.push(path) }
        }
    }
    Ok(files)
}

#[cfg(test)]
#[path = "project/tests.rs"]
mod tests;
