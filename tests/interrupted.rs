//! `seed pack` is interrupted in each of its phases, or killed: what is left, and what becomes of it. Needs root,
//! /dev/fuse and the test environment of `tests/nix`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use program::Program;
use program::checkout::Checkout;
use program::seeds::Seeds;
use rustix::process::{Pid, Signal, kill_process};

/// Asks again and again, for a minute at most.
fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what}");
        thread::yield_now();
    }
}

/// Processes that have this home directory, and their command lines.
fn processes(home: &Path) -> Vec<(i32, String)> {
    let home = format!("HOME={}", home.display());
    let entries =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    entries
        .filter_map(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
            let ours = environment.split(|byte| *byte == 0).any(|line| line == home.as_bytes());
            let line =
                String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).ok()?).replace('\0', " ");
            ours.then_some((pid.parse().ok()?, line)).filter(|_| !environment.is_empty())
        })
        .collect()
}

/// The `seed pack` that runs at this home directory.
fn packer(home: &Path) -> Option<Pid> {
    let seed = concat!(env!("CARGO_BIN_EXE_seed"), " pack ");
    let found = processes(home).into_iter().find(|(_, line)| line.starts_with(seed))?;
    Pid::from_raw(found.0)
}

/// Names below a directory, where there is one.
fn names(directory: PathBuf) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn unfinished(layout: &Path) -> Vec<String> {
    names(layout.to_owned()).into_iter().filter(|name| name.starts_with(".seed-unfinished-")).collect()
}

/// Nothing that belongs to one run is left, and no process.
fn assert_nothing_is_left(home: &Path) {
    for directory in ["cache/tmp", "cache/scratch"] {
        assert_eq!(names(home.join(directory)), [] as [&str; 0], "{directory}");
    }
    assert_eq!(processes(home), [], "processes");
    assert_eq!(names(home.join("tmp")), [] as [&str; 0], "temporary files");
}

#[test]
fn every_phase_ends_at_once_and_leaves_nothing() {
    let checkout = Checkout::new();
    let home = checkout.program.home();
    fs::create_dir(home.join("tmp")).unwrap();
    let layout = home.join("seeds");
    let to = format!("oci:{}", layout.display());
    // The line of a phase says that it is over: then the next one runs.
    for (over, phase, signal) in [
        ("fetch inputs", "evaluate", Signal::TERM),
        ("evaluate", "fetch", Signal::INT),
        ("realise", "layers", Signal::INT),
        ("index", "check", Signal::TERM),
    ] {
        let mut seed = checkout.program.command(["pack", "--to", &to]);
        seed.env("TMPDIR", home.join("tmp"));
        let mut pack = on_nix(&checkout, &seed).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(pack.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        for line in &mut lines {
            said.push(line.unwrap());
            let line = said.last().unwrap();
            if line
                .trim_start()
                .strip_prefix(over)
                .is_some_and(|rest| rest.starts_with("  ") || rest.starts_with(':'))
            {
                break;
            }
        }
        let seed = packer(home).unwrap_or_else(|| panic!("{phase}: it has ended: {said:#?}"));
        kill_process(seed, signal).unwrap();
        let rest: Vec<_> = lines.map(Result::unwrap).collect();
        let status = pack.wait().unwrap();
        // A shell waits for it, and says it in this way.
        assert_eq!(status.code(), Some(128 + signal.as_raw()), "{phase}: {said:#?}\n{rest:#?}");
        assert!(!rest.iter().any(|line| line.starts_with("error")), "{phase}: {rest:#?}");
        assert_nothing_is_left(home);
        assert_eq!(unfinished(&layout), [] as [String; 0], "{phase}");
    }
}

/// A command in the project, on a machine with Nix.
fn on_nix(checkout: &Checkout, inside: &Command) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nix/run"));
    command.args(["--nix", "2.8", "env"]);
    let variables = inside.get_envs().filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?)));
    command.args(variables.map(|(name, value)| format!("{name}={value}")));
    command.arg(inside.get_program()).args(inside.get_args()).current_dir(&checkout.dir);
    command
}

