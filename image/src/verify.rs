//! Deep verification: that a seed is what packing its own contents would make.
//!
//! Opening a seed trusts its maker that the index tells the truth about the layers. Here every layer is
//! read as a whole and nothing is taken from the index but the references between store paths:
//!
//! * each blob has the digest of its descriptor, each tar stream of the seed's own layers its DiffID;
//! * each tar stream is in canonical form, to the byte;
//! * the table of contents and the tar-split data of each layer say what the tar stream says;
//! * each store path has the NAR hash that the index gives it;
//! * the index is, byte for byte, the one that these layers and paths have;
//! * Nix's database registers the same paths, hashes, sizes and references.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use seed_format::index::{self, BuildError, CheckError, Index, IndexError, LayerInput, PathInput};
use seed_format::tar::TarError;
use seed_format::toc::{LocatedError, TocError};
use seed_format::{Digest, LayerEntry};

use crate::manifest::Descriptor;
use crate::progress::Progress;
use crate::seed::{Seed, SeedError};
use crate::transport::{Transport, TransportError};

mod database;
mod frames;
mod layer;

pub use database::{DatabaseFault, check as check_database, realised, registered};
pub use layer::MAX_DATABASE;

/// What was verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Layers, the index layer not counted.
    pub layers: usize,
    /// Store paths.
    pub paths: usize,
    /// Directories, files and links.
    pub entries: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

