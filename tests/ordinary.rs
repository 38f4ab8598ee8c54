//! What an ordinary user does without a word from root: looks at the machine, mounts, unmounts. Needs root, to
//! become one, and `fusermount3`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use program::seeds::Seeds;
use program::{Program, Run};

const USER: &str = "65534";

/// Runs a script of an ordinary user, whose `/dev/fuse` has this mode. It finds `seed` in `PATH`.
fn as_user(program: &Program, device_mode: &str, script: &str) -> Run {
    let programs = program.home().join("programs");
    if !programs.exists() {
        fs::create_dir(&programs).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_seed"), programs.join("seed")).unwrap();
        fs::set_permissions(programs.join("seed"), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let owned = Command::new("chown").args(["-R", &format!("{USER}:{USER}")]).arg(program.home()).status();
    assert!(owned.unwrap().success());
    let line = "
        device=$(mktemp -d -p /dev/shm) && mount -t tmpfs none \"$device\"
        mknod -m \"$1\" \"$device/fuse\" c 10 229
        mount --bind \"$device/fuse\" /dev/fuse
        umount -l \"$device\" && rmdir \"$device\"
        PATH=$HOME/programs:$PATH
        exec setpriv --reuid \"$2\" --regid \"$2\" --clear-groups -- sh -euc \"$3\"
    ";
    let script = format!("trap 'seed unmount --all --lazy 2> /dev/null' EXIT; {script}");
    let template = program.command(["help"]);
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-euc",
        line,
        "sh",
        device_mode,
        USER,
        &script,
    ]);
    for (name, value) in template.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Run::of(command.current_dir(program.home()))
}

#[test]
fn mounts_and_unmounts() {
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    let packed = seeds.pack("main", &[('1', "one", b"content of one")]);
    fs::create_dir(program.home().join("mnt")).unwrap();
    let script = format!(
        "seed mount {reference} mnt
         cat mnt/{one}/content
         grep -c ' fuse.seed-mount ' /proc/self/mounts
         seed status --json | grep -c {digest}
         seed unmount mnt
         grep -c ' fuse.seed-mount ' /proc/self/mounts || true
         ls -A mnt",
        reference = seeds.reference(&format!("@{}", packed.digest)),
        one = Seeds::path('1', "one").base_name(),
        digest = packed.digest,
    );
    let run = as_user(&program, "0666", &script).ended_with(0);
    assert_eq!(
        run.stdout.replace(program.home().join("mnt").to_str().unwrap(), "MNT"),
        "MNT\ncontent of one1\n1\n0\n"
    );
}

#[test]
fn doctor_says_what_the_machine_lacks() {
    let program = Program::new();
    let state = |run: &Run, name: &str| {
        let finding = run.json().into_iter().find(|finding| finding["name"] == name).unwrap();
        (finding["state"].as_str().unwrap().to_owned(), finding["fix"].to_string())
    };
    let run = as_user(&program, "0666", "seed doctor --json || true");
    for name in
        ["kernel", "FUSE", "fusermount3", "user namespaces", "cgroups", "overlayfs", "EROFS", "seccomp"]
    {
        assert_eq!(state(&run, name).0, "ok", "{name}: {}", run.stdout);
    }
    let run = as_user(&program, "0600", "! seed doctor --json || exit 9");
    let (found, fix) = state(&run.ended_with(0), "FUSE");
    assert_eq!(found, "fail");
    assert!(fix.contains("chmod 666 /dev/fuse"), "{fix}");

    let seeds = Seeds::below(program.home());
    let packed = seeds.pack("main", &[('1', "one", b"1")]);
    let reference = seeds.reference(&format!("@{}", packed.digest));
    as_user(&program, "0600", &format!("mkdir mnt; seed mount {reference} mnt"))
        .ended_with(1)
        .says("chmod 666 /dev/fuse")
        .says("seed doctor");
    let without = as_user(&program, "0666", "seed=$(command -v seed); PATH=/nowhere; $seed doctor --json");
    let (found, fix) = state(&without, "fusermount3");
    assert_eq!(found, "warn");
    assert!(fix.contains("apt-get install fuse3"), "{fix}");
}
