//! Runs the tests as whoever started them, and once more as an ordinary user if that was root.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

use seed_policy::{Approved, Evidence, Pin, Policy, decide};
use seed_sandbox::{Command, Exit, Lower, Sandbox, Scratch, Spec, Stdio, Workspace, environment};
use tempfile::TempDir;

use crate::demo;
use crate::probe;
use crate::seed::{self, PackedSeed};

/// A test, by name.
pub(crate) type Test = (&'static str, fn(&World));

/// Set in the second run, to the path of the program: the user may not be able to read it where it is.
const ORDINARY: &str = "SEED_SANDBOX_TEST_ORDINARY";

/// An ordinary user's number, without an entry in any file.
const USER: u32 = 54321;

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
    if let Some(place) = demo::made().filter(|_| std::env::var_os(demo::PLACE).is_none()) {
        fs::remove_dir_all(place).unwrap();
    }
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
    // Where only root may open /dev/fuse, another node for the same device is shown in its place, to the
    // tests alone.
    let line = "
        if [ -n \"$1\" ]; then mount --bind \"$1\" /dev/fuse; fi
        user=$2; shift 2
        exec setpriv --reuid $user --regid $user --clear-groups -- \"$@\"
    ";
    let fuse = fs::metadata("/dev/fuse").unwrap();
    let node = place.path().join("fuse");
    let node = if fuse.mode() & 0o006 == 0o006 {
        String::new()
    } else {
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(rustix::fs::CWD, &node, rustix::fs::FileType::CharacterDevice, mode, fuse.rdev())
            .unwrap();
        fs::set_permissions(&node, Permissions::from_mode(0o666)).unwrap();
        node.to_str().unwrap().to_owned()
    };
    let demo = demo::made().map(|place| (demo::PLACE, place));
    std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-euc", line, "sh", &node, &USER.to_string()])
        .arg(&program)
        .args(std::env::args_os().skip(1))
        .env(ORDINARY, &program)
        .envs(demo)
        .env("TMPDIR", &home)
        .env("HOME", &home)
        .current_dir(&home)
        .status()
        .unwrap()
        .success()
}

/// The path of this program, where its user can read it.
pub(crate) fn program() -> PathBuf {
    std::env::var_os(ORDINARY).map_or_else(|| std::env::current_exe().unwrap(), PathBuf::from)
}

/// The seed of this run's tests.
fn packed() -> &'static PackedSeed {
    static PACKED: OnceLock<PackedSeed> = OnceLock::new();
    PACKED.get_or_init(PackedSeed::new)
}

/// A small seed, and places beside it.
pub(crate) struct World {
    directory: TempDir,
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
        let [workspace, scratch, hidden] =
            ["workspace", "scratch", "hidden"].map(|name| directory.path().join(name));
        for path in [&workspace, &hidden] {
            fs::create_dir(path).unwrap();
        }
        fs::write(workspace.join("source"), "source\n").unwrap();
        fs::set_permissions(workspace.join("source"), Permissions::from_mode(0o600)).unwrap();
        fs::write(hidden.join("secret"), "secret\n").unwrap();
        Self { directory, workspace, scratch, hidden }
    }

    /// The directory that all of this lies in.
    pub(crate) fn path(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub(crate) fn seed(&self) -> &'static PackedSeed {
        packed()
    }

    /// A sandbox of the seed, with the workspace, and nothing else.
    pub(crate) fn spec(&self) -> Spec {
        let mut spec = bare_spec(self.seed().open(), self.scratch.clone());
        spec.workspace = Some(Workspace { directory: self.workspace.clone(), writable: false });
        spec
    }

    pub(crate) fn start(&self) -> Sandbox {
        Sandbox::start(&approved(), &self.spec()).unwrap()
    }
}

/// A sandbox without a workspace.
pub(crate) fn bare_spec(lower: Lower, scratch: PathBuf) -> Spec {
    Spec {
        lower,
        workspace: None,
        binds: Vec::new(),
        scratch: Scratch::Directory(scratch),
        etc: BTreeMap::new(),
        fetcher_cache: None,
        environment: environment::clean(seed::SEARCH_PATH, [], &BTreeMap::new()),
    }
}

/// The verdict on the tests' seed, which each of them has packed itself or was told of by a test.
pub(crate) fn approved() -> Approved {
    approve(packed().digest)
}

pub(crate) fn approve(digest: seed_format::Digest) -> Approved {
    decide(&Policy::default(), &Evidence::new(Pin::Packed(digest), digest), SystemTime::now()).unwrap()
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
    execute(sandbox, Command::new(seed::probe_command().into_iter().chain([probe::ROLE]).chain(arguments)))
}

/// The streams that a test holds the other ends of: standard input, output and error of a command.
pub(crate) fn pipes() -> (io::PipeWriter, io::PipeReader, Stdio) {
    let (stdin, to_command) = io::pipe().unwrap();
    let (from_command, stdout) = io::pipe().unwrap();
    let stderr = File::options().write(true).open("/dev/null").unwrap();
    (to_command, from_command, Stdio::Files([stdin.into(), stdout.into(), stderr.into()]))
}
