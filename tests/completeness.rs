//! `seed check` on seeds that lack something: what it is, and the rule by which it should be there. Needs
//! root, /dev/fuse and the test environment of `tests/nix`.
//!
//! Each test runs itself again in `tests/nix/run`: on a machine with Nix and the project's inputs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use program::server::Server;
use program::{Program, Run};
use seed_format::StorePath;
use seed_image::capture::{Captured, FlakeRequest, Nix, flake};
use seed_image::closure::Realisation;
use seed_image::pack::{Options, pack};
use seed_image::seed::label;
use seed_image::transport::Layout;

const INSIDE: &str = "COMPLETENESS_INSIDE";

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `test`, the body of the test `name`, on a machine with each of these versions of Nix.
fn with_nix(versions: &[&str], name: &str, test: impl Fn(&Demo)) {
    if std::env::var_os(INSIDE).is_some() {
        return test(&Demo::new());
    }
    for version in versions {
        let mut command = Command::new(script("nix/run"));
        command.args(["--nix", version]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", name, "--nocapture"]).env(INSIDE, version);
        assert!(command.status().unwrap().success(), "{name} with Nix {version}");
    }
}

/// The demo project, its inputs locked, and the program.
struct Demo {
    program: Program,
    dir: PathBuf,
}

impl Demo {
    fn new() -> Self {
        let program = Program::new();
        let dir = program.home().join("sprout");
        succeed(Command::new("cp").arg("-r").arg(script("project")).arg(&dir));
        succeed(
            Command::new("nix")
                .args(["flake", "lock"])
                .arg(format!("path:{}", dir.display()))
                .env("XDG_CACHE_HOME", program.home().join("nix-cache")),
        );
        Self { program, dir }
    }

    fn edit(&self, from: &str, to: &str) {
        let file = self.dir.join("flake.nix");
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text.matches(from).count(), 1, "{from:?}");
        fs::write(file, text.replace(from, to)).unwrap();
    }

    /// An expression for a file that evaluation fetches.
    fn words_fetched_by_hash(&self) -> String {
        let file = "/nix/var/inputs/words/words.txt";
        let hash = Command::new("nix").args(["hash", "file", file]).output().unwrap();
        let hash = String::from_utf8(hash.stdout).unwrap();
        format!(r#"builtins.fetchurl {{ url = "file://{file}"; sha256 = "{}"; }}"#, hash.trim())
    }

    fn seed(&self, args: &[&str]) -> Run {
        let mut command = self.program.command(args);
        Run::of(command.current_dir(&self.dir))
    }

    fn capture(&self) -> Captured {
        let request = FlakeRequest {
            flake: format!("path:{}", self.dir.display()),
            directory: self.dir.clone(),
            attributes: Vec::new(),
            system: "x86_64-linux".to_owned(),
            store: None,
            scratch: self.program.home().to_owned(),
            derivations: true,
        };
        flake(&request, &Nix::find().unwrap(), &()).unwrap()
    }

    /// Packs what was captured, damaged, and gives its reference.
    fn pack(&self, captured: &Captured, damage: Option<&Damage>) -> String {
        let mut options = Options::new("x86_64-linux");
        options.records = Some(self.program.home().join("records"));
        options.labels = BTreeMap::from([
            (label::TARGETS.to_owned(), serde_json::to_string(&captured.targets).unwrap()),
            (label::NIX_VERSION.to_owned(), captured.nix_version.clone()),
        ]);
        if !captured.features.is_empty() {
            options.labels.insert(label::NIX_FEATURES.to_owned(), captured.features.join(" "));
        }
        if let Some(cache) = &captured.fetcher_cache {
            options.labels.insert(label::FETCHER_CACHE.to_owned(), cache.to_string());
        }
        let mut closure = captured.closure.clone();
        match damage {
            None => {}
            Some(Damage::Unknown(path)) => {
                closure.realisations.retain(|known| known.path != *path);
                closure.realisations = std::mem::take(&mut closure.realisations)
                    .into_iter()
                    .map(|known| Realisation { references: BTreeSet::new(), ..known })
                    .collect();
            }
            Some(Damage::Removed(path)) => closure = closure.without(&BTreeSet::from([path.clone()])),
            Some(Damage::Unregistered(path)) => {
                options.unregistered.insert(path.clone());
            }
        }
        let dir = self.program.home().join("seeds");
        let packed = pack(&closure, &options, &Layout::new(&dir), None, &()).unwrap();
        format!("oci:{}@{}", dir.display(), packed.digest)
    }
}

/// What a seed lacks of a path.
#[derive(Debug)]
enum Damage {
    /// The path, with all that refers to it.
    Removed(StorePath),
    /// Its row in the database.
    Unregistered(StorePath),
    /// The row that says of which derivation it is an output.
    Unknown(StorePath),
}

impl Damage {
    fn path(&self) -> &StorePath {
        let (Self::Removed(path) | Self::Unregistered(path) | Self::Unknown(path)) = self;
        path
    }
}

impl Demo {
    /// Fails unless `seed check` of the damaged seed names what is missing, and the rule, wherever it fails.
    fn names_damage(&self, captured: &Captured, damage: &Damage, rule: u8) -> Run {
        let reference = self.pack(captured, Some(damage));
        let run = self.seed(&["check", &reference, "--json"]).ended_with(1);
        let start = format!("{} is missing: it breaks ", damage.path());
        let names_it = |outcome: &serde_json::Value| {
            let lines = outcome["missing"].as_array().unwrap().iter().map(|line| line.as_str().unwrap());
            lines.filter(|line| line.starts_with(&start)).any(|line| line.contains(&format!("rule {rule} (")))
        };
        let outcomes = run.json();
        let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome["complete"] == false).collect();
        assert!(
            !failed.is_empty() && failed.iter().all(|outcome| names_it(outcome)),
            "{damage:?}\n{}",
            run.stdout
        );
        run.says("is not complete").says("seed pack --lock")
    }
}

