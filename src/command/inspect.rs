//! `seed inspect`.

use std::fmt;

use seed_format::{Digest, StorePath};
use seed_image::reference::Reference;
use seed_image::seed::label;
use serde::Serialize;

use crate::error::{Result, ResultExt};
use crate::gate::{self, Located};
use crate::printer::bytes;
use crate::session::Session;

/// Show what a seed is: its system, its layers, its paths
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed inspect oci:./seeds:main
  seed inspect ghcr.io/acme/app.seed:main --paths --json")]
pub(crate) struct Args {
    /// The seed
    #[arg(value_name = "REF")]
    seed: Reference,
    /// List the store paths too
    #[arg(long)]
    paths: bool,
}

#[derive(Debug, Serialize)]
struct Inspection {
    reference: String,
    digest: Digest,
    system: Option<String>,
    /// Store path of the Nix that the seed brings.
    nix: Option<String>,
    nix_version: Option<String>,
    flake_lock: Option<String>,
    compressor: Option<String>,
    /// The outputs that the seed was made for, as its maker wrote them.
    targets: Option<serde_json::Value>,
    layers: Vec<Layer>,
    /// Bytes of all layers, the index's included.
    size: u64,
    /// Bytes of all files.
    unpacked_size: u64,
    chunks: u32,
    path_count: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    paths: Option<Vec<Path>>,
}

#[derive(Debug, Serialize)]
struct Layer {
    digest: Digest,
    media_type: String,
    size: u64,
}

#[derive(Debug, Serialize)]
struct Path {
    path: StorePath,
    nar_hash: Digest,
    nar_size: u64,
    references: Vec<StorePath>,
}

pub(crate) fn run(session: &Session<'_>, args: &Args) -> Result<()> {
    let located = gate::locate(session, &args.seed)?;
    session.printer.data(&inspect(&located, args.paths)?)
}

fn inspect(located: &Located, with_paths: bool) -> Result<Inspection> {
    let seed = &located.seed;
    let index = located.index()?;
    let summary = index.check().context(|| format!("the index of {} is malformed", located.reference))?;
    let owned = |name| seed.label(name).map(str::to_owned);
    let layers: Vec<_> = seed
        .manifest
        .layers
        .iter()
        .map(|layer| Layer { digest: layer.digest, media_type: layer.media_type.clone(), size: layer.size })
        .collect();
    let paths = with_paths.then(|| {
        let all: Vec<_> = index.paths().map(|record| record.store_path()).collect();
        let paths = index.paths().enumerate().map(|(number, record)| Path {
            path: record.store_path(),
            nar_hash: record.nar_hash,
            nar_size: record.nar_size,
            references: index.references(number).filter_map(|other| all.get(other).cloned()).collect(),
        });
        paths.collect()
    });
    Ok(Inspection {
        reference: located.reference.to_string(),
        digest: seed.digest,
        system: owned(label::SYSTEM),
        nix: owned(label::NIX),
        nix_version: owned(label::NIX_VERSION),
        flake_lock: owned(label::FLAKE_LOCK),
        compressor: owned(label::COMPRESSOR),
        targets: seed.label(label::TARGETS).and_then(|text| serde_json::from_str(text).ok()),
        size: layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add),
        unpacked_size: summary.bytes,
        chunks: index.chunk_count(),
        path_count: index.paths().len(),
        layers,
        paths,
    })
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: &str| writeln!(f, "{name:<11} {value}");
        line("seed", &self.reference)?;
        for (name, value) in [("system", &self.system), ("nix", &self.nix), ("flake.lock", &self.flake_lock)]
        {
            if let Some(value) = value {
                line(name, value)?;
            }
        }
        if let Some(targets) = &self.targets {
            line("targets", &targets.to_string())?;
        }
        line("paths", &self.path_count.to_string())?;
        line("files", &format!("{} in {} chunks", bytes(self.unpacked_size), self.chunks))?;
        write!(f, "{:<11} {} in {}", "layers", bytes(self.size), self.layers.len())?;
        for layer in &self.layers {
            write!(f, "\n  {} {:>10}", layer.digest, bytes(layer.size))?;
        }
        for path in self.paths.iter().flatten() {
            write!(f, "\n  {} {:>10}", path.path, bytes(path.nar_size))?;
        }
        Ok(())
    }
}
