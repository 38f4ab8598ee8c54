//! The demo project in a seed of its own, with real Nix: captured, packed, changed and built.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::OnceLock;

use seed_image::capture::{FlakeRequest, Nix as MachineNix, flake};
use seed_image::pack::{Options, pack};
use seed_image::seed::label;
use seed_sandbox::{
    BuildRecord, BuildRequest, Destination, DevelopRequest, Exit, Lower, Nix, SandboxError, Source, Spec,
    Use, Workspace, build, check, develop, environment, flake_of_workspace, search_path,
};

use crate::harness::{self, Test, World, pipes};
use crate::seed;

/// The role that captures and packs, on a machine with Nix.
pub(crate) const ROLE: &str = "pack-demo";

/// Where the first run of the tests has put the demo, for the second.
pub(crate) const PLACE: &str = "SEED_SANDBOX_TEST_DEMO";

pub(crate) const TESTS: &[Test] = &[
    ("demo::whoever_builds_it_gets_the_same_bytes", whoever_builds_it_gets_the_same_bytes),
    ("demo::results_are_of_use_outside", results_are_of_use_outside),
    ("demo::failures_are_nixs", failures_are_nixs),
    ("demo::the_shell_passes_on_what_its_command_says", the_shell_passes_on_what_its_command_says),
    ("demo::the_seed_is_complete", the_seed_is_complete),
];

const PACKAGE: &str = "packages.x86_64-linux.default";
const SHELL: &str = "devShells.x86_64-linux.default";

static MADE: OnceLock<PathBuf> = OnceLock::new();

/// The directory of the demo, if a test has needed it.
pub(crate) fn made() -> Option<&'static Path> {
    MADE.get().map(PathBuf::as_path)
}

/// The directory with the seed (`layout`, `digest`) and the project's source, changed since.
fn place() -> &'static Path {
    MADE.get_or_init(|| {
        if let Some(place) = std::env::var_os(PLACE) {
            return place.into();
        }
        // Kept until the program ends; the harness removes it.
        let place = tempfile::Builder::new().prefix("seed-demo-").tempdir().unwrap().keep();
        let status = Command::new(repository().join("tests/nix/run"))
            .args(["--nix", "2.8"])
            .arg(harness::program())
            .arg(ROLE)
            .arg(&place)
            .status()
            .unwrap();
        assert!(status.success(), "the demo was not packed");
        place
    })
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// On a machine with Nix: captures the demo, packs it, and changes its source.
pub(crate) fn pack_demo(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let place = PathBuf::from(arguments.next().unwrap());
    let project = place.join("project");
    let run = |command: &mut Command| assert!(command.status().unwrap().success(), "{command:?}");
    run(Command::new("cp").arg("-r").arg(repository().join("tests/project")).arg(&project));
    run(Command::new("nix")
        .args(["--quiet", "flake", "lock"])
        .arg(format!("path:{}", project.display()))
        .env("XDG_CACHE_HOME", place.join("cache")));
    let request = FlakeRequest {
        flake: format!("path:{}", project.display()),
        directory: project.clone(),
        attributes: Vec::new(),
        system: "x86_64-linux".into(),
        store: None,
        scratch: place.clone(),
        derivations: true,
    };
    let captured = flake(&request, &MachineNix::find().unwrap(), &()).unwrap();
    let mut options = Options::new("x86_64-linux");
    options.labels.insert(label::NIX_VERSION.into(), captured.nix_version.clone());
    let layout = seed::transport(&place.join("layout"));
    let packed = pack(&captured.closure, &options, &*layout, Some("demo"), &()).unwrap();
    fs::write(place.join("digest"), packed.digest.to_string()).unwrap();

    let source = project.join("lib/sprout.c");
    let text = fs::read_to_string(&source).unwrap();
    fs::write(source, format!("{text}\n/* A change. */\n")).unwrap();
    drop(captured);
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(&place));
    fs::set_permissions(place, Permissions::from_mode(0o755)).unwrap();
    ExitCode::SUCCESS
}

/// The demo in a test: the seed, opened, its Nix, and a copy of the source that is the user's own.
struct Demo<'a> {
    world: &'a World,
    digest: seed_format::Digest,
    lower: Lower,
    nix: Nix,
    workspace: PathBuf,
}

impl<'a> Demo<'a> {
    fn new(world: &'a World) -> Self {
        let digest = fs::read_to_string(place().join("digest")).unwrap().parse().unwrap();
        let lower = seed::open(&place().join("layout"), &digest);
        let Lower::Seed(opened) = &lower else { unreachable!("a layout holds seeds") };
        let nix = Nix::of_seed(opened).unwrap();
        let workspace = world.path().join("project");
        run(Command::new("cp").arg("-r").arg(place().join("project")).arg(&workspace));
        Self { world, digest, lower, nix, workspace }
    }

    fn spec(&self) -> Spec {
        let mut spec = harness::bare_spec(self.lower.clone(), self.world.scratch.clone());
        spec.environment = environment::clean(&search_path(&self.lower, &self.nix), [], &Default::default());
        spec.workspace = Some(Workspace { directory: self.workspace.clone(), writable: false });
        spec
    }