#[test]
fn what_is_missing_is_named_with_its_rule() {
    with_nix(&["2.8"], "what_is_missing_is_named_with_its_rule", |demo| {
        let words = demo.words_fetched_by_hash();
        demo.edit("doCheck = true;", &format!("doCheck = true; READ = builtins.readFile ({words});"));
        let captured = demo.capture();
        let whole = demo.pack(&captured, None);
        let run = demo.seed(&["check", &whole, "--json"]).ended_with(0);
        let done: BTreeSet<_> =
            run.json().iter().map(|outcome| outcome["done"].as_str().unwrap().to_owned()).collect();
        assert_eq!(done, ["build", "develop", "run"].map(str::to_owned).into());

        let find = |wanted: &dyn Fn(&StorePath) -> bool| {
            captured.record.roots.keys().find(|path| wanted(path)).expect("such a path").clone()
        };
        let named = |name: &str| find(&|path| path.name().starts_with(name) && !path.is_derivation());
        let is_package_set = |path: &StorePath| captured.closure.real_path(path).join("stdenv").is_dir();
        let package_set = find(&|path| path.name() == "source" && is_package_set(path));
        let nix = captured.closure.programs.nix.clone().expect("Nix");
        for (damage, rule) in [
            (Damage::Removed(package_set), 1),
            (Damage::Removed(named("bash-5")), 2),
            (Damage::Removed(named("mawk")), 3),
            (Damage::Removed(named("sprout-vendored")), 4),
            (Damage::Removed(named("diffutils")), 5),
            (Damage::Unregistered(named("bash-5")), 7),
            (Damage::Removed(named("words.txt")), 9),
            (Damage::Removed(named("bash-interactive")), 10),
            (Damage::Removed(nix), 10),
        ] {
            demo.names_damage(&captured, &damage, rule);
        }
    });
}

#[test]
fn apps_are_tried_and_other_systems_are_not() {
    with_nix(&["2.34"], "apps_are_tried_and_other_systems_are_not", |demo| {
        let whole = demo.pack(&demo.capture(), None);
        demo.edit("${sprout.bin}/bin/sprout", "${sprout.bin}/bin/none");
        let run = demo.seed(&["check", &whole, "--json"]).ended_with(1);
        for outcome in run.json() {
            assert_eq!(outcome["complete"], outcome["done"] != "run", "{outcome}");
        }
        assert!(run.stdout.contains("bin/none is not there"), "{}", run.stdout);

        let pack = ["pack", "--system", "aarch64-linux", "--attr", "packages.x86_64-linux.default"];
        demo.seed(&[&pack[..], &["--to", "oci:other:main"]].concat())
            .ended_with(0)
            .says("the seed is not checked: it is for aarch64-linux, and this machine is x86_64-linux");
    });
}

