//! What programs do with a mount, and what it refuses.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use seed_fuse::fetch;
use seed_fuse::mount::Mode;

use crate::world::{HELLO, World, errno, mount_store, on_each_tree, quiet, same};

#[test]
fn programs_run() {
    on_each_tree(|mode| {
        let world = World::new();
        let mnt = world.path("mnt");
        let mounted = mount_store(mode, &world.seed, &mnt, None, fetch::Config::default());
        for program in ["bin/sh", "bin/bash"] {
            let output =
                Command::new(mnt.join(HELLO).join(program)).args(["-c", "echo run"]).output().unwrap();
            assert_eq!(output.stdout, b"run\n");
        }
        mounted.unmount().unwrap();
    });
}

#[test]
fn what_a_store_must_refuse() {
    on_each_tree(|mode| {
        let world = World::new();
        let mnt = world.path("mnt");
        let mounted = mount_store(mode, &world.seed, &mnt, None, quiet());
        let file = mnt.join(HELLO).join("bin/sh");
        assert_eq!(errno(fs::metadata(mnt.join("nothing"))), libc::ENOENT);
        assert_eq!(errno(fs::metadata(mnt.join("nothing"))), libc::ENOENT, "also from the kernel's memory");
        assert_eq!(errno(fs::metadata(file.join("below"))), libc::ENOTDIR);
        assert_eq!(errno(fs::metadata(mnt.join("n".repeat(256)))), libc::ENAMETOOLONG);
        assert_eq!(errno(fs::write(mnt.join("new"), b"")), libc::EROFS);
        assert_eq!(errno(File::options().write(true).open(&file)), libc::EROFS);
        assert_eq!(errno(fs::remove_file(&file)), libc::EROFS);
        assert_eq!(errno(fs::rename(&file, mnt.join("x"))), libc::EROFS);
        assert_eq!(errno(fs::create_dir(mnt.join("d"))), libc::EROFS);
        assert_eq!(errno(symlink("a", mnt.join("l"))), libc::EROFS);
        assert_eq!(errno(fs::hard_link(&file, mnt.join("h"))), libc::EROFS);
        assert_eq!(errno(fs::set_permissions(&file, fs::Permissions::from_mode(0o777))), libc::EROFS);
        assert_eq!(errno(std::os::unix::fs::chown(&file, Some(1), Some(1))), libc::EROFS);
        assert_eq!(errno(fs::read_link(&file)), libc::EINVAL);
        assert_eq!(errno(fs::read_dir(&file)), libc::ENOTDIR);
        assert_eq!(errno(fs::read(mnt.join(HELLO))), libc::EISDIR);
        let mut value = [0u8; 16];
        let xattr = rustix::fs::getxattr(&file, "user.nothing", &mut value).unwrap_err();
        let listed = rustix::fs::listxattr(&file, &mut [] as &mut [u8]);
        // The FUSE tree has none at all, so that overlayfs does not ask each file for its own.
        let (no_such, none) = match mode {
            Mode::Fuse => (rustix::io::Errno::OPNOTSUPP, Err(rustix::io::Errno::OPNOTSUPP)),
            _ => (rustix::io::Errno::NODATA, Ok(0)),
        };
        assert_eq!((xattr, listed), (no_such, none));
        let stat = rustix::fs::statvfs(&mnt).unwrap();
        assert_eq!((stat.f_namemax, stat.f_bavail), (255, 0));
        mounted.unmount().unwrap();
    });
}

#[test]
fn overlayfs_goes_on_top() {
    on_each_tree(|mode| {
        let world = World::new();
        let (mnt, upper, work, merged) =
            (world.path("mnt"), world.path("rw/upper"), world.path("rw/work"), world.path("merged"));
        for directory in [&upper, &work, &merged] {
            fs::create_dir_all(directory).unwrap();
        }
        let mounted = mount_store(mode, &world.seed, &mnt, None, quiet());
        let options =
            format!("lowerdir={},upperdir={},workdir={}", mnt.display(), upper.display(), work.display());
        let options = CString::new(options).unwrap();
        rustix::mount::mount(
            "overlay",
            &merged,
            "overlay",
            rustix::mount::MountFlags::empty(),
            Some(options.as_c_str()),
        )
        .unwrap();
        same(&merged, &world.path("store"));
        fs::write(merged.join("new"), b"new").unwrap();
        fs::create_dir(merged.join(HELLO).join("bin/added")).unwrap();
        let mut old = String::new();
        File::open(merged.join(HELLO).join("Case")).unwrap().read_to_string(&mut old).unwrap();
        assert_eq!(old, "Case");
        rustix::mount::unmount(&merged, rustix::mount::UnmountFlags::empty()).unwrap();
        mounted.unmount().unwrap();
    });
}
