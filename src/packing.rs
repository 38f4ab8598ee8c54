//! From a closure to a seed in its place, and what is recorded of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use seed_format::{Digest, StorePath};
use seed_image::capture::{self, Captured, FlakeRequest, Nix, Note};
use seed_image::closure::Closure;
use seed_image::manifest::RunConfig;
use seed_image::pack::{self, LayerReport, Options, Packed, Role};
use seed_image::reference::Reference;
use seed_image::rootfs::Additions;
use seed_image::seed::label;
use seed_image::transport::Transport;
use seed_policy::System;
use serde::Serialize;

use crate::error::{Result, ResultExt, failed, usage};
use crate::gate::Origin;
use crate::place::{self, Place};
use crate::printer::{Phases, bytes};
use crate::project::Project;
use crate::session::{Judge, Session};
use crate::temporary::Temporary;
use crate::{checking, nix_settings, statement};

/// How to make the layers and the image.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shape {
    /// The zstd level.
    pub(crate) level: Option<i32>,
    /// The most layers.
    pub(crate) max_layers: Option<usize>,
    /// What the image runs.
    pub(crate) run: RunConfig,
    /// The image that the seed lies above.
    pub(crate) base: Option<Reference>,
    /// What is added to the root file system.
    pub(crate) additions: Additions,
}

/// A seed that was packed.
#[derive(Debug, Serialize)]
pub(crate) struct PackedSeed {
    /// Where it is, by its digest.
    pub(crate) reference: String,
    pub(crate) digest: Digest,
    pub(crate) system: System,
    /// Bytes of all blobs.
    size: u64,
    /// Bytes of the blobs that were made anew.
    new_size: u64,
    layers: Vec<Layer>,
    /// Seconds of each phase.
    phases: BTreeMap<&'static str, f64>,
    /// Digest of the core statement that lies beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) statement: Option<Digest>,
}

/// One layer, as `seed pack --json` tells of it.
#[derive(Debug, Serialize)]
struct Layer {
    role: &'static str,
    digest: Digest,
    size: u64,
    uncompressed_size: u64,
    paths: usize,
    /// Whether it was there already and did not have to be made.
    reused: bool,
}

/// What to pack of a project, and how.
#[derive(Debug, Clone)]
pub(crate) struct ProjectPack<'a> {
    /// The outputs; all, where none is named.
    pub(crate) attributes: Vec<String>,
    pub(crate) system: System,
    /// Another store to take built paths from.
    pub(crate) store: Option<String>,
    pub(crate) shape: Shape,
    pub(crate) to: Reference,
    /// Whether to prove that the outputs can be built in the seed.
    pub(crate) check: bool,
    /// A file for the core statement.
    pub(crate) statement: Option<&'a Path>,
    /// Whether to record the digest in the project's lock.
    pub(crate) lock: bool,
}

impl<'a> ProjectPack<'a> {
    /// What `seed build` packs where no seed is recorded.
    fn usual(system: &System, to: Reference) -> Self {
        Self {
            attributes: Vec::new(),
            system: system.clone(),
            store: None,
            shape: Shape::default(),
            to,
            check: true,
            statement: None,
            lock: true,
        }
    }
}

/// Finds the seed of a project, packing and recording one where none is known.
pub(crate) fn find_or_pack(
    session: &Session<'_>,
    project: &Project,
    system: &System,
    written: Option<&Reference>,
    judge: &Judge,
    commit: bool,
) -> Result<(Reference, Origin)> {
    let to = match place::find(session, project, system, written, judge.allow_tag)? {
        Place::Known(reference, origin) => return Ok((reference, origin)),
        Place::Unpacked(to) => to,
    };
    session.printer.note(format_args!("no seed is recorded for {system}: packing one to {to}"));
    let packed = pack_project(session, project, &ProjectPack::usual(system, to.clone()))?;
    if commit {
        project.commit_lock(&format!("seed: Record {} for {system}", packed.digest))?;
    } else {
        session.printer.note(format_args!("recorded in {}: commit it", project.lock_file().path().display()));
    }
    Ok((to.with_digest(packed.digest), Origin::Packed))
}

