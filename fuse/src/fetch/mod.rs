//! Brings chunks from the source to the cache, what reads wait for first.
//!
//! What makes a lazy mount slow is not its bytes but its round trips: small reads, one after another, each
//! waiting for one. So a read that misses is answered by a small range of its own, and at the same time all
//! that lies around it is asked for in large ranges on the other connections. See [`queue`] for the order.

mod map;
mod order;
mod plan;
mod queue;
mod touched;
mod waiter;
mod worker;

use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use seed_format::Digest;

use crate::source::{BlobSource, SourceError};
use crate::stats::{Counters, add};
use crate::store::{Chunk, ChunkStore, Verified};
pub use map::{ChunkId, ChunkMap, ChunkPlace};
use queue::{Class, Queue};
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
    /// Time after which a chunk is asked for a second time while the first request goes on.
    pub hedge_after: Duration,
    /// Whether what lies around a missed chunk, and what its store path refers to, is fetched ahead.
    pub neighbours: bool,
    /// Whether everything else is fetched when the link is idle.
    pub fill: bool,
    /// Most bytes per second that the fill takes; `None` for no limit.
    pub fill_rate: Option<NonZeroU64>,
}

impl Default for Config {
    /// 16 connections, 60 s, 3 s, all prefetching on, no limit.
    fn default() -> Self {
        Self {
            connections: 16,
            read_deadline: Duration::from_secs(60),
            hedge_after: Duration::from_secs(3),
            neighbours: true,
            fill: true,
            fill_rate: None,
        }
    }
}

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

/// Fetches the chunks of one seed. Dropping it ends its threads, and fails the reads that still wait.
pub struct Fetcher {
    shared: Arc<Shared>,
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
        let shared = Shared { map, store, source, counters, config, record, queue, work, waits };
        let fetcher = Self { shared: Arc::new(shared) };
        worker::start(&fetcher.shared).map_err(|error| FetchError::Thread(Arc::new(error)))?;
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
        shared.record.note(&*shared.map, ids.clone());
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
        add(&shared.counters.demand_misses, 1);
        shared.work.notify_all();
        shared.waits.notify_one();
    }

    /// Gets chunks, and waits for them.
    pub fn get(&self, ids: Range<ChunkId>) -> Result<Vec<Verified<Chunk>>, FetchError> {
        let (send, receive) = std::sync::mpsc::sync_channel(1);
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
        self.shared.record.note(&*self.shared.map, ids);
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
        let ordered = order::order(&*self.shared.map, ids, limit);
        self.shared.lock().add_trace(ordered);
        self.shared.work.notify_all();
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        let waiting = {
            let mut queue = self.shared.lock();
            queue.stopped = true;
            std::mem::take(&mut queue.waiting)
        };
        self.shared.work.notify_all();
        self.shared.waits.notify_all();
        for waiter in waiting.into_values().flatten() {
            waiter.fail(FetchError::Stopped, &self.shared.counters);
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
