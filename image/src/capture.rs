//! What a project needs to be built offline, from its flake: evaluated, fetched, built and described.
//!
//! Everything happens in chroot stores of the capture's own, which begin empty and take built paths from the
//! machine's store, or leave them there: so the result follows from the flake, its lock and Nix alone,
//! whatever else the machine has. The project is evaluated as it is and with its source changed. What differs is the *project's own*,
//! and is built in the seed; what its derivations are made of goes in.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use seed_format::{Digest, StorePath};
use serde::Deserialize;

use crate::closure::{Closure, Programs};
use crate::derivation::Derivation;
use crate::progress::Progress;
use crate::store::Store;

mod attribute;
mod error;
mod evaluate;
mod fetchers;
mod graft;
mod kept_record;
mod lender;
mod lock;
mod nix;
mod note;
mod perturb;
mod plain;
mod project;
mod realise;
mod relocate;
mod rules;
mod scratch;
mod select;

pub use error::CaptureError;
pub use kept_record::{CaptureInputs, KeptRecords, source_hash};
pub use lock::{Input, Lock, LockError, MAX_LOCK_LEN, MAX_NODES};
pub use nix::{Nix, NixError, OLDEST, Version};
pub use note::Note;
pub use plain::{paths, paths_with_nix};
pub use rules::{Missing, Present, Record, Rule, diagnose};
pub use scratch::make_writable;

use attribute::{attribute_paths, targets};
use evaluate::{Evaluation, Evaluator, Source, Use, in_store};
use lender::Lender;
use note::find_lookups;
use perturb::Change;
use project::Project;
use realise::{Realised, Realiser};
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
    /// Experimental features of Nix that the outputs need besides flakes: `ca-derivations`.
    pub features: Vec<&'static str>,
    /// The path of the closure that has Nix's cache of fetched things, where evaluation fetches more than the
    /// inputs. It belongs to `$XDG_CACHE_HOME/nix`.
    pub fetcher_cache: Option<StorePath>,
    /// What the user should know.
    pub notes: Vec<Note>,
    _scratch: Scratch,
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
    let lender = Lender::of(request);
    let inputs = capture.fetch_inputs(&project, lender.as_ref())?;

    progress.begin("evaluate", 0);
    let original = capture.evaluate("original", &capture.root, &project.source)?;
    let targets = targets(&original, request)?;
    let mut notes = Vec::new();
    let changed = capture.evaluate_changed(&project, &inputs, &mut notes)?;

    let evaluations = Evaluations {
        original: &original,
        changed: &changed,
        inputs: &inputs,
        with_derivations: request.derivations,
    };
    let mut needed = evaluations.select();
    let nix_path = capture.bring_nix()?;
    needed.add(Item::Path(nix_path.clone()), Rule::Programs);
    let fetcher_cache = capture.bring_fetcher_cache(&original)?;
    if let Some(cache) = &fetcher_cache {
        needed.add(Item::Path(cache.clone()), Rule::Fetches);
    }
    let programs = [&original.shell, &original.tools, &original.certificates];
    for used in programs.into_iter().flatten() {
        needed.add_use(used, Rule::Programs);
    }

    let realiser = Realiser {
        nix,
        root: &capture.root,
        substituters: &capture.substituters,
        lender: lender.as_ref(),
        derivations: &original.derivations,
    };
    progress.begin("fetch", 0);
    let lent = realiser.fetch(&needed)?;
    progress.begin("realise", 0);
    let realised = realiser.realise(&needed, &lent)?;

    let mut closure = capture.closure(&original, &nix_path, &realised, lender.as_ref())?;
    if !realised.noted.is_empty() {
        let notes = scratch.path().join("store-notes");
        realiser.tell(&needed, &notes)?;
        let noted = realised.noted.values().cloned().collect();
        closure.realisations = Store::open(&notes)?.realisations(&closure.paths, &noted)?;
        closure.check()?;
    }
    notes.extend(capture.notes(&original, &project)?);
    let record = Record::new(realised.roots, &closure);
    Ok(Captured {
        closure,
        targets,
        source: project.info,
        record,
        nix_version: nix.full_version().to_owned(),
        features: features(&original),
        fetcher_cache,
        notes,
        _scratch: scratch,
    })
}

/// What Nix must be allowed to do to build the outputs.
fn features(evaluation: &Evaluation) -> Vec<&'static str> {
    if evaluation.derivations.values().any(Derivation::is_placeless) {
        vec!["ca-derivations"]
    } else {
        Vec::new()
    }
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

