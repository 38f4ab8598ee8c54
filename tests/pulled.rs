//! Seeds that were pulled, and then their registry is gone. Needs root, /dev/fuse, Debian's docker-registry and
//! the test environment of `tests/nix`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use std::fs;
use std::path::{Path, PathBuf};

use program::Program;
use program::checkout::Checkout;
use program::registry::Registry;
use program::seeds::{Seeds, statement};
use seed_policy::core;

/// Takes all mounts away, however the test ends.
struct Mounts<'a>(&'a Program);

impl Drop for Mounts<'_> {
    fn drop(&mut self) {
        let _ = self.0.command(["unmount", "--all", "--lazy"]).output();
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_pulled_seed_needs_its_registry_no_more() {
    let program = Program::new();
    let registry = Registry::start(&program);
    let seeds = Seeds::below(program.home());
    let (packed, bin) = seeds.pack_runnable("main");
    let statement = statement(packed.digest);
    seeds.refer(&packed.digest, core::MEDIA_TYPE, &statement.to_bytes().unwrap());
    let there = format!("{}/acme/app.seed", registry.host);
    program.run(["copy", &seeds.reference(":main"), &format!("{there}:main")]).ended_with(0);
    let seed = format!("{there}@{}", packed.digest);
    let first = program.run(["pull", &seed, "--json"]).ended_with(0).json();
    assert!(first[0]["bytes_fetched"].as_u64().unwrap() > 0);
    let documents = program.home().join("cache/documents");
    // Manifest and configuration; the statement's manifest, and the statement.
    let kept = files(&documents);
    assert_eq!(kept.len(), 4, "{kept:?}");

    drop(registry);
    let policy = program
        .write("policy.toml", "sources = [\"git+https://github.com/acme/app\"]\nstatement = \"required\"\n");
    let policy = policy.to_str().unwrap();
    let run = program.run(["run", &seed, "--policy", policy, "--", "sh", "-c", "echo ran"]).ended_with(0);
    assert_eq!(run.stdout, "ran\n");
    run.says("what it said before counts");

    let _mounts = Mounts(&program);
    let dir = program.home().join("mnt");
    fs::create_dir(&dir).unwrap();
    let mount = ["mount", &seed, dir.to_str().unwrap(), "--policy", policy];
    program.run(mount).ended_with(0);
    let busybox = dir.join(bin.strip_prefix("/nix/store/").unwrap()).join("busybox");
    assert_eq!(fs::read(busybox).unwrap(), fs::read("/bin/busybox").unwrap());
    let stats = &program.run(["status", "--json"]).ended_with(0).json()[0]["stats"];
    assert_eq!((&stats["requests"], &stats["mismatches"]), (&0.into(), &0.into()), "{stats}");
    program.run(["unmount", "--all"]).ended_with(0);

    // A tag is asked for, and what verifies a seed looks at the registry.
    program.run(["run", &format!("{there}:main"), "--allow-tag", "--", "sh"]).ended_with(1);
    program.run(["verify", &seed]).ended_with(1);

    // What is wrong on the disk is not used.
    let manifest = documents.join(packed.digest.hex());
    let right = fs::read(&manifest).unwrap();
    fs::write(&manifest, [&right[..], b" "].concat()).unwrap();
    program.run(mount).ended_with(1).says("/manifests/sha256:");
    fs::write(&manifest, &right).unwrap();
    program.run(mount).ended_with(0);
    program.run(["unmount", "--all"]).ended_with(0);

    // The documents are collected with the records and the indexes.
    let collected = program.run(["gc", "--records-size", "0", "--json"]).ended_with(0).json();
    let of = |directory: &str| {
        let ends = |line: &&serde_json::Value| line["directory"].as_str().unwrap().ends_with(directory);
        collected.iter().find(ends).unwrap_or_else(|| panic!("{directory}: {collected:?}"))
    };
    assert_eq!((&of("/documents")["removed"], &of("/documents")["left"]), (&4.into(), &0.into()));
    assert_eq!((&of("/referrers")["removed"], &of("/index")["removed"]), (&1.into(), &1.into()));
    assert_eq!(files(&documents), [] as [PathBuf; 0]);
    program.run(mount).ended_with(1);
}

/// A project is built and developed with a seed from a registry that cannot be reached: there is no network.
#[test]
fn a_project_is_built_with_a_pulled_seed() {
    let checkout = Checkout::new();
    let registry = Registry::start(&checkout.program);
    let place = format!("{}/acme/sprout.seed", registry.host);
    let seed = checkout.with_nix(&["pack", "--no-check", "--to", &place]).ended_with(0).stdout;
    let seed = seed.trim();
    checkout.program.run(["pull", seed]).ended_with(0);
    drop(registry);
    checkout.change("2.0");
    let build = checkout.without_nix(&["build", "--seed", seed, "--no-link", "--json"]).ended_with(0);
    assert_eq!(build.json()[0]["seed"], seed.split_once('@').unwrap().1);
    let develop = ["develop", "--seed", seed, "--command", "gcc", "--version"];
    assert!(checkout.without_nix(&develop).ended_with(0).stdout.contains("gcc"));
}
