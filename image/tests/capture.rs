//! Captures of the demo project with real Nix: each test runs itself again in `tests/nix/run`, on a machine
//! that has Nix and the project's inputs.

use std::path::{Path, PathBuf};
use std::process::Command;

use seed_image::capture::{Captured, FlakeRequest, Nix, flake};

const INSIDE: &str = "SEED_TEST_INSIDE";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Runs `test`, the body of the test `name`, on a machine with Nix `version`.
fn with_nix(version: &str, name: &str, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some_and(|inside| inside == version) {
        return test();
    }
    if std::env::var_os(INSIDE).is_some() {
        return;
    }
    let status = Command::new(repository().join("tests/nix/run"))
        .args(["--nix", version])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, version)
        .status()
        .unwrap();
    assert!(status.success(), "with Nix {version}");
}

fn project(dir: &Path) -> PathBuf {
    let to = dir.join("project");
    let copied = Command::new("cp").arg("-r").arg(repository().join("demo")).arg(&to).status().unwrap();
    assert!(copied.success());
    let locked = Command::new("nix")
        .args(["--quiet", "flake", "lock"])
        .arg(format!("path:{}", to.display()))
        .env("XDG_CACHE_HOME", dir.join("cache"))
        .status()
        .unwrap();
    assert!(locked.success());
    to
}

fn capture(project: &Path, scratch: &Path) -> Captured {
    let request = FlakeRequest {
        flake: format!("path:{}", project.display()),
        directory: project.to_owned(),
        attributes: Vec::new(),
        system: "x86_64-linux".to_owned(),
        store: None,
        scratch: scratch.to_owned(),
        derivations: true,
    };
    flake(&request, &Nix::find().unwrap(), &()).unwrap_or_else(|error| {
        let mut text = String::new();
        let mut error: Option<&dyn std::error::Error> = Some(&error);
        while let Some(cause) = error {
            text.push_str(&format!("{cause}\n"));
            error = cause.source();
        }
        panic!("{text}")
    })
}

#[test]
fn captures_the_demo() {
    for version in ["2.8", "2.26", "2.34"] {
        with_nix(version, "captures_the_demo", || {
            let dir = tempfile::tempdir().unwrap();
            let project = project(dir.path());
            let captured = capture(&project, dir.path());
            for target in &captured.targets {
                println!("{target:?}");
            }
            for (path, rules) in &captured.record.roots {
                if !path.is_derivation() {
                    println!("{path} {:?}", rules);
                }
            }
            println!(
                "{} {} {:?}",
                captured.closure.paths.len(),
                captured.closure.nar_size(),
                captured.closure.programs
            );
            println!("{:?} {:?}", captured.notes, captured.source);
        });
    }
}
