//! Reads that have just failed.
//!
//! When a read fails, the kernel asks for its page again, alone: once for a FUSE file, three times for EROFS
//! over one. Each time would take until the deadline of reads, and the reader would wait for all of them. So
//! what has failed fails again at once, for a moment.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::tree::Ino;

/// The kernel asks again as soon as it is told of the failure; this leaves room for a busy machine.
const MOMENT: Duration = Duration::from_secs(1);
/// Failures that are remembered: as many as reads that the kernel may have under way.
const MOST: usize = 128;

/// The failures of the last moment.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<VecDeque<Failure>>);

#[derive(Debug)]
struct Failure {
    until: Instant,
    ino: Ino,
    bytes: Range<u64>,
    error: Errno,
}

impl Failures {
    /// Notes that a read failed.
    pub(super) fn note(&self, ino: Ino, offset: u64, size: u32, error: Errno) {
        self.note_at(Instant::now(), ino, offset, size, error);
    }

    /// The error of a read of which a part has just failed.
    pub(super) fn of(&self, ino: Ino, offset: u64, size: u32) -> Option<Errno> {
        self.of_at(Instant::now(), ino, offset, size)
    }

    fn note_at(&self, now: Instant, ino: Ino, offset: u64, size: u32, error: Errno) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() == MOST {
            failures.pop_front();
        }
        let bytes = offset..offset.saturating_add(size.into());
        failures.push_back(Failure { until: now + MOMENT, ino, bytes, error });
    }

    fn of_at(&self, now: Instant, ino: Ino, offset: u64, size: u32) -> Option<Errno> {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while failures.front().is_some_and(|failure| failure.until <= now) {
            failures.pop_front();
        }
        let end = offset.saturating_add(size.into());
        let hit = |failure: &&Failure| {
            failure.ino == ino && failure.bytes.start <= offset && end <= failure.bytes.end
        };
        failures.iter().find(hit).map(|failure| failure.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_fails_for_a_moment() {
        let (failures, now) = (Failures::default(), Instant::now());
        let later = |millis| now + Duration::from_millis(millis);
        failures.note_at(now, Ino(7), 8192, 8192, Errno::IO);
        for (at, ino, offset, size, expected) in [
            (now, 7, 8192, 4096, Some(Errno::IO)),
            (later(999), 7, 12288, 4096, Some(Errno::IO)),
            (now, 7, 4096, 4096, None),
            (now, 7, 4096, 8192, None),
            (now, 7, 16384, 4096, None),
            (now, 8, 8192, 4096, None),
            (later(1000), 7, 8192, 4096, None),
        ] {
            assert_eq!(failures.of_at(at, Ino(ino), offset, size), expected, "{ino} {offset} {size}");
        }
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let (failures, now) = (Failures::default(), Instant::now());
        for n in 0..=MOST as u64 {
            failures.note_at(now, Ino(n), 0, 1, Errno::IO);
        }
        assert_eq!(failures.of_at(now, Ino(0), 0, 1), None);
        assert_eq!(failures.of_at(now, Ino(1), 0, 1), Some(Errno::IO));
    }
}
