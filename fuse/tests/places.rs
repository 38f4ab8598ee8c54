//! Where a mount may be, what may lie above it, and how it goes away under load: on both trees. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use support::in_private_namespace;
use support::program::{NAME, World, alive, is_mounted, state_files, wait_until};

/// Runs a test with a mount of each tree.
fn on_each_tree(test: impl Fn(&World, &str) + Send + Sync) {
    for mode in ["kernel", "fuse"] {
        in_private_namespace(|| test(&World::new(), mode));
    }
}

#[test]
fn under_load_it_stays_and_lazily_it_goes() {
    on_each_tree(|world, mode| {
        let ready = world.mount("mnt", &["--mode", mode]);
        let data = world.path("mnt").join(NAME).join("data");
        let (end, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            let readers: Vec<_> = (0..4u64)
                .map(|reader| {
                    let file = File::open(&data).unwrap();
                    let (end, rounds) = (&end, &rounds);
                    scope.spawn(move || {
                        let mut bytes = [0; 5000];
                        let mut at = reader;
                        while !end.load(Ordering::SeqCst) {
                            at = (at * 7919 + 13) % 295_000;
                            file.read_exact_at(&mut bytes, at).unwrap();
                            assert_eq!(bytes, [7; 5000]);
                            rounds.fetch_add(1, Ordering::SeqCst);
                        }
                    })
                })
                .collect();
            let later = |than: usize| wait_until("reads", || rounds.load(Ordering::SeqCst) > than + 100);
            later(0);
            let refused = world.run(&["--unmount", "mnt"]);
            assert_eq!(refused.status.code(), Some(1), "it is in use");
            assert!(is_mounted(&world.path("mnt")) && data.exists());
            assert!(world.run(&["--unmount", "mnt", "--lazy"]).status.success());
            assert!(!is_mounted(&world.path("mnt")) && !data.exists());
            later(rounds.load(Ordering::SeqCst));
            assert!(alive(ready.state.pid), "{mode}: it serves who had files open");
            end.store(true, Ordering::SeqCst);
            readers.into_iter().for_each(|reader| reader.join().unwrap());
        });
        wait_until("the end of the server", || !alive(ready.state.pid) && state_files() == 0);
    });
}

#[test]
fn a_used_directory_is_covered_and_comes_back() {
    on_each_tree(|world, mode| {
        let mnt = world.path("mnt");
        fs::write(mnt.join("before"), "before").unwrap();
        let open = File::open(mnt.join("before")).unwrap();
        world.mount("mnt", &["--mode", mode]);
        assert!(!mnt.join("before").exists() && mnt.join(NAME).exists());
        let mut bytes = [0; 6];
        open.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"before");
        world.unmount("mnt");
        assert_eq!(fs::read(mnt.join("before")).unwrap(), b"before");
    });
}

/// Mounts an overlay at `name`, over the tree at `below`.
fn overlay(world: &World, below: &Path, name: &str) -> rustix::io::Result<()> {
    for part in ["upper", "work", "at"] {
        fs::create_dir_all(world.path(name).join(part)).unwrap();
    }
    let place = world.path(name);
    let (below, place) = (below.display(), place.display());
    let options = format!("lowerdir={below},upperdir={place}/upper,workdir={place}/work,index=off");
    let options = CString::new(options).unwrap();
    mount("overlay", world.path(name).join("at"), "overlay", MountFlags::empty(), options.as_c_str())
}

#[test]
fn two_overlays_lie_above_it_and_no_third() {
    on_each_tree(|world, mode| {
        // The layers for changes, on a file system that is itself no overlay.
        for name in ["first", "second", "third"] {
            fs::create_dir(world.path(name)).unwrap();
            mount("none", world.path(name), "tmpfs", MountFlags::empty(), None).unwrap();
        }
        world.mount("mnt", &["--mode", mode]);
        overlay(world, &world.path("mnt"), "first").unwrap();
        overlay(world, &world.path("first/at"), "second").unwrap();
        let second = world.path("second/at");
        assert_eq!(fs::read(second.join(NAME).join("data")).unwrap(), vec![7; 300_000]);
        fs::write(second.join(NAME).join("data"), "new").unwrap();
        assert_eq!(fs::read(second.join(NAME).join("data")).unwrap(), b"new");
        let tool = second.join(NAME).join("bin/tool");
        assert_eq!(Command::new(tool).output().unwrap().stdout, b"works\n");
        assert_eq!(overlay(world, &second, "third").unwrap_err(), rustix::io::Errno::INVAL, "{mode}");
        for at in ["second/at", "first/at"] {
            unmount(world.path(at), UnmountFlags::empty()).unwrap();
        }
        world.unmount("mnt");
    });
}

#[test]
fn it_shows_where_its_place_is_shared() {
    on_each_tree(|world, mode| {
        for (propagation, shows) in
            [(MountPropagationFlags::SHARED, true), (MountPropagationFlags::PRIVATE, false)]
        {
            let (place, other) = (world.path("place"), world.path("other"));
            fs::create_dir_all(&other).unwrap();
            fs::create_dir_all(&place).unwrap();
            mount("none", &place, "tmpfs", MountFlags::empty(), None).unwrap();
            mount_change(&place, propagation).unwrap();
            fs::create_dir(place.join("mnt")).unwrap();
            // A second view of the same place, as a container has.
            rustix::mount::mount_bind(&place, &other).unwrap();
            let ready = world.mount("place/mnt", &["--mode", mode]);
            assert!(place.join("mnt").join(NAME).exists());
            assert_eq!(other.join("mnt").join(NAME).exists(), shows, "{mode}");
            world.unmount("place/mnt");
            assert!(!is_mounted(&place.join("mnt")) && !is_mounted(&other.join("mnt")), "{mode}");
            assert!(!alive(ready.state.pid));
            unmount(&other, UnmountFlags::empty()).unwrap();
            unmount(&place, UnmountFlags::empty()).unwrap();
        }
    });
}

#[test]
fn a_container_sees_it() {
    on_each_tree(|world, mode| {
        world.mount("mnt", &["--mode", mode]);
        // What a container is made of: namespaces of its own, the mount bound into them, no privileges.
        let script = format!(
            "mkdir -p {0}/inside && mount --bind {0}/mnt {0}/inside && mount -o remount,bind,ro {0}/inside \
             && exec setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set=-all \
             {0}/inside/{NAME}/bin/tool",
            world.root.path().display()
        );
        let output = Command::new("unshare")
            .args([
                "--mount",
                "--pid",
                "--ipc",
                "--uts",
                "--net",
                "--fork",
                "--mount-proc",
                "sh",
                "-c",
                &script,
            ])
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"works\n", "{mode}: {}", String::from_utf8_lossy(&output.stderr));
        world.unmount("mnt");
    });
}
