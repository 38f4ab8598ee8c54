//! Brings chunks from the source to the cache, what reads wait for first.
//!
//! What makes a lazy mount slow is not its bytes but its round trips: small reads, one after another, each
//! waiting for one. So a read that misses is answered by a small range of its own, and at the same time all
//! that lies around it is asked for in large ranges on the other connections. See [`queue`] for the order.

mod bundle;
mod inbox;
mod late;
mod map;
mod node;
mod order;
mod pace;
mod plan;
mod queue;
mod spare;
mod touched;
mod waiter;
mod worker;

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use seed_format::Digest;

use crate::allocator;
use crate::source::{BlobSource, SourceError};
use crate::stats::{Counters, add};
use crate::store::{Chunk, ChunkStore, Verified};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use bundle::Bundle;
use inbox::Inbox;
pub use map::{ChunkId, ChunkMap, ChunkPlace};
use node::Node;
use queue::{Class, Queue};
use spare::Spare;
use touched::Record;
pub use touched::Touched;
pub use waiter::Done;
use waiter::Waiter;

/// How a mount fetches.
#[derive(Debug, Clone)]
pub struct Config {
    /// Requests that may be in flight at once.
    pub connections: usize,
    /// Total time after which a read that waits for chunks ends with an error.
    pub read_deadline: Duration,
    /// Longest time after which a chunk is asked for a second time while the first request goes on: it is, as soon
    /// as it takes much longer than is usual.
    pub hedge_after: Duration,
    /// Whether what lies around a missed chunk, and what its store path refers to, is fetched ahead.
    pub neighbours: bool,
    /// Whether everything else is fetched when the link is idle.
    pub fill: bool,
    /// Most bytes per second that the fills of all mounts of a node take; `None` for no limit.
    pub fill_rate: Option<NonZeroU64>,
    /// The same of all that no read waits for.
    pub rate: Option<NonZeroU64>,
    /// Nothing is fetched but what a read waits for, and what is so close to it that it costs next to nothing.
    pub metered: bool,
    /// Where the mounts of a node tell each other what they do; `None`: this mount is on its own.
    pub node: Option<PathBuf>,
}

impl Default for Config {
    /// 16 connections, 60 s, 3 s, all prefetching on, no limit, no other mounts.
    fn default() -> Self {
        Self {
            connections: 16,
            read_deadline: Duration::from_secs(60),
            hedge_after: Duration::from_secs(3),
            neighbours: true,
            fill: true,
            fill_rate: None,
            rate: None,
            metered: false,
            node: None,
        }
    }
}

/// Of the compressed bytes of a seed, the part of which it is better to fetch all of it at once: those who unpack
/// whole images are faster than those who fetch parts from about here on.
const MOST: f64 = 0.3;
/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(100);

