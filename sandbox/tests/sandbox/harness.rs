//! Runs the tests as whoever started them, and once more as an ordinary user if that was root.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use seed_format::Digest;
use seed_policy::{Approved, Evidence, Pin, Policy, decide};
use seed_sandbox::{Command, Exit, Lower, Sandbox, Scratch, Spec, Stdio, Workspace, environment};
use tempfile::TempDir;

use crate::probe;

/// A test, by name.
pub(crate) type Test = (&'static str, fn(&World));

/// Set in the second run, to the path of the program: the user may not be able to read it where it is.
const ORDINARY: &str = "SEED_SANDBOX_TEST_ORDINARY";

/// An ordinary user's number, without an entry in any file.
const USER: u32 = 54321;

/// Where the probe lies inside.
pub(crate) const PROBE: &str = "/nix/store/00000000000000000000000000000001-probe";

/// A path that the seed holds.
pub(crate) const SEEDED: &str = "/nix/store/00000000000000000000000000000002-seeded";

pub(crate) fn run(tests: &[Test]) -> ExitCode {
    // As the standard harness: a word is a filter, flags that change its output mean nothing here.
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let ordinary = std::env::var_os(ORDINARY).is_some();
    let root = rustix::process::geteuid().is_root();
    let who = if root { "root" } else { "user" };
    if std::env::args().any(|argument| argument == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let mut failed = Vec::new();
    for (name, test) in tests.iter().filter(|(name, _)| name.contains(&filter)) {
        let started = Instant::now();
        let passed = catch_unwind(AssertUnwindSafe(|| test(&World::new()))).is_ok();
        let verdict = if passed { "ok" } else { "FAILED" };
        println!("test {name} ({who}) ... {verdict} ({} ms)", started.elapsed().as_millis());
        if !passed {
            failed.push(*name);
        }
    }
    let also = if root && !ordinary { run_as_ordinary_user() } else { true };
    if failed.is_empty() && also {
        return ExitCode::SUCCESS;
    }
    println!("\nfailed as {who}: {failed:?}");
    ExitCode::FAILURE
}

fn run_as_ordinary_user() -> bool {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let program = place.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let home = place.path().join("home");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(USER), Some(USER)).unwrap();
    std::process::Command::new(&program)
        .args(std::env::args_os().skip(1))
        .env(ORDINARY, &program)
        .env("TMPDIR", &home)
        .env("HOME", &home)
        .current_dir(&home)
        .uid(USER)
        .gid(USER)
        .status()
        .unwrap()
        .success()
}

/// A small tree in the shape of a seed, and places beside it.
pub(crate) struct World {
    _directory: TempDir,
    /// The tree.
    pub(crate) tree: PathBuf,
    /// A workspace with the file `source`.
    pub(crate) workspace: PathBuf,
    /// Where scratch directories go.
    pub(crate) scratch: PathBuf,
    /// A directory that no sandbox is told of, with the file `secret`.
    pub(crate) hidden: PathBuf,
}

impl World {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [tree, workspace, scratch, hidden] =
            ["tree", "workspace", "scratch", "hidden"].map(|name| directory.path().join(name));
        for path in [&workspace, &hidden] {
            fs::create_dir(path).unwrap();
        }
        fs::write(workspace.join("source"), "source\n").unwrap();
        fs::set_permissions(workspace.join("source"), Permissions::from_mode(0o600)).unwrap();
        fs::write(hidden.join("secret"), "secret\n").unwrap();
        make_tree(&tree);
        Self { _directory: directory, tree, workspace, scratch, hidden }
    }

    /// A sandbox of the tree, with the workspace, and nothing else.
    pub(crate) fn spec(&self) -> Spec {
        Spec {
            lower: Lower::Directory(self.tree.clone()),
            workspace: Some(Workspace { directory: self.workspace.clone(), writable: false }),
            binds: Vec::new(),
            scratch: Scratch::Directory(self.scratch.clone()),
            etc: BTreeMap::new(),
            environment: environment::clean("/bin", [], &BTreeMap::new()),
        }
    }

    pub(crate) fn start(&self) -> Sandbox {
        Sandbox::start(&approved(), &self.spec()).unwrap()
    }
}

