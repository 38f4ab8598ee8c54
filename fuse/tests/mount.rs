//! Mounts of real seeds by the real kernel, each in a mount namespace of its own. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seed_fuse::fetch;
use seed_fuse::mount::{Mounted, OpenOptions, SeedFs, mount, open_seed};
use seed_image::manifest::annotation;
use seed_image::seed::IndexPosition;
use support::{Seed, in_private_namespace, pack};

const GLIBC: &str = "00000000000000000000000000000000-glibc-2.36";
const HELLO: &str = "11111111111111111111111111111111-hello";
const FILE: &str = "22222222222222222222222222222222-source.tar";
const LINK: &str = "33333333333333333333333333333333-link";
const MANY: &str = "44444444444444444444444444444444-many";

/// Small, so that few files reach over several chunks.
const CHUNK: u32 = 64 << 10;

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

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

fn names(groups: &[&[&str]]) -> Vec<Vec<String>> {
    groups.iter().map(|group| group.iter().map(|name| (*name).to_owned()).collect()).collect()
}

fn pack_store(store: &Path, layout: &Path) -> Seed {
    pack(store, &names(&[&[GLIBC, FILE], &[HELLO, LINK]]), &[(HELLO, GLIBC)], layout, CHUNK)
}

fn quiet() -> fetch::Config {
    fetch::Config { neighbours: false, fill: false, ..fetch::Config::default() }
}

fn open(seed: &Seed, cache: Option<&Path>, fetch: fetch::Config) -> Arc<SeedFs> {
    let options = OpenOptions { cache: cache.map(Path::to_owned), fetch, ..OpenOptions::default() };
    open_seed(support::open(&seed.layout), &seed.digest, &options).unwrap()
}

fn mount_store(seed: &Seed, at: &Path, cache: Option<&Path>, fetch: fetch::Config) -> Mounted {
    mount(open(seed, cache, fetch), at, b"nix/store").unwrap()
}

/// All that a tree is, by path: type and mode, size, link target, contents.
type Listing = BTreeMap<PathBuf, (u32, u64, Option<PathBuf>, Option<Vec<u8>>)>;

fn listing(root: &Path) -> Listing {
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
            value.3 = Some(fs::read(&full).unwrap());
        }
        all.insert(path, value);
    }
    all
}

fn same(mounted: &Path, source: &Path) {
    let (mounted, source) = (listing(mounted), listing(source));
    assert_eq!(mounted.keys().collect::<Vec<_>>(), source.keys().collect::<Vec<_>>());
    for (path, expected) in &source {
        assert!(mounted[path] == *expected, "{} differs", path.display());
    }
}

struct World {
    root: tempfile::TempDir,
    seed: Seed,
}

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("store")).unwrap();
        make_store(&root.path().join("store"));
        let seed = pack_store(&root.path().join("store"), &root.path().join("layout"));
        fs::create_dir(root.path().join("mnt")).unwrap();
        Self { root, seed }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

#[test]
fn a_mounted_store_equals_its_source() {
    in_private_namespace(|| {
        let world = World::new();
        let mnt = world.path("mnt");
        let mounted = mount_store(&world.seed, &mnt, Some(&world.path("cache")), fetch::Config::default());
        same(&mnt, &world.path("store"));
        for (path, _) in listing(&mnt) {
            let meta = fs::symlink_metadata(mnt.join(&path)).unwrap();
            let what = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.uid(), meta.gid());
            assert_eq!(what, (1, 0, 1, 0, 0), "{}", path.display());
            if meta.is_dir() {
                assert_eq!(meta.mode() & 0o7777, 0o555);
                let subdirectories = fs::read_dir(mnt.join(&path)).unwrap();
                let subdirectories = subdirectories.filter(|entry| {
                    entry.as_ref().unwrap().path().is_dir() && !entry.as_ref().unwrap().path().is_symlink()
                });
                assert_eq!(meta.nlink(), 2 + subdirectories.count() as u64, "{}", path.display());
            }
        }
        let inos: std::collections::BTreeSet<_> =
            listing(&mnt).keys().map(|path| fs::symlink_metadata(mnt.join(path)).unwrap().ino()).collect();
        assert_eq!(inos.len(), listing(&mnt).len(), "an inode for each");
        mounted.unmount().unwrap();
        assert_eq!(fs::read_dir(&mnt).unwrap().count(), 0);

        // A second time, from the cache alone: the layers are gone.
        for layer in &world.seed.manifest.layers[..2] {
            fs::remove_file(world.path("layout/blobs/sha256").join(layer.digest.hex())).unwrap();
        }
        let fs = open(&world.seed, Some(&world.path("cache")), quiet());
        let again = mount(Arc::clone(&fs), &mnt, b"nix/store").unwrap();
        same(&mnt, &world.path("store"));
        assert_eq!(fs.stats().requests, 0);
        again.unmount().unwrap();
    });
}

