//! One object of the image's file system, and where its bytes lie in a layer blob.
//!
//! These are the plain data that a layer is written from and that the index is built from. Objects are
//! directories, regular files and symbolic links: a store holds nothing else, and a seed holds nothing
//! else. Owner, group and time are not here because they are the same for all: 0, 0 and 1.

use crate::Digest;

/// Longest name of one path component, in bytes (`NAME_MAX` of Linux).
pub const MAX_NAME_LEN: usize = 255;

/// Longest symbolic link target, in bytes (`PATH_MAX` of Linux without its NUL).
pub const MAX_TARGET_LEN: usize = 4095;

/// Largest regular file, in bytes: one file is one chunk of an EROFS image, and those end at 2^43.
pub const MAX_FILE_SIZE: u64 = 1 << 43;

/// Mode bits of a directory that has no reason to differ.
pub const DIRECTORY_MODE: u16 = 0o555;
/// Mode bits of a file that is not executable.
pub const FILE_MODE: u16 = 0o444;
/// Mode bits of an executable file.
pub const EXECUTABLE_MODE: u16 = 0o555;
/// Mode bits of a symbolic link.
pub const SYMLINK_MODE: u16 = 0o777;

/// What an [`Entry`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory. Its entries are [`Entry`]s of their own.
    Directory,
    /// A regular file. Its bytes are given beside the entry.
    Regular {
        /// Bytes in the file.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// What the link holds, byte for byte.
        target: Vec<u8>,
    },
}

/// One file-system object of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path from the image's root, without a leading slash: `nix/store/<base name>/bin/sh`.
    /// Any bytes but NUL; components are not empty, `.` or `..`. Empty for the root itself.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, at most `0o7777`. The constructors give the canonical ones.
    pub mode: u16,
}

impl Entry {
    /// A directory of mode 0555.
    pub fn directory(path: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), kind: Kind::Directory, mode: DIRECTORY_MODE }
    }

    /// A regular file of mode 0555 if it is executable, and 0444 if not.
    pub fn regular(path: impl Into<Vec<u8>>, size: u64, executable: bool) -> Self {
        let mode = if executable { EXECUTABLE_MODE } else { FILE_MODE };
        Self { path: path.into(), kind: Kind::Regular { size }, mode }
    }

    /// A symbolic link, of mode 0777.
    pub fn symlink(path: impl Into<Vec<u8>>, target: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), kind: Kind::Symlink { target: target.into() }, mode: SYMLINK_MODE }
    }

    /// The same entry with other permission bits.
    #[must_use]
    pub fn with_mode(self, mode: u16) -> Self {
        Self { mode, ..self }
    }

    /// Checks the path, the mode and what belongs to the kind.
    pub fn check(&self) -> Result<(), EntryError> {
        check_path(&self.path)?;
        if self.mode > 0o7777 {
            return Err(EntryError::Mode(self.mode));
        }
        match &self.kind {
            Kind::Directory => Ok(()),
            Kind::Regular { size } if *size > MAX_FILE_SIZE => Err(EntryError::Size(*size)),
            Kind::Regular { .. } => Ok(()),
            Kind::Symlink { target } => check_target(target),
        }
    }
}

/// One piece of a regular file: a zstd frame of the layer blob that decompresses by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Where the piece begins in the file, in bytes. The chunks of a file follow one another without a gap.
    pub offset_in_file: u64,
    /// Uncompressed bytes; not 0.
    pub len: u32,
    /// Where the frame begins in the layer blob, in bytes.
    pub blob_offset: u64,
    /// Compressed bytes: the frame is exactly these.
    pub blob_len: u32,
    /// Digest of the uncompressed bytes.
    pub digest: Digest,
}

/// An entry of a layer, and its bytes. Only regular files that are not empty have chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerEntry {
    /// What the entry is.
    pub entry: Entry,
    /// The pieces of a regular file, in file order.
    pub chunks: Vec<Chunk>,
}

