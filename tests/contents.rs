//! Everything that a store may hold is the same through a mount. Needs root, /dev/fuse and the test
//! environment of `tests/nix`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use std::path::Path;
use std::process::Command;

use program::{Program, Run};

/// How long the file looks that is nearly all zeros, in bytes; `./soak` makes it longer.
const SPARSE: &str = "300000000";

#[test]
fn a_mounted_store_is_the_store() {
    let program = Program::new();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let seed = program.command(["pack"]);
    let seed_mount = Path::new(seed.get_program()).with_file_name("seed-mount");
    let sparse = std::env::var("SEED_TEST_SPARSE").unwrap_or_else(|_| SPARSE.to_owned());

    // The environment is found in the tester's cache, before `seed` gets a home of its own.
    let mut command = Command::new(tests.join("nix/run"));
    let own =
        seed.get_envs().filter_map(|(name, value)| Some(format!("{}={}", name.to_str()?, value?.to_str()?)));
    command.arg("env").args(own).arg(tests.join("contents/run"));
    command.arg(seed.get_program()).arg(seed_mount).arg(program.home()).arg(sparse);
    let run = Run::of(&mut command).ended_with(0);
    assert!(run.stdout.contains("same: ") && run.stdout.contains("verified by Nix"), "{run:?}");
}
