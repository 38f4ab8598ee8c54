use std::process::Command;

use seed_policy::System;

use super::*;

/// A repository with one commit, away from the user's configuration of git.
struct Repository {
    dir: tempfile::TempDir,
}

impl Repository {
    fn new() -> Self {
        let repository = Self { dir: tempfile::tempdir().unwrap() };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository.git(&["config", "user.name", "Test"]);
        repository.git(&["config", "user.email", "test@example.org"]);
        repository.git(&["config", "commit.gpgsign", "false"]);
        fs::write(repository.dir.path().join("flake.nix"), "{ outputs = _: { }; }").unwrap();
        repository.commit("first");
        repository
    }

    fn git(&self, args: &[&str]) -> String {
        let output = Command::new("git").arg("-C").arg(self.dir.path()).args(args).output().unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Messages must differ, or two commits made in one second are one.
    fn commit(&self, message: &str) -> Commit {
        self.git(&["add", "flake.nix"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", message]);
        self.git(&["rev-parse", "HEAD"]).parse().unwrap()
    }

    fn project(&self) -> Project {
        Project::open(self.dir.path()).unwrap()
    }
}

#[test]
fn installables_are_directories() {
    let parsed = |text: &str| {
        let installable = Installable::parse(text).map_err(|error| error.causes()).unwrap();
        (installable.dir.to_string_lossy().into_owned(), installable.attr.unwrap_or_default())
    };
    for (text, dir, attr) in [
        (".", ".", ""),
        ("", ".", ""),
        ("#hello", ".", "hello"),
        (".#hello", ".", "hello"),
        ("./sub#packages.x86_64-linux.hello", "./sub", "packages.x86_64-linux.hello"),
        ("/srv/app#", "/srv/app", ""),
        ("path:/srv/app#a", "/srv/app", "a"),
        ("git+file:///srv/app", "/srv/app", ""),
        ("./odd:name", "./odd:name", ""),
    ] {
        assert_eq!(parsed(text), (dir.to_owned(), attr.to_owned()), "{text}");
    }
    for text in ["github:acme/app", "nixpkgs:x", "https://host.example/x.tar.gz", ".?ref=main"] {
        assert!(Installable::parse(text).is_err(), "{text}");
    }
}

#[test]
fn facts_come_from_git() {
    let repository = Repository::new();
    let first = repository.git(&["rev-parse", "HEAD"]).parse().unwrap();
    let project = repository.project();
    assert_eq!(project.head().unwrap(), Some(first));
    let own = format!("git+file://{}", repository.dir.path().canonicalize().unwrap().display());
    assert_eq!(project.source().unwrap().unwrap().as_str(), own);
    repository.git(&["remote", "add", "origin", "git@github.com:acme/app.git"]);
    assert_eq!(project.source().unwrap().unwrap().as_str(), "git+https://github.com/acme/app");

    assert_eq!(project.flake_lock().unwrap(), Digest::of(b""));
    fs::write(repository.dir.path().join("flake.lock"), "{}").unwrap();
    assert_eq!(project.flake_lock().unwrap(), Digest::of(b"{}"));

    assert!(!project.is_dirty().unwrap());
    fs::write(repository.dir.path().join("flake.nix"), "{ }").unwrap();
    assert!(project.is_dirty().unwrap());
}

#[test]
fn ancestry_is_known_or_said_to_be_unknown() {
    let repository = Repository::new();
    let project = repository.project();
    let first = project.head().unwrap().unwrap();
    repository.git(&["checkout", "--quiet", "-b", "side"]);
    let side = repository.commit("side");
    repository.git(&["checkout", "--quiet", "main"]);
    let second = repository.commit("second");
    let third = repository.commit("third");
    let foreign: Commit = "1".repeat(40).parse().unwrap();
    for (commit, expected) in [
        (&first, Ancestry::Ancestor),
        (&third, Ancestry::Ancestor),
        (&side, Ancestry::NotAncestor),
        (&foreign, Ancestry::NotAncestor),
    ] {
        assert_eq!(project.ancestry(commit), expected, "{commit}");
    }

    let shallow = tempfile::tempdir().unwrap();
    let url = format!("file://{}", repository.dir.path().display());
    let output = Command::new("git")
        .args(["clone", "--quiet", "--depth=2", &url])
        .arg(shallow.path())
        .output()
        .unwrap();
    assert!(output.status.success());
    let project = Project::open(shallow.path()).unwrap();
    assert_eq!(project.ancestry(&second), Ancestry::Ancestor);
    for commit in [&first, &foreign] {
        assert!(matches!(project.ancestry(commit), Ancestry::Unknown { .. }), "{commit}");
    }
}

#[test]
fn the_lock_is_recorded_and_committed_alone() {
    let repository = Repository::new();
    let project = repository.project();
    let (system, other): (System, System) =
        ("x86_64-linux".parse().unwrap(), "aarch64-linux".parse().unwrap());
    let lock = project.lock_file();
    assert!(lock.record(&system, Digest::of(b"1")).unwrap());
    assert!(!lock.record(&system, Digest::of(b"1")).unwrap());
    assert!(lock.record(&other, Digest::of(b"2")).unwrap());
    assert_eq!(lock.read().unwrap().get(&system), Some(Digest::of(b"1")));

    fs::write(repository.dir.path().join("flake.nix"), "{ staged = true; }").unwrap();
    repository.git(&["add", "flake.nix"]);
    assert!(project.commit_lock("seed: Record").unwrap());
    assert!(!project.commit_lock("seed: Record").unwrap());
    repository.git(&["stash", "--quiet"]);
    assert!(!project.is_dirty().unwrap());
    lock.record(&system, Digest::of(b"3")).unwrap();
    assert!(!project.is_dirty().unwrap(), "a lock that is not committed yet changes no input");
    repository.git(&["checkout", "--quiet", ".seed.lock"]);
    repository.git(&["stash", "pop", "--quiet", "--index"]);
    assert_eq!(repository.git(&["show", "--name-only", "--format=%s", "HEAD"]), "seed: Record\n\n.seed.lock");
    assert_eq!(
        repository.git(&["diff", "--cached", "--name-only"]),
        "flake.nix",
        "what was staged stays staged"
    );
    assert_eq!(fs::read_dir(repository.dir.path()).unwrap().count(), 3, "no temporary file is left");
}

#[test]
fn what_is_no_project_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Project::open(dir.path()).is_err());
    assert!(Project::open(&dir.path().join("none")).is_err());
    fs::write(dir.path().join("flake.nix"), "{ }").unwrap();
    let project = Project::open(dir.path()).unwrap();
    assert_eq!(project.head().unwrap(), None);
    assert_eq!(project.source().unwrap(), None);
    assert!(project.commit_lock("x").is_err());
}
