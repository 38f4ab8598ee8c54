//! Directories that a command needs while it runs.
//!
//! Each is locked by the process that uses it. The lock dies with the process, however it ends, so a
//! directory without one is nobody's, and the next command removes it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

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
    /// Makes a directory for `purpose`. No two of a process have the same purpose at the same time.
    pub(crate) fn new(session: &Session<'_>, purpose: &str) -> Result<Self> {
        let path = parent(session).join(format!("{purpose}-{}", std::process::id()));
        let context = || format!("cannot make {}", path.display());
        // Of a process that had this number and was killed.
        remove(&path);
        let on_signal = path.clone();
        let undo = signals::undo_on_signal(move || remove(&on_signal));
        fs::create_dir_all(&path).context(context)?;
        let lock = File::open(&path).context(context)?;
        flock(&lock, FlockOperation::LockExclusive).context(context)?;
        Ok(Self { path, _lock: lock, _undo: undo })
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
        let Ok(dir) = File::open(&path) else { continue };
        if flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove(&path);
        }
    }
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

fn make_writable(dir: &Path) -> io::Result<()> {
    let mode = fs::symlink_metadata(dir)?.permissions().mode();
    fs::set_permissions(dir, fs::Permissions::from_mode(mode | 0o700))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_writable(&entry.path())?;
        }
    }
    Ok(())
}
