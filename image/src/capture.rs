//! What a project needs to be built offline, from its flake: evaluated, fetched, built and described.
//!
//! Everything happens in chroot stores of the capture's own, which begin empty and take built paths from the
//! machine's store: so the result follows from the flake, its lock and Nix alone, whatever else the machine
//! has. The project is evaluated as it is and with its source changed. What differs is the *project's own*,
//! and is built in the seed; what its derivations are made of goes in.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use seed_format::{Digest, StorePath};
use serde::Deserialize;

use crate::closure::{Closure, ClosureError, Programs};
use crate::derivation::DerivationError;
use crate::progress::Progress;
use crate::store::{Store, StoreError};

mod evaluate;
mod lock;
mod nix;
mod perturb;
mod realise;
mod relocate;
mod rules;
mod scratch;
mod select;

pub use lock::{Input, Lock, LockError, MAX_LOCK_LEN, MAX_NODES};
pub use nix::{Nix, NixError, OLDEST, Version};
pub use rules::{Missing, Present, Record, Rule, diagnose};

use evaluate::{Evaluation, Evaluator, Source, Use, in_store};
use perturb::Change;
use realise::Realiser;
use scratch::Scratch;
use select::{Evaluations, Item};

/// What to capture of which flake.
#[derive(Debug, Clone)]
pub struct FlakeRequest {
    /// The flake, as Nix takes it: `.`, `github:owner/name/revision`, `path:/dir?dir=sub`.
    pub flake: String,
    /// The directory that a relative `flake` is relative to.
    pub directory: PathBuf,
    /// The outputs, as attribute paths (`packages.x86_64-linux.default`) or names (`default`). Empty for all
    /// packages, development shells, checks and apps of the system.
    pub attributes: Vec<String>,
    /// The Nix system: `x86_64-linux`.
    pub system: String,
    /// Another store to take built paths from, besides the machine's: what `nix --store` takes.
    pub store: Option<String>,
    /// The directory in which a directory for the capture is made. It must have room for the closure.
    pub scratch: PathBuf,
    /// Whether derivations go in, which makes evaluation in the seed faster.
    pub derivations: bool,
}

/// What an output of the flake is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// To be built: packages and checks.
    Build,
    /// A development shell.
    Develop,
    /// To be run: an app.
    Run,
}

/// An output of the flake that the seed is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, Deserialize)]
pub struct Target {
    /// Its full attribute path: `packages.x86_64-linux.default`.
    pub attribute: String,
    /// What it is for.
    pub purpose: Purpose,
    /// The outputs of its derivation: `out`, `dev`. All of them can be built in the seed.
    pub outputs: BTreeSet<String>,
}

/// The source that was captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceInfo {
    /// The flake, resolved: `git+file:///…`, `github:…`.
    pub url: String,
    /// The commit, if the source is one as it is.
    pub revision: Option<String>,
    /// Hash of the source's NAR as Nix writes it: `sha256-<base 64>`.
    pub nar_hash: String,
    /// Digest of `flake.lock`; none where the flake has no lock, and so no inputs.
    pub lock: Option<Digest>,
}

/// Something that a user should know of a capture that did not fail.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Note {
    /// Evaluation fetches something besides the inputs that it cannot fetch offline.
    Fetches {
        /// What, in the words of Nix's cache of fetched things.
        what: String,
    },
    /// A text of the project names `<nixpkgs>` or a flake by a name alone.
    Lookup {
        /// The file, relative to the source.
        file: PathBuf,
        /// What it has.
        text: &'static str,
    },
    /// With file contents changed the project does not evaluate, so a file that evaluation reads may be
    /// taken for one that never changes.
    ContentIsRead {
        /// Why it does not.
        error: String,
    },
    /// There is no input `nixpkgs` with this package.
    NoProgram {
        /// The package.
        package: &'static str,
        /// What will be missing.
        consequence: &'static str,
    },
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fetches { what } => write!(
                f,
                "evaluation fetches {what} besides the inputs, which fails offline: make it an input of the flake"
            ),
            Self::Lookup { file, text } => write!(
                f,
                "{} has {text}, which can never be found offline: use the input `nixpkgs`",
                file.display()
            ),
            Self::ContentIsRead { error } => write!(
                f,
                "the project does not evaluate with other file contents, so what depends on a file that evaluation \
                 reads may be missing from the seed when that file changes: {error}"
            ),
            Self::NoProgram { package, consequence } => {
                write!(f, "the flake has no input `nixpkgs` with {package}: {consequence}")
            }
        }
    }
}

