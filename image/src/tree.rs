//! Walks a file tree in the order of NARs and layers: depth first, names ascending bytewise.
//!
//! The walk never follows a symbolic link and never builds a path that the kernel must resolve, so trees
//! may be deeper than `PATH_MAX`. It holds a few descriptors, however deep it goes.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use seed_format::{Digest, DigestWriter, nar};

/// What a walk comes by.
///
/// `name` is empty for the root of the walk, and else the name in the directory that was entered last.
pub trait Visitor {
    /// Why a visit ends the walk.
    type Error: From<TreeError>;

    /// A directory; its entries follow, then [`Visitor::leave`].
    fn enter(&mut self, name: &[u8]) -> Result<(), Self::Error>;

    /// The end of the directory that was entered last.
    fn leave(&mut self) -> Result<(), Self::Error>;

    /// A symbolic link.
    fn symlink(&mut self, name: &[u8], target: &[u8]) -> Result<(), Self::Error>;

    /// A regular file of `size` bytes, whose contents `contents` gives.
    fn file(
        &mut self,
        name: &[u8],
        size: u64,
        executable: bool,
        contents: &mut dyn Read,
    ) -> Result<(), Self::Error>;
}

/// Why a tree cannot be walked.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Something could not be opened or read.
    #[error("cannot read {}", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Neither a directory, a regular file nor a symbolic link.
    #[error("{} is a {what}; a store path has only directories, regular files and symbolic links", path.display())]
    Kind {
        /// Where it is.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
}

/// Walks the tree whose root is `root`, which may be of any kind but is not followed if it is a link.
pub fn walk<V: Visitor>(root: &Path, visitor: &mut V) -> Result<(), V::Error> {
    let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = root.file_name().unwrap_or(OsStr::new("."));
    let failed = |source: rustix::io::Errno| TreeError::Io { path: root.to_owned(), source: source.into() };
    let parent = rustix::fs::open(parent, DIRECTORY, Mode::empty()).map_err(failed)?;
    let name = CString::new(name.as_bytes()).map_err(|_| failed(rustix::io::Errno::INVAL))?;
    let mut walk = Walk { root, at: File::from(parent), open: Vec::new() };
    walk.visit(&name, b"", visitor)?;
    while let Some(directory) = walk.open.last_mut() {
        match directory.names.pop() {
            Some(name) => walk.visit(&name, name.to_bytes(), visitor)?,
            None => {
                walk.leave()?;
                visitor.leave()?;
            }
        }
    }
    Ok(())
}

/// The SHA-256 of the NAR of the tree at `root`, and the NAR's size.
pub fn nar_hash(root: &Path) -> Result<(Digest, u64), TreeError> {
    let writing = |source| TreeError::Io { path: root.to_owned(), source };
    let mut visitor =
        NarVisitor { nar: nar::Writer::new(DigestWriter::new(io::sink())).map_err(writing)?, root };
    walk(root, &mut visitor)?;
    let (_, digest, size) = visitor.nar.finish().map_err(writing)?.finish();
    Ok((digest, size))
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

struct Walk<'a> {
    root: &'a Path,
    /// The directory that was entered last; before the root was visited, its parent.
    at: File,
    open: Vec<OpenDirectory>,
}

struct OpenDirectory {
    /// Device and inode: what `..` must lead back to.
    identity: (u64, u64),
    name: Vec<u8>,
    /// The names that were not visited yet, descending.
    names: Vec<CString>,
}

