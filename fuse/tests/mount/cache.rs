//! A cache that cannot be written to.

use std::ffi::CString;
use std::fs;
use std::sync::Arc;

use seed_fuse::fetch;
use seed_fuse::mount::mount;

use crate::world::{World, mount_store, on_each_tree, open, quiet, same};

#[test]
fn a_full_disk_does_not_stop_reads() {
    on_each_tree(|mode| {
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
        let mounted = mount_store(mode, &world.seed, &mnt, Some(&cache), fetch::Config::default());
        same(&mnt, &world.path("store"));
        mounted.unmount().unwrap();
        // Nothing that is there now is wrong.
        let again = mount_store(mode, &world.seed, &mnt, Some(&cache), quiet());
        same(&mnt, &world.path("store"));
        again.unmount().unwrap();
    });
}

#[test]
fn a_read_only_cache_is_used() {
    on_each_tree(|mode| {
        let world = World::new();
        let (cache, mnt) = (world.path("cache"), world.path("mnt"));
        let filled = mount_store(mode, &world.seed, &mnt, Some(&cache), quiet());
        same(&mnt, &world.path("store"));
        filled.unmount().unwrap();
        rustix::mount::mount_bind(&cache, &cache).unwrap();
        let read_only = rustix::mount::MountFlags::BIND | rustix::mount::MountFlags::RDONLY;
        rustix::mount::mount_remount(&cache, read_only, c"").unwrap();
        let fs = open(&world.seed, Some(&cache), fetch::Config::default());
        let mounted = mount(Arc::clone(&fs), &mnt, b"nix/store", mode).unwrap();
        same(&mnt, &world.path("store"));
        assert_eq!(fs.stats().requests, 0, "all of it is in the cache");
        mounted.unmount().unwrap();
    });
}
