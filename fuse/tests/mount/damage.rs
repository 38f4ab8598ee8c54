//! A seed of which bytes are wrong, or gone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seed_fuse::fetch;
use seed_fuse::mount::{OpenOptions, mount, open_seed};
use seed_image::manifest::annotation;
use seed_image::seed::IndexPosition;

use crate::support;
use crate::world::{FILE, HELLO, World, errno, listing, mount_store, on_each_tree, open, quiet};

#[test]
fn a_damaged_layer_gives_eio_and_never_a_wrong_byte() {
    on_each_tree(|mode| {
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
        let mounted = mount(Arc::clone(&fs), &mnt, b"nix/store", mode).unwrap();
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
    on_each_tree(|mode| {
        let world = World::new();
        fs::remove_file(world.path("layout/blobs/sha256").join(world.seed.manifest.layers[0].digest.hex()))
            .unwrap();
        let mnt = world.path("mnt");
        let mounted = mount_store(mode, &world.seed, &mnt, None, quiet());
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
