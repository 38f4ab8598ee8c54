//! A writable layer over a read-only mount.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::mount::MountFlags;

use super::runtime::is_initial_user_namespace;
use super::{MountError, fusermount};

/// Whether this process could lay one; asked before anything is fetched.
pub(super) fn may_be_laid(directory: &Path, writable: &Path) -> Result<(), MountError> {
    if !fusermount::is_needed() {
        return Ok(());
    }
    let said = "only root may, or root of a user namespace: unshare --user --map-root-user --mount";
    Err(failure(directory, writable, io::Error::new(io::ErrorKind::PermissionDenied, said)))
}

/// Mounts an overlay at `directory`, over the tree `below`, with its changes in `writable/upper`.
/// `source` is what the mount table shows as the mounted device.
pub(super) fn lay(directory: &Path, below: &Path, writable: &Path, source: &str) -> Result<(), MountError> {
    let failed = |source| failure(directory, writable, source);
    fs::create_dir_all(writable).map_err(failed)?;
    let writable = writable.canonicalize().map_err(failed)?;
    let (upper, work) = (writable.join("upper"), writable.join("work"));
    fs::create_dir_all(&upper).map_err(failed)?;
    fs::create_dir_all(&work).map_err(failed)?;
    let mut options = Vec::new();
    for (key, path) in [("lowerdir", below), (",upperdir", &upper), (",workdir", &work)] {
        options.extend_from_slice(key.as_bytes());
        options.push(b'=');
        options.extend(escape(path));
    }
    if !rustix::process::getuid().is_root() || !is_initial_user_namespace() {
        // Trusted attributes are for root of the initial user namespace only.
        options.extend_from_slice(b",userxattr");
    }
    let options = CString::new(options).map_err(|error| failed(error.into()))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount(source, directory, "overlay", flags, Some(options.as_c_str()))
        .map_err(|error| failed(error.into()))
}

fn failure(directory: &Path, writable: &Path, source: io::Error) -> MountError {
    MountError::Overlay { directory: directory.to_owned(), writable: writable.to_owned(), source }
}

/// The kernel splits its options at commas and lower layers at colons, unless a backslash precedes them.
fn escape(path: &Path) -> Vec<u8> {
    let mut escaped = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b',' | b':' | b'\\') {
            escaped.push(b'\\');
        }
        escaped.push(*byte);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_are_escaped() {
        assert_eq!(escape(Path::new("/a:b,c\\d e")), b"/a\\:b\\,c\\\\d e");
    }
}