/// A captured project. Its files are deleted with it.
#[derive(Debug)]
pub struct Captured {
    /// The paths, and what Nix knows of them.
    pub closure: Closure,
    /// What the seed is for.
    pub targets: Vec<Target>,
    /// The project.
    pub source: SourceInfo,
    /// Why each path is there.
    pub record: Record,
    /// Version of the Nix in the closure: `2.8.0`.
    pub nix_version: String,
    /// What the user should know.
    pub notes: Vec<Note>,
    _scratch: Scratch,
}

/// Why a project cannot be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Nix failed.
    #[error(transparent)]
    Nix(#[from] NixError),
    /// The lock is missing or does not fit the flake.
    #[error("the inputs of {flake} are not all locked: run `nix flake lock` and commit flake.lock")]
    Unlocked {
        /// The flake.
        flake: String,
        /// What Nix said, if it was Nix that found out.
        source: Option<NixError>,
    },
    /// The lock cannot be used.
    #[error("cannot capture {flake}")]
    Lock {
        /// The flake.
        flake: String,
        /// What is wrong with its lock.
        source: LockError,
    },
    /// A locked tree did not come out as the lock says.
    #[error("the input {input:?} has no tree with the hash {nar_hash} of flake.lock")]
    InputTree {
        /// The input's entry in the lock.
        input: String,
        /// Its hash.
        nar_hash: String,
    },
    /// There is no such output.
    #[error("the flake has no output {0} that is a derivation or an app")]
    NoOutput(String),
    /// The flake has nothing to capture.
    #[error("the flake has no packages, development shells, checks or apps for {0}")]
    NoOutputs(String),
    /// An attribute path is not one.
    #[error("{0:?} is not an attribute path")]
    Attribute(String),
    /// A file could not be read or written.
    #[error("cannot access {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A derivation could not be read.
    #[error("{path} is not a derivation that can be used")]
    Derivation {
        /// The derivation.
        path: StorePath,
        /// What is wrong with it.
        source: DerivationError,
    },
    /// There are more derivations than are looked at.
    #[error("the outputs are made of more than {0} derivations")]
    TooManyDerivations(usize),
    /// Nix did not say where an output is.
    #[error("the output {output} of {derivation} is nowhere: Nix says {printed:?}")]
    Output {
        /// The derivation.
        derivation: StorePath,
        /// The output.
        output: String,
        /// What Nix said.
        printed: String,
    },
    /// Nix's notes on what it fetched could not be read.
    #[error("cannot read {}", path.display())]
    FetcherCache {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// Nix is installed in a way that it cannot be brought along.
    #[error(
        "{} is neither in /nix/store nor a program whose libraries are known: install a Nix of either kind",
        program.display()
    )]
    NotRelocatable {
        /// The program.
        program: PathBuf,
    },
    /// What was captured is not closed.
    #[error("the captured paths are not a closure")]
    Closure(#[from] ClosureError),
}

/// Captures a flake.
///
/// Two phases: with the network, only what the lock or a hash fixes is fetched, and paths from the
/// configured substituters; then the rest is built without a network.
pub fn flake(request: &FlakeRequest, nix: &Nix, progress: &dyn Progress) -> Result<Captured, CaptureError> {
    let scratch = Scratch::new(&request.scratch);
    let scratch = scratch.map_err(|source| CaptureError::Io { path: request.scratch.clone(), source })?;
    let capture = Capture {
        request,
        nix,
        attributes: attribute_paths(&request.attributes)?,
        dir: scratch.path(),
        root: scratch.path().join("store"),
        substituters: substituters(request.store.as_deref()),
    };

    progress.begin("fetch inputs", 0);
    let project = capture.project()?;
    let inputs = capture.fetch_inputs(&project)?;

    progress.begin("evaluate", 0);
    let original = capture.evaluate("original", &capture.root, &project.source)?;
    let targets = targets(&original, request)?;
    let mut notes = Vec::new();
    let changed = capture.evaluate_changed(&project, &mut notes)?;

    let evaluations = Evaluations {
        original: &original,
        changed: &changed,
        inputs: &inputs,
        with_derivations: request.derivations,
    };
    let mut needed = evaluations.select();
    let nix_path = capture.bring_nix()?;
    needed.add(Item::Path(nix_path.clone()), Rule::Programs);
    let programs = [&original.shell, &original.tools, &original.certificates];
    for used in programs.into_iter().flatten() {
        needed.add_use(used, Rule::Programs);
    }

    let realiser = Realiser {
        nix,
        root: &capture.root,
        substituters: &capture.substituters,
        derivations: &original.derivations,
    };
    progress.begin("fetch", 0);
    realiser.fetch(&needed)?;
    progress.begin("realise", 0);
    let roots = realiser.realise(&needed)?;

    let closure = capture.closure(&original, &nix_path, &roots)?;
    notes.extend(capture.notes(&original, &project)?);
    let references =
        closure.paths.iter().map(|(path, info)| (path.clone(), info.references.clone())).collect();
    Ok(Captured {
        closure,
        targets,
        source: project.info,
        record: Record { roots, references },
        nix_version: nix.full_version().to_owned(),
        notes,
        _scratch: scratch,
    })
}

