//! docs/reference.md is what the program says of itself.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

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
