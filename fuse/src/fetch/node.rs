//! What the mounts of a node tell each other: when a read last had to wait, and how much of the link is taken.
//!
//! A file in the cache directory, of four numbers. Nothing depends on it but the order in which things are fetched, so
//! whatever is in it is bounded when it is read, and where there is no such file each mount is on its own. It is
//! read and written by single calls of a few bytes; the budgets are changed under a lock of the file.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::time::{ClockId, clock_gettime};

/// Name of the file.
pub(crate) const FILE: &str = "node";
/// When a read of any mount last missed, in microseconds of the monotonic clock, and who missed.
const MISS: u64 = 0;
/// Until when each budget is used up, in the same.
const BUDGETS: [u64; 2] = [16, 24];
/// Shortest time between two notes of a miss.
const NOTE_EVERY: u64 = 5_000;
/// The longest wait that a budget asks for: what is further away was written by a clock of before.
const LONGEST: u64 = 600_000_000;

/// A limit of bytes a second that all mounts of a node have together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Budget {
    /// Of all that no read waits for.
    Ahead = 0,
    /// Of the fill alone.
    Fill = 1,
}

/// The file, as one mount sees it.
#[derive(Debug)]
pub(super) struct Node {
    /// `None` on a cache that cannot be written to.
    file: Option<File>,
    /// Tells this mount from the others.
    id: u64,
    noted: AtomicU64,
    /// The budgets of this mount, where there is no file.
    own: [AtomicU64; 2],
}

impl Node {
    /// Opens the file in a cache directory, or makes it.
    pub(super) fn open(cache: Option<&Path>) -> Self {
        let open = |cache: &Path| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600).open(cache.join(FILE))
        };
        let file = cache.and_then(|cache| open(cache).ok());
        let id = u64::from(std::process::id()) << 32 | u64::from(fresh());
        Self { file, id, noted: AtomicU64::new(0), own: Default::default() }
    }

    /// A read of this mount waits.
    pub(super) fn missed(&self) {
        let Some(file) = &self.file else { return };
        let now = now();
        if now.saturating_sub(self.noted.swap(now, Ordering::Relaxed)) >= NOTE_EVERY {
            let note = [now.to_le_bytes(), self.id.to_le_bytes()].concat();
            // That others fetch ahead meanwhile is all that may follow.
            let _ = file.write_all_at(&note, MISS);
        }
    }

    /// How long ago a read of another mount last waited.
    pub(super) fn others_missed(&self) -> Option<Duration> {
        let file = self.file.as_ref()?;
        let (at, who) = (read(file, MISS).ok()?, read(file, MISS + 8).ok()?);
        let ago = now().checked_sub(at).filter(|_| at > 0 && who != self.id)?;
        Some(Duration::from_micros(ago))
    }

    /// Takes `bytes` out of a budget; gives how long to wait before they may be asked for.
    pub(super) fn take(&self, budget: Budget, bytes: u64, rate: NonZeroU64) -> Duration {
        let cost = bytes.saturating_mul(1_000_000) / rate;
        let own = &self.own[budget as usize];
        let at = BUDGETS[budget as usize];
        let now = now();
        let book = |free: u64| {
            let start = if free > now.saturating_add(LONGEST) { now } else { free.max(now) };
            (start - now, start.saturating_add(cost))
        };
        let shared = self.file.as_ref().and_then(|file| {
            let _lock = Lock::take(file).ok()?;
            let (wait, free) = book(read(file, at).ok()?);
            file.write_all_at(&free.to_le_bytes(), at).ok()?;
            Some(wait)
        });
        let wait = shared.unwrap_or_else(|| {
            let (wait, free) = book(own.load(Ordering::Relaxed));
            own.store(free, Ordering::Relaxed);
            wait
        });
        Duration::from_micros(wait)
    }
}

struct Lock<'a>(&'a File);

impl<'a> Lock<'a> {
    fn take(file: &'a File) -> io::Result<Self> {
        flock(file, FlockOperation::LockExclusive)?;
        Ok(Self(file))
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // Fails for no file that could be locked.
        let _ = flock(self.0, FlockOperation::Unlock);
    }
}

/// A number of the file; 0 where it is shorter.
fn read(file: &File, at: u64) -> io::Result<u64> {
    let mut bytes = [0; 8];
    file.read_at(&mut bytes, at)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Microseconds of a clock that all processes of the node share.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let part = |n: i64| u64::try_from(n).unwrap_or(0);
    part(time.tv_sec).saturating_mul(1_000_000).saturating_add(part(time.tv_nsec) / 1000)
}

/// Another number for each mount of a process.
fn fresh() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_see_the_misses_of_others() {
        let cache = tempfile::tempdir().unwrap();
        let (one, other) = (Node::open(Some(cache.path())), Node::open(Some(cache.path())));
        assert_eq!(one.others_missed(), None);
        other.missed();
        assert!(one.others_missed().unwrap() < Duration::from_secs(10));
        assert_eq!(other.others_missed(), None, "its own");
        one.missed();
        assert!(other.others_missed().is_some());
    }

    #[test]
    fn a_budget_is_shared() {
        let cache = tempfile::tempdir().unwrap();
        let rate = NonZeroU64::new(1000).unwrap();
        for shared in [Some(cache.path()), None] {
            let one = Node::open(shared);
            let other = if shared.is_some() { &Node::open(shared) } else { &one };
            assert_eq!(one.take(Budget::Ahead, 2000, rate), Duration::ZERO);
            let wait = other.take(Budget::Ahead, 2000, rate);
            assert!((1_000..=2_000).contains(&wait.as_millis()), "{wait:?}");
            let wait = one.take(Budget::Ahead, 1, rate);
            assert!((3_000..=4_000).contains(&wait.as_millis()), "{wait:?}");
            assert_eq!(one.take(Budget::Fill, 1, rate), Duration::ZERO, "a budget of its own");
        }
    }

    #[test]
    fn whatever_is_in_the_file_is_bounded() {
        let cache = tempfile::tempdir().unwrap();
        for content in [&b""[..], b"short", &[0xff; 100], &[0x7f; 32]] {
            std::fs::write(cache.path().join(FILE), content).unwrap();
            let node = Node::open(Some(cache.path()));
            let rate = NonZeroU64::MIN;
            assert!(node.take(Budget::Ahead, 1, rate) <= Duration::from_micros(LONGEST));
            node.others_missed();
            node.missed();
        }
        Node::open(Some(Path::new("/nonexistent"))).missed();
    }
}
