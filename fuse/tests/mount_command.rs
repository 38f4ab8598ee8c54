//! Seeds by mount(8), umount(8) and fstab(5), as Debian's util-linux and fuse3 have them. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use rustix::mount::{MountFlags, mount, mount_bind};
use support::in_private_namespace;
use support::program::{NAME, World, is_mounted, state_files, wait_until};

/// A world in which `seed-mount` is installed where mount(8) finds programs.
fn installed() -> World {
    let world = World::new();
    let programs = world.path("programs");
    fs::create_dir(&programs).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_seed-mount"), programs.join("seed-mount")).unwrap();
    mount_bind(&programs, "/usr/local/bin").unwrap();
    world
}

fn run(world: &World, command: &[&str]) -> Output {
    Command::new(command[0]).args(&command[1..]).current_dir(world.root.path()).output().unwrap()
}

#[track_caller]
fn succeeded(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

/// The mount at `mnt` answers at once, and one umount(8) ends its server and all of its state.
#[track_caller]
fn works_until_umount(world: &World) {
    let tool = world.path("mnt").join(NAME).join("bin/tool");
    assert_eq!(Command::new(tool).output().unwrap().stdout, b"works\n");
    let status = world.statuses().remove(0);
    world.servers.borrow_mut().push(status.state.pid);
    succeeded(&run(world, &["umount", "mnt"]));
    assert!(!is_mounted(&world.path("mnt")));
    wait_until("the end of its state", || state_files() == 0);
    wait_until("the end of its server", || !support::program::alive(status.state.pid));
}

#[test]
fn mounted_and_unmounted() {
    in_private_namespace(|| {
        let world = installed();
        for (mode, kind) in [("auto", "erofs\n"), ("fuse", "fuse.seed-mount\n")] {
            let cache = world.path("cache");
            let options = format!("ro,noatime,relatime,nodev,_netdev,mode={mode},cache={}", cache.display());
            let arguments = ["mount", "-t", "fuse.seed-mount", &world.reference(), "mnt", "-o", &options];
            succeeded(&run(&world, &arguments));
            let table = run(&world, &["findmnt", "-no", "FSTYPE", "mnt"]);
            assert_eq!(table.stdout, kind.as_bytes());
            works_until_umount(&world);
        }
    });
}

#[test]
fn a_writable_one_is_one_mount() {
    in_private_namespace(|| {
        let world = installed();
        let options = format!("writable={},no_cache,no_fill", world.path("rw").display());
        succeeded(&run(
            &world,
            &["mount", "-t", "fuse.seed-mount", "-o", &options, &world.reference(), "mnt"],
        ));
        fs::write(world.path("mnt/new"), "new").unwrap();
        works_until_umount(&world);
        assert_eq!(fs::read(world.path("rw/upper/new")).unwrap(), b"new");
    });
}

#[test]
fn a_line_of_fstab() {
    in_private_namespace(|| {
        let world = installed();
        let line = format!(
            "{} {} fuse.seed-mount noauto,nofail,_netdev,x-systemd.automount,x-systemd.mount-timeout=60,no_cache 0 0\n",
            world.reference(),
            world.path("mnt").display(),
        );
        fs::write(world.path("fstab"), line).unwrap();
        let fstab = world.path("fstab").display().to_string();
        succeeded(&run(&world, &["mount", "--fstab", &fstab, &world.path("mnt").display().to_string()]));
        works_until_umount(&world);
    });
}

/// `mount --all` asks for every line, also where it was mounted before.
#[test]
fn all_of_fstab_again() {
    in_private_namespace(|| {
        let world = installed();
        let (mnt, writable) = (world.path("mnt"), world.path("writable"));
        fs::create_dir(&writable).unwrap();
        let (reference, rw) = (world.reference(), world.path("rw"));
        let line = |at: &Path, options: &str| {
            format!("{reference} {} fuse.seed-mount _netdev,no_cache{options} 0 0\n", at.display())
        };
        let lines = line(&mnt, "") + &line(&writable, &format!(",writable={}", rw.display()));
        fs::write(world.path("fstab"), lines).unwrap();
        let all = || {
            succeeded(&run(&world, &["mount", "--fstab", "fstab", "--all"]));
            let servers: Vec<_> = world.statuses().into_iter().map(|status| status.state.pid).collect();
            world.servers.borrow_mut().extend(&servers);
            let table = fs::read_to_string("/proc/thread-self/mounts").unwrap();
            (servers, table)
        };
        let first = all();
        assert_eq!(first.0.len(), 2);
        assert_eq!(all(), first);
        succeeded(&run(&world, &["umount", "writable"]));
        wait_until("the end of one", || state_files() < 6);
        works_until_umount(&world);
    });
}

/// systemd makes a mount unit of the line that docs/mount.md shows.
#[test]
fn a_line_of_fstab_is_a_unit() {
    let docs = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/mount.md")).unwrap();
    let line = docs.lines().find(|line| line.ends_with(" 0 0")).unwrap();
    let world = tempfile::tempdir().unwrap();
    fs::write(world.path().join("fstab"), line).unwrap();
    fs::create_dir(world.path().join("units")).unwrap();
    let command = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(world.path()).env("SYSTEMD_FSTAB", world.path().join("fstab"));
        let output = command.output().unwrap();
        succeeded(&output);
        output
    };
    command("/usr/lib/systemd/system-generators/systemd-fstab-generator", &["units", "units", "units"]);
    let unit = fs::read_to_string(world.path().join("units/nix-store.mount")).unwrap();
    for setting in ["Where=/nix/store", "Type=fuse.seed-mount", "TimeoutSec=1min"] {
        assert!(unit.lines().any(|line| line == setting), "{unit}");
    }
    assert!(world.path().join("units/remote-fs.target.wants/nix-store.mount").exists());
    let said = command("systemd-analyze", &["verify", "units/nix-store.mount"]);
    assert!(said.stderr.is_empty(), "{said:?}");
}

