//! A real project from its flake to a build: packed with Nix, then built where there is none. Needs root,
//! /dev/fuse and the test environment of `tests/nix`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use std::fs;

use program::checkout::Checkout;

#[test]
fn a_project_is_packed_once_and_built_anywhere() {
    let checkout = Checkout::new();
    let seed = format!("oci:{}", checkout.program.home().join("seeds").display());
    let build = ["build", "--seed", &seed, "--json", "--record", "record.json"];

    // Nothing is recorded: the seed is packed, proved, recorded and committed, and the build goes on.
    let run = checkout.with_nix(&[&build[..], &["--commit", "--no-link"]].concat()).ended_with(0);
    let first = &run.json()[0];
    let lock: serde_json::Value =
        serde_json::from_slice(&fs::read(checkout.dir.join(".seed.lock")).unwrap()).unwrap();
    let digest = lock["x86_64-linux"].as_str().unwrap();
    assert_eq!(first["seed"], digest);
    assert_eq!(checkout.git(&["show", "--name-only", "--format=", "HEAD"]), ".seed.lock");
    assert_eq!(
        checkout.git(&["log", "-1", "--format=%s"]),
        format!("seed: Record {digest} for x86_64-linux")
    );

    // What the proof read lies beside it, for each output.
    let reference = format!("{seed}@{digest}");
    let traces = checkout.program.run(["trace", "show", &reference, "--json"]).ended_with(0).json();
    let targets: Vec<_> = traces.iter().map(|trace| trace["target"].as_str().unwrap()).collect();
    assert!(targets.contains(&"build packages.x86_64-linux.default"), "{targets:?}");
    assert!(targets.contains(&"develop devShells.x86_64-linux.default"), "{targets:?}");
    assert!(traces.iter().all(|trace| trace["chunks"].as_u64().unwrap() > 50), "{traces:?}");

    // From here on there is no Nix. Its statement is found, and the attested commit is an ancestor.
    checkout.change("2.0");
    let run = checkout.without_nix(&build).ended_with(0);
    for phase in ["resolve", "verify", "mount", "evaluation", "build", "fetched"] {
        assert!(run.stderr.contains(phase), "{phase}\n{}", run.stderr);
    }
    let second = &run.json()[0];
    assert_eq!(second["source"]["uri"], "git+https://example.org/acme/sprout");
    assert_eq!(second["source"]["dirty"], true);
    assert_ne!(second["targets"][0]["outputs"], first["targets"][0]["outputs"]);
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(checkout.dir.join("record.json")).unwrap()).unwrap();
    assert_eq!(&record, second);
    assert!(checkout.dir.join("result-bin/bin/sprout").is_file());

    // Nix itself, from the mount: as docs/mount.md has it.
    let script = format!(
        "exec 3>&1 1>&2
        \"$0\" mount {seed}@{digest} /nix --writable \"$HOME/changes\"
        trap 'umount /nix' EXIT
        export PATH=$(echo /nix/store/*-nix-2*/bin):$PATH
        export NIX_CONFIG=\"
        build-users-group =
        substituters =
        sandbox-paths = /bin/sh=$(echo /nix/store/*-bash-interactive-*/bin/bash)
        sandbox-fallback = false
        experimental-features = nix-command flakes\"
        nix build --no-link
        nix build --json --no-link >&3"
    );
    let run = checkout.with_empty_nix(&script).ended_with(0);
    let built: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let bin = built[0]["outputs"]["bin"].as_str().unwrap();
    assert!(second["targets"].to_string().contains(bin), "{bin} is not in {second}");
    let changed = checkout.program.home().join("changes/upper/store").join(&bin["/nix/store/".len()..]);
    assert!(changed.join("bin/sprout").is_file());
    assert_eq!(checkout.without_nix(&["status", "--json"]).ended_with(0).stdout, "");

    // The same source gives the same bytes again.
    let again = checkout.without_nix(&build).ended_with(0);
    assert_eq!(again.json()[0]["targets"], second["targets"]);

    let run =
        checkout.without_nix(&["develop", "--seed", &seed, "--command", "sh", "-c", "gcc --version; exit 5"]);
    assert!(run.ended_with(5).stdout.contains("gcc"));
    checkout.without_nix(&["build", "--seed", &seed, ".#none"]).ended_with(1).says("none");

    // What the seed lacks is named, with the rule by which it should be there.
    let flake = fs::read_to_string(checkout.dir.join("flake.nix")).unwrap();
    let changed = flake.replacen(
        "pname = \"sprout-vendored\";\n        version = \"1\"",
        "pname = \"sprout-vendored\";\n        version = \"2\"",
        1,
    );
    assert_ne!(changed, flake);
    fs::write(checkout.dir.join("flake.nix"), changed).unwrap();
    let by_digest = format!("{seed}@{digest}");
    let run = checkout.with_nix(&["check", &by_digest]).ended_with(1).says("is not complete");
    assert!(run.stdout.contains("sprout-vendored-2 is missing: it breaks rule 4"), "{}", run.stdout);
    fs::write(checkout.dir.join("flake.nix"), flake).unwrap();
    let run = checkout.without_nix(&["check", &by_digest, "--json"]).ended_with(0);
    assert!(
        run.json().len() >= 3 && run.json().iter().all(|outcome| outcome["complete"] == true),
        "{}",
        run.stdout
    );

    // A changed lock, and a project from elsewhere, are refused before anything runs.
    let flake_lock = fs::read_to_string(checkout.dir.join("flake.lock")).unwrap();
    fs::write(checkout.dir.join("flake.lock"), format!("{flake_lock}\n")).unwrap();
    checkout.without_nix(&build).ended_with(3).says("flake.lock").says("seed pack --lock");
    fs::write(checkout.dir.join("flake.lock"), flake_lock).unwrap();
    checkout.git(&["remote", "set-url", "origin", "git@example.org:someone/fork.git"]);
    checkout.without_nix(&build).ended_with(3).says("git+https://example.org/acme/sprout");
    checkout.git(&["remote", "set-url", "origin", "https://example.org/acme/sprout"]);
    checkout.git(&["checkout", "--quiet", "--orphan", "other"]);
    checkout.git(&["commit", "--quiet", "--all", "--message", "another history"]);
    checkout.without_nix(&build).ended_with(3).says("not an ancestor of HEAD");
}
