//! `seed-mount` as the static program that is handed out: on a system that has nothing but it, a kernel and
//! a shell, and in a container of podman. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::mount::{MountFlags, mount, mount_bind};
use support::in_private_namespace;
use support::program::{NAME, World};

/// What a program that is fetched in every job may weigh, in bytes.
const LARGEST: u64 = 15_000_000;

/// What the shell there does: mount, run what is in the seed, look, unmount; and no server is left.
const SCRIPT: &str = r#"
    set -e
    /seed-mount "$1" /mnt --cache /cache
    "/mnt/$2/bin/tool"
    wc -c < "/mnt/$2/data"
    /seed-mount --list | grep -c '"directory":"/mnt"'
    /seed-mount --unmount /mnt
    ls /mnt /run/nix-seed
"#;

fn built() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tools/musl");
    let output = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "the static program cannot be made");
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// A root with the program and a shell. Nothing of the machine's own: no C library, no configuration, no
/// certificates.
fn empty_root(world: &World, program: &Path) -> PathBuf {
    let root = world.path("system");
    for directory in ["bin", "dev", "mnt", "nix/store", "proc", "run", "seeds", "sys", "tmp", "cache"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy(program, root.join("seed-mount")).unwrap();
    fs::copy("/bin/busybox", root.join("bin/sh")).unwrap();
    for name in ["wc", "grep", "ls", "cat", "unshare"] {
        std::os::unix::fs::symlink("sh", root.join("bin").join(name)).unwrap();
    }
    root
}

/// The same with a seed, and what every kernel shows.
fn empty_system(world: &World, program: &Path) -> PathBuf {
    let root = empty_root(world, program);
    mount_bind(&world.seed.layout, root.join("seeds")).unwrap();
    for device in ["fuse", "null"] {
        let file = root.join("dev").join(device);
        fs::write(&file, "").unwrap();
        mount_bind(Path::new("/dev").join(device), &file).unwrap();
    }
    mount("proc", root.join("proc"), "proc", MountFlags::empty(), None).unwrap();
    root
}

#[test]
fn runs_where_there_is_nothing_else() {
    let program = built();
    assert!(fs::metadata(&program).unwrap().len() < LARGEST, "{}", program.display());
    in_private_namespace(|| {
        let world = World::new();
        let root = empty_system(&world, &program);
        let reference = format!("oci:/seeds@{}", world.seed.digest);
        let output = Command::new("chroot")
            .arg(&root)
            .args(["/bin/sh", "-c", SCRIPT, "sh", &reference, NAME])
            .env_clear()
            .env("PATH", "/bin:/usr/sbin:/usr/bin")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text, "works\n300000\n1\n/mnt:\n\n/run/nix-seed:\n", "{said}");
        assert_eq!(said, "");
    });
}

/// Runs `script` in a container of podman that has /dev/fuse, and `more`.
fn in_container(world: &World, root: &Path, more: &[&str], script: &str) -> Output {
    let mut command = Command::new("podman");
    for (option, directory) in [("--root", "storage"), ("--runroot", "runroot"), ("--tmpdir", "temporary")] {
        command.arg(option).arg(world.path(directory));
    }
    command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
    command.args(["--log-level", "error"]);
    // crun refuses hosts with both versions of cgroups.
    if Path::new("/sys/fs/cgroup/unified").exists() {
        command.args(["--runtime", "runc"]);
    }
    command.args(["run", "--rm", "--network", "none", "--device", "/dev/fuse"]).args(more);
    // podman raises limits to its own numbers, which root may lack the right to.
    command.args(["--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"]);
    command.arg("--volume").arg(format!("{}:/seeds:ro", world.seed.layout.display()));
    command.arg("--rootfs").arg(format!("{}:O", root.display()));
    let reference = format!("oci:/seeds@{}", world.seed.digest);
    command.args(["/bin/sh", "-c", script, "sh", &reference, NAME]).output().unwrap()
}

/// The commands of `docs/mount.md`.
#[test]
fn runs_in_a_container_of_podman() {
    const MOUNT: &str = r#"
        /seed-mount "$1" /nix/store --cache /cache || exit 9
        "/nix/store/$2/bin/tool"
        grep -c " /nix/store " /proc/self/mounts
        /seed-mount --unmount /nix/store
    "#;
    let program = built();
    in_private_namespace(|| {
        let world = World::new();
        let root = empty_root(&world, &program);
        let within = format!("exec unshare -U -r -m sh -c '{MOUNT}' sh \"$@\"");
        for (more, script, expected) in [
            (&["--cap-add", "SYS_ADMIN"][..], MOUNT, Ok("works\n1\n")),
            (&[], &within, Ok("works\n1\n")),
            (&[], MOUNT, Err("--cap-add SYS_ADMIN")),
        ] {
            let output = in_container(&world, &root, more, script);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            match expected {
                Ok(text) => assert_eq!(String::from_utf8_lossy(&output.stdout), text, "{more:?}: {said}"),
                Err(why) => {
                    assert!(output.status.code() == Some(9) && said.contains(why), "{said}");
                }
            }
        }
    });
}
