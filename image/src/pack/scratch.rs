//! A file of our own that goes away with its owner.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::PackError;

/// A file that is removed when this is dropped, unless it was moved away before.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Takes charge of `path`, which need not be there yet.
    pub(super) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// A new name in `directory`.
    pub(super) fn in_directory(directory: &Path) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let random = fastrand::u64(..);
        Self(directory.join(format!(".nix-seed-{}-{n}-{random:016x}", std::process::id())))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the file, which must not be there.
    pub(super) fn create(&self) -> Result<File, PackError> {
        let file = OpenOptions::new().write(true).create_new(true).open(&self.0);
        file.map_err(|source| PackError::Scratch { path: self.0.clone(), source })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Moved away, or on a disk that has gone: nothing is left to do about it.
        let _ = fs::remove_file(&self.0);
    }
}
