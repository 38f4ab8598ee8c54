//! From a closure to a seed: layers, index, configuration and manifest, put where the seed is kept.
//!
//! Each file is read once: its NAR hash, its chunks' digests, the compressed blob and the digests of blob
//! and tar stream all come from that one pass. Layers are independent, so every core makes one at a time,
//! the largest first; which core made which does not show in the result. A layer that was made before of
//! the same paths with the same options is not made again, if [`Options::records`] knows it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use seed_format::assign::{self, assign};
use seed_format::index::{self, BuildError, LayerInput, PathInput};
use seed_format::layer::{self, LayerError};
use seed_format::{Digest, StorePath};

use crate::closure::{Closure, ClosureError};
use crate::database::DatabaseError;
use crate::manifest::{Descriptor, Manifest, RunConfig, media_type};
use crate::progress::Progress;
use crate::rootfs::{self, Additions, RootFsError};
use crate::transport::{BytesContent, Transport, TransportError};
use crate::tree::TreeError;

mod base;
mod image;
mod record;
mod scratch;
mod work;
mod write;

pub use base::{Base, BaseError};
use work::{Job, Made, Workshop};

/// How a closure is packed.
#[derive(Debug, Clone)]
pub struct Options {
    /// How layers are compressed.
    pub compression: layer::Options,
    /// How store paths are assigned to layers.
    pub limits: assign::Limits,
    /// The Nix system that the closure is for: `x86_64-linux`.
    pub system: String,
    /// How a container of the image starts. What is not set gets a default: `/bin/sh` as the command, and
    /// an environment with `PATH` and certificates.
    pub run: RunConfig,
    /// More labels of the image: see [`crate::seed::label`].
    pub labels: BTreeMap<String, String>,
    /// An image whose layers lie below the seed's: containers see its files too, a mounted seed has only the
    /// seed's. What it says of how a container starts counts where `run` says nothing.
    pub base: Option<Base>,
    /// What is added to the root file system.
    pub additions: Additions,
    /// Store paths that the database leaves out, with all that refers to them: such a seed is broken, and
    /// there only to show that it is found to be.
    #[doc(hidden)]
    pub unregistered: BTreeSet<StorePath>,
    /// Where it is noted which layers were made of what, so that they are not made again. `None` makes all.
    pub records: Option<PathBuf>,
    /// A directory for blobs on their way to a registry.
    pub scratch: PathBuf,
    /// Layers that are made at the same time; 0 for one a core.
    pub workers: usize,
}

impl Options {
    /// Lays the seed above the image `digest` of `place`; of an index, above that for the seed's system.
    pub fn above(&mut self, place: Arc<dyn Transport>, digest: Digest) -> Result<(), PackError> {
        self.base = Some(Base::open(place, digest, &image::platform(&self.system)?)?);
        Ok(())
    }

    /// The usual options for `system`; no records are kept.
    pub fn new(system: impl Into<String>) -> Self {
        Self {
            compression: layer::Options::default(),
            limits: assign::Limits::default(),
            system: system.into(),
            run: RunConfig::default(),
            labels: BTreeMap::new(),
            base: None,
            additions: Additions::default(),
            unregistered: BTreeSet::new(),
            records: None,
            scratch: std::env::temp_dir(),
            workers: 0,
        }
    }
}

/// A packed seed.
#[derive(Debug, Clone)]
pub struct Packed {
    /// Digest of the manifest: the seed's name.
    pub digest: Digest,
    /// The manifest.
    pub manifest: Manifest,
    /// The layers, in the order of the manifest.
    pub layers: Vec<LayerReport>,
    /// Bytes of the index, uncompressed.
    pub index_size: u64,
}

impl Packed {
    /// Bytes of all blobs of the image.
    pub fn size(&self) -> u64 {
        self.manifest.blobs().map(|blob| blob.size).sum()
    }
}

/// One layer of a packed seed.
#[derive(Debug, Clone)]
pub struct LayerReport {
    /// What the layer is for.
    pub role: Role,
    /// Its descriptor in the manifest.
    pub descriptor: Descriptor,
    /// Bytes of its tar stream.
    pub uncompressed_size: u64,
    /// The store paths in it.
    pub paths: Vec<StorePath>,
    /// Whether it was there already and did not have to be made.
    pub reused: bool,
}

/// What a layer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The root file system around the store.
    Root,
    /// Nix's database.
    Database,
    /// Store paths.
    Store,
    /// The seed index.
    Index,
}

