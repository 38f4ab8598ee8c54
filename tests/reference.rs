//! docs/reference.md is what the program says of itself.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn the_reference_is_not_stale() {
    let output = Command::new(env!("CARGO_BIN_EXE_seed"))
        .args(["man", "--format", "markdown"])
        // As wide in every terminal.
        .env_remove("COLUMNS")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made = String::from_utf8(output.stdout).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference.md");
    if std::env::var_os("SEED_BLESS").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap();
    assert!(
        made == kept,
        "docs/reference.md is stale: run `SEED_BLESS=1 cargo test -p seed --test reference`"
    );
}

#[test]
fn every_command_has_a_page_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let status =
        Command::new(env!("CARGO_BIN_EXE_seed")).args(["man", "--to"]).arg(dir.path()).status().unwrap();
    assert!(status.success());
    for page in ["seed.1", "seed-pack.1", "seed-build.1", "seed-doctor.1"] {
        let text = fs::read_to_string(dir.path().join(page)).unwrap();
        assert!(text.contains("Examples") || page == "seed.1", "{page} has no examples");
    }
}

/// Words of a page that are flags.
fn flags(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| c != '-' && !c.is_ascii_alphanumeric());
    words.filter(|word| word.starts_with("--") && word.ends_with(char::is_alphanumeric)).collect()
}

/// Words of a page that follow `seed` where a command begins.
fn commands(text: &str) -> BTreeSet<&str> {
    let begun =
        text.split("`seed ").skip(1).chain(text.lines().filter_map(|line| line.strip_prefix("seed ")));
    let first = |rest: &'_ str| rest.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(rest.len());
    begun.map(|rest| &rest[..first(rest)]).filter(|command| !command.is_empty()).collect()
}

#[test]
fn what_the_pages_say_to_type_exists() {
    let read = |page: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
    let reference = read("docs/reference.md");
    let seed_mount = Path::new(env!("CARGO_BIN_EXE_seed")).with_file_name("seed-mount");
    let help = Command::new(seed_mount).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    // Those of cp(1), mount(8), podman-run(1), unshare(1) and Nix.
    let of_others = [
        "--cap-add",
        "--device",
        "--fake",
        "--from",
        "--map-root-user",
        "--mount",
        "--no-preserve",
        "--no-update-lock-file",
        "--offline",
        "--privileged",
        "--realise",
        "--recursive",
        "--security-opt",
    ];
    let known: BTreeSet<&str> = flags(&reference).into_iter().chain(flags(&help)).chain(of_others).collect();
    for page in [
        "README.md",
        "CHANGELOG.md",
        "docs/closure.md",
        "docs/configuration.md",
        "docs/mount.md",
        "docs/sandbox.md",
    ] {
        let text = read(page);
        let unknown: Vec<_> = flags(&text).difference(&known).copied().collect();
        assert!(unknown.is_empty(), "{page}: no such flags: {unknown:?}");
        for command in commands(&text) {
            assert!(
                reference.contains(&format!("## seed {command}\n")),
                "{page}: there is no `seed {command}`"
            );
        }
    }
}
