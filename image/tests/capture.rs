//! Captures of the demo project with real Nix, and builds in a `/nix` that has only what was captured.
//!
//! Each test runs itself again in `tests/nix/run`: on a machine with Nix and the project's inputs.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use seed_format::{Chain, StorePath};
use seed_image::capture::{
    CaptureError, Captured, FlakeRequest, Missing, Nix, Note, Present, Purpose, Rule, diagnose, flake, paths,
};
use seed_image::closure::Closure;
use seed_image::database;
use seed_image::store::Store;

const INSIDE: &str = "SEED_TEST_INSIDE";
const VERSIONS: [&str; 3] = ["2.8", "2.26", "2.34"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Runs `test`, the body of the test `name`, on a machine with each of these versions of Nix.
fn with_nix(versions: &[&str], name: &str, test: impl Fn(&Path)) {
    if std::env::var_os(INSIDE).is_some() {
        let dir = tempfile::tempdir().unwrap();
        test(dir.path());
        return;
    }
    for version in versions {
        let status = Command::new(repository().join("tests/nix/run"))
            .args(["--nix", version])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, version)
            .status()
            .unwrap();
        assert!(status.success(), "{name} with Nix {version}");
    }
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The demo project with its inputs locked.
fn project(dir: &Path) -> PathBuf {
    let to = dir.join("project");
    succeed(Command::new("cp").arg("-r").arg(repository().join("tests/project")).arg(&to));
    succeed(
        Command::new("nix")
            .args(["flake", "lock"])
            .arg(format!("path:{}", to.display()))
            .env("XDG_CACHE_HOME", dir.join("cache")),
    );
    to
}

fn try_capture(project: &Path, scratch: &Path) -> Result<Captured, CaptureError> {
    let request = FlakeRequest {
        flake: format!("path:{}", project.display()),
        directory: project.to_owned(),
        attributes: Vec::new(),
        system: "x86_64-linux".to_owned(),
        store: None,
        scratch: scratch.to_owned(),
        derivations: true,
    };
    flake(&request, &Nix::find().unwrap(), &())
}

fn capture(project: &Path, scratch: &Path) -> Captured {
    try_capture(project, scratch).unwrap_or_else(|error| panic!("{}", Chain(&error)))
}

/// What is done to a captured closure before a build is tried with it.
#[derive(Clone, Copy)]
enum Damage<'a> {
    None,
    /// The path, and all that refers to it, is not there.
    Removed(&'a StorePath),
    /// The files are there, and the database does not know them.
    Unregistered(&'a StorePath),
}

/// A machine whose `/nix` has only a captured closure.
struct Machine {
    lower: PathBuf,
    dir: PathBuf,
    programs: seed_image::closure::Programs,
}

fn affected(closure: &Closure, path: &StorePath) -> BTreeSet<StorePath> {
    let mut affected = BTreeSet::from([path.clone()]);
    loop {
        let more: Vec<_> = closure
            .paths
            .values()
            .filter(|info| !affected.contains(&info.path) && !info.references.is_disjoint(&affected))
            .map(|info| info.path.clone())
            .collect();
        if more.is_empty() {
            return affected;
        }
        affected.extend(more);
    }
}

impl Machine {
    fn new(captured: &Captured, damage: Damage<'_>, dir: &Path) -> Self {
        let dir = dir.to_owned();
        let lower = dir.join("lower");
        let (store, state) = (lower.join("store"), lower.join("var/nix/db"));
        fs::create_dir_all(&store).unwrap();
        fs::create_dir_all(&state).unwrap();
        let damaged = match damage {
            Damage::None => BTreeSet::new(),
            Damage::Removed(path) | Damage::Unregistered(path) => affected(&captured.closure, path),
        };
        let mut kept = captured.closure.clone();
        kept.paths.retain(|path, _| !damaged.contains(path));
        kept.realisations.retain(|realisation| !damaged.contains(&realisation.path));
        let on_disk: Vec<_> = match damage {
            Damage::Unregistered(_) => captured.closure.paths.keys().collect(),
            Damage::None | Damage::Removed(_) => kept.paths.keys().collect(),
        };
        // The same files, by hard links: what is written goes to another layer.
        succeed(
            Command::new("cp")
                .arg("-al")
                .args(on_disk.iter().map(|path| captured.closure.real_path(path)))
                .arg(&store),
        );
        kept.programs = seed_image::closure::Programs::default();
        database::write(&kept, &state.join("db.sqlite")).unwrap();
        fs::write(state.join("schema"), database::SCHEMA_VERSION).unwrap();
        if !kept.realisations.is_empty() {
            fs::write(state.join("ca-schema"), database::CA_SCHEMA_VERSION).unwrap();
        }
        fs::create_dir_all(dir.join("conf")).unwrap();
        let shell = captured.closure.programs.shell.as_ref().expect("a shell");
        let settings = format!(
            "experimental-features = nix-command flakes ca-derivations
             sandbox = true
             sandbox-fallback = false
             sandbox-paths = /bin/sh={shell}/bin/bash
             build-users-group =
             substituters =
             builders =
             flake-registry ="
        );
        let settings: Vec<_> = settings.lines().map(str::trim).collect();
        fs::write(dir.join("conf/nix.conf"), settings.join("\n")).unwrap();
        Self { lower, dir, programs: captured.closure.programs.clone() }
    }

    /// Runs Nix there, without a network and with a home that is empty; what it says if it fails.
    fn nix(&self, arguments: &[String]) -> Result<(), String> {
        let over = self.dir.join(format!("over-{}", fs::read_dir(&self.dir).unwrap().count()));
        let home = over.join("home");
        fs::create_dir_all(&home).unwrap();
        let nix = self.programs.nix.as_ref().expect("Nix");
        let output = Command::new("unshare")
            .args(["--net", "--"])
            .arg(repository().join("tests/nix/enter"))
            .arg(&self.lower)
            .arg("--over")
            .arg(&over)
            .args(["env", "-i", &format!("PATH={nix}/bin")])
            .arg(format!("HOME={}", home.display()))
            .arg(format!("NIX_CONF_DIR={}", self.dir.join("conf").display()))
            .arg("nix")
            .args(arguments)
            .output()
            .unwrap();
        let messages = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(messages) }
    }

    /// Builds and enters everything that the capture was for, from the project at `source`.
    fn replay(&self, captured: &Captured, source: &Path) -> Result<(), String> {
        let flake = format!("path:{}", source.display());
        let named = |purpose| {
            let targets = captured.targets.iter().filter(move |target| target.purpose == purpose);
            targets.map(|target| format!("{flake}#{}", target.attribute)).collect::<Vec<_>>()
        };
        let mut build = vec!["build".to_owned(), "--no-link".to_owned()];
        build.extend(named(Purpose::Build));
        self.nix(&build)?;
        for shell in named(Purpose::Develop) {
            self.nix(&["develop".to_owned(), shell, "--command".to_owned(), "true".to_owned()])?;
        }
        Ok(())
    }

    fn diagnose(&self, captured: &Captured, messages: &str) -> Vec<Missing> {
        let on_disk = fs::read_dir(self.lower.join("store")).unwrap();
        let on_disk = on_disk.map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            StorePath::from_base_name(&name).unwrap()
        });
        // The machine's root as seen from outside: `nix` is its only directory.
        let root = self.dir.join("root");
        fs::create_dir_all(&root).unwrap();
        if !root.join("nix").exists() {
            std::os::unix::fs::symlink(&self.lower, root.join("nix")).unwrap();
        }
        let registered = Store::open(&root).unwrap().valid_paths().unwrap();
        let realised = captured.record.realisations.keys().cloned().collect();
        let present = Present { on_disk: &on_disk.collect(), registered: &registered, realised: &realised };
        diagnose(&captured.record, present, messages)
    }
}

