//! A directory for the time of a capture.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A new directory, removed with all that is in it.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes a directory in `parent`, which is made too if it is not there.
    pub(crate) fn new(parent: &Path) -> io::Result<Self> {
        fs::create_dir_all(parent)?;
        // Chroot stores need a path without symbolic links.
        let parent = parent.canonicalize()?;
        loop {
            let name = format!("capture-{:016x}", fastrand::u64(..));
            match fs::DirBuilder::new().mode(0o700).create(parent.join(&name)) {
                Ok(()) => return Ok(Self(parent.join(name))),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nix makes what is in its stores read-only, which stops all but root.
        let removed = fs::remove_dir_all(&self.0).or_else(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                make_writable(&self.0).and_then(|()| fs::remove_dir_all(&self.0))
            }
            _ => Err(error),
        });
        if let Err(error) = removed {
            tracing::warn!(directory = %self.0.display(), %error, "cannot remove a scratch directory");
        }
    }
}

/// Lets the owner remove what is below `dir`: Nix makes the directories in its stores read-only.
pub fn make_writable(dir: &Path) -> io::Result<()> {
    let mode = fs::symlink_metadata(dir)?.permissions().mode();
    if mode & 0o700 != 0o700 {
        fs::set_permissions(dir, fs::Permissions::from_mode(mode | 0o700))?;
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_writable(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_what_is_read_only() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(parent.path()).unwrap();
        let inner = scratch.path().join("store/path");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("file"), "x").unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o555)).unwrap();
        drop(scratch);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
