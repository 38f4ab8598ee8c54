//! Directories that a command needs while it runs.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Result, ResultExt};
use crate::session::Session;
use crate::signals::{self, UndoGuard};

/// A new directory in the cache. It is removed in the end, also by a signal; after `kill -9` it is a part of
/// the cache that may be deleted like any other.
pub(crate) struct Temporary {
    path: PathBuf,
    _undo: UndoGuard,
}

impl Temporary {
    /// Makes a directory for `purpose`.
    pub(crate) fn new(session: &Session<'_>, purpose: &str) -> Result<Self> {
        let path = session.config.cache.dir.join("tmp").join(format!("{purpose}-{}", std::process::id()));
        let on_signal = path.clone();
        let undo = signals::undo_on_signal(move || remove(&on_signal));
        // Of a process that had this number and was killed.
        remove(&path);
        fs::create_dir_all(&path).context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path, _undo: undo })
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

/// What cannot be removed may be deleted by anybody at any time, as all of the cache.
fn remove(path: &Path) {
    let _ = fs::remove_dir_all(path);
}
