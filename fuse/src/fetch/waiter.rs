//! A read that waits for chunks, and its answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::FetchError;
use super::map::ChunkId;
use crate::stats::{Counters, add, add_micros};
use crate::store::{Chunk, Verified};
use crate::sync::{Mutex, PoisonError};

/// Is called once, from any thread, with all the chunks in order or with the first error.
pub type Done = Box<dyn FnOnce(Result<Vec<Verified<Chunk>>, FetchError>) + Send>;

/// One read of consecutive chunks, some of which are not here yet.
pub(super) struct Waiter {
    pub(super) first: ChunkId,
    pub(super) deadline: Instant,
    pub(super) since: Instant,
    asked_again: AtomicBool,
    inner: Mutex<Inner>,
}

struct Inner {
    slots: Vec<Option<Verified<Chunk>>>,
    missing: usize,
    done: Option<Done>,
}

impl Waiter {
    /// `slots` has a chunk for each id from `first` on, or `None` where it is missing.
    pub(super) fn new(
        first: ChunkId,
        slots: Vec<Option<Verified<Chunk>>>,
        deadline: Instant,
        done: Done,
    ) -> Self {
        let missing = slots.iter().filter(|slot| slot.is_none()).count();
        let inner = Mutex::new(Inner { slots, missing, done: Some(done) });
        Self { first, deadline, since: Instant::now(), asked_again: AtomicBool::new(false), inner }
    }

    /// The ids that are missing now.
    pub(super) fn missing(&self) -> Vec<ChunkId> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = (self.first..).zip(&inner.slots);
        slots.filter(|(_, slot)| slot.is_none()).map(|(id, _)| id).collect()
    }

    /// Gives a chunk; answers the read if it was the last one.
    pub(super) fn give(&self, id: ChunkId, chunk: &Verified<Chunk>, counters: &Counters) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = inner.slots.get_mut((id - self.first) as usize) else { return };
        if slot.is_none() {
            *slot = Some(chunk.clone());
            inner.missing -= 1;
        }
        if inner.missing > 0 {
            return;
        }
        let Some(done) = inner.done.take() else { return };
        let chunks = std::mem::take(&mut inner.slots).into_iter().flatten().collect();
        drop(inner);
        add_micros(&counters.demand_wait_us, self.since.elapsed());
        counters.activity.waited(self.first, self.since);
        done(Ok(chunks));
    }

    /// Answers the read with an error, unless it was answered.
    pub(super) fn fail(&self, error: FetchError, counters: &Counters) {
        let done = self.inner.lock().unwrap_or_else(PoisonError::into_inner).done.take();
        if let Some(done) = done {
            add(&counters.failed_reads, 1);
            done(Err(error));
        }
    }

    /// Whether the read has waited for longer than `after`, and its chunks were not asked for a second time.
    pub(super) fn is_late(&self, now: Instant, after: Duration) -> bool {
        now.saturating_duration_since(self.since) >= after && !self.asked_again.load(Ordering::Relaxed)
    }

    /// Its chunks are asked for a second time.
    pub(super) fn ask_again(&self) {
        self.asked_again.store(true, Ordering::Relaxed);
    }

    pub(super) fn answered(&self) -> bool {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).done.is_none()
    }
}