/// A copy of the project as a developer leaves it: other code, another version.
fn changed(project: &Path, dir: &Path) -> PathBuf {
    let to = dir.join("changed");
    succeed(Command::new("cp").arg("-r").arg(project).arg(&to));
    let mut code = fs::OpenOptions::new().append(true).open(to.join("lib/sprout.c")).unwrap();
    code.write_all(b"\n/* Another day. */\n").unwrap();
    fs::write(to.join("VERSION"), "1.5.0\n").unwrap();
    to
}

#[test]
fn builds_from_what_was_captured_and_nothing_else() {
    with_nix(&VERSIONS, "builds_from_what_was_captured_and_nothing_else", |dir| {
        let project = project(dir);
        let captured = capture(&project, dir);
        assert_eq!(captured.notes, []);
        let attributes: Vec<_> =
            captured.targets.iter().map(|target| (target.attribute.as_str(), target.purpose)).collect();
        let expected = [
            ("packages.x86_64-linux.default", Purpose::Build),
            ("packages.x86_64-linux.sprout", Purpose::Build),
            ("devShells.x86_64-linux.default", Purpose::Develop),
            ("apps.x86_64-linux.default", Purpose::Run),
        ];
        assert_eq!(attributes, expected);
        assert!(captured.closure.paths.keys().all(|path| !path.name().contains("sprout-1.4.0")));

        let changed = changed(&project, dir);
        let whole = dir.join("whole");
        let machine = Machine::new(&captured, Damage::None, &whole);
        machine.replay(&captured, &changed).unwrap_or_else(|messages| panic!("{messages}"));
        assert_eq!(machine.diagnose(&captured, ""), []);
    });
}

