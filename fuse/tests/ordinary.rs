//! Mounts of an ordinary user: in a user namespace of his own, and by `fusermount3`. Needs root, to become one.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, mount, mount_bind, mount_bind_recursive};
use rustix::process::Signal;
use seed_fuse::mount::Ready;
use support::in_private_namespace;
use support::program::{NAME, World, alive, is_mounted, send, wait_until};

const USER: u32 = 65534;

/// What an ordinary user has: directories of his own, the program, and `/dev/fuse` with some mode.
struct User {
    world: World,
    devices: PathBuf,
}

impl User {
    fn new() -> Self {
        let world = World::new();
        for name in ["mnt", "rw", "cache", "run"] {
            fs::create_dir_all(world.path(name)).unwrap();
            std::os::unix::fs::chown(world.path(name), Some(USER), Some(USER)).unwrap();
        }
        fs::copy(env!("CARGO_BIN_EXE_seed-mount"), world.path("seed-mount")).unwrap();
        fs::set_permissions(world.path("seed-mount"), fs::Permissions::from_mode(0o755)).unwrap();
        let devices = world.path("devices");
        fs::create_dir(&devices).unwrap();
        mount("none", &devices, "tmpfs", MountFlags::empty(), None).unwrap();
        let user = Self { world, devices };
        user.device(0o666);
        user
    }

    /// Shows a device of this mode as `/dev/fuse`: distributions have it as 0666.
    fn device(&self, mode: u32) {
        let node = self.devices.join(format!("fuse-{mode:o}"));
        if !node.exists() {
            let permissions = Mode::from_raw_mode(mode);
            mknodat(CWD, &node, FileType::CharacterDevice, permissions, makedev(10, 229)).unwrap();
            fs::set_permissions(&node, fs::Permissions::from_mode(mode)).unwrap();
        }
        mount_bind(&node, "/dev/fuse").unwrap();
    }

    /// Shows these lines as `/etc/fuse.conf`.
    fn configuration(&self, lines: &str) {
        let file = self.world.path("fuse.conf");
        fs::write(&file, lines).unwrap();
        mount_bind(&file, "/etc/fuse.conf").unwrap();
    }

    fn command(&self, before: &[&str], command: &[&str]) -> Command {
        let user = USER.to_string();
        let become_user = ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"];
        let words = [before, &become_user, command].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(self.world.root.path());
        command.env("XDG_RUNTIME_DIR", self.world.path("run")).env_remove("XDG_CACHE_HOME");
        command
    }

    fn run(&self, command: &[&str]) -> Output {
        self.command(&[], command).output().unwrap()
    }