/// Why chunks are not there.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    /// The source gave wrong bytes, twice.
    #[error("{path}: a chunk of layer {layer} has the digest {actual}, not {expected}")]
    Integrity {
        /// The store path that the chunk belongs to.
        path: String,
        /// The layer's blob.
        layer: Digest,
        /// The digest that the index gives.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// The source gave bytes that do not decompress to a chunk, twice.
    #[error("{path}: a chunk of layer {layer}, {expected}, cannot be decompressed: {reason}")]
    Damaged {
        /// The store path that the chunk belongs to.
        path: String,
        /// The layer's blob.
        layer: Digest,
        /// The digest that the index gives.
        expected: Digest,
        /// What the decompressor said.
        reason: String,
    },
    /// The source failed.
    #[error("{path}: layer {layer} cannot be read")]
    Source {
        /// The store path that the chunk belongs to.
        path: String,
        /// The layer's blob.
        layer: Digest,
        /// The last failure.
        #[source]
        source: Arc<SourceError>,
    },
    /// The chunks did not come in time.
    #[error("{path}: its bytes did not come within {} s", after.as_secs())]
    Deadline {
        /// The store path of the first missing chunk.
        path: String,
        /// How long the read waited.
        after: Duration,
    },
    /// The index has no such chunk, or a record of it that is not valid.
    #[error("the index has no valid chunk {0}")]
    NoChunk(ChunkId),
    /// The mount is going away.
    #[error("the mount is being stopped")]
    Stopped,
    /// A thread could not be started.
    #[error("a thread cannot be started")]
    Thread(#[source] Arc<std::io::Error>),
}

impl FetchError {
    /// Whether the source gave bytes that are not those of the seed.
    pub fn is_integrity(&self) -> bool {
        matches!(self, Self::Integrity { .. } | Self::Damaged { .. })
    }
}

/// Fetches the chunks of one seed. Dropping it ends its threads, and fails the reads that still wait; what reads
/// have got is then in the cache.
pub struct Fetcher {
    shared: Arc<Shared>,
    decoders: Vec<JoinHandle<()>>,
}

struct Shared {
    map: Arc<dyn ChunkMap>,
    store: Arc<ChunkStore>,
    source: Arc<dyn BlobSource>,
    counters: Arc<Counters>,
    config: Config,
    /// What was read.
    record: Record,
    queue: Mutex<Queue>,
    /// The other mounts.
    node: Node,
    /// What has come and is not decoded.
    inbox: Inbox,
    /// Memory that was used, for what will come.
    spare: Spare,
    /// Nothing happens, and nothing is held that only makes haste.
    resting: AtomicBool,
    began: Instant,
    /// When a read last came, in milliseconds since `began` and 1; 0 before the first.
    last_read: AtomicU64,
    /// Compressed bytes of the chunks that were read.
    read_bytes: AtomicU64,
    /// Compressed bytes of all chunks, once that is known.
    all_bytes: OnceLock<u64>,
    /// Something may be asked for.
    work: Condvar,
    /// A read has begun to wait.
    waits: Condvar,
}

impl Fetcher {
    /// Starts the threads. Nothing is fetched until something is asked for, but for the fill.
    pub fn start(
        map: Arc<dyn ChunkMap>,
        store: Arc<ChunkStore>,
        source: Arc<dyn BlobSource>,
        counters: Arc<Counters>,
        config: Config,
    ) -> Result<Self, FetchError> {
        let queue = Mutex::new(Queue::new(&config));
        let (work, waits) = (Condvar::new(), Condvar::new());
        let record = Record::begin();
        let node = Node::open(config.node.as_deref());
        let shared = Shared {
            map,
            store,
            source,
            counters,
            config,
            record,
            queue,
            node,
            inbox: Inbox::default(),
            spare: Spare::default(),
            resting: AtomicBool::new(false),
            began: Instant::now(),
            last_read: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            all_bytes: OnceLock::new(),
            work,
            waits,
        };
        let mut fetcher = Self { shared: Arc::new(shared), decoders: Vec::new() };
        let started = worker::start(&fetcher.shared, &mut fetcher.decoders);
        started.map_err(|error| FetchError::Thread(Arc::new(error)))?;
        Ok(fetcher)
    }

    /// Gets chunks, and calls `done` with all of them, in order. It is called before this returns if all are
    /// here, and from another thread if not; at the latest when the read's deadline has passed.
    pub fn request(&self, ids: Range<ChunkId>, done: Done) {
        let shared = &self.shared;
        let mut slots = match shared.look_up(&ids) {
            Ok(slots) => slots,
            Err(error) => return done(Err(error)),
        };
        shared.note_read(&ids);
        if slots.iter().all(Option::is_some) {
            return done(Ok(slots.into_iter().flatten().collect()));
        }
        shared.store.look_around();
        let mut queue = shared.lock();
        // What was being fetched may have been kept between the look and the lock.
        if shared.any_arrived(&queue, &ids, &slots) {
            drop(queue);
            slots = match shared.look_up(&ids) {
                Ok(slots) => slots,
                Err(error) => return done(Err(error)),
            };
            if slots.iter().all(Option::is_some) {
                return done(Ok(slots.into_iter().flatten().collect()));
            }
            queue = shared.lock();
        }
        if queue.stopped {
            drop(queue);
            return done(Err(FetchError::Stopped));
        }
        let deadline = Instant::now() + shared.config.read_deadline;
        let waiter = Arc::new(Waiter::new(ids.start, slots, deadline, done));
        let missing = waiter.missing();
        for id in &missing {
            queue.waiting.entry(*id).or_default().push(Arc::clone(&waiter));
            queue.want(*id, Class::Demand);
        }
        if let Some(first) = missing.first() {
            queue.miss(&*shared.map, &shared.config, *first);
        }
        drop(queue);
        for id in missing {
            shared.inbox.hurry(id);
        }
        shared.node.missed();
        add(&shared.counters.demand_misses, 1);
        shared.work.notify_all();
        shared.waits.notify_one();
    }

    /// Gets chunks, and waits for them.
    pub fn get(&self, ids: Range<ChunkId>) -> Result<Vec<Verified<Chunk>>, FetchError> {
        let (send, receive) = mpsc::sync_channel(1);
        self.request(
            ids,
            Box::new(move |result| {
                // The receiver below waits for exactly this.
                let _ = send.send(result);
            }),
        );
        receive.recv().unwrap_or(Err(FetchError::Stopped))
    }

    /// Gets chunks only if each is in memory, or on disk and not longer than `load` bytes.
    pub fn get_cached(&self, ids: Range<ChunkId>, load: u32) -> Option<Vec<Verified<Chunk>>> {
        let chunk = |id| {
            let place = self.shared.map.chunk(id)?;
            match self.shared.store.recall(&place.digest, place.len) {
                None if place.len <= load => self.shared.store.get(&place.digest, place.len),
                recalled => recalled,
            }
        };
        let chunks = ids.clone().map(chunk).collect::<Option<Vec<_>>>()?;
        self.shared.note_read(&ids);
        Some(chunks)
    }

    /// The chunks that were read since the seed was opened, or the recording was begun anew, in the order in
    /// which each was first read: also those that were in the cache.
    pub fn touched(&self) -> Vec<Touched> {
        self.shared.record.touched()
    }

    /// Begins the recording of what is read anew.
    pub fn restart_recording(&self) {
        self.shared.record.restart();
    }

    /// Says that the chunk map, which was empty, has its chunks now.
    pub fn map_arrived(&self) {
        let map = &self.shared.map;
        self.shared.store.confine((0..map.count()).filter_map(|id| map.chunk(id)).map(|place| place.digest));
        self.shared.work.notify_all();
    }

    /// Waits until nothing is being fetched, and all that came is in the cache: reads are answered before
    /// that. For no longer than a read may wait.
    pub fn settle(&self) {
        let deadline = Instant::now() + self.shared.config.read_deadline;
        let mut queue = self.shared.lock();
        while !queue.is_idle() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            queue = self.shared.work.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Fetches chunks about in this order, before all that no read waits for: what a trace of an earlier run
    /// says will be read. It is only a hint: ids that do not exist are passed over, and so is what lies behind
    /// the first `limit` compressed bytes.
    ///
    /// The map must have its chunks.
    pub fn prefetch(&self, ids: impl IntoIterator<Item = ChunkId>, limit: u64) {
        let shared = &self.shared;
        let ordered = order::order(&*shared.map, ids, limit);
        let bytes = ordered.ids.iter().filter_map(|id| shared.map.chunk(*id));
        let bytes = bytes.map(|place| u64::from(place.blob_len)).sum();
        shared.lock().add_trace(ordered);
        shared.go_full_if_most(bytes);
        shared.work.notify_all();
    }

    /// The same from a bundle, the blob `digest`, in which the frames of the chunks begin at these bytes. Says how many
    /// compressed bytes that is. What cannot be had there, or is wrong, comes from the layers.
    pub fn prefetch_bundle(&self, digest: Digest, offsets: Vec<(ChunkId, u64)>, limit: u64) -> u64 {
        let shared = &self.shared;
        let mut bytes = 0;
        let mut ids = VecDeque::with_capacity(offsets.len());
        for (id, _) in &offsets {
            let Some(place) = shared.map.chunk(*id) else { continue };
            let more = bytes + u64::from(place.blob_len);
            if more > limit {
                break;
            }
            bytes = more;
            ids.push_back(*id);
        }
        let bundle = Bundle::new(Arc::clone(&shared.map), digest, offsets);
        let mut queue = shared.lock();
        if queue.is_full() {
            // It comes with all else, and is not to be fetched twice.
            return 0;
        }
        queue.add_bundle(bundle, ids);
        drop(queue);
        shared.go_full_if_most(bytes);
        shared.work.notify_all();
        bytes
    }

    /// Fetches everything as fast as it comes and can be decoded. What a read waits for is still first.
    pub fn fetch_all(&self) {
        self.shared.lock().want_all();
        self.shared.work.notify_all();
    }

    /// How many chunks are not in the cache now.
    pub fn missing(&self) -> usize {
        let Shared { map, store, .. } = &*self.shared;
        let places = (0..map.count()).filter_map(|id| map.chunk(id));
        places.filter(|place| !store.contains(&place.digest)).count()
    }

    /// Waits until everything that [`fetch_all`](Self::fetch_all) asked for is in the cache, as far as that may
    /// hold it. `progress` is called now and then.
    ///
    /// What could not be had or was wrong is asked for once more, as for a read: its error is that of a read. The map
    /// must have its chunks.
    pub fn wait_for_all(&self, progress: &mut dyn FnMut()) -> Result<(), FetchError> {
        let shared = &self.shared;
        let mut heard = (shared.counters.snapshot().bytes_fetched, Instant::now());
        let mut queue = shared.lock();
        let lost = loop {
            if queue.stopped {
                return Err(FetchError::Stopped);
            }
            if let Some(lost) = queue.is_complete(&*shared.map) {
                drop(queue);
                break lost;
            }
            if !shared.store.keeps() && queue.is_idle() {
                return Ok(());
            }
            queue = shared.work.wait_timeout(queue, PROGRESS).unwrap_or_else(PoisonError::into_inner).0;
            drop(queue);
            progress();
            let fetched = shared.counters.snapshot().bytes_fetched;
            if fetched != heard.0 {
                heard = (fetched, Instant::now());
            } else if heard.1.elapsed() > shared.config.read_deadline {
                // Nothing comes any more: a read of what is missing says why.
                let missing = |id: &ChunkId| {
                    shared.map.chunk(*id).is_some_and(|place| !shared.store.contains(&place.digest))
                };
                break (0..shared.map.count()).find(missing).into_iter().collect();
            }
            queue = shared.lock();
        };
        for id in lost {
            self.get(id..id.saturating_add(1))?;
        }
        self.settle();
        Ok(())
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        let waiting = {
            let mut queue = self.shared.lock();
            queue.stopped = true;
            std::mem::take(&mut queue.waiting)
        };
        self.shared.inbox.close();
        self.shared.work.notify_all();
        self.shared.waits.notify_all();
        for waiter in waiting.into_values().flatten() {
            waiter.fail(FetchError::Stopped, &self.shared.counters);
        }
        // A chunk is handed out before it is kept. What is left to do is a part of a range each.
        let this = thread::current().id();
        for decoder in self.decoders.drain(..).filter(|decoder| decoder.thread().id() != this) {
            // A panic there has been reported; what it was to keep is fetched again.
            let _ = decoder.join();
        }
    }
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a read has got these chunks, or will.
    fn note_read(&self, ids: &Range<ChunkId>) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_read.store(now + 1, Ordering::Relaxed);
        self.wake();
        let fresh = self.record.note(&*self.map, ids.clone());
        if fresh > 0 {
            let read = self.read_bytes.fetch_add(fresh, Ordering::Relaxed) + fresh;
            self.go_full_if_most(read);
        }
    }

    fn last_read(&self) -> Option<Instant> {
        let millis = self.last_read.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.began + Duration::from_millis(millis))
    }

    /// Goes for everything if `bytes` of it are, or will be, read.
    fn go_full_if_most(&self, bytes: u64) {
        if !self.config.fill || self.config.metered || self.map.count() == 0 {
            return;
        }
        let all = *self.all_bytes.get_or_init(|| {
            let places = (0..self.map.count()).filter_map(|id| self.map.chunk(id));
            places.map(|place| u64::from(place.blob_len)).sum()
        });
        if bytes as f64 > all as f64 * MOST && self.lock().want_all() {
            tracing::info!(bytes, all, "most of the seed is used: all of it is fetched");
            self.work.notify_all();
        }
    }

    fn is_waited_for(&self, id: ChunkId) -> bool {
        self.lock().waiting.contains_key(&id)
    }

    /// Something is to be done: what was given back for the rest is asked for anew, and so is the rest.
    fn wake(&self) {
        if self.resting.load(Ordering::Relaxed) && self.resting.swap(false, Ordering::Relaxed) {
            // Who watches has seen it, or waits: not between both.
            drop(self.lock());
            self.waits.notify_one();
        }
    }

    /// Gives back the memory that only makes haste.
    fn rest(&self) {
        self.store.rest();
        self.spare.clear();
        allocator::give_back();
    }

    fn look_up(&self, ids: &Range<ChunkId>) -> Result<Vec<Option<Verified<Chunk>>>, FetchError> {
        ids.clone()
            .map(|id| {
                let place = self.map.chunk(id).ok_or(FetchError::NoChunk(id))?;
                Ok(self.store.get(&place.digest, place.len))
            })
            .collect()
    }

    fn any_arrived(&self, queue: &Queue, ids: &Range<ChunkId>, slots: &[Option<Verified<Chunk>>]) -> bool {
        ids.clone().zip(slots).any(|(id, slot)| {
            let kept = || self.map.chunk(id).is_some_and(|place| self.store.contains(&place.digest));
            slot.is_none() && !queue.in_flight(id) && kept()
        })
    }

    /// Gives a verified chunk to the reads that wait for it.
    fn deliver(&self, id: ChunkId, chunk: &Verified<Chunk>) {
        let waiters = {
            let mut queue = self.lock();
            queue.failures.remove(&id);
            queue.waiting.remove(&id)
        };
        let Some(waiters) = waiters else { return };
        self.store.remember(chunk);
        for waiter in waiters {
            waiter.give(id, chunk, &self.counters);
        }
    }

    /// Ends the reads that wait for a chunk.
    fn fail(&self, id: ChunkId, error: &FetchError) {
        let waiters = {
            let mut queue = self.lock();
            queue.failures.remove(&id);
            queue.waiting.remove(&id)
        };
        for waiter in waiters.into_iter().flatten() {
            waiter.fail(error.clone(), &self.counters);
        }
    }
}

#[cfg(test)]
mod tests;
