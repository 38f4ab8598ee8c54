//! Paths of one store put into another without Nix: their files linked, or copied where they cannot be, and
//! what Nix knows of them noted in the other's database.
//!
//! Nix would read, pack, hash, unpack and normalise each file again. Hashes are not computed here: packing
//! does, and refuses what is not as the database says.

use std::fs::{self, FileType, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::{CaptureError, real_path};
use crate::closure::PathInfo;
use crate::database;
use crate::store::Store;

/// Puts the path of `info`, whose files are at `from`, into the store below `root`, unless it is there, or
/// refers to others: Nix brings it when it is asked for. Nobody else may write to that store meanwhile.
pub(super) fn graft(from: &Path, info: &PathInfo, root: &Path) -> Result<(), CaptureError> {
    let stands_alone = info.references.iter().all(|path| *path == info.path);
    if !stands_alone || Store::open(root)?.has(&info.path)? {
        return Ok(());
    }
    let to = real_path(root, &info.path);
    link_tree(from, &to, true).map_err(|source| CaptureError::Io { path: to, source })?;
    Ok(database::register(info, &root.join("nix/var/nix/db/db.sqlite"))?)
}

/// Makes `to` the tree `from` of a store: with the same files if `linking` and where links can be made, else
/// with copies.
fn link_tree(from: &Path, to: &Path, mut linking: bool) -> io::Result<()> {
    let mut todo = vec![(from.to_owned(), to.to_owned(), fs::symlink_metadata(from)?.file_type())];
    let mut directories = Vec::new();
    while let Some((from, to, kind)) = todo.pop() {
        if kind.is_dir() {
            fs::create_dir(&to)?;
            for entry in fs::read_dir(&from)? {
                let entry = entry?;
                todo.push((entry.path(), to.join(entry.file_name()), entry.file_type()?));
            }
            directories.push(to);
            continue;
        }
        let linked =
            if linking { fs::hard_link(&from, &to) } else { Err(io::ErrorKind::CrossesDevices.into()) };
        if let Err(error) = linked {
            // Others that fail are single files: of another owner, or with as many links as there can be.
            linking = error.kind() != io::ErrorKind::CrossesDevices;
            copy(&from, &to, kind)?;
        }
    }
    for directory in directories.iter().rev() {
        fs::set_permissions(directory, Permissions::from_mode(0o555))?;
        set_time(directory)?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, kind: FileType) -> io::Result<()> {
    if kind.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
    } else {
        // With its mode, which is that of a file in a store.
        fs::copy(from, to)?;
    }
    set_time(to)
}

/// All times in a store are one second after the epoch.
fn set_time(path: &Path) -> io::Result<()> {
    let time = Timespec { tv_sec: 1, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn makes_the_same_tree_by_links_and_by_copies() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("sub/empty")).unwrap();
        fs::write(from.join("sub/program"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(from.join("sub/program"), Permissions::from_mode(0o555)).unwrap();
        fs::write(from.join("text"), "text").unwrap();
        fs::set_permissions(from.join("text"), Permissions::from_mode(0o444)).unwrap();
        symlink("sub/nowhere", from.join("link")).unwrap();
        for linking in [true, false] {
            let to = dir.path().join(format!("{linking}"));
            link_tree(&from, &to, linking).unwrap();
            assert_eq!(crate::tree::nar_hash(&to).unwrap(), crate::tree::nar_hash(&from).unwrap());
            for (name, mode) in [("", 0o555), ("sub/empty", 0o555), ("sub/program", 0o555), ("text", 0o444)] {
                let found = fs::metadata(to.join(name)).unwrap();
                assert_eq!(found.mode() & 0o7777, mode, "{name:?}");
                let same = found.ino() == fs::metadata(from.join(name)).unwrap().ino();
                assert_eq!(same, linking && found.is_file(), "{name:?}");
                assert!(same || found.mtime() == 1, "{name:?}");
            }
        }
        // A store path may be a file, or a link.
        for name in ["text", "link"] {
            let to = dir.path().join(format!("{name} alone"));
            link_tree(&from.join(name), &to, true).unwrap();
            assert_eq!(crate::tree::nar_hash(&to).unwrap(), crate::tree::nar_hash(&from.join(name)).unwrap());
        }
    }
}