/// The machine's own store, and another one before it if there is one. What is there is trusted: the user
/// could build from it, too.
fn substituters(store: Option<&str>) -> Vec<String> {
    let trusted = |store: &str| {
        let separator = if store.contains('?') { '&' } else { '?' };
        format!("{store}{separator}trusted=1")
    };
    store.into_iter().chain(["auto"]).map(trusted).collect()
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

impl Capture<'_> {
    fn evaluate(&self, name: &str, root: &Path, source: &Source) -> Result<Evaluation, CaptureError> {
        let mut substituters = self.substituters.clone();
        let is_original = root == self.root;
        if !is_original {
            substituters.insert(0, format!("{}?trusted=1", self.root.display()));
        }
        let evaluator = Evaluator {
            nix: self.nix,
            system: &self.request.system,
            attributes: &self.attributes,
            root,
            cache: self.dir.join(format!("cache-{name}")),
            substituters: &substituters,
            // Of what is changed only its derivations count.
            tell_imports: is_original,
        };
        evaluator.evaluate(source)
    }

    /// Evaluates the project with its source changed, in each of the ways that it still evaluates.
    fn evaluate_changed(
        &self,
        project: &Project,
        inputs: &BTreeSet<StorePath>,
        notes: &mut Vec<Note>,
    ) -> Result<Vec<Evaluation>, CaptureError> {
        let mut changed = vec![self.evaluate_change("shape", project, inputs, Change::Shape)?];
        match self.evaluate_change("content", project, inputs, Change::Content) {
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
        inputs: &BTreeSet<StorePath>,
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
        // The trees of the inputs, which are large, are never made twice: they move there and back.
        let moved = graft::move_paths(inputs, &self.root, &root)?;
        let evaluation = self.evaluate(name, &root, &source);
        graft::move_back(&moved, &root, &self.root)?;
        evaluation
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
        self.add_to_store(&laid_out)
    }

    /// Nix's cache of what evaluation fetched besides the inputs, in the store.
    fn bring_fetcher_cache(&self, evaluation: &Evaluation) -> Result<Option<StorePath>, CaptureError> {
        if !evaluation.fetched.is_needed() {
            return Ok(None);
        }
        let cache = self.dir.join("fetcher-cache");
        evaluation.fetched.write(&cache)?;
        self.add_to_store(&cache).map(Some)
    }

    fn add_to_store(&self, directory: &Path) -> Result<StorePath, CaptureError> {
        let added = in_store(self.nix.command("nix-store"), &self.root, &self.substituters)
            .arg("--add")
            .arg(directory)
            .output()?;
        let printed = String::from_utf8_lossy(&added);
        printed.trim().parse().map_err(|_| CaptureError::NotAdded {
            directory: directory.to_owned(),
            printed: printed.chars().take(256).collect(),
        })
    }

    fn closure(
        &self,
        evaluation: &Evaluation,
        nix: &StorePath,
        realised: &Realised,
        lender: Option<&Lender>,
    ) -> Result<Closure, CaptureError> {
        let mut closure = lender::closure(&Store::open(&self.root)?, lender, realised.roots.keys().cloned())?;
        let output = |used: &Option<Use>, file: &str| {
            let used = used.as_ref()?;
            let outputs = evaluation.derivations[&used.derivation].outputs.iter();
            let wanted = outputs.filter(|(name, _)| used.outputs.contains(*name));
            let mut paths = wanted.filter_map(|(name, output)| {
                let noted = || realised.noted.get(&(used.derivation.clone(), name.clone()));
                output.path.as_ref().or_else(noted)
            });
            paths.find(|path| closure.real_path(path).join(file).symlink_metadata().is_ok()).cloned()
        };
        closure.programs = Programs {
            nix: Some(nix.clone()),
            shell: output(&evaluation.shell, "bin/bash"),
            env: output(&evaluation.tools, "bin/env"),
            certificates: output(&evaluation.certificates, "etc/ssl/certs/ca-bundle.crt"),
        };
        closure.check()?;
        Ok(closure)
    }

    fn notes(&self, evaluation: &Evaluation, project: &Project) -> Result<Vec<Note>, CaptureError> {
        let mut notes = Vec::new();
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

/// A hash as Nix writes it in a lock.
fn sri(digest: &Digest) -> String {
    format!("sha256-{}", data_encoding::BASE64.encode(digest.as_bytes()))
}

fn real_path(root: &Path, path: &StorePath) -> PathBuf {
    root.join("nix/store").join(path.base_name())
}

fn containing_store_path(file: &Path) -> Option<StorePath> {
    let base = file.strip_prefix("/nix/store").ok()?.components().next()?;
    StorePath::from_base_name(base.as_os_str().to_str()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

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