#[test]
fn inode_numbers_are_the_same_in_every_mount() {
    in_private_namespace(|| {
        let world = World::new();
        let mnt = world.path("mnt");
        let inos = |mnt: &Path| -> Vec<_> {
            listing(mnt).keys().map(|path| fs::symlink_metadata(mnt.join(path)).unwrap().ino()).collect()
        };
        let first = mount_store(&world.seed, &mnt, None, quiet());
        let before = inos(&mnt);
        first.unmount().unwrap();
        let second = mount_store(&world.seed, &mnt, None, quiet());
        assert_eq!(inos(&mnt), before);
        second.unmount().unwrap();
    });
}

#[test]
fn any_directory_can_be_the_root() {
    in_private_namespace(|| {
        let world = World::new();
        let mnt = world.path("mnt");
        let fs = open(&world.seed, None, quiet());
        for (subtree, inside) in [(&b""[..], "nix/store"), (b"nix", "store"), (b"nix/store", "")] {
            let mounted = mount(Arc::clone(&fs), &mnt, subtree).unwrap();
            assert_eq!(fs::read(mnt.join(inside).join(FILE)).unwrap(), noise(9, 100_000));
            // What is above the root of a tree is not seen through "..".
            let up: Vec<_> =
                fs::read_dir(mnt.join("..")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert!(up.contains(&"layout".into()));
            mounted.unmount().unwrap();
        }
        let missing = mount(Arc::clone(&fs), &mnt, b"nix/var").unwrap_err();
        assert!(matches!(missing, seed_fuse::mount::MountError::Tree(_)), "{missing:?}");
        let file = mount(fs, &mnt, format!("nix/store/{FILE}").as_bytes()).unwrap_err();
        assert!(matches!(file, seed_fuse::mount::MountError::Tree(_)), "{file:?}");
    });
}

#[test]
fn what_a_store_must_refuse() {
    in_private_namespace(|| {
        let world = World::new();
        let mnt = world.path("mnt");
        let mounted = mount_store(&world.seed, &mnt, None, quiet());
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
        assert_eq!(xattr, rustix::io::Errno::OPNOTSUPP);
        let listed = rustix::fs::listxattr(&file, &mut [] as &mut [u8]).unwrap_err();
        assert_eq!(listed, rustix::io::Errno::OPNOTSUPP);
        let stat = rustix::fs::statvfs(&mnt).unwrap();
        assert_eq!((stat.f_namemax, stat.f_bavail), (255, 0));
        mounted.unmount().unwrap();
    });
}

#[test]
fn reads_at_any_place() {
    in_private_namespace(|| {
        let world = World::new();
        let mnt = world.path("mnt");
        let mounted = mount_store(&world.seed, &mnt, Some(&world.path("cache")), quiet());
        let len = (1 << 20) + 7;
        let expected = noise(len as u64, len);
        let file = File::open(mnt.join(GLIBC).join(format!("lib/of-{len}"))).unwrap();
        let chunk = u64::from(CHUNK);
        for offset in [
            0,
            1,
            4095,
            4096,
            chunk - 1,
            chunk,
            chunk + 1,
            5 * chunk - 3,
            len as u64 - 1,
            len as u64,
            u64::MAX >> 2,
        ] {
            for size in [1usize, 7, 4096, CHUNK as usize, 300_000] {
                let mut bytes = vec![0; size];
                let got = file.read_at(&mut bytes, offset).unwrap();
                let start = usize::try_from(offset).unwrap().min(len);
                let end = (start + size).min(len);
                // A read may be short, but not where there is more of the page.
                assert!(got > 0 || start == end);
                assert!(bytes[..got] == expected[start..start + got], "{size} at {offset}");
            }
        }
        drop(file);
        // By memory map, and by many threads at once.
        let path = mnt.join(GLIBC).join(format!("lib/of-{}", 9 << 20));
        let whole = noise(9 << 20, 9 << 20);
        std::thread::scope(|scope| {
            for thread in 0..8usize {
                let (path, whole) = (&path, &whole);
                scope.spawn(move || {
                    let file = File::open(path).unwrap();
                    let mut bytes = vec![0; 64 << 10];
                    for step in 0..100 {
                        let at = (thread * 7_919_993 + step * 1_299_709) % (whole.len() - bytes.len());
                        file.read_exact_at(&mut bytes, at as u64).unwrap();
                        assert!(bytes == whole[at..at + bytes.len()], "at {at}");
                    }
                });
            }
        });
        let compared = Command::new("cmp")
            .arg(&path)
            .arg(world.path("store").join(GLIBC).join(format!("lib/of-{}", 9 << 20)))
            .status();
        assert!(compared.unwrap().success());
        mounted.unmount().unwrap();
    });
}

#[test]
fn programs_run() {
    in_private_namespace(|| {
        let world = World::new();
        let mnt = world.path("mnt");
        let mounted = mount_store(&world.seed, &mnt, None, fetch::Config::default());
        for program in ["bin/sh", "bin/bash"] {
            let output =
                Command::new(mnt.join(HELLO).join(program)).args(["-c", "echo run"]).output().unwrap();
            assert_eq!(output.stdout, b"run\n");
        }
        mounted.unmount().unwrap();
    });
}

#[test]
fn a_directory_of_sixty_thousand() {
    in_private_namespace(|| {
        let root = tempfile::tempdir().unwrap();
        let store = root.path().join("store");
        let many = store.join(MANY);
        fs::create_dir_all(&many).unwrap();
        for number in 0..60_000 {
            fs::write(many.join(format!("file-{number:05}")), b"").unwrap();
        }
        let seed = pack(&store, &names(&[&[MANY]]), &[], &root.path().join("layout"), CHUNK);
        let mnt = root.path().join("mnt");
        fs::create_dir(&mnt).unwrap();
        let mounted = mount_store(&seed, &mnt, None, quiet());
        let listed: std::collections::BTreeSet<_> = fs::read_dir(mnt.join(MANY))
            .unwrap()
            .map(|entry| String::from_utf8(entry.unwrap().file_name().into_vec()).unwrap())
            .collect();
        assert_eq!(listed.len(), 60_000);
        assert!(listed.iter().enumerate().all(|(number, name)| *name == format!("file-{number:05}")));
        assert_eq!(fs::metadata(mnt.join(MANY).join("file-31234")).unwrap().len(), 0);
        assert_eq!(errno(fs::metadata(mnt.join(MANY).join("file-60000"))), libc::ENOENT);
        // Listing it again after a rewind gives the same.
        assert_eq!(fs::read_dir(mnt.join(MANY)).unwrap().count(), 60_000);
        mounted.unmount().unwrap();
    });
}

#[test]
fn a_damaged_layer_gives_eio_and_never_a_wrong_byte() {
    in_private_namespace(|| {
        let world = World::new();
        // One byte in every 32 KiB: every larger chunk is hit.
        let layer = world.path("layout/blobs/sha256").join(world.seed.manifest.layers[0].digest.hex());
        let mut blob = fs::read(&layer).unwrap();
        for at in (20_000..blob.len()).step_by(32 << 10) {
            blob[at] ^= 0x10;
        }
        fs::set_permissions(&layer, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&layer, &blob).unwrap();
        let mnt = world.path("mnt");
        let fs = open(&world.seed, Some(&world.path("cache")), fetch::Config::default());
        let mounted = mount(Arc::clone(&fs), &mnt, b"nix/store").unwrap();
        let source = listing(&world.path("store"));
        let (mut right, mut refused) = (0, 0);
        for (path, (.., content)) in &source {
            let Some(content) = content else { continue };
            match fs::read(mnt.join(path)) {
                Ok(bytes) => {
                    assert!(bytes == *content, "{} has wrong bytes", path.display());
                    right += 1;
                }
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EIO));
                    refused += 1;
                }
            }
        }
        assert!(refused >= 5, "{refused} refused");
        assert!(right >= 10, "{right} right");
        assert!(fs.stats().mismatches > 0);
        drop(mounted);
    });
}