#[test]
fn what_is_taken_out_is_named_with_its_rule() {
    with_nix(&VERSIONS, "what_is_taken_out_is_named_with_its_rule", |dir| {
        let project = project(dir);
        let captured = capture(&project, dir);
        let changed = changed(&project, dir);
        let real = |path: &StorePath| captured.closure.real_path(path);
        let find = |wanted: &dyn Fn(&StorePath) -> bool| {
            captured.record.roots.keys().find(|path| wanted(path)).expect("such a path").clone()
        };
        let named = |name: &str| find(&|path| path.name().starts_with(name) && !path.is_derivation());
        let package_set = find(&|path| path.name() == "source" && real(path).join("stdenv").is_dir());
        let (bash, awk) = (named("bash-5"), named("mawk"));
        let (vendored, diff) = (named("sprout-vendored"), named("diffutils"));
        let cases = [
            (Damage::Removed(&package_set), Rule::Inputs),
            (Damage::Removed(&bash), Rule::BuildInputs),
            (Damage::Removed(&awk), Rule::Imports),
            (Damage::Removed(&vendored), Rule::FixedOutputs),
            (Damage::Removed(&diff), Rule::Shells),
            (Damage::Unregistered(&bash), Rule::Registered),
        ];
        for (n, (damage, rule)) in cases.into_iter().enumerate() {
            let (Damage::Removed(path) | Damage::Unregistered(path)) = damage else { continue };
            let machine = Machine::new(&captured, damage, &dir.join(format!("damaged-{n}")));
            let messages = machine.replay(&captured, &changed).expect_err("a seed that lacks something");
            let missing = machine.diagnose(&captured, &messages);
            let found = missing.iter().find(|missing| missing.path == *path);
            let found = found.unwrap_or_else(|| panic!("{path} is not named in {missing:?}"));
            assert!(found.rules.contains(&rule), "{found}: {rule} expected; Nix said:\n{messages}");
        }
    });
}

#[test]
fn the_same_project_gives_the_same_closure() {
    with_nix(&["2.8", "2.34"], "the_same_project_gives_the_same_closure", |dir| {
        let one = project(dir);
        let first = capture(&one, dir);
        // Elsewhere, with other times, and with everything built already.
        let elsewhere = dir.join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        let other = elsewhere.join("other");
        succeed(Command::new("cp").arg("-r").arg(&one).arg(&other));
        succeed(
            Command::new("nix")
                .args(["build", "--no-link"])
                .args(["default", "sprout"].map(|name| format!("path:{}#{name}", other.display())))
                .env("XDG_CACHE_HOME", dir.join("cache")),
        );
        let second = capture(&other, &elsewhere);
        assert_eq!(first.closure.paths, second.closure.paths);
        assert_eq!(first.closure.realisations, second.closure.realisations);
        assert_eq!(first.closure.programs, second.closure.programs);
        assert_eq!(first.record, second.record);
        assert_eq!(first.targets, second.targets);
        // Other code makes no other seed.
        let changed = changed(&one, dir);
        let third = capture(&changed, dir);
        assert_eq!(first.closure.paths, third.closure.paths);
    });
}

