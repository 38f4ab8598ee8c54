//! Directories that a command needs while it runs.
//!
//! Each is locked by the process that uses it. The lock dies with the process, however it ends, so a
//! directory without one is nobody's, and the next command removes it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use seed_image::capture::make_writable;

use crate::error::{Result, ResultExt};
use crate::session::Session;
use crate::signals::{self, UndoGuard};

/// A new directory in the cache. It is removed in the end, also by a signal.
pub(crate) struct Temporary {
    path: PathBuf,
    _lock: File,
    _undo: UndoGuard,
}

impl Temporary {
    /// Makes a directory for `purpose`.
    pub(crate) fn new(session: &Session<'_>, purpose: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let parent = parent(session);
        let context = |path: &Path| format!("cannot make {}", path.display());
        fs::create_dir_all(&parent).context(|| context(&parent))?;
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("{purpose}-{}-{number}", std::process::id()));
            // In another container that shares the cache a process may have the same number.
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made.context(|| context(&path))?,
            }
            let on_signal = path.clone();
            let undo = signals::undo_on_signal(move || remove(&on_signal));
            // Another process's sweep may take the directory before it is locked: then make another.
            if let Some(lock) = lock(&path).context(|| context(&path))? {
                return Ok(Self { path, _lock: lock, _undo: undo });
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes the directories of processes that were killed.
pub(crate) fn sweep(session: &Session<'_>) {
    let Ok(entries) = fs::read_dir(parent(session)) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if let Ok(Some(_held)) = lock(&path) {
            remove(&path);
        }
    }
}

/// Locks a directory; `None` if another process has it, or it is gone.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let directory = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(None),
        locked => locked?,
    }
    // A removed directory has no links: it was removed between opening and locking.
    Ok((directory.metadata()?.nlink() > 0).then_some(directory))
}

fn parent(session: &Session<'_>) -> PathBuf {
    session.config.cache.dir.join("tmp")
}

/// What cannot be removed may be deleted by anybody at any time, as all of the cache.
fn remove(path: &Path) {
    if fs::remove_dir_all(path).is_err() {
        // Nix makes what is in its stores read-only.
        let _ = make_writable(path).and_then(|()| fs::remove_dir_all(path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_of_one_process_while_it_is_there() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("one");
        assert!(lock(&path).unwrap().is_none(), "there is none");
        fs::create_dir(&path).unwrap();
        let held = lock(&path).unwrap().unwrap();
        assert!(lock(&path).unwrap().is_none(), "it is held");
        drop(held);
        assert!(lock(&path).unwrap().is_some());

        // Removed by a sweep in the moment before it was locked.
        let gone = File::open(&path).unwrap();
        fs::remove_dir(&path).unwrap();
        assert_eq!(gone.metadata().unwrap().nlink(), 0);
    }
}