/// What the input side builds reads what is only on the machine that packs: built again, it fails. One of it
/// is content-addressed, another is made of that, and the project's own outputs are content-addressed too.
#[test]
fn content_addressed_outputs_are_known_and_not_built_again() {
    let versions = ["2.8", "2.26", "2.34"];
    with_nix(&versions, "content_addressed_outputs_are_known_and_not_built_again", |demo| {
        let by_content = r#"__contentAddressed = true;
        outputHashMode = "recursive";
        outputHashAlgo = "sha256";"#;
        demo.edit(
            "      sprout = pkgs.mkDerivation {",
            &format!(
                r#"      measured = pkgs.runCommand "measured" {{
        outputs = [ "out" "bin" "log" ];
        {by_content}
      }} "
        mkdir -p $bin/bin
        read -r word < /nix/var/inputs/words/words.txt
        echo $word | tee $out $log > $bin/bin/measure
        chmod +x $bin/bin/measure
      ";
      counted = pkgs.runCommand "counted" {{ inherit measured; nativeBuildInputs = [ pkgs.xz ]; }} "
        xz --version
        read -r word < /nix/var/inputs/words/words.txt
        echo $word $measured > $out
      ";
      sprout = pkgs.mkDerivation {{
        {by_content}
        inherit measured counted;"#
            ),
        );
        demo.edit(
            "      apps.x86_64-linux.default = {",
            r#"      apps.x86_64-linux.measure = {
        type = "app";
        program = "${measured.bin}/bin/measure";
      };
      apps.x86_64-linux.default = {"#,
        );
        demo.edit("VENDORED = vendored;", "VENDORED = vendored; COUNTED = counted;");
        let seeds = format!("oci:{}", demo.program.home().join("seeds").display());
        let run = demo.seed(&["pack", "--to", &seeds]).ended_with(0).says("check");
        let seed = run.stdout.trim();

        let version = fs::read(demo.dir.join("VERSION")).unwrap();
        fs::write(demo.dir.join("VERSION"), "1.5.0\n").unwrap();
        let run = demo.seed(&["build", "--no-link", "--json", "--seed", seed]).ended_with(0);
        let outputs = run.json()[0]["targets"][0]["outputs"].as_array().unwrap().len();
        assert_eq!(outputs, 4, "{}", run.stdout);
        let read = r#"read -r word measured < $COUNTED; read -r same < $measured; test "$word" = "$same""#;
        demo.seed(&["develop", "--seed", seed, "--command", "bash", "-c", read]).ended_with(0);

        fs::write(demo.dir.join("VERSION"), version).unwrap();
        // With everything built already, and more noted: the seed is the same.
        succeed(
            Command::new("nix")
                .args(["build", "--no-link"])
                .arg(format!("path:{}", demo.dir.display()))
                .env("XDG_CACHE_HOME", demo.program.home().join("nix-cache")),
        );
        let again = demo.seed(&["pack", "--no-check", "--to", &seeds]).ended_with(0);
        assert_eq!(again.stdout.trim(), seed);

        let captured = demo.capture();
        for name in ["measured-0", "counted-0"] {
            let path = captured.record.roots.keys().find(|path| path.name() == name).expect("such a path");
            let run = demo.names_damage(&captured, &Damage::Unknown(path.clone()), 8);
            assert!(
                !run.stderr.contains("evaluate"),
                "what packing found is not found again: {}",
                run.stderr
            );
        }
    });
}

