//! What a mount shows is what was packed.

use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use seed_fuse::fetch;
use seed_fuse::mount::{Mode, mount};

use crate::support::noise::noise;
use crate::support::{in_private_namespace, pack};
use crate::world::{
    CHUNK, FILE, GLIBC, World, errno, listing, mount_store, names, on_each_tree, open, quiet, same,
};

const MANY: &str = "44444444444444444444444444444444-many";

#[test]
fn a_mounted_store_equals_its_source() {
    on_each_tree(|mode| {
        let world = World::new();
        let mnt = world.path("mnt");
        let mounted =
            mount_store(mode, &world.seed, &mnt, Some(&world.path("cache")), fetch::Config::default());
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
        let again = mount(Arc::clone(&fs), &mnt, b"nix/store", mode).unwrap();
        same(&mnt, &world.path("store"));
        assert_eq!(fs.stats().requests, 0);
        again.unmount().unwrap();
    });
}

#[test]
fn inode_numbers_are_the_same_in_every_mount() {
    on_each_tree(|mode| {
        let world = World::new();
        let mnt = world.path("mnt");
        let inos = |mnt: &Path| -> Vec<_> {
            listing(mnt).keys().map(|path| fs::symlink_metadata(mnt.join(path)).unwrap().ino()).collect()
        };
        let first = mount_store(mode, &world.seed, &mnt, None, quiet());
        let before = inos(&mnt);
        first.unmount().unwrap();
        let second = mount_store(mode, &world.seed, &mnt, None, quiet());
        assert_eq!(inos(&mnt), before);
        second.unmount().unwrap();
    });
}

#[test]
fn any_directory_can_be_the_root() {
    on_each_tree(|mode| {
        let world = World::new();
        let mnt = world.path("mnt");
        let fs = open(&world.seed, None, quiet());
        for (subtree, inside) in [(&b""[..], "nix/store"), (b"nix", "store"), (b"nix/store", "")] {
            let mounted = mount(Arc::clone(&fs), &mnt, subtree, mode).unwrap();
            assert_eq!(fs::read(mnt.join(inside).join(FILE)).unwrap(), noise(9, 100_000));
            // What is above the root of a tree is not seen through "..".
            let up: Vec<_> =
                fs::read_dir(mnt.join("..")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert!(up.contains(&"layout".into()));
            mounted.unmount().unwrap();
        }
        let missing = mount(Arc::clone(&fs), &mnt, b"nix/var", mode).unwrap_err();
        assert!(matches!(missing, seed_fuse::mount::MountError::Tree(_)), "{missing:?}");
        let file = mount(fs, &mnt, format!("nix/store/{FILE}").as_bytes(), mode).unwrap_err();
        assert!(matches!(file, seed_fuse::mount::MountError::Tree(_)), "{file:?}");
    });
}

#[test]
fn reads_at_any_place() {
    on_each_tree(|mode| {
        let world = World::new();
        let mnt = world.path("mnt");
        let mounted = mount_store(mode, &world.seed, &mnt, Some(&world.path("cache")), quiet());
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
        for mode in [Mode::Fuse, Mode::Kernel] {
            let mounted = mount_store(mode, &seed, &mnt, None, quiet());
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
        }
    });
}
