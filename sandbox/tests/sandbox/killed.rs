//! `kill -9` of each process in turn: whichever it is, all others end, no mount was ever visible, and the
//! next sandbox removes the directory.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Stdio as ProcessStdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use seed_sandbox::{Command, Sandbox, Stdio, scratch};

use crate::harness::{self, Test, World};
use crate::seed;

pub(crate) const ROLE: &str = "supervise";

pub(crate) const TESTS: &[Test] = &[
    ("killed::the_supervisor", |world| kill(world, 0)),
    ("killed::the_outer_process", |world| kill(world, 1)),
    ("killed::process_one", |world| kill(world, 2)),
    ("killed::the_command", |world| kill(world, 3)),
];

/// Starts a sandbox whose command says `ready` and waits for ever; prints how that ended.
pub(crate) fn supervise(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let mut next = || arguments.next().unwrap();
    let (layout, digest, scratch) = (PathBuf::from(next()), next().parse().unwrap(), PathBuf::from(next()));
    let spec = harness::bare_spec(seed::open(&layout, &digest), scratch);
    let mut sandbox = Sandbox::start(&harness::approve(digest), &spec).unwrap();
    // One process, which has a child of its own that does not die with it.
    let line = "busybox setsid sleep 3600 & echo ready; exec sleep 3600";
    let ended = sandbox.execute(Command::new(["sh", "-c", line]).stdio(Stdio::inherit().unwrap()));
    drop(sandbox);
    match ended {
        Ok(exit) => println!("{exit}"),
        Err(error) => println!("{error}"),
    }
    ExitCode::SUCCESS
}

/// Kills the `victim`th of: the supervisor, the outer process, process 1, the command.
fn kill(world: &World, victim: usize) {
    let digest = world.seed().digest.to_string();
    let mut supervisor = std::process::Command::new(harness::program())
        .args([ROLE.as_ref(), world.seed().layout().as_os_str(), digest.as_ref(), world.scratch.as_os_str()])
        .stdin(ProcessStdio::null())
        .stdout(ProcessStdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(supervisor.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");

    let chain = family(&supervisor);
    assert_eq!(scratch::sweep(&world.scratch).unwrap(), 0, "in use");
    let descriptors: Vec<_> =
        chain.iter().map(|pid| pidfd_open(*pid, PidfdFlags::empty()).unwrap()).collect();
    pidfd_send_signal(&descriptors[victim], Signal::KILL).unwrap();

    let status = supervisor.wait().unwrap();
    descriptors.iter().for_each(wait_for_end);
    let said: Vec<_> = lines.map(Result::unwrap).collect();
    match victim {
        0 => assert!(!status.success() && said.is_empty(), "{status} {said:?}"),
        1 => assert_eq!(said, ["the sandbox was killed (signal: 9 (SIGKILL))"]),
        2 => assert_eq!(said, ["the sandbox was killed (exit status: 0)"]),
        _ => assert_eq!(said, ["signal 9"]),
    }

    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for trace in [world.path().to_str().unwrap(), &digest] {
        assert!(!mounts.contains(trace), "{mounts}");
    }
    // The next sandbox sweeps before it makes its own directory.
    drop(world.start());
    assert_eq!(fs::read_dir(&world.scratch).unwrap().count(), 0);
}

/// The supervisor, the outer process, process 1, the command, and the command's child.
fn family(supervisor: &Child) -> Vec<Pid> {
    let mut chain = vec![i32::try_from(supervisor.id()).unwrap()];
    for _ in 0..4 {
        let children = children_of(*chain.last().unwrap());
        assert_eq!(children.len(), 1, "{chain:?}");
        chain.extend(children);
    }
    chain.into_iter().map(|pid| Pid::from_raw(pid).unwrap()).collect()
}

fn children_of(parent: i32) -> Vec<i32> {
    let numbers = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    numbers.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

/// `None` for a process that ended meanwhile.
fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The name, in parentheses, may hold anything.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

fn wait_for_end(process: &OwnedFd) {
    let mut events = [PollFd::new(process, PollFlags::IN)];
    let limit = Timespec { tv_sec: 30, tv_nsec: 0 };
    assert_eq!(poll(&mut events, Some(&limit)).unwrap(), 1, "a process outlived the one that was killed");
}