#[test]
fn refuses_what_is_not_locked() {
    with_nix(&VERSIONS, "refuses_what_is_not_locked", |dir| {
        let project = project(dir);
        let lock = fs::read_to_string(project.join("flake.lock")).unwrap();
        let words = lock.find("\"words\": {\n      \"flake\"").unwrap();
        let hash = words + lock[words..].find("        \"narHash\"").unwrap();
        let line_end = hash + lock[hash..].find('\n').unwrap() + 1;
        fs::write(project.join("flake.lock"), format!("{}{}", &lock[..hash], &lock[line_end..])).unwrap();
        let error = Chain(&try_capture(&project, dir).unwrap_err()).to_string();
        assert!(error.contains("words"), "{error}");
        assert!(error.contains("narHash") || error.contains("lock"), "{error}");

        fs::remove_file(project.join("flake.lock")).unwrap();
        let error = try_capture(&project, dir).unwrap_err();
        assert!(matches!(error, CaptureError::Unlocked { .. }), "{}", Chain(&error));

        fs::write(project.join("flake.lock"), "{").unwrap();
        let error = try_capture(&project, dir).unwrap_err();
        let error = Chain(&error).to_string();
        assert!(error.contains("flake.lock") || error.contains("parse"), "{error}");
    });
}

#[test]
fn says_what_cannot_be_had_offline() {
    with_nix(&["2.8", "2.34"], "says_what_cannot_be_had_offline", |dir| {
        let project = project(dir);
        fs::write(project.join("shell.nix"), "{ pkgs ? import <nixpkgs> { } }: pkgs.hello\n").unwrap();
        let captured = capture(&project, dir);
        assert!(
            captured
                .notes
                .iter()
                .any(|note| matches!(note, Note::Lookup { file, .. } if file == Path::new("shell.nix"))),
            "{:?}",
            captured.notes
        );
    });
}

#[test]
fn brings_a_nix_that_is_not_in_the_store() {
    with_nix(&["debian"], "brings_a_nix_that_is_not_in_the_store", |dir| {
        let nix = Nix::find().unwrap();
        assert_eq!(nix.program(), Path::new("/usr/bin/nix"));
        let project = project(dir);
        let captured = capture(&project, dir);
        let path = captured.closure.programs.nix.clone().expect("Nix");
        assert_eq!(path.name(), "nix-2.8.0");
        assert_eq!(captured.closure.paths[&path].references, BTreeSet::new());
        let changed = changed(&project, dir);
        let machine = Machine::new(&captured, Damage::None, &dir.join("machine"));
        machine.replay(&captured, &changed).unwrap_or_else(|messages| panic!("{messages}"));
    });
}

#[test]
fn captures_plain_paths() {
    with_nix(&["2.8"], "captures_plain_paths", |_| {
        let nix = Nix::find().unwrap().program().canonicalize().unwrap();
        let shell = fs::read_dir("/nix/store").unwrap().map(|entry| entry.unwrap().file_name());
        let shell = shell.map(|name| StorePath::from_base_name(name.to_str().unwrap()).unwrap());
        let shell = shell.into_iter().find(|path| path.name().starts_with("bash-5") && !path.is_derivation());
        let shell = shell.expect("a bash");
        let closure = paths(std::slice::from_ref(&shell), Path::new("/")).unwrap();
        assert!(closure.paths.contains_key(&shell) && closure.paths.len() > 2, "{:?}", closure.paths.keys());
        assert_eq!(closure.real_store, Path::new("/nix/store"));
        assert!(nix.starts_with("/nix/store"));
        let unknown = StorePath::from_base_name("00000000000000000000000000000000-unknown").unwrap();
        let error = paths(std::slice::from_ref(&unknown), Path::new("/")).unwrap_err().to_string();
        assert!(error.contains(unknown.base_name()), "{error}");
    });
}
