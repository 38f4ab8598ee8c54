//! What a mount did and when: the last reads that waited, the last ranges that came, and which chunks came at all.
//!
//! All of it is bounded: a ring of events, a histogram, and a bit for each chunk.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::fetch::ChunkId;

/// Events that are kept; the oldest go first. 24 bytes each, taken as they come: 0.4 MB at most.
const MAX_EVENTS: usize = 16_384;

/// Upper bounds of the histogram of waits, in microseconds; what is longer counts behind the last.
pub const WAIT_BOUNDS: [u64; 12] =
    [250, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000, 30_000_000];

/// Why a range was fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A read waited.
    Demand,
    /// It would probably be read.
    Ahead,
    /// It might be read.
    Fill,
}

/// Something that happened. Times are in microseconds since the mount was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Event {
    /// A read that had to wait got its bytes.
    Miss {
        /// When it began to wait.
        at: u64,
        /// The first chunk that it wanted.
        chunk: ChunkId,
        /// How long it waited.
        wait: u32,
    },
    /// A range came from the source.
    Fetch {
        /// When it was asked for.
        at: u64,
        /// How long it took.
        took: u32,
        /// Its bytes.
        bytes: u32,
        /// Why.
        cause: Cause,
    },
}

/// What happened on one mount.
#[derive(Debug)]
pub(crate) struct Activity {
    began: Instant,
    events: Mutex<VecDeque<Event>>,
    waits: [AtomicU64; WAIT_BOUNDS.len() + 1],
    fetched: OnceLock<Box<[AtomicU64]>>,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            events: Mutex::default(),
            waits: Default::default(),
            fetched: OnceLock::new(),
        }
    }
}

impl Activity {
    /// A read that began to wait at `since` has got its bytes.
    pub(crate) fn waited(&self, chunk: ChunkId, since: Instant) {
        let wait = micros(since.elapsed());
        let bucket = WAIT_BOUNDS.partition_point(|bound| *bound < wait);
        self.waits[bucket].fetch_add(1, Ordering::Relaxed);
        self.push(Event::Miss { at: self.time(since), chunk, wait: clamp(wait) });
    }

    /// A range that was asked for at `since` has come.
    pub(crate) fn came(&self, cause: Cause, bytes: u64, since: Instant) {
        let took = clamp(micros(since.elapsed()));
        self.push(Event::Fetch { at: self.time(since), took, bytes: clamp(bytes), cause });
    }

    /// A chunk of a seed with `count` of them came, and was right.
    pub(crate) fn fetched(&self, count: ChunkId, chunk: ChunkId) {
        let bits = self.fetched.get_or_init(|| {
            let words = (count as usize).div_ceil(64);
            (0..words).map(|_| AtomicU64::new(0)).collect()
        });
        if let Some(word) = bits.get(chunk as usize / 64) {
            word.fetch_or(1 << (chunk % 64), Ordering::Relaxed);
        }
    }

    /// Whether a chunk came from the source.
    pub(crate) fn was_fetched(&self, chunk: ChunkId) -> bool {
        let word = self.fetched.get().and_then(|bits| bits.get(chunk as usize / 64));
        word.is_some_and(|word| word.load(Ordering::Relaxed) >> (chunk % 64) & 1 == 1)
    }

    /// The events that are kept, in the order in which they ended.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// How many reads waited up to each of [`WAIT_BOUNDS`] and longer than the one before, and how many longer.
    pub(crate) fn waits(&self) -> Vec<u64> {
        self.waits.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Time since the mount was opened, in microseconds.
    pub(crate) fn age(&self) -> u64 {
        micros(self.began.elapsed())
    }

    fn push(&self, event: Event) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() == MAX_EVENTS {
            events.pop_front();
        }
        events.push_back(event);
    }

    fn time(&self, at: Instant) -> u64 {
        micros(at.saturating_duration_since(self.began))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn clamp(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_a_bound_and_the_latest_stay() {
        let activity = Activity::default();
        for n in 0..MAX_EVENTS + 10 {
            activity.waited(ChunkId::try_from(n).unwrap(), Instant::now());
        }
        let events = activity.events();
        assert_eq!(events.len(), MAX_EVENTS);
        assert!(matches!(events[0], Event::Miss { chunk: 10, .. }), "{:?}", events[0]);
        assert_eq!(activity.waits().iter().sum::<u64>(), MAX_EVENTS as u64 + 10);
    }

    #[test]
    fn waits_are_counted_by_their_length() {
        let activity = Activity::default();
        let now = Instant::now();
        activity.waited(1, now.checked_sub(Duration::from_millis(30)).unwrap());
        activity.waited(1, now.checked_sub(Duration::from_secs(60)).unwrap());
        let waits = activity.waits();
        assert_eq!((waits[6], waits[WAIT_BOUNDS.len()], waits.iter().sum::<u64>()), (1, 1, 2));
        assert!(WAIT_BOUNDS.is_sorted());
    }

    #[test]
    fn chunks_that_came_are_known() {
        let activity = Activity::default();
        assert!(!activity.was_fetched(3));
        activity.fetched(100, 3);
        activity.fetched(100, 99);
        activity.fetched(100, 1_000_000);
        let known: Vec<_> = (0..200).filter(|chunk| activity.was_fetched(*chunk)).collect();
        assert_eq!(known, [3, 99]);
    }
}