#[test]
fn a_missing_layer_gives_eio_in_time() {
    in_private_namespace(|| {
        let world = World::new();
        fs::remove_file(world.path("layout/blobs/sha256").join(world.seed.manifest.layers[0].digest.hex()))
            .unwrap();
        let mnt = world.path("mnt");
        let mounted = mount_store(&world.seed, &mnt, None, quiet());
        let begin = Instant::now();
        assert_eq!(errno(fs::read(mnt.join(FILE))), libc::EIO);
        assert!(begin.elapsed() < Duration::from_secs(10));
        // Names and attributes do not need it.
        assert_eq!(fs::metadata(mnt.join(FILE)).unwrap().len(), 100_000);
        assert_eq!(fs::read(mnt.join(HELLO).join("Case")).unwrap(), b"Case");
        drop(mounted);
    });
}

#[test]
fn a_seed_whose_index_was_changed_is_refused() {
    let world = World::new();
    let index = world.seed.manifest.layers.last().unwrap();
    let blob = world.path("layout/blobs/sha256").join(index.digest.hex());
    let mut bytes = fs::read(&blob).unwrap();
    let position: IndexPosition = index.annotations[annotation::SEED_INDEX].parse().unwrap();
    bytes[usize::try_from(position.offset).unwrap() + 100] ^= 1;
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&blob, bytes).unwrap();
    let options = OpenOptions::default();
    let error = open_seed(support::open(&world.seed.layout), &world.seed.digest, &options).unwrap_err();
    assert!(error.is_integrity(), "{error:?}");
}

