//! `seed run`: commands in a real seed, in a real sandbox. Needs root or user namespaces, and /dev/fuse.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use program::seeds::Seeds;
use program::{Program, Run};
use rustix::process::{Pid, Signal, kill_process};

/// A program with a seed that commands can run in.
fn program() -> (Program, String) {
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    let (packed, _) = seeds.pack_runnable("main");
    let reference = seeds.reference(&format!("@{}", packed.digest));
    (program, reference)
}

fn in_seed(program: &Program, reference: &str, more: &[&str], script: &str) -> Run {
    program.run([&["run", reference], more, &["--", "sh", "-c", script]].concat())
}

#[test]
fn the_exit_code_is_the_commands_own() {
    let (program, seed) = program();
    for code in [0, 7, 70, 255] {
        in_seed(&program, &seed, &[], &format!("exit {code}")).ended_with(code);
    }
    in_seed(&program, &seed, &[], "kill -9 $$").ended_with(128 + 9);
    program.run(["run", &seed, "--", "no-such-program"]).ended_with(1).says("no-such-program");
    program.run(["run", &seed, "--env", "x", "--", "sh"]).ended_with(2).says("NAME=VALUE");
}

#[test]
fn standard_streams_pass_through() {
    let (program, seed) = program();
    let run = in_seed(
        &program,
        &seed,
        &["--env", "GREETING=hello there"],
        "echo \"$GREETING\"; echo oops >&2; pwd",
    )
    .ended_with(0);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("hello there\n/\n", "oops\n"));
}

#[test]
fn nothing_of_the_machine_shows_but_what_is_named() {
    let (program, seed) = program();
    program.write("work/source", "the source");
    let work = program.home().join("work");
    let mut command =
        program.command(["run", &seed, "--", "sh", "-c", "env; ls /; ls /home; cat /proc/net/dev"]);
    command.env("AWS_SECRET_ACCESS_KEY", "hunter2");
    let run = Run::of(&mut command).ended_with(0);
    assert!(!run.stdout.contains("hunter2") && !run.stdout.contains("workspace\n"), "{}", run.stdout);
    assert!(!run.stdout.contains("eth") && run.stdout.contains("lo:"), "{}", run.stdout);

    let work = work.to_str().unwrap();
    let run = in_seed(&program, &seed, &["--workspace", work], "pwd; cat source; touch new").ended_with(1);
    assert_eq!(run.stdout, "/workspace\nthe source");
    in_seed(&program, &seed, &["--workspace", work, "--writable"], "touch new").ended_with(0);
    assert!(program.home().join("work/new").exists());
    in_seed(&program, &seed, &["--workspace", "none"], "true").ended_with(1).says("none");
}

#[test]
fn nothing_runs_without_an_approval() {
    let (program, _) = program();
    let seeds = Seeds::below(program.home());
    let tag = seeds.reference(":main");
    in_seed(&program, &tag, &[], "echo ran").ended_with(3);
    let policy = program.write("policy.toml", "level = \"zero\"");
    let run = in_seed(&program, &tag, &["--allow-tag", "--policy", policy.to_str().unwrap()], "echo ran")
        .ended_with(3);
    assert_eq!(run.stdout, "");
    let run = in_seed(&program, &tag, &["--allow-tag"], "echo ran").ended_with(0);
    assert_eq!(run.stdout, "ran\n");
}

#[test]
fn what_it_cost_is_said_on_demand() {
    let (program, seed) = program();
    let run = in_seed(&program, &seed, &["-v"], "true").ended_with(0);
    for word in ["resolve", "verify", "mount", "together", "fetched", "requests"] {
        assert!(run.stderr.contains(word), "{word}\n{}", run.stderr);
    }
    // The moment itself, which the benchmark waits for.
    assert!(run.stderr.contains("the sandbox is ready"), "{}", run.stderr);
    let run = in_seed(&program, &seed, &["--log-format", "json"], "true").ended_with(0);
    let last: serde_json::Value = serde_json::from_str(run.stderr.lines().last().unwrap()).unwrap();
    assert!(last["report"]["bytes_fetched"].as_u64().unwrap() > 0, "{last}");
    assert!(last["report"]["phases"].as_array().unwrap().len() >= 3, "{last}");
}

/// A signal reaches the command, which decides; nothing is left behind.
#[test]
fn signals_reach_the_command() {
    let (program, seed) = program();
    let script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = program
        .command(["run", &seed, "--", "sh", "-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "caught");
    assert_eq!(child.wait().unwrap().code(), Some(9));
    let scratch = program.home().join("cache/scratch");
    assert_eq!(fs::read_dir(scratch).unwrap().count(), 0);
}

/// A command that a signal ends, ends `seed` the same way: whoever waits for it sees the signal.
#[test]
fn a_signal_that_ends_the_command_is_seen() {
    use std::os::unix::process::ExitStatusExt;

    let (program, seed) = program();
    for signal in [Signal::INT, Signal::TERM] {
        let mut child = program
            .command(["run", &seed, "--", "sh", "-c", "echo ready; exec sleep 1000"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(signal.as_raw()));
        assert_eq!(fs::read_dir(program.home().join("cache/scratch")).unwrap().count(), 0);
    }
}

/// What a killed command has left, the next one takes away.
#[test]
fn nothing_is_left_after_a_kill() {
    let (program, seed) = program();
    let script = "echo ready; exec sleep 1000";
    let mut child =
        program.command(["run", &seed, "--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    child.wait().unwrap();
    // The pipe ends when everything inside has.
    assert!(lines.next().is_none());
    let left = program.home().join("cache/tmp/source-1");
    fs::create_dir_all(left.join("deep")).unwrap();
    program.run(["status"]).ended_with(0);
    assert!(!left.exists());
    assert_eq!(fs::read_dir(program.home().join("cache/scratch")).unwrap().count(), 0);
}