/// A repository is read inside as Nix reads it outside: the same derivations come of it.
#[test]
fn a_repository_is_the_same_inside() {
    with_nix(&["2.8", "2.26", "2.34"], "a_repository_is_the_same_inside", |demo| {
        demo.edit("src = self;", r#"src = self; REVISION = self.rev or "none";"#);
        let git = |dir: &Path, args: &[&str]| {
            let mut command = Command::new("git");
            command
                .args(["-c", "user.name=Test", "-c", "user.email=test@example.org", "-C"])
                .arg(dir)
                .args(args);
            succeed(command.env("HOME", demo.program.home()));
        };
        git(&demo.dir, &["init", "--quiet", "--initial-branch=main"]);
        git(&demo.dir, &["add", "."]);
        git(&demo.dir, &["commit", "--quiet", "--message", "first"]);
        let seeds = format!("oci:{}", demo.program.home().join("seeds").display());
        let run = demo.seed(&["pack", "--to", &seeds]).ended_with(0);
        let reference = run.stdout.trim().to_owned();

        let outside = |dir: &Path| {
            let mut command = Command::new("nix");
            command.args(["eval", "--raw"]).arg(format!("git+file://{}#default.drvPath", dir.display()));
            let output = command.env("HOME", demo.program.home()).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let inside = |dir: &Path| {
            let mut command = demo.program.command(["build", "--no-link", "--json", "--seed", &reference]);
            let run = Run::of(command.current_dir(dir)).ended_with(0);
            run.json()[0]["targets"][0]["derivation"].as_str().unwrap().to_owned()
        };
        assert_eq!(inside(&demo.dir), outside(&demo.dir), "a clean tree");

        let shallow = demo.program.home().join("shallow");
        let from = format!("file://{}", demo.dir.display());
        git(demo.program.home(), &["clone", "--quiet", "--depth=1", &from, shallow.to_str().unwrap()]);
        assert_eq!(inside(&shallow), outside(&demo.dir), "a shallow clone");

        fs::write(demo.dir.join("VERSION"), "1.5.0\n").unwrap();
        fs::write(demo.dir.join("untracked"), "no part of the source\n").unwrap();
        assert_eq!(inside(&demo.dir), outside(&demo.dir), "a changed tree");

        // Another user's: git must be told, and nothing else.
        succeed(Command::new("chown").args(["-R", "1234:1234"]).arg(&demo.dir));
        let build = ["build", "--no-link", "--seed", &reference];
        demo.seed(&build).ended_with(1).says("another user owns it").says("safe.directory");
        demo.program.write(".gitconfig", "[safe]\n\tdirectory = *\n");
        assert_eq!(inside(&demo.dir), outside(&demo.dir), "another user's tree");
        demo.seed(&["develop", "--seed", &reference, "--command", "true"]).ended_with(0);
    });
}

#[test]
fn plain_paths_can_bring_nix() {
    with_nix(&["2.8"], "plain_paths_can_bring_nix", |demo| {
        let captured = demo.capture();
        demo.pack(&captured, None);
        let bash = captured.closure.programs.shell.clone().expect("a shell").to_string();
        let pack = ["pack", "--paths", &bash, "--to", "oci:tools:main"];
        let run = demo.seed(&[&pack[..], &["--nix", "auto"]].concat()).ended_with(0);
        let reference = run.stdout.trim().to_owned();
        let run = demo.seed(&["run", &reference, "--", "nix", "--version"]).ended_with(0);
        assert!(run.stdout.contains("2.8"), "{}", run.stdout);
        demo.seed(&[&pack[..], &["--nix", &bash]].concat()).ended_with(1).says("has no program bin/nix");
        demo.seed(&["pack", "--nix", "auto", "--to", "oci:tools:main"]).ended_with(2).says("--paths");
    });
}

/// What a hash fixes is a store path like any other; what a revision fixes is found by Nix's cache of fetched
/// things, which goes with it.
#[test]
fn what_evaluation_fetches_is_there() {
    with_nix(&["2.34", "2.26", "2.8"], "what_evaluation_fetches_is_there", |demo| {
        let lock: serde_json::Value =
            serde_json::from_slice(&fs::read(demo.dir.join("flake.lock")).unwrap()).unwrap();
        let locked =
            |input: &str, key: &str| lock["nodes"][input]["locked"][key].as_str().unwrap().to_owned();
        let (package_set, revision) = (locked("nixpkgs", "narHash"), locked("greeting", "rev"));
        let words = demo.words_fetched_by_hash();
        let (web, git) = (Server::nginx(&demo.program), Server::git(Path::new("/nix/var/inputs")));
        let tarball = demo.program.home().join("nginx/files/nixpkgs.tar.gz");
        fs::copy("/nix/var/inputs/nixpkgs.tar.gz", &tarball).unwrap();
        demo.edit(
            "src = self;",
            &format!(
                r#"src = self;
        FETCHED = [
          (builtins.fetchTarball {{ name = "other"; url = "http://{web}/nixpkgs.tar.gz"; sha256 = "{package_set}"; }})
          ({words})
          (builtins.fetchTree {{ type = "tarball"; url = "http://{web}/nixpkgs.tar.gz"; narHash = "{package_set}"; }}).outPath
          (builtins.readFile "${{builtins.fetchGit {{ url = "git://{git}/greeting"; ref = "main"; rev = "{revision}"; }}}}/greeting.txt")
          (builtins.fetchTree {{ type = "git"; url = "git://{git}/greeting"; ref = "main"; rev = "{revision}"; shallow = true; }}).outPath
        ];"#,
                web = web.host,
                git = git.host
            ),
        );
        let run = demo.seed(&["pack", "--to", "oci:seeds:main"]).ended_with(0);
        let reference = run.stdout.trim();
        // Another time of the file, and so another tag of the server's.
        succeed(Command::new("touch").arg(&tarball));
        let captured = demo.capture();
        let cache = captured.fetcher_cache.clone().expect("a cache");
        let paths = demo.seed(&["inspect", reference, "--paths"]).ended_with(0).stdout;
        assert!(paths.contains(cache.base_name()), "it depends on when it was fetched: {cache}\n{paths}");
        if std::env::var(INSIDE).is_ok_and(|version| version == "2.8") {
            let broken = demo.pack(&captured, Some(&Damage::Removed(cache.clone())));
            let run = demo.seed(&["check", &broken, "--json"]).ended_with(1);
            let missing = format!("{cache} is missing: it breaks rule 9 (");
            assert!(run.stdout.contains(&missing), "{}", run.stdout);
        }
        drop((web, git));
        demo.seed(&["build", "--no-link", "--seed", reference]).ended_with(0);
        demo.seed(&["develop", "--seed", reference, "--command", "true"]).ended_with(0);
        let copied = format!(
            "mkdir --parents /tmp/home/.cache && export HOME=/tmp/home && \
             cp --recursive --no-preserve=mode {cache} ~/.cache/nix && nix build --no-link path:/workspace"
        );
        demo.seed(&["run", reference, "--workspace", ".", "--", "sh", "-c", &copied]).ended_with(0);
    });
}
