//! Directories that live as long as a sandbox, or until the next one starts.
//!
//! A scratch directory is locked by the process that uses it. The lock dies with the process, however it
//! ends, so a directory without one is nobody's and [`sweep`] removes it.

use std::ffi::OsStr;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, chmodat, flock, fstat, openat, renameat,
    unlinkat,
};
use rustix::io::Errno;

use crate::error::SandboxError;

/// How the name of each scratch directory begins; what has another name is never touched.
const PREFIX: &str = "sandbox-";

/// A scratch directory in use. Dropping it removes the directory.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    /// Holds the lock.
    _lock: OwnedFd,
}

impl Scratch {
    /// Makes a new directory below `parent`, which is made too, after removing what is nobody's there.
    pub(crate) fn create(parent: &Path) -> Result<Self, SandboxError> {
        let failed = |path: &Path, source| SandboxError::Scratch { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(|e| failed(parent, e))?;
        sweep(parent)?;
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other.map_err(|e| failed(&path, e))?,
            }
            // Another process's sweep may take the directory before it is locked: then make another.
            if let Some(lock) = lock(&path).map_err(|e| failed(&path, e))? {
                return Ok(Self { path, _lock: lock });
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a scratch directory is left for the next command");
        }
    }
}

/// Removes the scratch directories below `parent` whose process is gone, and says how many there were.
///
/// One that cannot be removed is logged and left. `parent` may not exist.
pub fn sweep(parent: &Path) -> Result<usize, SandboxError> {
    let failed = |source| SandboxError::Scratch { path: parent.to_owned(), source };
    let entries = match std::fs::read_dir(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries.map_err(failed)?,
    };
    let mut removed = 0;
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if !path.file_name().is_some_and(|name| name.as_bytes().starts_with(PREFIX.as_bytes())) {
            continue;
        }
        match lock(&path).and_then(|lock| lock.map(|_held| remove(&path)).transpose()) {
            Ok(Some(())) => removed += 1,
            Ok(None) => {}
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot remove a scratch directory"),
        }
    }
    Ok(removed)
}

/// Locks a directory; `None` if another process has it, or it is gone.
fn lock(path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match openat(CWD, path, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        other => other?,
    };
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(None),
        other => other?,
    }
    // An unlinked directory has no links: it was removed between opening and locking.
    let there = fstat(&directory)?.st_nlink > 0;
    Ok(there.then_some(directory))
}

/// Removes a tree, whatever its modes and however deep it is: a build may leave both directories without
/// permissions and paths longer than the system takes. Each directory that is found is moved up, to the
/// top, so that neither the stack nor the number of open files grows with the depth.
fn remove(top: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |at: &OwnedFd, name: &OsStr| openat(at, name, flags, Mode::empty());
    let root = openat(CWD, top, flags, Mode::empty())?;
    let mut moved = 0u64;
    loop {
        let mut empty = true;
        for name in names(&root)? {
            empty = false;
            if !is_directory(&root, &name)? {
                unlinkat(&root, name.as_os_str(), AtFlags::empty())?;
                continue;
            }
            let directory = open(&root, &name)?;
            for inner in names(&directory)? {
                if !is_directory(&directory, &inner)? {
                    unlinkat(&directory, inner.as_os_str(), AtFlags::empty())?;
                    continue;
                }
                loop {
                    let to = format!("moved-{moved}");
                    moved += 1;
                    // Onto an existing empty directory a rename succeeds, which is as well.
                    match renameat(&directory, inner.as_os_str(), &root, to.as_str()) {
                        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                        other => break other?,
                    }
                }
            }
            unlinkat(&root, name.as_os_str(), AtFlags::REMOVEDIR)?;
        }
        if empty {
            return std::fs::remove_dir(top);
        }
    }
}

/// Whether the entry is a directory; one that is gets the permissions that removing it needs.
fn is_directory(at: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    let found = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
    if directory && !Mode::from_raw_mode(found.st_mode).contains(Mode::RWXU) {
        chmodat(at, name, Mode::RWXU, AtFlags::empty())?;
    }
    Ok(directory)
}

fn names(directory: &OwnedFd) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_directory_lives_as_long_as_its_lease() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(parent.path()).unwrap();
        let path = scratch.path().to_owned();
        assert_eq!(sweep(parent.path()).unwrap(), 0, "in use");
        assert!(path.is_dir());
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn the_sweep_takes_what_is_nobodys_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let orphan = parent.path().join("sandbox-1-0");
        fs::create_dir_all(orphan.join("upper/nix/store/closed")).unwrap();
        fs::write(orphan.join("upper/nix/store/closed/file"), "x").unwrap();
        fs::set_permissions(orphan.join("upper/nix/store/closed"), Permissions::from_mode(0o000)).unwrap();
        let kept = parent.path().join("chunks");
        fs::create_dir(&kept).unwrap();
        symlink(&kept, orphan.join("link")).unwrap();
        symlink(&kept, parent.path().join("sandbox-link")).unwrap();

        assert_eq!(sweep(parent.path()).unwrap(), 1);
        assert!(!orphan.exists() && kept.is_dir());
        assert_eq!(sweep(&parent.path().join("missing")).unwrap(), 0);
    }

    #[test]
    fn depth_is_no_obstacle() {
        let parent = tempfile::tempdir().unwrap();
        let orphan = parent.path().join("sandbox-1-0");
        fs::create_dir(&orphan).unwrap();
        let mut at = openat(CWD, &orphan, OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "directory", Mode::RWXU).unwrap();
            at = openat(&at, "directory", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        assert_eq!(sweep(parent.path()).unwrap(), 1);
        assert!(!orphan.exists());
    }
}
