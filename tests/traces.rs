//! `seed trace`, and mounts that fetch ahead what traces say. Needs root and /dev/fuse.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use program::registry::Registry;
use program::seeds::Seeds;
use program::{Program, Run};
use seed_format::Digest;
use seed_format::trace::{MEDIA_TYPE, Trace};
use seed_image::artifact;
use seed_image::manifest::annotation;

/// Takes all mounts away, however the test ends.
struct Mounts<'a>(&'a Program);

impl Drop for Mounts<'_> {
    fn drop(&mut self) {
        let _ = self.0.command(["unmount", "--all", "--lazy"]).output();
    }
}

/// A mount with a cache of its own, which does not fetch what nobody has asked for.
fn mount(program: &Program, seed: &str, name: &str, more: &[&str]) -> (PathBuf, Run) {
    let directory = program.home().join(name);
    fs::create_dir(&directory).unwrap();
    let mount = ["mount", seed, directory.to_str().unwrap(), "--no-fill"];
    let mut command = program.command([&mount[..], more].concat());
    command.env("SEED_CACHE_DIR", program.home().join(format!("cache of {name}")));
    (directory, Run::of(&mut command))
}

/// The counters of the mount at `directory`, once `are` they.
fn stats_when(
    program: &Program,
    directory: &Path,
    are: impl Fn(&serde_json::Value) -> bool,
) -> serde_json::Value {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mounts = program.run(["status", "--json"]).ended_with(0).json();
        let here = mounts.iter().find(|mount| mount["directory"] == directory.to_str().unwrap());
        let stats = here.map(|mount| mount["stats"].clone()).unwrap_or_default();
        if are(&stats) {
            return stats;
        }
        assert!(Instant::now() < deadline, "{stats}");
        std::thread::yield_now();
    }
}

fn unmount(program: &Program, directory: &Path) {
    assert!(Command::new("umount").arg(directory).status().unwrap().success());
    stats_when(program, directory, serde_json::Value::is_null);
}

#[test]
fn what_a_command_read_is_there_before_the_next_one_reads_it() {
    let program = Program::new();
    let registry = Registry::start(&program);
    let seeds = Seeds::below(program.home());
    let (packed, _) = seeds.pack_runnable("main");
    let there = format!("{}/acme/app.seed", registry.host);
    program.run(["copy", &seeds.reference(":main"), &format!("{there}:main")]).ended_with(0);
    let seed = format!("{there}@{}", packed.digest);

    let record =
        ["trace", "record", &seed, "--push", "--output", "sh.trace", "--json", "--", "sh", "-c", "exit 7"];
    let recorded = &program.run(record).ended_with(7).json()[0];
    assert_eq!((&recorded["target"], &recorded["pushed"]), (&"command sh -c exit 7".into(), &true.into()));
    let chunks = recorded["chunks"].as_u64().unwrap();
    assert!(chunks > 0 && recorded["bytes"].as_u64().unwrap() > 100_000, "{recorded}");

    // It is a referrer like any other: copied with the seed, and kept by a pull.
    for place in [seed.clone(), "oci:copied:main".to_owned()] {
        let shown = &program.run(["trace", "show", &place, "--paths", "--json"]).ended_with(0);
        let shown = &shown.json()[0];
        assert_eq!(shown["chunks"], chunks);
        assert_eq!(shown["bundle"], recorded["bytes"], "{shown}");
        let read = shown["read"].as_array().unwrap();
        let busybox =
            |read: &serde_json::Value| read["path"].as_str().is_some_and(|path| path.ends_with("-busybox"));
        assert!(read.iter().any(busybox), "{shown}");
        program.run(["copy", &seed, "oci:copied:main"]).ended_with(0);
    }
    program.run(["trace", "show", &seed, "sh.trace"]).ended_with(0);

    let _mounts = Mounts(&program);
    let (directory, run) = mount(&program, &seed, "traced", &[]);
    run.ended_with(0);
    let stats = stats_when(&program, &directory, |stats| stats["chunks_fetched"] == chunks);
    assert_eq!((&stats["traced_chunks"], &stats["demand_misses"]), (&chunks.into(), &0.into()), "{stats}");
    // From the bundle they are a range or two; nothing else was asked for.
    assert!(stats["requests"].as_u64().unwrap() <= 2, "{stats}");
    assert_eq!(stats["bytes_fetched"], recorded["bytes"], "{stats}");
    let busybox = directory.join(Seeds::path('b', "busybox").base_name()).join("bin/busybox");
    assert!(Command::new(&busybox).args(["sh", "-c", "exit 0"]).status().unwrap().success());
    let stats = stats_when(&program, &directory, |stats| !stats.is_null());
    assert_eq!(stats["demand_misses"], 0, "{stats}");
    unmount(&program, &directory);

    for (name, choice, traced) in [("file", "sh.trace", chunks), ("none", "none", 0), ("other", "build", 0)] {
        let choice = if name == "file" { program.home().join(choice) } else { choice.into() };
        let (directory, run) = mount(&program, &seed, name, &["--trace", choice.to_str().unwrap()]);
        run.ended_with(0);
        assert_eq!(
            fs::read(directory.join(busybox.strip_prefix(program.home().join("traced")).unwrap())).unwrap(),
            fs::read("/bin/busybox").unwrap()
        );
        let stats = stats_when(&program, &directory, |stats| stats["traced_chunks"] == traced);
        // With a trace, the read may have come before or after what it says.
        assert!(traced > 0 || stats["demand_misses"] != 0, "{stats}");
        unmount(&program, &directory);
    }

    program.run(["pull", &seed]).ended_with(0);
    drop(registry);
    program.run(["run", &seed, "--trace", "command", "--", "sh", "-c", "exit 3"]).ended_with(3);
}

