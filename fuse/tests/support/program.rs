//! `seed-mount` as a program, in a world of its own: a seed, a mount point, a `/run`.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use seed_fuse::mount::{Ready, Status};

use super::{Seed, pack};

/// The store path of the seed: a program, and 300,000 bytes of data.
pub const NAME: &str = "00000000000000000000000000000000-tool";

pub struct World {
    pub root: tempfile::TempDir,
    pub seed: Seed,
    pub servers: RefCell<Vec<i32>>,
    pub program: PathBuf,
}

/// No server outlives its test, also when that fails.
impl Drop for World {
    fn drop(&mut self) {
        for pid in self.servers.take().into_iter().filter(|pid| alive(*pid)) {
            // One that has ended by itself since is none that is left.
            let _ = kill_process(Pid::from_raw(pid).expect("a process has a number"), Signal::KILL);
        }
    }
}

impl World {
    /// A seed, and a `/run` of its own.
    pub fn new() -> Self {
        rustix::mount::mount("none", "/run", "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let store = root.path().join("store");
        fs::create_dir_all(store.join(NAME).join("bin")).unwrap();
        fs::write(store.join(NAME).join("bin/tool"), "#!/bin/sh\necho works\n").unwrap();
        fs::set_permissions(store.join(NAME).join("bin/tool"), fs::Permissions::from_mode(0o555)).unwrap();
        fs::write(store.join(NAME).join("data"), vec![7; 300_000]).unwrap();
        fs::create_dir(root.path().join("mnt")).unwrap();
        let seed = pack(&store, &[vec![NAME.to_owned()]], &[], &root.path().join("layout"), 64 << 10);
        Self { root, seed, servers: RefCell::default(), program: env!("CARGO_BIN_EXE_seed-mount").into() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn reference(&self) -> String {
        format!("oci:{}@{}", self.seed.layout.display(), self.seed.digest)
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(self.root.path());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    pub fn mount(&self, at: &str, more: &[&str]) -> Ready {
        let reference = self.reference();
        let arguments = [&[reference.as_str(), at, "--json", "--cache", "cache"], more].concat();
        let output = self.run(&arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let ready: Ready = serde_json::from_slice(&output.stdout).unwrap();
        self.servers.borrow_mut().push(ready.state.pid);
        ready
    }

    pub fn statuses(&self) -> Vec<Status> {
        let output = self.run(&["--list"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn unmount(&self, at: &str) {
        let output = self.run(&["--unmount", at]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

pub fn is_mounted(directory: &Path) -> bool {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    table.contains(&format!(" {} ", directory.display()))
}

pub fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::yield_now();
    }
}

pub fn state_files() -> usize {
    fs::read_dir("/run/nix-seed").map_or(0, |entries| entries.count())
}

pub fn send(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}
