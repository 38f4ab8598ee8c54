//! The `.seed.lock` on disk: read whole, written atomically.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use seed_format::Digest;
use seed_policy::lock::{FILE_NAME, MAX_LEN};
use seed_policy::{Lock, System};

use crate::error::{Result, ResultExt, failed};

/// A `.seed.lock`, which need not exist yet.
#[derive(Debug)]
pub(crate) struct LockFile {
    path: PathBuf,
}

impl LockFile {
    pub(super) fn beside(dir: &Path) -> Self {
        Self { path: dir.join(FILE_NAME) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The content; an empty lock where there is no file.
    pub(crate) fn read(&self) -> Result<Lock> {
        let context = || format!("cannot read {}", self.path.display());
        match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Lock::default()),
            Err(error) => return Err(error).context(context),
            Ok(meta) if meta.len() > MAX_LEN as u64 => {
                return Err(failed(format!(
                    "{} has {} bytes, which no lock has",
                    self.path.display(),
                    meta.len()
                )));
            }
            Ok(_) => {}
        }
        let text = fs::read(&self.path).context(context)?;
        Lock::parse(&text)
            .context(context)
            .hint("take it from git again, or remove it and run `seed pack --lock`")
    }

    /// Records `digest` for `system`; says whether that changed the file.
    pub(crate) fn record(&self, system: &System, digest: Digest) -> Result<bool> {
        let context = || format!("cannot write {}", self.path.display());
        let dir = self.path.parent().expect("the file lies in a directory");
        // Two systems' seeds may be recorded at once: reading and writing are one step. The directory is
        // locked, since the file is replaced.
        let dir_file = File::open(dir).context(context)?;
        flock(&dir_file, FlockOperation::LockExclusive).context(context)?;
        let mut lock = self.read()?;
        if lock.set(system.clone(), digest) == Some(digest) {
            return Ok(false);
        }
        replace(&self.path, &lock.to_bytes()).context(context)?;
        dir_file.sync_all().context(context)?;
        Ok(true)
    }
}

/// Readers see the old bytes or the new, and so does whoever starts the machine after a crash.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mut file = File::create(&temporary)?;
    let written =
        file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // What matters is the first error.
        let _ = fs::remove_file(&temporary);
    }
    written
}