/// Packs a project's closure, proves it complete, puts its statement beside it and records it.
pub(crate) fn pack_project(
    session: &Session<'_>,
    project: &Project,
    request: &ProjectPack<'_>,
) -> Result<PackedSeed> {
    check_destination(&request.to)?;
    let phases = Phases::new(session.printer);
    let scratch = Temporary::new(session, "capture")?;
    let nix = Nix::find()?;
    let flake = FlakeRequest {
        flake: ".".into(),
        directory: project.dir.clone(),
        attributes: request.attributes.clone(),
        system: request.system.to_string(),
        store: request.store.clone(),
        scratch: scratch.path().to_owned(),
        derivations: true,
    };
    let captured = capture::flake(&flake, &nix, &phases)
        .context(|| format!("cannot capture the flake in {}", project.dir.display()))?;
    phases.end();
    for note in &captured.notes {
        session.printer.warn(note);
    }

    checking::remember(session, project, &nix, &captured, &request.system);

    let transport = session.open(&request.to.location)?;
    let labels = labels(&captured)?;
    let (system, shape) = (&request.system, &request.shape);
    let mut seed = pack(session, &captured.closure, system, labels, shape, &request.to, transport.as_ref())?;
    seed.statement = state(session, project, &seed, request.statement, transport.as_ref())?;
    // After the statement: the policy that judges the seed here may want one.
    let here = System::current();
    if request.check && *system != here {
        session.printer.warn(format_args!(
            "the seed is not checked: it is for {system}, and this machine is {here}; \
             run `seed check` on one of its kind"
        ));
    } else if request.check {
        let contents = !captured.notes.iter().any(|note| matches!(note, Note::ContentIsRead { .. }));
        let reference = request.to.with_digest(seed.digest);
        checking::prove(session, project, &reference, Some(&captured.record), contents)?;
    }
    if request.lock {
        project.lock_file().record(system, seed.digest)?;
    }
    Ok(seed)
}

fn labels(captured: &Captured) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::from([
        (label::TARGETS.to_owned(), serde_json::to_string(&captured.targets)?),
        (label::NIX_VERSION.to_owned(), captured.nix_version.clone()),
    ]);
    if !captured.features.is_empty() {
        labels.insert(label::NIX_FEATURES.to_owned(), captured.features.join(" "));
    }
    if let Some(cache) = &captured.fetcher_cache {
        labels.insert(label::FETCHER_CACHE.to_owned(), cache.to_string());
    }
    if let Some(lock) = captured.source.lock {
        labels.insert(label::FLAKE_LOCK.to_owned(), lock.to_string());
    }
    Ok(labels)
}

/// Says which version of Nix a seed of plain store paths brings, where the path's name says it.
pub(crate) fn nix_labels(nix: &StorePath) -> BTreeMap<String, String> {
    let version =
        nix.name().strip_prefix("nix-").filter(|text| text.starts_with(|c: char| c.is_ascii_digit()));
    version.map(|version| (label::NIX_VERSION.to_owned(), version.to_owned())).into_iter().collect()
}

/// Puts the core statement beside the seed, and into `file`. Gives its digest, where one can be made.
fn state(
    session: &Session<'_>,
    project: &Project,
    seed: &PackedSeed,
    file: Option<&Path>,
    transport: &dyn Transport,
) -> Result<Option<Digest>> {
    let statement = statement::of_seed(project, seed.digest, &seed.system, nix_settings::read()?)?;
    let Some(statement) = statement else {
        session.printer.note("no core statement: the source is not a clean commit of a git repository");
        return Ok(None);
    };
    if let Some(file) = file {
        std::fs::write(file, statement.to_bytes()?).context(|| format!("cannot write {}", file.display()))?;
    }
    let digest = statement::publish(transport, &statement)
        .context(|| "cannot put the core statement beside the seed")?;
    Ok(Some(digest))
}

