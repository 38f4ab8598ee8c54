//! Traces of what commands did, as a collector gets them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod collector;
mod program;

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use collector::Collector;
use program::seeds::Seeds;
use program::{Program, Run};
use serde_json::Value;

fn collector() -> Collector {
    Collector::start(Path::new(env!("CARGO_MANIFEST_DIR")))
}

/// Runs it with a collector at `endpoint`.
fn run(program: &Program, endpoint: &str, args: &[&str]) -> Run {
    Run::of(program.command(args).env("SEED_OTLP_ENDPOINT", endpoint))
}

fn names(spans: &[Value]) -> Vec<&str> {
    spans.iter().map(|span| span["name"].as_str().unwrap()).collect()
}

#[test]
fn a_collector_gets_the_phases_of_a_command() {
    let collector = collector();
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    let root = seeds.store_root(&[('1', "one", &[1; 100_000])]);
    let one = Seeds::path('1', "one").to_string();

    let pack = ["pack", "--store", root.to_str().unwrap(), "--paths", &one, "--to", "oci:out:main"];
    let parent = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let mut command = program.command(pack);
    command.env("SEED_OTLP_ENDPOINT", &collector.endpoint);
    command.env("TRACEPARENT", format!("00-{}-{}-01", parent.0, parent.1));
    let run_of_pack = Run::of(&mut command).ended_with(0);
    assert!(run_of_pack.stdout.starts_with("oci:out@sha256:"));
    let spans = collector.spans(3);
    assert_eq!(names(&spans), ["seed pack", "seed.layers", "seed.index"]);
    assert_eq!((&spans[0]["parent"], &spans[0]["status"]), (&parent.1.into(), &"Ok".into()));
    assert_eq!(spans[0]["resource"]["service.name"], "seed");
    assert!(spans[1]["attributes"]["seed.bytes"].as_u64().unwrap() > 100_000, "{spans:?}");
    let time = |span: &Value, at: &str| span[at].as_u64().unwrap();
    for span in &spans {
        assert_eq!(span["trace"], parent.0);
        assert!(time(span, "start") <= time(span, "end"), "{span}");
        assert!(
            time(span, "end") <= time(&spans[0], "end") && time(span, "start") >= time(&spans[0], "start")
        );
    }
    assert!(spans[1..].iter().all(|span| span["parent"] == spans[0]["id"]));

    run(&program, &collector.endpoint, &["inspect", "oci:none"]).ended_with(1);
    let spans = collector.spans(1);
    assert_eq!((names(&spans), &spans[0]["status"]), (vec!["seed inspect"], &"Error".into()));
    assert_ne!(spans[0]["trace"], parent.0);
}

#[test]
fn a_collector_gets_the_phases_of_a_sandbox() {
    let collector = collector();
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    let (packed, _) = seeds.pack_runnable("main");
    let reference = seeds.reference(&format!("@{}", packed.digest));
    run(&program, &collector.endpoint, &["run", &reference, "--", "sh", "-c", "exit 7"]).ended_with(7);
    let spans = collector.spans(5);
    assert_eq!(names(&spans), ["seed run", "seed.resolve", "seed.verify", "seed.mount", "seed.command"]);
    assert!(spans[0]["attributes"]["seed.bytes_fetched"].as_u64().unwrap() > 0, "{spans:?}");
    assert_eq!(spans[4]["start"], spans[3]["end"]);
}

/// Neither the result nor the exit code of a command depends on a collector.
#[test]
fn a_collector_that_is_not_there_is_a_warning() {
    let program = Program::new();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    run(&program, &format!("http://{nobody}"), &["status"]).ended_with(0).says("no trace was sent");
    run(&program, "127.0.0.1:4318", &["status"]).ended_with(2).says("SEED_OTLP_ENDPOINT is not valid");

    // One that takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let begin = Instant::now();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    run(&program, &endpoint, &["status"]).ended_with(0).says("no trace was sent");
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());

    // Without an endpoint nobody is asked.
    let run = program.run(["status"]).ended_with(0);
    assert!(!run.stderr.contains("trace"), "{}", run.stderr);
}
