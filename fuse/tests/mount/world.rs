//! A seed of a store with everything that is hard, and what the tests compare.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seed_fuse::fetch;
use seed_fuse::mount::{Mode, Mounted, OpenOptions, SeedFs, mount, open_seed};

use crate::support::noise::noise;
use crate::support::{self, Seed, pack};

pub(crate) const GLIBC: &str = "00000000000000000000000000000000-glibc-2.36";
pub(crate) const HELLO: &str = "11111111111111111111111111111111-hello";
pub(crate) const FILE: &str = "22222222222222222222222222222222-source.tar";
const LINK: &str = "33333333333333333333333333333333-link";

/// Small, so that few files reach over several chunks.
pub(crate) const CHUNK: u32 = 64 << 10;

fn write(path: &Path, bytes: &[u8], executable: bool) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(if executable { 0o555 } else { 0o444 })).unwrap();
}

/// A store with everything that is hard.
fn make_store(store: &Path) {
    let glibc = store.join(GLIBC);
    fs::create_dir_all(glibc.join("lib/deep/er")).unwrap();
    let chunk = CHUNK as usize;
    for len in [
        0,
        1,
        4095,
        4096,
        4097,
        chunk - 1,
        chunk,
        chunk + 1,
        3 * chunk,
        3 * chunk + 1,
        (1 << 20) + 7,
        9 << 20,
    ] {
        write(&glibc.join(format!("lib/of-{len}")), &noise(len as u64, len), len % 2 == 0);
    }
    write(&glibc.join("lib/zeros"), &vec![0; 5 << 20], false);
    write(&glibc.join("lib/deep/er/file"), b"deep", false);
    symlink("../lib/of-1", glibc.join("lib/deep/up")).unwrap();
    symlink("x".repeat(4095), glibc.join("lib/long-link")).unwrap();
    symlink("missing", glibc.join("dangling")).unwrap();

    let hello = store.join(HELLO);
    fs::create_dir_all(hello.join("bin")).unwrap();
    fs::create_dir_all(hello.join("empty")).unwrap();
    write(&hello.join("bin/sh"), &fs::read("/bin/sh").unwrap(), true);
    symlink("sh", hello.join("bin/bash")).unwrap();
    for name in [
        &b"n".repeat(255)[..],
        b"invalid \xff\xfe utf-8",
        b"new\nline",
        b"Case",
        b"case",
        b" ",
        b"-",
        b"a\\b",
    ] {
        write(&hello.join(OsStr::from_bytes(name)), name, false);
    }
    write(&store.join(FILE), &noise(9, 100_000), false);
    symlink(format!("/nix/store/{HELLO}"), store.join(LINK)).unwrap();
}

/// Runs a test on the tree that FUSE shows, and on the one that the kernel shows.
pub(crate) fn on_each_tree(test: impl Fn(Mode) + Send + Sync) {
    for mode in [Mode::Fuse, Mode::Kernel] {
        support::in_private_namespace(|| test(mode));
    }
}

pub(crate) fn names(groups: &[&[&str]]) -> Vec<Vec<String>> {
    groups.iter().map(|group| group.iter().map(|name| (*name).to_owned()).collect()).collect()
}

fn pack_store(store: &Path, layout: &Path) -> Seed {
    pack(store, &names(&[&[GLIBC, FILE], &[HELLO, LINK]]), &[(HELLO, GLIBC)], layout, CHUNK)
}

pub(crate) fn quiet() -> fetch::Config {
    fetch::Config { neighbours: false, fill: false, ..fetch::Config::default() }
}

pub(crate) fn open(seed: &Seed, cache: Option<&Path>, fetch: fetch::Config) -> Arc<SeedFs> {
    let options = OpenOptions { cache: cache.map(Path::to_owned), fetch, ..OpenOptions::default() };
    open_seed(support::open(&seed.layout), &seed.digest, &options).unwrap()
}

pub(crate) fn mount_store(
    mode: Mode,
    seed: &Seed,
    at: &Path,
    cache: Option<&Path>,
    fetch: fetch::Config,
) -> Mounted {
    let mounted = mount(open(seed, cache, fetch), at, b"nix/store", mode).unwrap();
    let wanted = if mode == Mode::Fuse { "fuse" } else { "kernel" };
    assert_eq!(mounted.shown().mode, wanted);
    mounted
}

/// All that a tree is, by path: type and mode, size, link target, contents.
type Listing = BTreeMap<PathBuf, (u32, u64, Option<PathBuf>, Option<Vec<u8>>)>;

pub(crate) fn listing(root: &Path) -> Listing {
    let mut all = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).unwrap();
        let mut value = (meta.mode(), 0, None, None);
        if meta.is_dir() {
            // Directories of the source are 0755, as they were made; in a seed all are 0555.
            value.0 = 0o040_555;
            left.extend(fs::read_dir(&full).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
        } else if meta.is_symlink() {
            value.1 = meta.len();
            value.2 = Some(fs::read_link(&full).unwrap());
        } else {
            value.1 = meta.len();
            value.3 = Some(fs::read(&full).unwrap_or_else(|error| panic!("{}: {error}", full.display())));
        }
        all.insert(path, value);
    }
    all
}

pub(crate) fn same(mounted: &Path, source: &Path) {
    let (mounted, source) = (listing(mounted), listing(source));
    assert_eq!(mounted.keys().collect::<Vec<_>>(), source.keys().collect::<Vec<_>>());
    for (path, expected) in &source {
        assert!(mounted[path] == *expected, "{} differs", path.display());
    }
}

pub(crate) struct World {
    root: tempfile::TempDir,
    pub(crate) seed: Seed,
}

impl World {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("store")).unwrap();
        make_store(&root.path().join("store"));
        let seed = pack_store(&root.path().join("store"), &root.path().join("layout"));
        fs::create_dir(root.path().join("mnt")).unwrap();
        Self { root, seed }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }
}

pub(crate) fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}