impl Walk<'_> {
    fn visit<V: Visitor>(&mut self, entry: &CStr, name: &[u8], visitor: &mut V) -> Result<(), V::Error> {
        let stat = rustix::fs::statat(&self.at, entry, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| self.failed(name, error.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                self.enter(entry, name, &stat)?;
                visitor.enter(name)
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&self.at, entry, flags, Mode::empty())
                    .map_err(|error| self.failed(name, error.into()))?;
                let executable = stat.st_mode & Mode::XUSR.as_raw_mode() != 0;
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                visitor.file(name, size, executable, &mut File::from(file))
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&self.at, entry, Vec::new())
                    .map_err(|error| self.failed(name, error.into()))?;
                visitor.symlink(name, target.to_bytes())
            }
            other => Err(TreeError::Kind { path: self.path(name), what: kind_name(other) }.into()),
        }
    }

    fn enter(&mut self, entry: &CStr, name: &[u8], stat: &Stat) -> Result<(), TreeError> {
        let fd = rustix::fs::openat(&self.at, entry, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
            .map_err(|error| self.failed(name, error.into()))?;
        let mut names = Vec::new();
        let entries = Dir::read_from(&fd).map_err(|error| self.failed(name, error.into()))?;
        for entry in entries {
            let entry = entry.map_err(|error| self.failed(name, error.into()))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        self.at = File::from(fd);
        self.open.push(OpenDirectory { identity: (stat.st_dev, stat.st_ino), name: name.to_vec(), names });
        Ok(())
    }

    /// Goes back to the parent of the directory that was entered last.
    fn leave(&mut self) -> Result<(), TreeError> {
        self.open.pop();
        let Some(parent) = self.open.last() else { return Ok(()) };
        let up = rustix::fs::openat(&self.at, c"..", DIRECTORY, Mode::empty())
            .and_then(|fd| Ok((rustix::fs::fstat(&fd)?, fd)));
        let (stat, fd) = up.map_err(|error| self.failed(b"", error.into()))?;
        if (stat.st_dev, stat.st_ino) != parent.identity {
            return Err(self.failed(b"", io::Error::other("the tree was moved while it was read")));
        }
        self.at = File::from(fd);
        Ok(())
    }

    /// The path of an entry of the directory that was entered last, for messages.
    fn path(&self, name: &[u8]) -> PathBuf {
        let names = self.open.iter().map(|directory| directory.name.as_slice()).chain([name]);
        let names = names.filter(|name| !name.is_empty());
        names.fold(self.root.to_owned(), |path, name| path.join(OsStr::from_bytes(name)))
    }

    fn failed(&self, name: &[u8], source: io::Error) -> TreeError {
        TreeError::Io { path: self.path(name), source }
    }
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "pipe",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        _ => "file of an unknown kind",
    }
}

struct NarVisitor<'a> {
    nar: nar::Writer<DigestWriter<io::Sink>>,
    root: &'a Path,
}

impl NarVisitor<'_> {
    fn entry(&mut self, name: &[u8]) -> Result<(), TreeError> {
        if name.is_empty() { Ok(()) } else { self.nar.entry(name).map_err(|error| self.failed(error)) }
    }

    fn failed(&self, source: io::Error) -> TreeError {
        TreeError::Io { path: self.root.to_owned(), source }
    }
}

impl Visitor for NarVisitor<'_> {
    type Error = TreeError;

    fn enter(&mut self, name: &[u8]) -> Result<(), TreeError> {
        self.entry(name)?;
        self.nar.directory().map_err(|error| self.failed(error))
    }

    fn leave(&mut self) -> Result<(), TreeError> {
        self.nar.end_directory().map_err(|error| self.failed(error))
    }

    fn symlink(&mut self, name: &[u8], target: &[u8]) -> Result<(), TreeError> {
        self.entry(name)?;
        self.nar.symlink(target).map_err(|error| self.failed(error))
    }

    fn file(
        &mut self,
        name: &[u8],
        size: u64,
        executable: bool,
        contents: &mut dyn Read,
    ) -> Result<(), TreeError> {
        self.entry(name)?;
        let written = self.nar.regular(size, executable, contents).and_then(nar::Contents::finish);
        written.map_err(|source| TreeError::Io { path: self.root.join(OsStr::from_bytes(name)), source })
    }
}

#[cfg(test)]
mod tests;