/// Why a seed does not hold together.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The seed cannot be opened.
    #[error("the seed cannot be opened")]
    Seed(#[from] SeedError),
    /// A blob cannot be fetched.
    #[error("a layer cannot be fetched")]
    Transport(#[from] TransportError),
    /// A blob cannot be read to its end: it is cut, its digest is wrong, or it is not zstd.
    #[error("the layer {layer} cannot be read")]
    Blob {
        /// The layer.
        layer: Digest,
        /// What is wrong.
        source: io::Error,
    },
    /// A layer's tar stream is malformed.
    #[error("the layer {layer} is not a tar archive")]
    Tar {
        /// The layer.
        layer: Digest,
        /// What is wrong.
        source: TarError,
    },
    /// A layer's tar stream has another digest than the configuration says.
    #[error("the layer {layer} unpacks to {actual}; the configuration says {expected}")]
    DiffId {
        /// The layer.
        layer: Digest,
        /// The configuration's digest.
        expected: Digest,
        /// The stream's digest.
        actual: Digest,
    },
    /// Something in a layer is not as a seed has it.
    #[error("\"{}\" in the layer {layer} {fault}", path.escape_ascii())]
    Entry {
        /// The layer.
        layer: Digest,
        /// The entry's path.
        path: Vec<u8>,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// A layer's annotations do not locate its table of contents.
    #[error("the layer {layer} does not say where its table of contents is")]
    Located {
        /// The layer.
        layer: Digest,
        /// What is wrong.
        source: LocatedError,
    },
    /// A layer's table of contents cannot be read.
    #[error("the table of contents of the layer {layer} cannot be read")]
    Toc {
        /// The layer.
        layer: Digest,
        /// What is wrong.
        source: TocError,
    },
    /// A layer's table of contents contradicts its tar stream.
    #[error("the layer {layer}: its {table} contradicts its tar stream")]
    Table {
        /// The layer.
        layer: Digest,
        /// Which table.
        table: &'static str,
    },
    /// A store path has other files than the index says.
    #[error("{path} hashes to {actual}; the index says {expected}")]
    NarHash {
        /// The path's base name.
        path: String,
        /// The index's NAR hash.
        expected: Digest,
        /// The NAR hash of the files.
        actual: Digest,
    },
    /// The layers and the index do not hold the same store paths.
    #[error("the store path {path} is {fault}")]
    Path {
        /// The path's base name.
        path: String,
        /// Where it is and is not.
        fault: &'static str,
    },
    /// The index is malformed.
    #[error("the index is malformed")]
    Index(#[from] IndexError),
    /// The index contradicts itself.
    #[error("the index contradicts itself")]
    Check(#[from] CheckError),
    /// The layers together are no image.
    #[error("the layers together are no image")]
    Build(#[from] BuildError),
    /// The index is sound but not that of these layers.
    #[error("the index is not the one that these layers have")]
    OtherIndex,
    /// The database contradicts the index.
    #[error("Nix's database contradicts the index")]
    Database(#[from] DatabaseFault),
}

/// Verifies that every blob of `seed` is there with its digest, without looking into it.
pub fn blobs(transport: &dyn Transport, seed: &Seed, progress: &dyn Progress) -> Result<(), VerifyError> {
    let blobs: Vec<&Descriptor> = seed.manifest.blobs().collect();
    progress.begin("blobs", blobs.iter().map(|blob| blob.size).sum());
    each(&blobs, |blob| read_blob(transport, blob, progress))?;
    Ok(())
}

/// Reads a blob to its end, which it has only if its digest is right.
fn read_blob(
    transport: &dyn Transport,
    blob: &Descriptor,
    progress: &dyn Progress,
) -> Result<(), VerifyError> {
    let mut reader = transport.blob(blob)?;
    let read = io::copy(&mut reader, &mut io::sink());
    read.map_err(|source| VerifyError::Blob { layer: blob.digest, source })?;
    progress.advance(blob.size);
    Ok(())
}

/// Verifies all of `seed`, as this module says.
pub fn deep(
    transport: &dyn Transport,
    seed: &Seed,
    progress: &dyn Progress,
) -> Result<Verified, VerifyError> {
    let bytes = seed.index_bytes(transport)?;
    let index = Index::open(bytes.as_slice())?;
    let summary = index.check()?;

    // What lies below the layers of the index belongs to a base image, which only its digests speak for.
    let layers = seed.content_layers();
    let below = layers.len().saturating_sub(index.layers().len());
    let descriptors: Vec<(&Descriptor, &Digest)> =
        layers.iter().zip(&seed.config.rootfs.diff_ids).skip(below).collect();
    progress.begin("layers", layers.iter().map(|layer| layer.size).sum());
    each(&layers[..below], |layer| read_blob(transport, layer, progress))?;
    let layers = each(&descriptors, |(descriptor, diff_id)| {
        let contents = layer::read(transport, descriptor, diff_id)?;
        progress.advance(descriptor.size);
        Ok(contents)
    })?;

    progress.begin("index", 0);
    let mut hashes = BTreeMap::new();
    for contents in &layers {
        hashes.extend(contents.nar_hashes.iter().map(|(path, nar)| (path.clone(), *nar)));
    }
    check_paths(&index, &hashes)?;
    let inputs: Vec<LayerInput<'_>> = descriptors
        .iter()
        .zip(&layers)
        .map(|((descriptor, _), contents)| LayerInput {
            digest: descriptor.digest,
            size: descriptor.size,
            entries: &contents.entries,
        })
        .collect();
    let paths: Vec<PathInput> =
        (0..index.paths().len()).filter_map(|number| path_input(&index, number)).collect();
    if index::build(&inputs, &paths)? != bytes {
        return Err(VerifyError::OtherIndex);
    }
    if let Some(database) = layers.iter().find_map(|contents| contents.database.as_deref()) {
        database::check(database, &paths)?;
    }
    Ok(Verified {
        layers: layers.len(),
        paths: paths.len(),
        entries: summary.directories + summary.files + summary.symlinks,
        bytes: summary.bytes,
    })
}

/// What the index says of a store path.
fn path_input<B: AsRef<[u8]>>(index: &Index<B>, number: usize) -> Option<PathInput> {
    let record = index.path(number)?;
    Some(PathInput {
        path: record.store_path(),
        nar_hash: record.nar_hash,
        nar_size: record.nar_size,
        references: index.references(number).filter_map(|n| Some(index.path(n)?.store_path())).collect(),
    })
}

/// Checks that the layers hold the index's store paths, with its NAR hashes, and no others.
fn check_paths<B: AsRef<[u8]>>(
    index: &Index<B>,
    hashes: &BTreeMap<Vec<u8>, (Digest, u64)>,
) -> Result<(), VerifyError> {
    for record in index.paths() {
        let path = record.base_name.to_owned();
        let Some((actual, size)) = hashes.get(record.base_name.as_bytes()) else {
            return Err(VerifyError::Path { path, fault: "in the index, but in no layer" });
        };
        if *actual != record.nar_hash {
            return Err(VerifyError::NarHash { path, expected: record.nar_hash, actual: *actual });
        }
        if *size != record.nar_size {
            return Err(VerifyError::Path { path, fault: "of another size than the index says" });
        }
    }
    let unknown = hashes
        .keys()
        .find(|name| !std::str::from_utf8(name).is_ok_and(|name| index.find_path(name).is_some()));
    match unknown {
        None => Ok(()),
        Some(name) => {
            let path = name.escape_ascii().to_string();
            Err(VerifyError::Path { path, fault: "in a layer, but not in the index" })
        }
    }
}

/// What one layer holds.
struct Contents {
    entries: Vec<LayerEntry>,
    /// Of each store path, by base name, its NAR's hash and size.
    nar_hashes: BTreeMap<Vec<u8>, (Digest, u64)>,
    /// Nix's database, if it is in this layer.
    database: Option<Vec<u8>>,
}

/// Does `work` for each of `items`, on every core; the answers are in the order of the items.
fn each<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, VerifyError> + Sync,
) -> Result<Vec<R>, VerifyError> {
    let next = AtomicUsize::new(0);
    let done: Mutex<BTreeMap<usize, Result<R, VerifyError>>> = Mutex::new(BTreeMap::new());
    let workers = thread::available_parallelism().map_or(1, usize::from).min(items.len());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(n) else { return };
                    let result = work(item);
                    if result.is_err() {
                        next.store(items.len(), Ordering::Relaxed);
                    }
                    done.lock().unwrap_or_else(PoisonError::into_inner).insert(n, result);
                }
            });
        }
    });
    // In the order of the items, so that of several errors the first is told; after an error some are missing.
    done.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

#[cfg(test)]
mod tests;