/// Copies a source tree as a developer would change it: files are added, executable bits turned and, with
/// `contents`, line breaks added wherever evaluation does not parse the file. What depends on the source is
/// then built anew.
pub fn changed_source(from: &Path, to: &Path, contents: bool) -> Result<(), CaptureError> {
    let change = if contents { Change::Content } else { Change::Shape };
    perturb::copy(from, to, change).map_err(|source| CaptureError::Io { path: from.to_owned(), source })
}

/// Copies the source tree `from` to the new directory `to`, changed in every file and directory so that the
/// hash of each part is another, and so that it still evaluates and builds: what proves a seed is built of it.
pub fn perturb(from: &Path, to: &Path) -> io::Result<()> {
    perturb::copy(from, to, Change::Shape)
}

/// Captures plain store paths, with all that they refer to, from the store below `root` (`/` is the
/// machine's own).
pub fn paths(paths: &[StorePath], root: &Path) -> Result<Closure, CaptureError> {
    let store = Store::open(root)?;
    closure_of(&store, paths.iter().cloned(), Programs::default())
}

fn closure_of(
    store: &Store,
    roots: impl IntoIterator<Item = StorePath>,
    programs: Programs,
) -> Result<Closure, CaptureError> {
    let paths = store.closure(roots)?;
    let realisations = store.realisations(&paths)?;
    let closure = Closure { real_store: store.directory(), paths, realisations, programs };
    closure.check()?;
    Ok(closure)
}

/// The machine's own store, and another one before it if there is one. What is there is trusted: the user
/// could build from it, too.
fn substituters(store: Option<&str>) -> Vec<String> {
    let trusted = |store: &str| {
        let separator = if store.contains('?') { '&' } else { '?' };
        format!("{store}{separator}trusted=1")
    };
    store.into_iter().chain(["auto"]).map(trusted).collect()
}

/// Takes `a.b."c.d"` apart.
fn attribute_paths(attributes: &[String]) -> Result<Vec<Vec<String>>, CaptureError> {
    attributes.iter().map(|attribute| attribute_path(attribute)).collect()
}

fn attribute_path(attribute: &str) -> Result<Vec<String>, CaptureError> {
    let malformed = || CaptureError::Attribute(attribute.to_owned());
    let (mut names, mut name, mut quoted) = (Vec::new(), String::new(), false);
    for c in attribute.chars() {
        match c {
            '"' => quoted = !quoted,
            '.' if !quoted => names.push(std::mem::take(&mut name)),
            c => name.push(c),
        }
    }
    names.push(name);
    if quoted || names.iter().any(String::is_empty) { Err(malformed()) } else { Ok(names) }
}

/// The attribute path as Nix takes it.
fn joined(names: &[String]) -> String {
    let plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "-_'".contains(c));
    let names = names.iter().map(|name| if plain(name) { name.clone() } else { format!("{name:?}") });
    names.collect::<Vec<_>>().join(".")
}

fn targets(evaluation: &Evaluation, request: &FlakeRequest) -> Result<Vec<Target>, CaptureError> {
    if evaluation.targets.is_empty() {
        return Err(CaptureError::NoOutputs(request.system.clone()));
    }
    let target = |target: &evaluate::EvaluatedTarget| {
        let attribute = joined(&target.attribute);
        let uses = target.uses.as_ref().ok_or_else(|| CaptureError::NoOutput(attribute.clone()))?;
        let purpose = match target.attribute.first().map(String::as_str) {
            Some("devShells") => Purpose::Develop,
            Some("apps") => Purpose::Run,
            _ => Purpose::Build,
        };
        let outputs = uses.iter().flat_map(|used: &Use| used.outputs.iter().cloned()).collect();
        Ok(Target { attribute, purpose, outputs })
    };
    evaluation.targets.iter().map(target).collect()
}

