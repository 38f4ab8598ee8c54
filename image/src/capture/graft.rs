//! Paths of one store put into another without Nix: their files moved, linked, or copied where they cannot
//! be, and what Nix knows of them noted in the other's database.
//!
//! Nix would read, pack, hash, unpack and normalise each file again. Hashes are not computed here: packing
//! does, and refuses what is not as the database says.

use std::collections::BTreeSet;
use std::fs::{self, FileType, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::slice;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use seed_format::StorePath;

use super::{CaptureError, real_path};
use crate::closure::PathInfo;
use crate::database;
use crate::store::Store;

/// Puts the path of `info`, whose files are at `from`, into the store below `root`, unless it is there, or
/// refers to others: Nix brings it when it is asked for. Nobody else may write to that store meanwhile.
pub(super) fn graft(from: &Path, info: &PathInfo, root: &Path) -> Result<(), CaptureError> {
    if !stands_alone(info) || Store::open(root)?.has(&info.path)? {
        return Ok(());
    }
    let to = real_path(root, &info.path);
    link_tree(from, &to, true).map_err(|source| CaptureError::Io { path: to, source })?;
    register(info, root)
}

/// Moves `paths` from the store below `from` to that below `to`, except those that are there, or refer to
/// others. Gives those that it moved, which must be moved back: their store still calls them valid.
pub(super) fn move_paths(
    paths: &BTreeSet<StorePath>,
    from: &Path,
    to: &Path,
) -> Result<Vec<StorePath>, CaptureError> {
    let (giver, taker) = (Store::open(from)?, Store::open(to)?);
    let mut moved = Vec::new();
    for path in paths {
        let info = giver.path_info(path)?;
        if stands_alone(&info) && !taker.has(path)? {
            move_back(slice::from_ref(path), from, to)?;
            register(&info, to)?;
            moved.push(path.clone());
        }
    }
    Ok(moved)
}

/// Moves paths to a store whose database has them.
pub(super) fn move_back(paths: &[StorePath], from: &Path, to: &Path) -> Result<(), CaptureError> {
    for path in paths {
        let (from, to) = (real_path(from, path), real_path(to, path));
        rename(&from, &to).map_err(|source| CaptureError::Io { path: from, source })?;
    }
    Ok(())
}

/// A directory must be writable to get another parent, and those in a store are not.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(from)?.is_dir() {
        return fs::rename(from, to);
    }
    fs::set_permissions(from, Permissions::from_mode(0o755))?;
    fs::rename(from, to)?;
    fs::set_permissions(to, Permissions::from_mode(0o555))
}

fn stands_alone(info: &PathInfo) -> bool {
    info.references.iter().all(|path| *path == info.path)
}

fn register(info: &PathInfo, root: &Path) -> Result<(), CaptureError> {
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

    fn store_of(root: &Path, closure: &crate::closure::Closure) {
        let db = root.join("nix/var/nix/db");
        fs::create_dir_all(&db).unwrap();
        fs::create_dir_all(root.join("nix/store")).unwrap();
        database::write(closure, &db.join("db.sqlite")).unwrap();
        fs::write(db.join("schema"), database::SCHEMA_VERSION).unwrap();
    }

    /// Each path of the fixture refers to the one before it, so only the first stands alone.
    #[test]
    fn moves_and_grafts_what_stands_alone() {
        let dir = tempfile::tempdir().unwrap();
        let [from, to, third] = ["from", "to", "third"].map(|name| dir.path().join(name));
        let [alone, other] = ['0', '1'].map(|digit| crate::fixture::store_path(digit, "path"));
        let fill = |path: &Path| {
            fs::create_dir(path).unwrap();
            fs::write(path.join("file"), "text").unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o555)).unwrap();
        };
        let closure = crate::fixture::closure(
            &from.join("nix/store"),
            &[(alone.clone(), &fill), (other.clone(), &fill)],
        );
        store_of(&from, &closure);
        store_of(&to, &crate::closure::Closure::default());
        store_of(&third, &crate::closure::Closure::default());

        let paths = BTreeSet::from([alone.clone(), other.clone()]);
        let moved = move_paths(&paths, &from, &to).unwrap();
        assert_eq!(moved, slice::from_ref(&alone));
        assert!(!real_path(&from, &alone).exists());
        assert_eq!(Store::open(&to).unwrap().path_info(&alone).unwrap(), closure.paths[&alone]);
        assert_eq!(crate::tree::nar_hash(&real_path(&to, &alone)).unwrap().0, closure.paths[&alone].nar_hash);
        // What is there already stays where it is.
        assert_eq!(move_paths(&paths, &from, &to).unwrap(), []);
        move_back(&moved, &to, &from).unwrap();
        assert_eq!(fs::metadata(real_path(&from, &alone)).unwrap().mode() & 0o7777, 0o555);

        for path in [&alone, &other, &alone] {
            graft(&real_path(&from, path), &closure.paths[path], &third).unwrap();
        }
        assert_eq!(Store::open(&third).unwrap().valid_paths().unwrap(), [alone.clone()].into());
        assert_eq!(
            crate::tree::nar_hash(&real_path(&third, &alone)).unwrap(),
            (closure.paths[&alone].nar_hash, closure.paths[&alone].nar_size)
        );
    }

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