/// So that there is time to interrupt it.
const SLOWLY: [&str; 2] = ["--level", "12"];

/// A store with a path of many bytes that do not compress, and one of few.
struct Store {
    program: Program,
    root: String,
    large: String,
    small: String,
    layout: PathBuf,
}

impl Store {
    fn new() -> Self {
        let program = Program::new();
        fs::create_dir(program.home().join("tmp")).unwrap();
        let seeds = Seeds::below(program.home());
        let bytes: Vec<u8> = (0..6_000_000u32)
            .map(|n| n.wrapping_mul(2_654_435_761).rotate_left(n % 13))
            .flat_map(u32::to_le_bytes)
            .collect();
        let root = seeds.store_root(&[('1', "large", &bytes), ('2', "small", b"small")]);
        let [large, small] =
            [Seeds::path('1', "large"), Seeds::path('2', "small")].map(|path| path.to_string());
        let layout = program.home().join("layout");
        Self { root: root.to_str().unwrap().to_owned(), program, large, small, layout }
    }

    fn pack(&self, path: &str, to: &str) -> Command {
        let mut command = self.program.command(["pack", "--paths", path, "--store", &self.root, "--to", to]);
        command.env("TMPDIR", self.program.home().join("tmp"));
        command
    }

    fn to(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.layout.display())
    }

    /// Begins to pack the large path, and waits until some of it is written.
    fn begin(&self) -> Child {
        let child = self.pack(&self.large, &self.to("large")).args(SLOWLY).spawn().unwrap();
        wait_for("bytes of a layer", || {
            let directory = self.layout.join(unfinished(&self.layout).first()?);
            let sizes =
                fs::read_dir(directory).ok()?.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
            sizes.max().filter(|size| *size > 1_000_000)
        });
        child
    }
}

#[test]
fn a_signal_takes_what_is_half_written() {
    let store = Store::new();
    let mut child = store.begin();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
    assert_eq!(unfinished(&store.layout), [] as [String; 0]);
    assert_nothing_is_left(store.program.home());
    store.program.run(["inspect", &store.to("large")]).ended_with(1);
}

/// The next one that writes to the layout takes it, but not what a living one writes.
#[test]
fn what_a_killed_one_left_goes_with_the_next() {
    let store = Store::new();
    let mut killed = store.begin();
    kill_process(Pid::from_child(&killed), Signal::KILL).unwrap();
    killed.wait().unwrap();
    let left = unfinished(&store.layout);
    assert_eq!(left.len(), 1);

    let mut stopped = store.begin_beside(&left);
    program::Run::of(&mut store.pack(&store.small, &store.to("small"))).ended_with(0);
    let living = unfinished(&store.layout);
    assert!(living.len() == 1 && living != left, "{left:?} {living:?}");
    kill_process(Pid::from_child(&stopped), Signal::CONT).unwrap();
    assert_eq!(stopped.wait().unwrap().code(), Some(0));
    assert_eq!(unfinished(&store.layout), [] as [String; 0]);
    for tag in ["large", "small"] {
        store.program.run(["verify", "--deep", "--allow-tag", &store.to(tag)]).ended_with(0);
    }
}

impl Store {
    /// As [`Self::begin`], where something is left of before; stops it there.
    fn begin_beside(&self, left: &[String]) -> Child {
        let child = self.pack(&self.large, &self.to("large")).args(SLOWLY).spawn().unwrap();
        let pid = Pid::from_child(&child);
        wait_for("file of a layer", || {
            let own = unfinished(&self.layout).into_iter().find(|name| !left.contains(name))?;
            names(self.layout.join(own)).pop()
        });
        kill_process(pid, Signal::STOP).unwrap();
        child
    }
}

/// The registry takes the connection and says nothing.
#[test]
fn a_push_ends_at_once() {
    let store = Store::new();
    let registry = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("{}/app.seed:main", registry.local_addr().unwrap());
    for signal in [Signal::INT, Signal::TERM] {
        let mut child = store.pack(&store.small, &to).spawn().unwrap();
        let _connection = registry.accept().unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(signal.as_raw()));
        assert_nothing_is_left(store.program.home());
    }
}