/// The project in the capture's store.
struct Project {
    source: Source,
    /// Where in the source the flake is; empty for its top.
    directory: String,
    lock: Lock,
    info: SourceInfo,
}

struct Capture<'a> {
    request: &'a FlakeRequest,
    nix: &'a Nix,
    attributes: Vec<Vec<String>>,
    dir: &'a Path,
    /// The chroot store that will hold the closure.
    root: PathBuf,
    substituters: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    path: StorePath,
    resolved_url: Option<String>,
    url: Option<String>,
    revision: Option<String>,
    locked: LockedSource,
    /// The lock as Nix would have it.
    locks: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LockedSource {
    nar_hash: Option<String>,
    dir: Option<String>,
}

#[derive(Deserialize)]
struct Archive {
    path: Option<StorePath>,
    #[serde(default)]
    inputs: BTreeMap<String, Archive>,
}

impl Capture<'_> {
    /// Copies the project's source to the store and reads its lock.
    fn project(&self) -> Result<Project, CaptureError> {
        let flake = &self.request.flake;
        let metadata = self.metadata(&self.root, flake, &self.substituters)?;
        let directory = metadata.locked.dir.clone().unwrap_or_default();
        let tree = real_path(&self.root, &metadata.path);
        let file = tree.join(&directory).join("flake.lock");
        let text = read_lock(&file).map_err(|source| CaptureError::Io { path: file, source })?;
        let failed = |source| CaptureError::Lock { flake: flake.clone(), source };
        let lock = text.as_deref().map_or_else(|| Ok(Lock::empty()), Lock::parse).map_err(failed)?;
        // Nix 2.8 makes up for what a lock lacks, whatever it is told.
        let complete = Lock::parse(metadata.locks.to_string().as_bytes()).map_err(failed)?;
        if complete != lock {
            return Err(CaptureError::Unlocked { flake: flake.clone(), source: None });
        }
        let nar_hash = self.nar_hash(&self.root, &metadata)?;
        Ok(Project {
            source: Source::new(metadata.path, &nar_hash, &directory, "lastModified=1"),
            directory,
            lock,
            info: SourceInfo {
                url: metadata.resolved_url.or(metadata.url).unwrap_or_else(|| flake.clone()),
                revision: metadata.revision,
                nar_hash,
                lock: text.as_deref().map(Digest::of),
            },
        })
    }

    fn metadata(&self, root: &Path, flake: &str, substituters: &[String]) -> Result<Metadata, CaptureError> {
        let flake = match flake.split(['#', '?']).next() {
            Some(path) if path == "." || path.starts_with("./") || path.starts_with("../") => {
                format!("{}/{flake}", self.request.directory.display())
            }
            _ => flake.to_owned(),
        };
        let command = in_store(self.nix.command("nix"), root, substituters)
            .args(["flake", "metadata", "--json", "--no-update-lock-file", "--no-write-lock-file"])
            .arg(&flake);
        command.json().map_err(|error| match error {
            NixError::Failed { ref stderr, .. } if stderr.contains("--no-update-lock-file") => {
                CaptureError::Unlocked { flake: self.request.flake.clone(), source: Some(error) }
            }
            error => error.into(),
        })
    }

    /// The hash of the source's NAR; where Nix does not say it, as it is in the store's database.
    fn nar_hash(&self, root: &Path, metadata: &Metadata) -> Result<String, CaptureError> {
        if let Some(nar_hash) = &metadata.locked.nar_hash {
            return Ok(nar_hash.clone());
        }
        let digest = Store::open(root)?.path_info(&metadata.path)?.nar_hash;
        Ok(format!("sha256-{}", data_encoding::BASE64.encode(digest.as_bytes())))
    }

    /// Rule 1: the trees of all locked inputs, in the store.
    fn fetch_inputs(&self, project: &Project) -> Result<BTreeSet<StorePath>, CaptureError> {
        let command = in_store(self.nix.command("nix"), &self.root, &self.substituters)
            .args(["flake", "archive", "--json", "--no-update-lock-file", "--no-write-lock-file"])
            .arg(&project.source.url);
        let archive: Archive = command.json()?;
        let mut trees = BTreeSet::new();
        let mut todo: Vec<_> = archive.inputs.into_values().collect();
        while let Some(archive) = todo.pop() {
            trees.extend(archive.path);
            todo.extend(archive.inputs.into_values());
        }
        // The project's own tree may be an input of an input, by `follows`.
        trees.remove(&project.source.path);
        self.check_inputs(project, &trees)?;
        Ok(trees)
    }

    fn check_inputs(&self, project: &Project, trees: &BTreeSet<StorePath>) -> Result<(), CaptureError> {
        let store = Store::open(&self.root)?;
        let mut hashes = BTreeSet::from([project.info.nar_hash.clone()]);
        for tree in trees {
            let digest = store.path_info(tree)?.nar_hash;
            hashes.insert(format!("sha256-{}", data_encoding::BASE64.encode(digest.as_bytes())));
        }
        for (name, input) in project.lock.inputs() {
            if let Some(nar_hash) = input.nar_hash.as_ref().filter(|hash| !hashes.contains(*hash)) {
                let (input, nar_hash) = (name.clone(), nar_hash.clone());
                return Err(CaptureError::InputTree { input, nar_hash });
            }
        }
        Ok(())
    }

    fn evaluate(&self, name: &str, root: &Path, source: &Source) -> Result<Evaluation, CaptureError> {
        let mut substituters = self.substituters.clone();
        if root != self.root {
            substituters.insert(0, format!("{}?trusted=1", self.root.display()));
        }
        let evaluator = Evaluator {
            nix: self.nix,
            system: &self.request.system,
            attributes: &self.attributes,
            root,
            cache: self.dir.join(format!("cache-{name}")),
            substituters: &substituters,
        };
        evaluator.evaluate(source)
    }

    /// Evaluates the project with its source changed, in each of the ways that it still evaluates.
    fn evaluate_changed(
        &self,
        project: &Project,
        notes: &mut Vec<Note>,
    ) -> Result<Vec<Evaluation>, CaptureError> {
        let mut changed = vec![self.evaluate_change("shape", project, Change::Shape)?];
        match self.evaluate_change("content", project, Change::Content) {
            Ok(evaluation) => changed.push(evaluation),
            Err(CaptureError::Nix(NixError::Failed { stderr, .. })) => {
                let error = stderr.lines().rfind(|line| line.contains("error:")).unwrap_or(&stderr);
                notes.push(Note::ContentIsRead { error: error.trim().to_owned() });
            }
            Err(error) => return Err(error),
        }
        Ok(changed)
    }

    fn evaluate_change(
        &self,
        name: &str,
        project: &Project,
        change: Change,
    ) -> Result<Evaluation, CaptureError> {
        let copy = self.dir.join(format!("source-{name}"));
        let tree = real_path(&self.root, &project.source.path);
        let copied = perturb::copy(&tree, &copy, change);
        copied.map_err(|source| CaptureError::Io { path: copy.clone(), source })?;
        let root = self.dir.join(format!("store-{name}"));
        let mut reference = format!("path:{}", copy.display());
        if !project.directory.is_empty() {
            reference.push_str(&format!("?dir={}", project.directory));
        }
        let substituters = [format!("{}?trusted=1", self.root.display())];
        let metadata = self.metadata(&root, &reference, &substituters)?;
        let nar_hash = self.nar_hash(&root, &metadata)?;
        // A commit, of another day: what depends on either is the project's own, too.
        let attributes = "lastModified=86401&rev=5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed&revCount=5";
        let source = Source::new(metadata.path, &nar_hash, &project.directory, attributes);
        self.evaluate(name, &root, &source)
    }

    /// Nix itself, in the store: as it is, or made into a store path.
    fn bring_nix(&self) -> Result<StorePath, CaptureError> {
        let program = self.nix.program();
        let resolved = program.canonicalize();
        let resolved = resolved.map_err(|source| CaptureError::Io { path: program.to_owned(), source })?;
        if let Some(path) = containing_store_path(&resolved) {
            return Ok(path);
        }
        let laid_out = self.dir.join(format!("nix-{}", self.nix.full_version()));
        relocate::lay_out(&resolved, &laid_out)?;
        let added = in_store(self.nix.command("nix-store"), &self.root, &self.substituters)
            .arg("--add")
            .arg(&laid_out)
            .output()?;
        let added = String::from_utf8_lossy(&added);
        added.trim().parse().map_err(|_| CaptureError::NotRelocatable { program: resolved })
    }

    fn closure(
        &self,
        evaluation: &Evaluation,
        nix: &StorePath,
        roots: &BTreeMap<StorePath, BTreeSet<Rule>>,
    ) -> Result<Closure, CaptureError> {
        let output = |used: &Option<Use>, file: &str| {
            let used = used.as_ref()?;
            let outputs = evaluation.derivations[&used.derivation].outputs.iter();
            let paths = outputs.filter(|(name, _)| used.outputs.contains(*name));
            let mut paths = paths.filter_map(|(_, output)| output.path.as_ref());
            paths.find(|path| real_path(&self.root, path).join(file).symlink_metadata().is_ok()).cloned()
        };
        let programs = Programs {
            nix: Some(nix.clone()),
            shell: output(&evaluation.shell, "bin/bash"),
            env: output(&evaluation.tools, "bin/env"),
            certificates: output(&evaluation.certificates, "etc/ssl/certs/ca-bundle.crt"),
        };
        closure_of(&Store::open(&self.root)?, roots.keys().cloned(), programs)
    }

    fn notes(&self, evaluation: &Evaluation, project: &Project) -> Result<Vec<Note>, CaptureError> {
        let mut notes: Vec<_> =
            evaluation.fetched.iter().map(|what| Note::Fetches { what: what.clone() }).collect();
        for (package, found, consequence) in [
            (
                "bashInteractive",
                evaluation.shell.is_some(),
                "`/bin/sh` will be missing, and `nix develop` will look for a shell in vain",
            ),
            ("coreutils", evaluation.tools.is_some(), "`/usr/bin/env` will be missing"),
            ("cacert", evaluation.certificates.is_some(), "there will be no CA certificates"),
        ] {
            if !found {
                notes.push(Note::NoProgram { package, consequence });
            }
        }
        let tree = real_path(&self.root, &project.source.path);
        find_lookups(&tree, &tree, &mut notes)
            .map_err(|source| CaptureError::Io { path: tree.clone(), source })?;
        Ok(notes)
    }
}

