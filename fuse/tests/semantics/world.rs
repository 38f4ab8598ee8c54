//! One store, shown by ext4 and by both trees.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use seed_fuse::mount::{Mode, Mounted, OpenOptions, mount, open_seed};

use crate::support::noise::noise;
use crate::support::{self, pack};

/// The store path that all cases look at.
pub(crate) const NAME: &str = "00000000000000000000000000000000-tree";
/// Bytes of the file `file`.
pub(crate) const FILE: usize = 10_000;
/// Bytes of the file `big`.
pub(crate) const BIG: usize = (3 << 20) + 5;
/// Files in the directory `many`.
pub(crate) const MANY: usize = 3000;

/// Dropped in order: the mounts before what they show.
pub(crate) struct World {
    _mounts: [Mounted; 2],
    root: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let store = root.path().join("store");
        make(&store.join(NAME));
        seal(&store);
        for name in ["ext4", "fuse", "kernel"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        let seed = pack(&store, &[vec![NAME.to_owned()]], &[], &root.path().join("layout"), 64 << 10);
        mount_ext4(root.path(), &store);
        let mounts = [("fuse", Mode::Fuse), ("kernel", Mode::Kernel)].map(|(name, mode)| {
            let options = OpenOptions::default();
            let fs = open_seed(support::open(&seed.layout), &seed.digest, &options).unwrap();
            mount(fs, &root.path().join(name), b"nix/store", mode).unwrap()
        });
        Self { _mounts: mounts, root }
    }

    /// The store path as this file system shows it.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name).join(NAME)
    }
}

fn make(tree: &Path) {
    fs::create_dir_all(tree.join("dir/below")).unwrap();
    fs::create_dir(tree.join("empty-dir")).unwrap();
    fs::create_dir(tree.join("many")).unwrap();
    let write = |name: &str, bytes: &[u8], mode: u32| {
        fs::write(tree.join(name), bytes).unwrap();
        fs::set_permissions(tree.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    write("file", &noise(1, FILE), 0o444);
    write("other", b"other", 0o444);
    write("empty", b"", 0o444);
    write("big", &noise(2, BIG), 0o444);
    write("program", &fs::read("/bin/true").unwrap(), 0o555);
    write("script", b"#!/bin/sh\necho \"$0 ran\" | tail -c 11\n", 0o555);
    write("dir/inner", b"inner", 0o444);
    write("dir/below/deep", b"deep", 0o444);
    for number in 0..MANY {
        write(&format!("many/{number}"), b"", 0o444);
    }
    for name in [
        "n".repeat(255),
        "new\nline".into(),
        "ünïcödé".into(),
        " ".into(),
        "-".into(),
        "Case".into(),
        "case".into(),
    ] {
        write(&name, b"named", 0o444);
    }
    for (link, target) in [
        ("link", "file"),
        ("dir-link", "dir"),
        ("dangling", "missing"),
        ("loop-1", "loop-2"),
        ("loop-2", "loop-1"),
        ("long", &"x/".repeat(2000)),
        ("up", "dir/../file"),
    ] {
        symlink(target, tree.join(link)).unwrap();
    }
}

/// Modes and times as a seed has them.
fn seal(path: &Path) {
    let meta = fs::symlink_metadata(path).unwrap();
    if meta.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            seal(&entry.unwrap().path());
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o555)).unwrap();
    }
    let one = Timespec { tv_sec: 1, tv_nsec: 0 };
    let times = Timestamps { last_access: one, last_modification: one };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn mount_ext4(root: &Path, store: &Path) {
    let image = root.join("ext4.img");
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(Command::new("mkfs.ext4")
        .args(["-q", "-b", "4096", "-N", "8000", "-d"])
        .arg(store)
        .arg(&image)
        .arg("64M"));
    run(Command::new("mount")
        .args(["-o", "loop,ro,nosuid,nodev,noatime"])
        .arg(&image)
        .arg(root.join("ext4")));
}