/// A trace is a hint. What is wrong with it costs bytes at most, and what the user named is told of.
#[test]
fn wrong_traces_change_nothing() {
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    let content: Vec<u8> =
        (0..2_000_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let packed = seeds.pack("main", &[('1', "one", &content[..1_000_000]), ('2', "two", b"2")]);
    let seed = seeds.reference(&format!("@{}", packed.digest));
    let layout = seeds.layout();
    let put = |target: &str, bytes: &[u8], named: &str| {
        let annotations = [
            (annotation::TRACE_TARGET.to_owned(), target.to_owned()),
            (annotation::TRACE_BLOB.to_owned(), named.to_owned()),
            (annotation::TRACE_BUNDLE.to_owned(), format!("{}:7", Digest::of(b"no such bundle"))),
        ];
        artifact::publish(&layout, &packed.digest, MEDIA_TYPE, bytes, annotations.into()).unwrap();
    };
    let named = |bytes: &[u8]| format!("{}:{}", Digest::of(bytes), bytes.len());
    let garbage = b"garbage".as_slice();
    put("build garbage", garbage, &named(garbage));
    put("build missing", b"1", &named(b"what is not there"));
    put("build longer", b"2", &format!("{}:2", Digest::of(b"2")));
    let foreign = Trace::of(Digest::of(b"another"), "build foreign".into(), 0, &[(0, 0)]);
    put("build foreign", &foreign.to_bytes().unwrap(), &named(&foreign.to_bytes().unwrap()));
    let touched: Vec<_> = (0..40_000).map(|n| (n * 400, 0)).collect();
    let outside = Trace::of(packed.digest, "build outside".into(), u64::MAX, &touched).to_bytes().unwrap();
    put("build outside", &outside, &named(&outside));

    let _mounts = Mounts(&program);
    let (directory, run) = mount(&program, &seed, "mnt", &[]);
    run.ended_with(0);
    // The one that is well formed is used, as far as there is anything.
    stats_when(&program, &directory, |stats| stats["traced_chunks"] == 40_000);
    let file = directory.join(Seeds::path('1', "one").base_name()).join("content");
    assert_eq!(fs::read(file).unwrap(), &content[..1_000_000]);
    let stats = stats_when(&program, &directory, |stats| !stats.is_null());
    assert_eq!((&stats["mismatches"], &stats["failed_reads"]), (&0.into(), &0.into()), "{stats}");
    unmount(&program, &directory);

    fs::write(program.home().join("foreign.trace"), foreign.to_bytes().unwrap()).unwrap();
    fs::write(program.home().join("garbage.trace"), garbage).unwrap();
    for (file, said) in [("foreign.trace", "is of the seed"), ("garbage.trace", "cannot be decompressed")] {
        let file = program.home().join(file);
        let (_, run) = mount(&program, &seed, said, &["--trace", file.to_str().unwrap()]);
        run.ended_with(1).says(said);
        program.run(["trace", "push", &seed, file.to_str().unwrap()]).ended_with(1).says(said);
        program.run(["trace", "show", &seed, file.to_str().unwrap()]).ended_with(1).says(said);
    }
    program.run(["trace", "record", &seed]).ended_with(1).says("flake.nix");
}
