//! Which chunks were read, in which order, and when: what becomes a trace.
//!
//! It is always on, so it must cost nothing to speak of: a bit for each chunk, which is looked at without a
//! lock; the first read of a chunk takes a lock for one push. Memory is bounded by the number of chunks.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use super::map::{ChunkId, ChunkMap};

/// A chunk that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touched {
    /// The chunk.
    pub chunk: ChunkId,
    /// When it was read first, in milliseconds since the recording began.
    pub at_ms: u32,
}

/// The record of one seed's reads.
pub(super) struct Record {
    /// A bit for each chunk, made when there is a chunk to note.
    seen: OnceLock<Box<[AtomicU64]>>,
    order: Mutex<Order>,
}

struct Order {
    began: Instant,
    touched: Vec<Touched>,
}

impl Record {
    pub(super) fn begin() -> Self {
        let order = Order { began: Instant::now(), touched: Vec::new() };
        Self { seen: OnceLock::new(), order: Mutex::new(order) }
    }

    /// Notes that a read has got these chunks, or will. Gives the compressed bytes of those that are new.
    pub(super) fn note(&self, map: &dyn ChunkMap, ids: Range<ChunkId>) -> u64 {
        if ids.is_empty() {
            return 0;
        }
        let mut fresh = 0;
        // The index is there when something is read, so that the count is final.
        let seen = self.seen.get_or_init(|| {
            let words = (map.count() as usize).div_ceil(64);
            (0..words).map(|_| AtomicU64::new(0)).collect()
        });
        for chunk in ids {
            let Some(word) = seen.get(chunk as usize / 64) else { return fresh };
            let bit = 1 << (chunk % 64);
            if word.load(Ordering::Relaxed) & bit != 0 {
                continue;
            }
            let mut order = self.lock();
            // Under the lock, so that a recording which begins anew has each chunk once.
            if word.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
                let at_ms = u32::try_from(order.began.elapsed().as_millis()).unwrap_or(u32::MAX);
                order.touched.push(Touched { chunk, at_ms });
                fresh += map.chunk(chunk).map_or(0, |place| u64::from(place.blob_len));
            }
        }
        fresh
    }

    /// What was read so far.
    pub(super) fn touched(&self) -> Vec<Touched> {
        self.lock().touched.clone()
    }

    /// Forgets what was read so far.
    pub(super) fn restart(&self) {
        let mut order = self.lock();
        for word in self.seen.get().into_iter().flatten() {
            word.store(0, Ordering::Relaxed);
        }
        *order = Order { began: Instant::now(), touched: Vec::new() };
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
