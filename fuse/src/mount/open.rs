//! From a digest to a file system that is ready: the manifest, the index, nothing else.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use seed_format::Digest;
use seed_format::index::{Index, IndexError};
use seed_image::manifest::Descriptor;
use seed_image::seed::{Outline, Seed, SeedError};
use seed_image::transport::{Transport, TransportError};

use super::allocator::bound_allocator;
use crate::fetch::{self, FetchError, Fetcher};
use crate::index::{IndexedChunks, SeedIndex};
use crate::source::TransportSource;
use crate::stats::{Counters, Stats};
use crate::store::{ChunkStore, StoreConfig, StoreError};
use crate::tree::{Tree, TreeError};

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
    /// The place that holds the seed cannot be used.
    #[error("the seed's place cannot be used")]
    Place(#[source] TransportError),
    /// The manifest, the configuration or the index layer could not be had, or is malformed.
    #[error("the seed cannot be read")]
    Seed(#[from] SeedError),
    /// The index layer's bytes are not those of its digest.
    #[error("the index layer {expected} has the digest {actual}")]
    IndexDigest {
        /// The digest that the manifest gives.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// The index is malformed.
    #[error("the index in layer {layer} is malformed")]
    Index {
        /// The layer.
        layer: Digest,
        /// What is wrong with it.
        source: IndexError,
    },
    /// The index speaks of other layers than the manifest.
    #[error("the index speaks of layer {0}, which the manifest does not have with that size")]
    ForeignLayer(Digest),
    /// The thread that read the index panicked.
    #[error("the index was not read to its end")]
    Panicked,
    /// The cache cannot be used.
    #[error("the cache cannot be used")]
    Store(#[from] StoreError),
    /// The fetcher could not be started.
    #[error("the fetcher cannot be started")]
    Fetch(#[from] FetchError),
}

impl OpenError {
    /// Whether bytes came that are not those of the seed.
    pub fn is_integrity(&self) -> bool {
        let wrong = |error: &TransportError| {
            matches!(error, TransportError::WrongDigest { .. } | TransportError::WrongSize { .. })
        };
        match self {
            Self::Place(error) | Self::Seed(SeedError::Transport(error)) => wrong(error),
            Self::Seed(SeedError::Blob { source, .. }) => {
                source.get_ref().and_then(|error| error.downcast_ref()).is_some_and(wrong)
            }
            Self::Seed(
                SeedError::Manifest { .. } | SeedError::Position { .. } | SeedError::IndexLayer { .. },
            )
            | Self::IndexDigest { .. }
            | Self::Index { .. }
            | Self::ForeignLayer(_) => true,
            Self::Seed(_) | Self::Panicked | Self::Store(_) | Self::Fetch(_) => false,
        }
    }
}

/// An opened seed: all that a mount of it needs. Several trees may be served from one.
#[derive(Debug)]
pub struct SeedFs {
    seed: Seed,
    index: Arc<SeedIndex>,
    fetcher: Arc<Fetcher>,
    counters: Arc<Counters>,
}

/// Opens the seed with this manifest digest: two round trips to a registry, the manifest first, then the
/// configuration and the index together.
///
/// The process's allocator is bounded by this: it gives freed memory back sooner.
///
/// Everything is verified from the digest down: the manifest against `digest`, the configuration and the
/// index layer against the manifest, and later every chunk against the index.
pub fn open_seed(
    transport: Arc<dyn Transport>,
    digest: &Digest,
    options: &OpenOptions,
) -> Result<Arc<SeedFs>, OpenError> {
    bound_allocator();
    let outline = Outline::read(&*transport, digest)?;
    let (seed, index) = thread::scope(|scope| {
        let index = scope.spawn(|| read_index(&*transport, &outline, options.cache.as_deref()));
        let seed = outline.clone().complete(&*transport);
        (seed, index.join().unwrap_or(Err(OpenError::Panicked)))
    });
    let (seed, index) = (seed?, index?);
    check_layers(&index, &seed)?;

    let counters = Arc::new(Counters::default());
    let store = StoreConfig {
        directory: options.cache.as_ref().map(|cache| cache.join("chunks")),
        limit: options.cache_limit,
        memory: options.memory,
    };
    let store = Arc::new(ChunkStore::open(store, Arc::clone(&counters))?);
    let index = Arc::new(index);
    let mut fetch = options.fetch.clone();
    let whole: u64 = index.layers().iter().map(|layer| layer.virtual_size).sum();
    if fetch.fill && whole > options.cache_limit / 4 * 3 {
        tracing::info!(
            seed = whole,
            limit = options.cache_limit,
            "the cache is too small to hold the whole seed"
        );
        fetch.fill = false;
    }
    let fetcher = Fetcher::start(
        Arc::new(IndexedChunks(Arc::clone(&index))),
        store,
        Arc::new(TransportSource(transport)),
        Arc::clone(&counters),
        fetch,
    )?;
    Ok(Arc::new(SeedFs { seed, index, fetcher: Arc::new(fetcher), counters }))
}

impl SeedFs {
    /// The digest of the seed's manifest.
    pub fn digest(&self) -> &Digest {
        &self.seed.digest
    }

    /// The seed's manifest and configuration.
    pub fn seed(&self) -> &Seed {
        &self.seed
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

fn read_index(
    transport: &dyn Transport,
    outline: &Outline,
    cache: Option<&Path>,
) -> Result<SeedIndex, OpenError> {
    let layer = outline.index_layer();
    let cached = cache.map(|cache| cache.join("index").join(layer.digest.hex()));
    let blob = match cached.as_deref().and_then(|file| read_cached(file, layer)) {
        Some(blob) => blob,
        None => {
            let blob = outline.index_blob(transport)?;
            let actual = Digest::of(&blob);
            if actual != layer.digest {
                return Err(OpenError::IndexDigest { expected: layer.digest, actual });
            }
            if let Some(file) = &cached
                && let Err(error) = write_cached(file, &blob)
            {
                tracing::warn!(file = %file.display(), %error, "the index cannot be cached");
            }
            blob
        }
    };
    let bytes = outline.extract_index(&blob)?;
    drop(blob);
    Index::open(bytes).map_err(|source| OpenError::Index { layer: layer.digest, source })
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

/// The layers that chunks are fetched from are those of the manifest, with their sizes.
fn check_layers(index: &SeedIndex, seed: &Seed) -> Result<(), OpenError> {
    let known: HashMap<_, _> = seed.manifest.layers.iter().map(|layer| (layer.digest, layer.size)).collect();
    match index.layers().iter().find(|layer| known.get(&layer.digest) != Some(&layer.size)) {
        Some(foreign) => Err(OpenError::ForeignLayer(foreign.digest)),
        None => Ok(()),
    }
}
