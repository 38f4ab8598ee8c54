//! The direction of dependencies between the crates, and what each may use.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// What each package of the workspace may depend on, of the workspace. Nothing else.
const EDGES: &[(&str, &[&str])] = &[
    ("seed-format", &[]),
    ("seed-image", &["seed-format"]),
    ("seed-policy", &["seed-format"]),
    ("seed-fuse", &["seed-format", "seed-image", "seed-policy"]),
    ("seed-sandbox", &["seed-format", "seed-fuse", "seed-image", "seed-policy"]),
    ("seed", &["seed-format", "seed-fuse", "seed-image", "seed-policy", "seed-sandbox"]),
    // It drives the programs, as a user would.
    ("seed-bench", &[]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

struct Package {
    dir: PathBuf,
    dependencies: BTreeSet<String>,
}

fn packages() -> BTreeMap<String, Package> {
    let cargo = env::var_os("CARGO").expect("cargo sets CARGO for tests");
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let package = |package: &serde_json::Value| {
        let dir = PathBuf::from(text(&package["manifest_path"])).parent().unwrap().to_owned();
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        (
            text(&package["name"]),
            Package { dir, dependencies: dependencies.map(|d| text(&d["name"])).collect() },
        )
    };
    metadata["packages"].as_array().unwrap().iter().map(package).collect()
}

#[test]
fn dependencies_point_in_one_direction() {
    let packages = packages();
    let known: Vec<_> = EDGES.iter().map(|(name, _)| (*name).to_owned()).collect();
    for (name, package) in &packages {
        let allowed = EDGES.iter().find(|(edge, _)| edge == name);
        let Some((_, allowed)) = allowed else {
            panic!("the package {name} has no line in EDGES: say what it may depend on");
        };
        for dependency in package.dependencies.iter().filter(|dependency| known.contains(dependency)) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
        }
    }
    for name in known {
        assert!(packages.contains_key(&name), "EDGES has a line for {name}, which is no package");
    }
}

/// The library keeps integrity and knows digests only; its program takes a verdict before it mounts.
#[test]
fn only_the_program_of_fuse_uses_the_policy() {
    for file in rust_files(&root().join("fuse")) {
        let in_program = file.starts_with(root().join("fuse/src/bin"));
        let text = fs::read_to_string(&file).unwrap();
        assert!(in_program || !text.contains("seed_policy"), "{} uses seed_policy", file.display());
    }
}

/// Time and evidence are arguments of a verdict.
#[test]
fn the_policy_does_no_input_or_output() {
    const FORBIDDEN: [&str; 7] = [
        "std::fs",
        "std::net",
        "std::env",
        "std::process",
        "std::io::std",
        "SystemTime::now",
        "Instant::now",
    ];
    for file in rust_files(&root().join("policy/src")) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if name == "tests.rs" || name.ends_with("_tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        for word in FORBIDDEN {
            let allowed = word == "std::env"
                && name == "system.rs"
                && text.matches("std::env::consts").count() == text.matches("std::env").count();
            assert!(allowed || !text.contains(word), "{} uses {word}", file.display());
        }
    }
}

#[test]
fn nothing_is_named_after_having_no_purpose() {
    const NAMES: [&str; 5] = ["common", "utils", "util", "helpers", "misc"];
    for (name, package) in packages() {
        assert!(!NAMES.iter().any(|bad| name.ends_with(bad)), "the package {name} has no purpose of its own");
        for file in rust_files(&package.dir.join("src")) {
            let stem = file.file_stem().unwrap().to_string_lossy().into_owned();
            assert!(!NAMES.contains(&stem.as_str()), "{} has no purpose of its own", file.display());
        }
    }
}

/// Unsafe code is fenced in: a module that has some says so, in the crates that talk to the kernel.
#[test]
fn unsafe_code_is_fenced_in() {
    // Entering a namespace is unsafe; the bench does it for its shaped link and is not shipped.
    const MAY: [&str; 3] = ["seed-fuse", "seed-sandbox", "seed-bench"];
    for (name, package) in packages() {
        for file in rust_files(&package.dir.join("src")) {
            let allows = fs::read_to_string(&file).unwrap().contains("allow(unsafe_code)");
            assert!(!allows || MAY.contains(&name.as_str()), "{} allows unsafe code", file.display());
        }
    }
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    assert!(!files.is_empty(), "{} has no Rust files", dir.display());
    files
}