/// The unit that docs/mount.md shows is one.
#[test]
fn a_unit_of_its_own() {
    let docs = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/mount.md")).unwrap();
    let begin = docs.find("[Unit]").unwrap();
    let unit = docs[begin..].split("```").next().unwrap();
    in_private_namespace(|| {
        let world = installed();
        fs::write(world.path("seed-store.service"), unit).unwrap();
        let said = run(&world, &["systemd-analyze", "verify", "./seed-store.service"]);
        succeeded(&said);
        assert!(said.stderr.is_empty(), "{said:?}");
    });
}

/// mount(8) runs `/sbin/mount.TYPE` with words of its own where that exists.
#[test]
fn as_a_helper_of_its_own_type() {
    in_private_namespace(|| {
        let world = installed();
        let layers = world.path("layers");
        fs::create_dir(&layers).unwrap();
        mount("none", &layers, "tmpfs", MountFlags::empty(), None).unwrap();
        let (upper, work) = (layers.join("upper"), layers.join("work"));
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&work).unwrap();
        let helper = upper.join("mount.fuse.seed-mount");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_seed-mount"), helper).unwrap();
        let options = format!("lowerdir=/usr/sbin,upperdir={},workdir={}", upper.display(), work.display());
        succeeded(&run(&world, &["mount", "-t", "overlay", "overlay", "-o", &options, "/usr/sbin"]));

        let reference = world.reference();
        let with = |flags: &[&str]| {
            let mount = [&["mount", "-t", "fuse.seed-mount"], flags, &["-o", "no_cache", &reference, "mnt"]];
            run(&world, &mount.concat())
        };
        succeeded(&with(&["-s", "-n", "-v", "-r"]));
        works_until_umount(&world);
        succeeded(&with(&["--fake"]));
        assert!(!is_mounted(&world.path("mnt")) && state_files() == 0, "only pretended");
    });
}

#[test]
fn refusals_are_told() {
    in_private_namespace(|| {
        let world = installed();
        let tag = format!("oci:{}:latest", world.seed.layout.display());
        for (reference, options, code, word) in [
            (tag.as_str(), "no_cache", 3, "--allow-tag"),
            (&world.reference(), "no_cache,nonsense", 2, "--nonsense"),
            (&world.reference(), "no_cache,noexec", 2, "noexec"),
        ] {
            let output = run(&world, &["mount", "-t", "fuse.seed-mount", "-o", options, reference, "mnt"]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{said}");
            assert!(said.contains(word), "{said}");
            assert!(!is_mounted(&world.path("mnt")) && state_files() == 0);
        }
    });
}