    /// Runs the command, which must fail with code 1, and gives what it said.
    fn refused(&self, command: &[&str]) -> String {
        let output = self.run(command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        said
    }

    fn mount(&self, before: &[&str], more: &[&str]) -> Ready {
        let reference = self.world.reference();
        let mount = ["./seed-mount", &reference, "mnt", "--cache", "cache", "--json"];
        let output = self.command(before, &[&mount, more].concat()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let ready: Ready = serde_json::from_slice(&output.stdout).unwrap();
        self.world.servers.borrow_mut().push(ready.state.pid);
        ready
    }

    fn states(&self) -> usize {
        fs::read_dir(self.world.path("run/nix-seed")).unwrap().count()
    }
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn in_a_user_namespace() {
    in_private_namespace(|| {
        let user = User::new();
        let script = format!(
            "set -eu
             ./seed-mount {reference} mnt --cache cache --rw rw
             mnt/{NAME}/bin/tool
             cksum < mnt/{NAME}/data
             echo new > mnt/new
             if cat mnt/missing 2> /dev/null; then exit 1; fi
             ./seed-mount --unmount mnt
             ls run/nix-seed mnt",
            reference = user.world.reference(),
        );
        let said =
            succeeded(&user.run(&["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", &script]));
        assert!(said.starts_with("works\n"), "{said}");
        assert!(said.contains(" 300000\n"), "{said}");
        assert_eq!(fs::read(user.world.path("rw/upper/new")).unwrap(), b"new\n");
    });
}

#[test]
fn by_fusermount() {
    in_private_namespace(|| {
        let user = User::new();
        let ready = user.mount(&[], &[]);
        let mnt = user.world.path("mnt");
        assert!(is_mounted(&mnt), "it shows in the namespace of the user");
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let line = table.lines().find(|line| line.contains(&*ready.state.id)).unwrap();
        for option in ["ro,nosuid,nodev", "fuse.seed-mount", "user_id=65534", "default_permissions"] {
            assert!(line.contains(option), "{option}: {line}");
        }
        let tool = format!("mnt/{NAME}/bin/tool");
        assert_eq!(succeeded(&user.run(&[&tool])), "works\n");
        let data = format!("mnt/{NAME}/data");
        assert_eq!(user.run(&["cat", &data]).stdout, vec![7; 300_000]);
        let error = fs::read(user.world.path(&data)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES), "nobody else sees it, root included");
        assert!(succeeded(&user.run(&["./seed-mount", "--list"])).contains(&ready.state.id));

        let mut reader = user.command(&[], &["sh", "-c", &format!("exec < {data}; echo; exec sleep 60")]);
        let mut reader = reader.stdout(Stdio::piped()).spawn().unwrap();
        reader.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let said = user.refused(&["./seed-mount", "--unmount", "mnt"]);
        assert!(said.contains("busy"), "{said}");
        assert!(is_mounted(&mnt) && alive(ready.state.pid));
        reader.kill().unwrap();
        reader.wait().unwrap();

        succeeded(&user.run(&["./seed-mount", "--unmount", "mnt"]));
        assert!(!is_mounted(&mnt) && !alive(ready.state.pid));
        assert_eq!(user.states(), 0);
    });
}

/// What is left by a server that was killed is taken away by the same user's next command, and a signal ends
/// a mount whole.
#[test]
fn by_fusermount_until_a_signal() {
    in_private_namespace(|| {
        let user = User::new();
        let mnt = user.world.path("mnt");
        for signal in [Signal::TERM, Signal::KILL] {
            let ready = user.mount(&[], &[]);
            send(ready.state.pid, signal);
            wait_until("the end of the server", || !alive(ready.state.pid));
            assert_eq!(succeeded(&user.run(&["./seed-mount", "--list"])), "");
            assert!(!is_mounted(&mnt));
            assert_eq!(user.states(), 0);
        }
        user.mount(&[], &[]);
        succeeded(&user.run(&["fusermount3", "-u", "mnt"]));
        wait_until("the end of the state", || user.states() == 0);
    });
}

#[test]
fn where_user_namespaces_are_switched_off() {
    in_private_namespace(|| {
        let user = User::new();
        let script = format!(
            "if unshare --user true 2> /dev/null; then exit 1; fi
             ./seed-mount {} mnt --cache cache
             mnt/{NAME}/bin/tool
             ./seed-mount --unmount mnt
             ls -A mnt/ | wc -l",
            user.world.reference(),
        );
        // The setting is one of each user namespace: here of one that has all users.
        let switch_off = "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\"";
        let wait = "echo; read go; exec unshare --mount sh -euc \"$0\" sh \"$@\"";
        let inside = ["unshare", "--user", "sh", "-euc", wait, switch_off];
        let mut child = user.command(&inside, &["sh", "-euc", &script]);
        child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{map}", child.id()), "0 0 4294967295").unwrap();
        }
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(succeeded(&output), "works\n0\n");
        assert_eq!(user.states(), 0);
    });
}

#[test]
fn others_see_it_where_fuse_conf_permits_that() {
    in_private_namespace(|| {
        let user = User::new();
        user.configuration("#user_allow_other\n");
        let reference = user.world.reference();
        let mount = ["./seed-mount", &reference, "mnt", "--cache", "cache", "-o", "allow_other"];
        let said = user.refused(&mount);
        assert!(said.contains("root writes the line user_allow_other into that file"), "{said}");
        assert!(!is_mounted(&user.world.path("mnt")));
        assert_eq!(user.states(), 0);

        user.configuration("user_allow_other\n");
        user.mount(&[], &["--allow-other"]);
        assert_eq!(fs::read(user.world.path("mnt").join(NAME).join("data")).unwrap(), vec![7; 300_000]);
        succeeded(&user.run(&["./seed-mount", "--unmount", "mnt"]));
    });
}

/// Each refusal leaves nothing, and says what to do.
#[test]
fn what_a_machine_lacks_is_said() {
    in_private_namespace(|| {
        let user = User::new();
        let reference = user.world.reference();
        let mount = |at| user.refused(&["./seed-mount", &reference, at, "--cache", "cache"]);
        fs::create_dir(user.world.path("roots")).unwrap();
        let said = mount("roots");
        assert!(said.contains("mount at a directory of your own"), "{said}");
        let writable = ["./seed-mount", &reference, "mnt", "--cache", "cache", "--rw", "rw"];
        let said = user.refused(&writable);
        assert!(said.contains("unshare --user --map-root-user --mount"), "{said}");

        let path = format!("PATH={}", user.world.path("cache").display());
        let said = user.refused(&["/usr/bin/env", &path, "./seed-mount", &reference, "mnt", "--no-cache"]);
        assert!(said.contains("apt-get install fuse3"), "{said}");

        user.device(0o600);
        let said = mount("mnt");
        assert!(said.contains("chmod 666 /dev/fuse"), "{said}");
        let as_root_of_a_namespace = ["unshare", "--user", "--map-root-user", "--mount", "./seed-mount"];
        let said = user.refused(&[&as_root_of_a_namespace[..], &[&reference, "mnt", "--no-cache"]].concat());
        assert!(said.contains("chmod 666 /dev/fuse"), "{said}");

        // A `/dev` without it.
        let devices = user.devices.join("none");
        fs::create_dir(&devices).unwrap();
        fs::write(devices.join("null"), "").unwrap();
        mount_bind("/dev/null", devices.join("null")).unwrap();
        mount_bind_recursive(&devices, "/dev").unwrap();
        let said = user.refused(&["./seed-mount", &reference, "mnt", "--no-cache"]);
        assert!(said.contains("--device /dev/fuse"), "{said}");
        let said = user.world.run(&[&reference, "mnt", "--no-cache"]);
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains("--device /dev/fuse"), "{said}");
        assert!(!is_mounted(Path::new(&user.world.path("mnt"))));
        assert_eq!(user.states(), 0);
    });
}
