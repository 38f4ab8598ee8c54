//! From a digest to a file system that is ready: the manifest, the index, nothing else.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use seed_format::Digest;
use seed_format::trace::Trace;
use seed_image::seed::{Outline, Seed, SeedError};
use seed_image::transport::{Transport, TransportError};
use seed_image::whole_file;

use super::traces::{self, Coming, TraceChoice, TraceFileError};
use crate::allocator::bound_allocator;
use crate::blobs::Blobs;
use crate::fetch::{self, FetchError, Fetcher, Touched};
use crate::index::{Arriving, IndexFault, IndexedChunks, SeedIndex};
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
    /// Bytes that stay free on the cache's disk; `None` for the usual reserve.
    pub keep_free: Option<u64>,
    /// Further caches, which are only read.
    pub read_also: Vec<PathBuf>,
    /// Bytes of uncompressed chunks kept in memory.
    pub memory: usize,
    /// How bytes are fetched.
    pub fetch: fetch::Config,
    /// Which traces say what is fetched ahead.
    pub trace: TraceChoice,
}

impl Default for OpenOptions {
    /// No cache directory; the limits of [`StoreConfig`] and [`fetch::Config`]; all traces.
    fn default() -> Self {
        let StoreConfig { limit, keep_free, read_also, memory, .. } = StoreConfig::default();
        Self {
            cache: None,
            cache_limit: limit,
            keep_free,
            read_also,
            memory,
            fetch: fetch::Config::default(),
            trace: TraceChoice::All,
        }
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
    /// The index cannot be used.
    #[error("the index cannot be used")]
    Index(#[from] IndexFault),
    /// The trace that the user named cannot be used.
    #[error("the trace cannot be used")]
    Trace(#[from] TraceFileError),
    /// The index of a former server cannot be used.
    #[error("the index of the former server cannot be used")]
    Memory(#[source] io::Error),
    /// A thread could not be started.
    #[error("a thread cannot be started")]
    Thread(#[source] io::Error),
    /// The cache cannot be used.
    #[error("the cache cannot be used")]
    Store(#[from] StoreError),
    /// The fetcher could not be started, or could not fetch everything.
    #[error("the seed cannot be fetched")]
    Fetch(#[from] FetchError),
    /// The cache does not hold all of the seed.
    #[error("{chunks} chunks of the seed are not in the cache: it has no more room")]
    NotKept {
        /// How many.
        chunks: usize,
    },
}

impl OpenError {
    /// Whether bytes came that are not those of the seed.
    pub fn is_integrity(&self) -> bool {
        match self {
            Self::Place(error) => error.is_integrity(),
            Self::Seed(error) => error.is_integrity(),
            Self::Index(fault) => fault.is_integrity(),
            Self::Fetch(error) => error.is_integrity(),
            Self::Memory(_) | Self::Trace(_) | Self::Thread(_) | Self::Store(_) | Self::NotKept { .. } => {
                false
            }
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
    /// The thread that brings the index, until somebody waited for it.
    arrival: Mutex<Option<JoinHandle<()>>>,
    recorded: AtomicBool,
}

/// Opens the seed with this manifest digest: the manifest, then the configuration and the beginning of the
/// index together. The rest of the index arrives while the seed is used.
///
/// The process's allocator is bounded by this: it gives freed memory back sooner.
///
/// Everything is verified from the digest down: the manifest against `digest`, the configuration and the
/// frames of the index against the manifest, and later every chunk against the index.
pub fn open_seed(
    transport: Arc<dyn Transport>,
    digest: &Digest,
    options: &OpenOptions,
) -> Result<Arc<SeedFs>, OpenError> {
    bound_allocator();
    // Beside all else, from the first moment on: the digest is all that is needed for it.
    let traces = traces::ask(&transport, digest, &options.trace)?;
    let outline = Outline::read(&*transport, digest)?;
    tracing::debug!(%digest, "the manifest is here");
    let (bytes, arrival) = start_arrival(&transport, &outline, options)?;
    let seed = outline.complete(&*transport)?;
    tracing::debug!(%digest, "the configuration is here");
    assemble(transport, seed, bytes, arrival, traces, options)
}

/// Opens a seed again that another process had open: with its whole index, if that had arrived there. Then
/// nothing is asked of `transport` but chunks.
pub(super) fn open_again(
    transport: Arc<dyn Transport>,
    seed: Seed,
    index: Option<OwnedFd>,
    options: &OpenOptions,
) -> Result<Arc<SeedFs>, OpenError> {
    bound_allocator();
    // The file of one may be gone by now: it was no more than a hint.
    let traces = traces::ask(&transport, &seed.digest, &options.trace).unwrap_or_default();
    let (bytes, arrival) = match index {
        Some(memory) => {
            let bytes = Arriving::shared(memory, options.fetch.read_deadline).map_err(OpenError::Memory)?;
            (bytes, spawn("index", || ())?)
        }
        None => start_arrival(&transport, &seed.outline(), options)?,
    };
    assemble(transport, seed, bytes, arrival, traces, options)
}

fn assemble(
    transport: Arc<dyn Transport>,
    seed: Seed,
    bytes: Arriving,
    arrival: JoinHandle<()>,
    traces: Option<Coming>,
    options: &OpenOptions,
) -> Result<Arc<SeedFs>, OpenError> {
    let index = Arc::new(SeedIndex::open(bytes, &seed)?);
    tracing::debug!(digest = %seed.digest, "the index has begun to arrive");

    let counters = Arc::new(Counters::default());
    let store = StoreConfig {
        directory: options.cache.as_ref().map(|cache| cache.join("chunks")),
        limit: options.cache_limit,
        keep_free: options.keep_free,
        read_also: options.read_also.iter().map(|cache| cache.join("chunks")).collect(),
        memory: options.memory,
    };
    let store = Arc::new(ChunkStore::open(store, Arc::clone(&counters))?);
    let mut fetch = options.fetch.clone();
    fetch.node.clone_from(&options.cache);
    let whole = index.virtual_size()?;
    if fetch.fill && whole > options.cache_limit / 4 * 3 {
        tracing::info!(
            seed = whole,
            limit = options.cache_limit,
            "the cache is too small to hold the whole seed"
        );
        fetch.fill = false;
    }
    let fills = fetch.fill;
    let fetcher = Fetcher::start(
        Arc::new(IndexedChunks(Arc::clone(&index))),
        store,
        Arc::new(TransportSource(transport)),
        Arc::clone(&counters),
        fetch,
    )?;
    let fetcher = Arc::new(fetcher);
    let arrival = complete_later(arrival, &index, &fetcher)?;
    if let Some(traces) = traces {
        traces.are_for(&index, &fetcher, &counters, fills);
    }
    Ok(Arc::new(SeedFs {
        seed,
        index,
        fetcher,
        counters,
        arrival: Mutex::new(Some(arrival)),
        recorded: AtomicBool::new(false),
    }))
}

/// Begins to fetch the index, in a thread of its own.
fn start_arrival(
    transport: &Arc<dyn Transport>,
    outline: &Outline,
    options: &OpenOptions,
) -> Result<(Arriving, JoinHandle<()>), OpenError> {
    let name = outline.index_layer().digest.hex();
    let place = |cache: &PathBuf| cache.join("index").join(&name);
    let kept = options.cache.as_ref().map(place);
    if let Some(kept) = kept.as_deref().filter(|kept| !kept.exists()) {
        take_over(kept, options.read_also.iter().map(place));
    }
    let len = usize::try_from(outline.index_len()).expect("at most MAX_INDEX_LEN");
    let arriving = Arriving::new(len, options.fetch.read_deadline);
    let (transport, outline, bytes) = (Arc::clone(transport), outline.clone(), arriving.clone());
    let receive = move || bytes.end(outline.receive_index(&*transport, kept.as_deref(), &bytes).err());
    Ok((arriving, spawn("index", receive)?))
}

/// Copies an index out of a cache that is only read. What it holds is checked when it is used, and fetched again if
/// it is wrong.
fn take_over(kept: &Path, mut others: impl Iterator<Item = PathBuf>) {
    let Some(other) = others.find(|other| other.exists()) else { return };
    let copied = std::fs::read(&other).and_then(|bytes| whole_file::write(kept, &bytes));
    if let Err(error) = copied {
        tracing::debug!(file = %other.display(), %error, "the index of another cache cannot be taken over");
    }
}

/// Checks the index once it has arrived, however long that takes, and begins with what needs all of it.
fn complete_later(
    arrival: JoinHandle<()>,
    index: &Arc<SeedIndex>,
    fetcher: &Arc<Fetcher>,
) -> Result<JoinHandle<()>, OpenError> {
    let (index, fetcher) = (Arc::clone(index), Arc::downgrade(fetcher));
    spawn("index-check", move || {
        // After a panic of that thread the index is late, which is said below.
        let _ = arrival.join();
        match (index.whole(), fetcher.upgrade()) {
            (Ok(_), Some(fetcher)) => {
                tracing::debug!("all of the index is here");
                fetcher.map_arrived();
            }
            (Ok(_), None) => {}
            (Err(fault), _) => {
                tracing::error!(error = &fault as &dyn std::error::Error, "the index cannot be used")
            }
        }
    })
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map_err(OpenError::Thread)
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

    /// The seed's index, which may still be arriving.
    pub fn index(&self) -> &SeedIndex {
        &self.index
    }

    /// The fetcher, for those who know what will be read.
    pub fn fetcher(&self) -> &Fetcher {
        &self.fetcher
    }

    /// Begins anew with the recording of what is read. Who mounts it from now on for that lets the kernel read no
    /// farther ahead than it does by itself ([`is_recorded`](Self::is_recorded)).
    pub fn restart_recording(&self) {
        self.recorded.store(true, Ordering::Relaxed);
        self.fetcher.restart_recording();
    }

    /// Whether what is read is recorded on purpose: then what the kernel reads ahead of need, which looks like any
    /// other read, should be little.
    pub fn is_recorded(&self) -> bool {
        self.recorded.load(Ordering::Relaxed)
    }

    /// What was read since the seed was opened, or since the recording was begun anew, as the trace of `target`.
    pub fn trace(&self, target: &str) -> Trace {
        let touched = self.fetcher.touched();
        let index = self.index.if_whole();
        let len = |touched: &Touched| {
            index.and_then(|index| index.chunk(touched.chunk)).map(|chunk| chunk.blob_len)
        };
        let bytes = touched.iter().filter_map(len).map(u64::from).sum();
        let touched: Vec<_> = touched.iter().map(|touched| (touched.chunk, touched.at_ms)).collect();
        Trace::of(*self.digest(), target.to_owned(), bytes, &touched)
    }

    /// Waits until what has come of chunks and index is in the cache, as far as it can be.
    pub fn settle(&self) {
        let arrival = self.arrival.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(arrival) = arrival {
            // A panic there has been reported; what it brought is not used.
            let _ = arrival.join();
        }
        self.fetcher.settle();
    }

    /// Fetches everything that is not in the cache, and waits until it is there. `progress` is given the bytes
    /// fetched so far, and those of all layers.
    ///
    /// An error if the cache cannot hold all of it: then nobody may rely on it.
    pub fn fetch_all(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), OpenError> {
        let total = self.index.whole()?.layers().iter().map(|layer| layer.size).sum();
        self.fetcher.fetch_all();
        self.fetcher.wait_for_all(&mut || progress(self.stats().bytes_fetched, total))?;
        match self.fetcher.missing() {
            0 => Ok(()),
            chunks => Err(OpenError::NotKept { chunks }),
        }
    }

    /// The counters since the seed was opened.
    pub fn stats(&self) -> Stats {
        self.counters.snapshot()
    }

    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The files over which the kernel mounts the whole image by itself.
    pub fn blobs(&self) -> Result<Blobs, TreeError> {
        Blobs::new(Arc::clone(&self.index), Arc::clone(&self.fetcher))
    }

    /// The file system below `subtree`, such as `nix/store`; empty for the whole image.
    pub fn tree(&self, subtree: &[u8]) -> Result<Tree, TreeError> {
        Tree::new(Arc::clone(&self.index), Arc::clone(&self.fetcher), subtree)
    }
}