#[test]
fn a_full_disk_does_not_stop_reads() {
    in_private_namespace(|| {
        let world = World::new();
        let cache = world.path("cache");
        fs::create_dir(&cache).unwrap();
        let size = CString::new("size=1m").unwrap();
        rustix::mount::mount(
            "none",
            &cache,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            Some(size.as_c_str()),
        )
        .unwrap();
        let mnt = world.path("mnt");
        let mounted = mount_store(&world.seed, &mnt, Some(&cache), fetch::Config::default());
        same(&mnt, &world.path("store"));
        mounted.unmount().unwrap();
        // Nothing that is there now is wrong.
        let again = mount_store(&world.seed, &mnt, Some(&cache), quiet());
        same(&mnt, &world.path("store"));
        again.unmount().unwrap();
    });
}

#[test]
fn a_read_only_cache_is_used() {
    in_private_namespace(|| {
        let world = World::new();
        let (cache, mnt) = (world.path("cache"), world.path("mnt"));
        let filled = mount_store(&world.seed, &mnt, Some(&cache), quiet());
        same(&mnt, &world.path("store"));
        filled.unmount().unwrap();
        rustix::mount::mount_bind(&cache, &cache).unwrap();
        let read_only = rustix::mount::MountFlags::BIND | rustix::mount::MountFlags::RDONLY;
        rustix::mount::mount_remount(&cache, read_only, c"").unwrap();
        let fs = open(&world.seed, Some(&cache), fetch::Config::default());
        let mounted = mount(Arc::clone(&fs), &mnt, b"nix/store").unwrap();
        same(&mnt, &world.path("store"));
        assert_eq!(fs.stats().requests, 0, "all of it is in the cache");
        mounted.unmount().unwrap();
    });
}

#[test]
fn overlayfs_goes_on_top() {
    in_private_namespace(|| {
        let world = World::new();
        let (mnt, upper, work, merged) =
            (world.path("mnt"), world.path("rw/upper"), world.path("rw/work"), world.path("merged"));
        for directory in [&upper, &work, &merged] {
            fs::create_dir_all(directory).unwrap();
        }
        let mounted = mount_store(&world.seed, &mnt, None, quiet());
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
