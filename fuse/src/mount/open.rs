//! From a digest to a file system that is ready: the manifest, the index, nothing else.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seed_format::Digest;
use seed_format::index::{Index, IndexError, MAX_INDEX_LEN};
use seed_image::manifest::{Descriptor, Manifest, ManifestError, annotation};
use seed_image::transport::{Transport, TransportError};

use crate::fetch::{self, FetchError, Fetcher};
use crate::index::{IndexBytes, IndexedChunks, PrivateMap, SeedIndex};
use crate::source::TransportSource;
use crate::stats::{Counters, Stats};
use crate::store::{ChunkStore, StoreConfig, StoreError};
use crate::tree::{Tree, TreeError};

/// Largest blob of an index layer, in bytes. It is held in memory once, while it is verified.
const MAX_INDEX_BLOB: u64 = 512 << 20;

/// How a seed is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Directory of the caches of chunks and indexes; made if it is missing. `None`: nothing is kept.
    pub cache: Option<PathBuf>,
    /// Bytes that the chunk cache may take on disk.
    pub cache_limit: u64,
    /// Bytes of uncompressed chunks kept in memory.
    pub memory: usize,
    /// How bytes are fetched.
    pub fetch: fetch::Config,
}

impl Default for OpenOptions {
    /// No cache directory; the limits of [`StoreConfig`] and [`fetch::Config`].
    fn default() -> Self {
        let StoreConfig { limit, memory, .. } = StoreConfig::default();
        Self { cache: None, cache_limit: limit, memory, fetch: fetch::Config::default() }
    }
}

