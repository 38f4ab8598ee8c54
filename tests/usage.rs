//! What every command has: exit codes, help, messages, configuration and policy files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use std::io::Read;
use std::process::Stdio;

use program::{Program, Run};

#[test]
fn alone_it_shows_what_a_newcomer_needs() {
    let run = Program::new().run([""; 0]).ended_with(0);
    for word in ["pack", "build", "develop", "run", "mount", "doctor", "seed help --all"] {
        assert!(run.stdout.contains(word), "{word}\n{}", run.stdout);
    }
    assert!(!run.stdout.contains("completions"), "{}", run.stdout);
    let all = Program::new().run(["help", "--all"]).ended_with(0);
    assert!(all.stdout.contains("completions"), "{}", all.stdout);
    let one = Program::new().run(["help", "pack"]).ended_with(0);
    assert!(one.stdout.contains("--max-layers") && one.stdout.contains("Examples:"), "{}", one.stdout);
}

#[test]
fn usage_errors_end_with_2() {
    let program = Program::new();
    for (args, said) in [
        (vec!["frobnicate"], "frobnicate"),
        (vec!["pack", "--levle", "3"], "--level"),
        (vec!["pack", "--level", "99"], "99"),
        (vec!["inspect"], "REF"),
        (vec!["inspect", "alpine"], "names no registry"),
        (vec!["inspect", "oci:dir@sha256:00"], "digest"),
        (vec!["run", "oci:dir"], "COMMAND"),
        (vec!["help", "frobnicate"], "frobnicate"),
        (vec!["pack", "--paths", "/nix/store/x", "--lock"], "cannot be used with"),
        (vec!["--log-format", "xml", "status"], "xml"),
        (vec!["build", "github:acme/app#x"], "does not name a flake in a directory"),
    ] {
        let run = program.run(&args).ended_with(2).says(said);
        assert_eq!(run.stdout, "", "{args:?}: standard output is for data");
    }
}

#[test]
fn configuration_errors_end_with_2_and_name_the_key() {
    let program = Program::new();
    let file = program.write("config.toml", "[cache]\nsizes = 1\n");
    let config = file.to_str().unwrap();
    program
        .run(["--config", config, "status"])
        .ended_with(2)
        .says("`cache.sizes`")
        .says("did you mean `cache.size`?");
    program.write("config.toml", "[cache]\nsize = \"huge\"\n");
    program.run(["--config", config, "status"]).ended_with(2).says("line 2").says("huge");
    program.run(["--config", "none.toml", "status"]).ended_with(2).says("none.toml");

    program.write(".config/nix-seed/config.toml", "[network]\ntimeot = 1\n");
    program.run(["status"]).ended_with(2).says("did you mean `network.timeout`?");
    let mut elsewhere = program.command(["status"]);
    elsewhere.env("XDG_CONFIG_HOME", program.home().join("none"));
    let mut misspelt = program.command(["status"]);
    misspelt.env("XDG_CONFIG_HOME", program.home().join("none")).env("SEED_CACHE_SZIE", "1");
    Run::of(&mut elsewhere).ended_with(0);
    Run::of(&mut misspelt).ended_with(2).says("did you mean SEED_CACHE_SIZE?");
}

#[test]
fn errors_are_json_where_messages_are() {
    let program = Program::new();
    let run = program.run(["--log-format", "json", "inspect", "oci:none"]).ended_with(1);
    let last: serde_json::Value = serde_json::from_str(run.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(last["level"], "error");
    assert_eq!(last["exit"], 1);
    assert!(last["message"].is_string() && last["causes"].is_array() && last["hints"].is_array(), "{last}");
}

#[test]
fn the_chain_of_causes_is_printed_once() {
    let run = Program::new().run(["inspect", "oci:none"]).ended_with(1).says("there is no such directory");
    assert_eq!(run.stderr.matches("there is no such directory").count(), 1, "{}", run.stderr);
    assert!(run.stderr.starts_with("error: "), "{}", run.stderr);
}

/// Whoever closes the pipe has seen enough.
#[test]
fn a_broken_pipe_is_no_failure() {
    let program = Program::new();
    for args in [vec!["doctor"], vec!["man"], vec!["completions", "zsh"], vec!["help", "--all"]] {
        let mut child = program.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let code = child.wait().unwrap().code();
        assert_eq!((code, said.as_str()), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn doctor_says_what_to_do() {
    let run = Program::new().run(["doctor", "--json"]);
    let findings = run.json();
    assert!(findings.len() >= 8, "{findings:?}");
    let mut failed = false;
    for finding in &findings {
        let state = finding["state"].as_str().unwrap();
        assert!(["ok", "warn", "fail"].contains(&state), "{finding}");
        assert_eq!(state != "ok", finding["fix"].is_string(), "{finding}");
        failed |= state == "fail";
    }
    assert_eq!(run.code, Some(i32::from(failed)));

    let program = Program::new();
    program.write("file", "");
    let mut command = program.command(["doctor"]);
    command.env("SEED_CACHE_DIR", program.home().join("file/cache"));
    let run = Run::of(&mut command).ended_with(1);
    assert!(run.stdout.contains("FAIL  cache"), "{}", run.stdout);
}

#[test]
fn completions_are_made_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let run = Program::new().run(["completions", shell]).ended_with(0);
        assert!(run.stdout.contains("develop") && run.stdout.contains("max-layers"), "{shell}");
    }
}