fn real_path(root: &Path, path: &StorePath) -> PathBuf {
    root.join("nix/store").join(path.base_name())
}

fn containing_store_path(file: &Path) -> Option<StorePath> {
    let base = file.strip_prefix("/nix/store").ok()?.components().next()?;
    StorePath::from_base_name(base.as_os_str().to_str()?).ok()
}

fn read_lock(file: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match fs::File::open(file) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // One byte more than is allowed, for the parser to refuse.
    let mut text = Vec::new();
    file.take(MAX_LOCK_LEN as u64 + 1).read_to_end(&mut text)?;
    Ok(Some(text))
}

/// What can never be found offline, and where it is tried. Pure evaluation would refuse it, so it is in
/// texts that are not evaluated with the flake, or only on some paths.
const LOOKUPS: &[&str] = &["<nixpkgs>", "getFlake \"nixpkgs\""];

fn find_lookups(tree: &Path, dir: &Path, notes: &mut Vec<Note>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            find_lookups(tree, &path, notes)?;
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "nix") {
            let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
            for lookup in LOOKUPS.iter().filter(|lookup| text.contains(**lookup)) {
                let file = path.strip_prefix(tree).unwrap_or(&path).to_owned();
                notes.push(Note::Lookup { file, text: lookup });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_attribute_paths_apart() {
        let names = |text: &str| attribute_path(text).ok();
        let strings = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(names("default"), strings(&["default"]));
        assert_eq!(names("packages.x86_64-linux.\"a.b\""), strings(&["packages", "x86_64-linux", "a.b"]));
        for text in ["", ".", "a..b", "a.", "\"a"] {
            assert_eq!(names(text), None, "{text:?}");
        }
        let path = attribute_path("packages.\"a.b\"").unwrap();
        assert_eq!(joined(&path), "packages.\"a.b\"");
    }

    #[test]
    fn trusts_the_stores_of_the_machine() {
        assert_eq!(substituters(None), ["auto?trusted=1"]);
        assert_eq!(substituters(Some("/x?a=b")), ["/x?a=b&trusted=1", "auto?trusted=1"]);
    }

    #[test]
    fn knows_what_is_in_the_store() {
        let base = "00bgd045z0d4icpbc2yyz4gx48ak44la-nix-2.8.0";
        let path = containing_store_path(Path::new(&format!("/nix/store/{base}/bin/nix"))).unwrap();
        assert_eq!(path.base_name(), base);
        assert_eq!(containing_store_path(Path::new("/usr/bin/nix")), None);
    }
}