/// Why a seed cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The manifest or the index layer could not be had.
    #[error("the seed cannot be read")]
    Transport(#[from] TransportError),
    /// The manifest's bytes are not those of its digest.
    #[error("the manifest has the digest {actual}, not {expected}")]
    ManifestDigest {
        /// The seed's digest.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// The manifest is malformed.
    #[error("the manifest of {digest} is malformed")]
    Manifest {
        /// The seed's digest.
        digest: Digest,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// The image is not a seed.
    #[error("{0} is not a seed: none of its layers has a seed index")]
    NoIndex(Digest),
    /// The index layer could not be received.
    #[error("the index layer {layer} cannot be read")]
    IndexRead {
        /// The layer.
        layer: Digest,
        /// Why.
        source: io::Error,
    },
    /// The index layer is not what the manifest says.
    #[error("the index layer {layer} {fault}")]
    IndexLayer {
        /// The layer.
        layer: Digest,
        /// What is wrong.
        fault: IndexFault,
    },
    /// The index is malformed.
    #[error("the index in layer {layer} is malformed")]
    Index {
        /// The layer.
        layer: Digest,
        /// What is wrong with it.
        source: IndexError,
    },
    /// The index names a layer that the manifest does not.
    #[error("the index speaks of layer {0}, which the manifest does not have with that size")]
    ForeignLayer(Digest),
    /// The index cannot be held in memory.
    #[error("the index cannot be held in memory")]
    Memory(#[source] io::Error),
    /// The cache cannot be used.
    #[error("the cache cannot be used")]
    Store(#[from] StoreError),
    /// The fetcher could not be started.
    #[error("the fetcher cannot be started")]
    Fetch(#[from] FetchError),
}

/// What is wrong with an index layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexFault {
    /// It is too large.
    #[error("has {0} bytes, more than {MAX_INDEX_BLOB}")]
    TooLarge(u64),
    /// Its bytes are not those of its digest.
    #[error("has the digest {0}")]
    Digest(Digest),
    /// The annotation that says where the index lies is malformed.
    #[error("has a malformed annotation: {0:?}")]
    Annotation(String),
    /// The index does not lie where the annotation says.
    #[error("does not hold the index where its annotation says: {0}")]
    Frame(String),
}

impl OpenError {
    /// Whether bytes came that are not those of the seed.
    pub fn is_integrity(&self) -> bool {
        match self {
            Self::Transport(error) => {
                matches!(error, TransportError::WrongDigest { .. } | TransportError::WrongSize { .. })
            }
            Self::IndexRead { source, .. } => {
                let inner = source.get_ref().and_then(|error| error.downcast_ref::<TransportError>());
                matches!(inner, Some(TransportError::WrongDigest { .. } | TransportError::WrongSize { .. }))
            }
            Self::ManifestDigest { .. }
            | Self::Manifest { .. }
            | Self::IndexLayer { .. }
            | Self::Index { .. }
            | Self::ForeignLayer(_) => true,
            Self::NoIndex(_) | Self::Memory(_) | Self::Store(_) | Self::Fetch(_) => false,
        }
    }
}

/// An opened seed: all that a mount of it needs. Several trees may be served from one.
#[derive(Debug)]
pub struct SeedFs {
    digest: Digest,
    manifest: Manifest,
    index: Arc<SeedIndex>,
    fetcher: Arc<Fetcher>,
    counters: Arc<Counters>,
}

/// Opens the seed with this manifest digest: two round trips to a registry, one if its index is cached.
///
/// Everything is verified from the digest down: the manifest against `digest`, the index layer against the
/// manifest, and later every chunk against the index.
pub fn open_seed(
    transport: Arc<dyn Transport>,
    digest: &Digest,
    options: &OpenOptions,
) -> Result<Arc<SeedFs>, OpenError> {
    let manifest = read_manifest(&*transport, digest)?;
    let has_index = |layer: &&Descriptor| layer.annotations.contains_key(annotation::SEED_INDEX);
    let layer = manifest.layers.iter().rev().find(has_index).ok_or(OpenError::NoIndex(*digest))?;
    let index = read_index(&*transport, layer, options.cache.as_deref())?;
    check_layers(&index, &manifest)?;

    let counters = Arc::new(Counters::default());
    let store = StoreConfig {
        directory: options.cache.as_ref().map(|cache| cache.join("chunks")),
        limit: options.cache_limit,
        memory: options.memory,
    };
    let store = Arc::new(ChunkStore::open(store, Arc::clone(&counters))?);
    let index = Arc::new(index);
    let fetcher = Fetcher::start(
        Arc::new(IndexedChunks(Arc::clone(&index))),
        store,
        Arc::new(TransportSource(transport)),
        Arc::clone(&counters),
        options.fetch.clone(),
    )?;
    Ok(Arc::new(SeedFs { digest: *digest, manifest, index, fetcher: Arc::new(fetcher), counters }))
}

impl SeedFs {
    /// The digest of the seed's manifest.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The seed's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The seed's index.
    pub fn index(&self) -> &SeedIndex {
        &self.index
    }

    /// The fetcher, for those who know what will be read.
    pub fn fetcher(&self) -> &Fetcher {
        &self.fetcher
    }

    /// The counters since the seed was opened.
    pub fn stats(&self) -> Stats {
        self.counters.snapshot()
    }

    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The file system below `subtree`, such as `nix/store`; empty for the whole image.
    pub fn tree(&self, subtree: &[u8]) -> Result<Tree, TreeError> {
        Tree::new(Arc::clone(&self.index), Arc::clone(&self.fetcher), subtree)
    }
}

fn read_manifest(transport: &dyn Transport, digest: &Digest) -> Result<Manifest, OpenError> {
    let bytes = transport.manifest(digest)?;
    let actual = Digest::of(&bytes);
    if actual != *digest {
        return Err(OpenError::ManifestDigest { expected: *digest, actual });
    }
    Manifest::parse(&bytes).map_err(|source| OpenError::Manifest { digest: *digest, source })
}

fn read_index(
    transport: &dyn Transport,
    layer: &Descriptor,
    cache: Option<&Path>,
) -> Result<SeedIndex, OpenError> {
    let fault = |fault| OpenError::IndexLayer { layer: layer.digest, fault };
    if layer.size > MAX_INDEX_BLOB {
        return Err(fault(IndexFault::TooLarge(layer.size)));
    }
    let cached = cache.map(|cache| cache.join("index").join(layer.digest.hex()));
    let blob = match cached.as_deref().and_then(|file| read_cached(file, layer)) {
        Some(blob) => blob,
        None => {
            let blob = receive(transport, layer)?;
            if let Some(file) = &cached
                && let Err(error) = write_cached(file, &blob)
            {
                tracing::warn!(file = %file.display(), %error, "the index cannot be cached");
            }
            blob
        }
    };
    let annotation = layer.annotations.get(annotation::SEED_INDEX).map_or("", String::as_str);
    let place = Place::parse(annotation).ok_or_else(|| fault(IndexFault::Annotation(excerpt(annotation))))?;
    let bytes = place.extract(&blob).map_err(|reason| fault(IndexFault::Frame(reason)))?;
    drop(blob);
    let map = PrivateMap::of(&bytes).map_err(OpenError::Memory)?;
    drop(bytes);
    Index::open(IndexBytes::Mapped(map)).map_err(|source| OpenError::Index { layer: layer.digest, source })
}

fn receive(transport: &dyn Transport, layer: &Descriptor) -> Result<Vec<u8>, OpenError> {
    let mut blob = Vec::new();
    let reader = transport.blob(layer)?;
    reader
        .take(layer.size + 1)
        .read_to_end(&mut blob)
        .map_err(|source| OpenError::IndexRead { layer: layer.digest, source })?;
    let actual = Digest::of(&blob);
    if actual != layer.digest {
        return Err(OpenError::IndexLayer { layer: layer.digest, fault: IndexFault::Digest(actual) });
    }
    Ok(blob)
}

/// The layer's blob from the cache, if it is there and right.
fn read_cached(file: &Path, layer: &Descriptor) -> Option<Vec<u8>> {
    let size = fs::metadata(file).ok()?.len();
    let blob = if size == layer.size { fs::read(file).ok()? } else { Vec::new() };
    if Digest::of(&blob) == layer.digest {
        return Some(blob);
    }
    tracing::warn!(file = %file.display(), "a cached index has wrong bytes: it is fetched again");
    None
}

/// Writes the blob beside its name and renames it, so that nobody reads half of it.
fn write_cached(file: &Path, blob: &[u8]) -> io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let unfinished = file.with_extension(format!("{}.tmp", std::process::id()));
    let written = fs::write(&unfinished, blob).and_then(|()| fs::rename(&unfinished, file));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}

/// Every layer that chunks are fetched from is one that the manifest names.
fn check_layers(index: &SeedIndex, manifest: &Manifest) -> Result<(), OpenError> {
    let known: std::collections::HashMap<_, _> =
        manifest.layers.iter().map(|layer| (layer.digest, layer.size)).collect();
    match index.layers().iter().find(|layer| known.get(&layer.digest) != Some(&layer.size)) {
        Some(foreign) => Err(OpenError::ForeignLayer(foreign.digest)),
        None => Ok(()),
    }
}

/// Where the index lies in the blob of its layer: `OFFSET:LENGTH:UNCOMPRESSED`, all in bytes. It is one
/// zstd frame there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    offset: usize,
    len: usize,
    uncompressed: usize,
}

impl Place {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(':').map(|number| {
            let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            number.parse().ok().filter(|_| digits)
        });
        let place = Self { offset: numbers.next()??, len: numbers.next()??, uncompressed: numbers.next()?? };
        numbers.next().is_none().then_some(place)
    }

    fn extract(&self, blob: &[u8]) -> Result<Vec<u8>, String> {
        if self.uncompressed as u64 > MAX_INDEX_LEN {
            return Err(format!("{} bytes are more than {MAX_INDEX_LEN}", self.uncompressed));
        }
        let end = self.offset.checked_add(self.len);
        let frame = end.and_then(|end| blob.get(self.offset..end)).ok_or("it lies outside of the layer")?;
        let bytes = zstd::bulk::decompress(frame, self.uncompressed).map_err(|error| error.to_string())?;
        if bytes.len() != self.uncompressed {
            return Err(format!("{} bytes came of {}", bytes.len(), self.uncompressed));
        }
        Ok(bytes)
    }
}

/// What an error message may show of a text that an adversary chose.
fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        assert_eq!(Place::parse("1:20:300"), Some(Place { offset: 1, len: 20, uncompressed: 300 }));
        for text in
            ["", "1", "1:2", "1:2:", "1:2:3:4", "1:2:-3", "1:2:+3", "a:2:3", "1:2:99999999999999999999999"]
        {
            assert_eq!(Place::parse(text), None, "{text:?}");
        }
        let frame = zstd::bulk::compress(&[7; 1000], 3).unwrap();
        let blob = [b"head".as_slice(), &frame, b"tail"].concat();
        let place = Place { offset: 4, len: frame.len(), uncompressed: 1000 };
        assert_eq!(place.extract(&blob).unwrap(), [7; 1000]);
        for wrong in [
            Place { uncompressed: 999, ..place },
            Place { uncompressed: 1001, ..place },
            Place { uncompressed: usize::MAX, ..place },
            Place { offset: 3, ..place },
            Place { offset: usize::MAX, ..place },
            Place { len: frame.len() - 1, ..place },
        ] {
            assert!(wrong.extract(&blob).is_err(), "{wrong:?}");
        }
    }
}