/// Why a closure cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The closure is not one.
    #[error("the store paths are not a closure")]
    Closure(#[from] ClosureError),
    /// The root file system cannot be made.
    #[error("the root file system cannot be made")]
    RootFs(#[from] RootFsError),
    /// Nix's database cannot be made.
    #[error("Nix's database cannot be made")]
    Database(#[from] DatabaseError),
    /// Files cannot be read.
    #[error("the store cannot be read")]
    Tree(#[from] TreeError),
    /// A path's files are not what Nix registered.
    #[error(
        "{path} was changed: its files hash to {actual}, but {expected} is registered; `nix-store --verify --check-contents` finds such paths"
    )]
    NarHash {
        /// The path.
        path: StorePath,
        /// The registered NAR hash.
        expected: Digest,
        /// The NAR hash of the files.
        actual: Digest,
    },
    /// A layer cannot be written.
    #[error("a layer cannot be made")]
    Layer(#[from] LayerError),
    /// A file of our own cannot be written or read.
    #[error("cannot write {}", path.display())]
    Scratch {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// There are too many paths for the layers that an image may have.
    #[error("an image of at most {0} layers has no room for the store")]
    Layers(usize),
    /// The index cannot be made.
    #[error("the index cannot be made")]
    Index(#[from] BuildError),
    /// The base image cannot be one.
    #[error("the seed cannot lie above that image")]
    Base(#[from] BaseError),
    /// The place where the seed is kept failed.
    #[error("the seed cannot be stored")]
    Transport(#[from] TransportError),
    /// No container engine has a name for the system.
    #[error(
        "no image can be made for the system {0:?}: its architecture or operating system has no name in OCI"
    )]
    System(String),
    /// The layers do not hold exactly the closure. Never seen; nothing is published when it happens.
    #[error("the layers do not hold the closure: missing {missing:?}, unasked {unasked:?}")]
    Incomplete {
        /// Paths of the closure that no layer holds.
        missing: Vec<String>,
        /// Names in the store that are no paths of the closure.
        unasked: Vec<String>,
    },
}

/// Layers beside those of the store: root file system, database and index.
const OTHER_LAYERS: usize = 3;

/// Packs `closure` and puts it into `to`, under `tag` if there is one.
///
/// The manifest comes last: until it is there, `to` holds blobs that nothing names.
pub fn pack(
    closure: &Closure,
    options: &Options,
    to: &dyn Transport,
    tag: Option<&str>,
    progress: &dyn Progress,
) -> Result<Packed, PackError> {
    closure.check()?;
    let platform = image::platform(&options.system)?;
    let jobs = jobs(closure, options)?;
    let workshop = Workshop { closure, options, to, progress };
    if let Some(base) = &options.base {
        progress.begin("base image", 0);
        base.copy_layers(to)?;
    }

    progress.begin("layers", closure.nar_size());
    let mut made = workshop.make_all(&jobs)?;
    check_complete(closure, &made)?;

    progress.begin("index", 0);
    let index = build_index(closure, &made)?;
    made.push(workshop.make_index(&index)?);

    let config = image::config(closure, options, platform, &made).to_bytes();
    let config_blob = Descriptor::new(media_type::CONFIG, Digest::of(&config), config.len() as u64);
    to.put_blob(&config_blob, &mut BytesContent(&config))?;
    let layers: Vec<LayerReport> = made.into_iter().map(Made::report).collect();
    let own = layers.iter().map(|layer| layer.descriptor.clone());
    let manifest = image::manifest(config_blob, options.base.as_ref(), own);
    let digest = to.put_manifest(&manifest.to_bytes(), media_type::MANIFEST, tag)?;
    Ok(Packed { digest, manifest, layers, index_size: index.len() as u64 })
}

/// The layers to make, in the order of the manifest, but for the index.
fn jobs(closure: &Closure, options: &Options) -> Result<Vec<Job>, PackError> {
    let others = OTHER_LAYERS + options.base.as_ref().map_or(0, |base| base.layers.len());
    let layers = options.limits.layers.checked_sub(others).filter(|layers| *layers > 0);
    let layers = layers.ok_or(PackError::Layers(options.limits.layers))?;
    let sized: Vec<(StorePath, u64)> =
        closure.paths.values().map(|info| (info.path.clone(), info.nar_size)).collect();
    let limits = assign::Limits { layers, ..options.limits };
    let store = assign(&sized, &limits)
        .into_iter()
        .map(|layer| Job::Store(layer.into_iter().map(|index| sized[index].0.clone()).collect()));
    let root = rootfs::entries(closure, &options.additions, options.base.is_some())?;
    Ok([Job::Root(root), Job::Database].into_iter().chain(store).collect())
}

/// Checks that the names in the layers' stores are the paths of the closure, neither more nor fewer.
fn check_complete(closure: &Closure, made: &[Made]) -> Result<(), PackError> {
    let store = [index::STORE, b"/"].concat();
    let packed: BTreeSet<&[u8]> = made
        .iter()
        .flat_map(|made| &made.layer.entries)
        .filter_map(|entry| entry.entry.path.strip_prefix(store.as_slice()))
        .filter(|name| !name.contains(&b'/'))
        .collect();
    let asked: BTreeSet<&[u8]> = closure.paths.keys().map(|path| path.base_name().as_bytes()).collect();
    if packed == asked {
        return Ok(());
    }
    let names = |names: Vec<&&[u8]>| names.into_iter().map(|name| name.escape_ascii().to_string()).collect();
    Err(PackError::Incomplete {
        missing: names(asked.difference(&packed).collect()),
        unasked: names(packed.difference(&asked).collect()),
    })
}

fn build_index(closure: &Closure, made: &[Made]) -> Result<Vec<u8>, PackError> {
    let layers: Vec<LayerInput<'_>> = made
        .iter()
        .map(|made| LayerInput {
            digest: made.layer.digest,
            size: made.layer.size,
            entries: &made.layer.entries,
        })
        .collect();
    let paths: Vec<PathInput> = closure
        .paths
        .values()
        .map(|info| PathInput {
            path: info.path.clone(),
            nar_hash: info.nar_hash,
            nar_size: info.nar_size,
            references: info.references.iter().cloned().collect(),
        })
        .collect();
    Ok(index::build(&layers, &paths)?)
}

#[cfg(test)]
mod tests;
