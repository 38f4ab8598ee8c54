//! From a closure to a seed in its place, and what is recorded of it.

use std::collections::BTreeMap;
use std::time::Duration;

use seed_format::Digest;
use seed_image::closure::Closure;
use seed_image::manifest::RunConfig;
use seed_image::pack::{self, LayerReport, Options, Packed, Role};
use seed_image::reference::Reference;
use seed_image::transport::Transport;
use seed_policy::System;
use serde::Serialize;

use crate::error::{Result, ResultExt, usage};
use crate::printer::{Phases, bytes};
use crate::session::Session;

/// How to make the layers and the image.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shape {
    /// The zstd level.
    pub(crate) level: Option<i32>,
    /// The most layers.
    pub(crate) max_layers: Option<usize>,
    /// What the image runs.
    pub(crate) run: RunConfig,
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
    options.records = Some(session.config.cache.dir.join("pack"));
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