impl LayerEntry {
    /// An entry without content: a directory, a symbolic link or an empty file.
    pub fn empty(entry: Entry) -> Self {
        Self { entry, chunks: Vec::new() }
    }
}

/// Why an entry cannot be in an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// A component of the path is empty, as in `/a`, `a//b` and `a/`.
    #[error("the path has an empty component")]
    EmptyName,
    /// A component of the path is `.` or `..`.
    #[error("the path has a component \".\" or \"..\"")]
    DotName,
    /// The path has a NUL byte.
    #[error("the path has a NUL byte")]
    Nul,
    /// A component of the path is too long.
    #[error("the path has a component of {0} bytes, more than {MAX_NAME_LEN}")]
    NameTooLong(usize),
    /// The target of a symbolic link is empty, too long, or has a NUL byte.
    #[error(
        "the link's target has {0} bytes or a NUL byte; it must have 1 to {MAX_TARGET_LEN} bytes and no NUL"
    )]
    Target(usize),
    /// There are mode bits beyond permissions.
    #[error("the mode {0:o} has bits beyond 7777")]
    Mode(u16),
    /// The file is too large.
    #[error("the file has {0} bytes, more than {MAX_FILE_SIZE}")]
    Size(u64),
}

/// Checks a path from the image's root; the empty path is the root.
pub fn check_path(path: &[u8]) -> Result<(), EntryError> {
    if path.is_empty() {
        return Ok(());
    }
    path.split(|byte| *byte == b'/').try_for_each(check_name)
}

/// Checks one component of a path, which holds no slash.
pub fn check_name(name: &[u8]) -> Result<(), EntryError> {
    match name {
        b"" => Err(EntryError::EmptyName),
        b"." | b".." => Err(EntryError::DotName),
        _ if name.len() > MAX_NAME_LEN => Err(EntryError::NameTooLong(name.len())),
        _ if name.contains(&0) => Err(EntryError::Nul),
        _ => Ok(()),
    }
}

/// Checks what a symbolic link holds.
pub fn check_target(target: &[u8]) -> Result<(), EntryError> {
    if target.is_empty() || target.len() > MAX_TARGET_LEN || target.contains(&0) {
        return Err(EntryError::Target(target.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let longest = vec![b'n'; MAX_NAME_LEN];
        let deep = [b"d/".repeat(4000), b"f".to_vec()].concat();
        for path in [&b""[..], b"a", b"a/b", b"...", b"a/\xff\n", &longest, &deep] {
            assert_eq!(check_path(path), Ok(()), "{path:?}");
        }
        let too_long = vec![b'n'; MAX_NAME_LEN + 1];
        for (path, error) in [
            (&b"/a"[..], EntryError::EmptyName),
            (b"a/", EntryError::EmptyName),
            (b"a//b", EntryError::EmptyName),
            (b"./a", EntryError::DotName),
            (b"a/..", EntryError::DotName),
            (b"a/b\0c", EntryError::Nul),
            (&too_long, EntryError::NameTooLong(256)),
        ] {
            assert_eq!(check_path(path), Err(error), "{path:?}");
        }
    }

    #[test]
    fn entries() {
        let mut refused = vec![
            Entry::symlink("l", ""),
            Entry::symlink("l", vec![b't'; MAX_TARGET_LEN + 1]),
            Entry::symlink("l", "a\0"),
            Entry::regular("f", MAX_FILE_SIZE + 1, false),
            Entry::directory("d").with_mode(0o10000),
        ];
        refused.push(Entry::directory("d/"));
        for entry in refused {
            assert!(entry.check().is_err(), "{entry:?}");
        }
        for entry in [
            Entry::directory("tmp").with_mode(0o1777),
            Entry::regular("f", MAX_FILE_SIZE, true),
            Entry::symlink("l", vec![b't'; MAX_TARGET_LEN]),
            Entry::directory(""),
        ] {
            assert_eq!(entry.check(), Ok(()), "{entry:?}");
        }
    }
}