    fn request(&self, exports: Vec<Destination>) -> BuildRequest<'_> {
        BuildRequest {
            keep_going: false,
            nix: &self.nix,
            flake: flake_of_workspace(&self.workspace),
            attributes: vec![PACKAGE.into()],
            source: Source::default(),
            exports,
            log: File::create(self.world.path().join("log")).unwrap().into(),
        }
    }

    fn build(&self, exports: Vec<Destination>) -> Result<BuildRecord, SandboxError> {
        build(&harness::approve(self.digest), self.spec(), &self.request(exports))
    }

    /// What Nix and the builders said.
    fn log(&self) -> String {
        fs::read_to_string(self.world.path().join("log")).unwrap()
    }

    #[track_caller]
    fn built(&self, exports: Vec<Destination>) -> BuildRecord {
        self.build(exports).unwrap_or_else(|error| panic!("{error}: {}", self.log()))
    }
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

fn whoever_builds_it_gets_the_same_bytes(world: &World) {
    let demo = Demo::new(world);
    let first = demo.built(Vec::new());
    assert!(demo.log().contains("sprout-1.4.0.drv'..."), "it was built, not found: {}", demo.log());
    let again = demo.built(Vec::new());
    assert_eq!(first.targets, again.targets);
    let names: Vec<_> = first.targets[0].outputs.iter().map(|output| output.name.as_str()).collect();
    assert_eq!(names, ["bin", "lib", "dev", "out"]);
    assert_eq!((first.version, first.seed, first.nix.version.as_str()), (1, demo.digest, "2.8.0"));
    assert!(first.started <= first.finished);

    // The first run, as root, leaves its hashes for the second, as an ordinary user.
    let text = serde_json::to_string(&first.targets).unwrap();
    let others = place().join("targets");
    match fs::read_to_string(&others) {
        Ok(theirs) => assert_eq!(theirs, text),
        Err(_) => {
            fs::write(&others, text).unwrap();
            fs::set_permissions(others, Permissions::from_mode(0o644)).unwrap();
        }
    }
}

fn results_are_of_use_outside(world: &World) {
    let demo = Demo::new(world);
    let [link, copies, cache] = ["result", "copies", "binary-cache"].map(|name| world.path().join(name));
    let exports =
        vec![Destination::Links { link: link.clone(), copies }, Destination::BinaryCache(cache.clone())];
    let record = demo.built(exports);
    for output in &record.targets[0].outputs {
        let name = if output.name == "out" { "result".into() } else { format!("result-{}", output.name) };
        let copy = fs::read_link(world.path().join(name)).unwrap();
        assert_eq!(seed_image::tree::nar_hash(&copy).unwrap(), (output.nar_hash, output.nar_size));
        let entry = cache.join(format!("{}.narinfo", output.path.hash_part()));
        let entry = fs::read_to_string(entry).unwrap();
        assert!(entry.contains(&format!("StorePath: {}\n", output.path)), "{entry}");
        let archive = entry.lines().find_map(|line| line.strip_prefix("URL: ")).unwrap();
        assert!(cache.join(archive).is_file(), "{archive}");
        for reference in &output.references {
            assert!(cache.join(format!("{}.narinfo", reference.hash_part())).is_file(), "{reference}");
        }
    }
}

fn failures_are_nixs(world: &World) {
    let demo = Demo::new(world);
    fs::write(demo.workspace.join("lib/sprout.c"), "no C\n").unwrap();
    let link = world.path().join("result");
    let exports = vec![Destination::Links { link: link.clone(), copies: world.path().join("copies") }];
    let error = demo.build(exports).unwrap_err();
    let SandboxError::Targets { attributes, .. } = &error else { panic!("{error:?}") };
    assert_eq!(attributes, &["packages.x86_64-linux.default"]);
    assert!(demo.log().contains("sprout.c"), "{}", demo.log());
    assert!(fs::symlink_metadata(link).is_err(), "nothing is exported");

    // Without its lock, the flake's inputs would have to be fetched. No lock is made, and nothing fetched.
    fs::remove_file(demo.workspace.join("flake.lock")).unwrap();
    let error = demo.build(Vec::new()).unwrap_err();
    assert!(matches!(error, SandboxError::Targets { .. }), "{error:?}");
    assert!(!demo.workspace.join("flake.lock").exists());
}

fn the_shell_passes_on_what_its_command_says(world: &World) {
    let demo = Demo::new(world);
    let (to_command, from_command, stdio) = pipes();
    drop(to_command);
    let request = DevelopRequest {
        nix: &demo.nix,
        installable: format!("{}#{SHELL}", flake_of_workspace(&demo.workspace)),
        command: ["sh", "-c", "echo $VENDORED; pwd; tabulate < VERSION > /dev/null || exit 1; exit 9"]
            .map(Into::into)
            .into(),
        stdio,
    };
    let outcome = develop(&harness::approve(demo.digest), demo.spec(), request).unwrap();
    assert_eq!(outcome.exit, Exit::Code(9));
    let said = std::io::read_to_string(from_command).unwrap();
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].ends_with("sprout-vendored-1"), "{said}");
    assert_eq!(lines[1], "/workspace");
}

fn the_seed_is_complete(world: &World) {
    let demo = Demo::new(world);
    let uses =
        [(PACKAGE.to_owned(), Use::Build), (SHELL.to_owned(), Use::Develop), ("nothing".into(), Use::Build)];
    let flake = flake_of_workspace(&demo.workspace);
    let approved = harness::approve(demo.digest);
    let replay = |wanted| check(&approved, &demo.nix, &flake, wanted, demo.spec()).unwrap();
    let replays: Vec<_> = uses.iter().map(replay).collect();
    let verdicts: Vec<_> = replays.iter().map(|replay| replay.complete).collect();
    assert_eq!(verdicts, [true, true, false], "{replays:?}");
    assert!(replays[2].messages.contains("nothing"), "{}", replays[2].messages);
}