/// The tests' tree has no digest; what matters is that somebody decided.
pub(crate) fn approved() -> Approved {
    let digest = Digest::of(b"tree");
    decide(&Policy::default(), &Evidence::new(Pin::Packed(digest), digest), SystemTime::now()).unwrap()
}

fn make_tree(tree: &Path) {
    for directory in ["bin", "etc", "nix/store", "nix/var/nix/db"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    fs::copy("/usr/bin/busybox", tree.join("bin/busybox")).expect("the package busybox-static");
    for applet in ["sh", "cat", "env", "ls", "sleep", "stty", "tty", "rm", "mkdir", "dd", "id"] {
        symlink("busybox", tree.join("bin").join(applet)).unwrap();
    }
    fs::write(tree.join("etc/motd"), "from the seed\n").unwrap();
    fs::create_dir(tree.join(&SEEDED[1..])).unwrap();
    fs::write(tree.join(&SEEDED[1..]).join("file"), "seeded\n").unwrap();
    fs::write(tree.join("nix/var/nix/db/db.sqlite"), "database\n").unwrap();
    fs::set_permissions(tree.join("nix/var/nix/db/db.sqlite"), Permissions::from_mode(0o444)).unwrap();
    fs::copy(program(), tree.join(&PROBE[1..])).unwrap();
    for library in libraries() {
        let target = tree.join(library.strip_prefix("/").unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&library, target).unwrap();
    }
    fs::set_permissions(tree.join("nix/store"), Permissions::from_mode(0o555)).unwrap();
}

/// The path of this program, where its user can read it.
pub(crate) fn program() -> PathBuf {
    std::env::var_os(ORDINARY).map_or_else(|| std::env::current_exe().unwrap(), PathBuf::from)
}

/// The shared libraries that this program has loaded, its loader among them.
fn libraries() -> Vec<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut found: Vec<_> = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])))
        .filter(|path| path.to_string_lossy().contains(".so"))
        .collect();
    // The name that is written in the program, which is a link on the host.
    found.extend(
        ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"]
            .map(PathBuf::from)
            .into_iter()
            .filter(|p| p.exists()),
    );
    found.sort();
    found.dedup();
    found
}

/// What a command did.
#[derive(Debug, PartialEq)]
pub(crate) struct Ran {
    pub(crate) exit: Exit,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The output of a command that must have succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.exit, Exit::Code(0), "{self:?}");
        self.stdout
    }
}

/// Runs a command with nothing to read, and takes what it writes.
pub(crate) fn execute(sandbox: &mut Sandbox, command: Command) -> Ran {
    let (mut errors, stderr) = io::pipe().unwrap();
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let mut text = String::new();
            errors.read_to_string(&mut text).map(|_| text)
        });
        let (exit, stdout) = sandbox.capture(command, stderr.into(), 1 << 20).unwrap();
        Ran { exit, stdout: String::from_utf8(stdout).unwrap(), stderr: reading.join().unwrap().unwrap() }
    })
}

/// Runs a line of shell.
pub(crate) fn shell(sandbox: &mut Sandbox, line: &str) -> Ran {
    execute(sandbox, Command::new(["/bin/sh", "-c", line]))
}

/// Runs the probe.
pub(crate) fn probe<const N: usize>(sandbox: &mut Sandbox, arguments: [&str; N]) -> Ran {
    execute(sandbox, Command::new([PROBE, probe::ROLE].into_iter().chain(arguments)))
}

/// The streams that a test holds the other ends of: standard input, output and error of a command.
pub(crate) fn pipes() -> (io::PipeWriter, io::PipeReader, Stdio) {
    let (stdin, to_command) = io::pipe().unwrap();
    let (from_command, stdout) = io::pipe().unwrap();
    let stderr = File::options().write(true).open("/dev/null").unwrap();
    (to_command, from_command, Stdio::Files([stdin.into(), stdout.into(), stderr.into()]))
}