/// Refuses a destination that no seed can be packed to.
pub(crate) fn check_destination(to: &Reference) -> Result<()> {
    match to.digest {
        Some(_) => {
            Err(usage(format!("{to} has a digest, and the digest of a seed is what packing finds out")))
                .hint("name the place only: oci:DIR[:TAG] or HOST/REPOSITORY[:TAG]")
        }
        None => Ok(()),
    }
}

/// Packs `closure` and puts it where `to` says.
pub(crate) fn pack(
    session: &Session<'_>,
    closure: &Closure,
    system: &System,
    labels: BTreeMap<String, String>,
    shape: &Shape,
    to: &Reference,
    transport: &dyn Transport,
) -> Result<PackedSeed> {
    let mut options = Options::new(system.as_str());
    options.labels = labels;
    options.run = shape.run.clone();
    options.additions = shape.additions.clone();
    if let Some(base) = &shape.base {
        let place = session.open(&base.location)?;
        let resolved = session.resolve(place.as_ref(), base)?;
        let digest = resolved.digest.ok_or_else(|| failed(format!("{resolved} names no digest")))?;
        options.above(place, digest).context(|| format!("cannot use {resolved} as the base image"))?;
    }
    let scratch = Temporary::new(session, "pack")?;
    options.scratch = scratch.path().to_owned();
    options.records = Some(session.pack_records());
    if let Some(level) = shape.level {
        options.compression.level = level;
    }
    if let Some(layers) = shape.max_layers {
        options.limits.layers = layers;
    }
    let phases = Phases::new(session.printer);
    let packed = pack::pack(closure, &options, transport, to.tag.as_deref(), &phases)
        .context(|| format!("cannot pack to {to}"))?;
    let seed = PackedSeed::new(&packed, system, to, phases.end());
    session.printer.note(seed.summary());
    Ok(seed)
}

impl PackedSeed {
    fn new(packed: &Packed, system: &System, to: &Reference, phases: Vec<(&'static str, Duration)>) -> Self {
        let layers: Vec<_> = packed.layers.iter().map(Layer::new).collect();
        Self {
            reference: to.with_digest(packed.digest).to_string(),
            digest: packed.digest,
            system: system.clone(),
            size: packed.size(),
            new_size: layers.iter().filter(|layer| !layer.reused).map(|layer| layer.size).sum(),
            layers,
            phases: phases.into_iter().map(|(name, took)| (name, took.as_secs_f64())).collect(),
            statement: None,
        }
    }

    /// What was made, in words: how many layers, and which of them anew.
    fn summary(&self) -> String {
        let made = self.layers.iter().filter(|layer| !layer.reused);
        let paths: usize = self.layers.iter().map(|layer| layer.paths).sum();
        let mut text = format!("{paths} paths in {} layers, {}", self.layers.len(), bytes(self.size));
        if self.layers.iter().any(|layer| layer.reused) {
            text.push_str(&format!("; made anew, {}:", bytes(self.new_size)));
            for layer in made {
                text.push_str(&format!("\n  {} {:>10}  {}", layer.digest, bytes(layer.size), layer.role));
                if layer.paths > 0 {
                    text.push_str(&format!(", {} paths", layer.paths));
                }
            }
        }
        text
    }
}

impl Layer {
    fn new(report: &LayerReport) -> Self {
        Self {
            role: report.role.name(),
            digest: report.descriptor.digest,
            size: report.descriptor.size,
            uncompressed_size: report.uncompressed_size,
            paths: if report.role == Role::Store { report.paths.len() } else { 0 },
            reused: report.reused,
        }
    }
}

impl std::fmt::Display for PackedSeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reference)
    }
}
