//! The bytes of an index that is on its way: readers wait for the frames that they touch.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use seed_format::bytes::Bytes;
use seed_image::seed::{Frame, Receiver, SeedError};

use super::buffer::Buffer;

/// The bytes, shared by those who read them and the one who brings them.
#[derive(Clone)]
pub struct Arriving(Arc<Shared>);

struct Shared {
    buffer: Buffer,
    /// How long a reader waits.
    patience: Duration,
    frames: OnceLock<Box<[Arrived]>>,
    /// All frames are there.
    complete: AtomicBool,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

/// A frame, and whether it is there.
struct Arrived {
    range: Range<usize>,
    here: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    /// How many readers wait for each byte offset.
    offsets: BTreeMap<usize, usize>,
    /// Nothing more will come.
    ended: Option<Option<Arc<SeedError>>>,
}

impl Arriving {
    /// Room for `len` bytes, of which each reader waits for `patience` at most.
    pub(crate) fn new(len: usize, patience: Duration) -> Self {
        Self(Arc::new(Shared {
            buffer: Buffer::new(len),
            patience,
            frames: OnceLock::new(),
            complete: AtomicBool::new(false),
            waiting: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// Bytes that another process has received and [shared](Self::share).
    pub(crate) fn shared(memory: OwnedFd, patience: Duration) -> io::Result<Self> {
        Ok(Self(Arc::new(Shared {
            buffer: Buffer::of_shared(memory)?,
            patience,
            frames: OnceLock::new(),
            complete: AtomicBool::new(true),
            waiting: Mutex::new(Waiting { ended: Some(None), ..Waiting::default() }),
            changed: Condvar::new(),
        })))
    }

    /// Gives the bytes, all of which must be here, to other processes: as memory that nobody changes any
    /// more.
    pub(crate) fn share(&self) -> io::Result<OwnedFd> {
        // The last frame is here a moment before its bringer says that it was the last.
        if self.0.missing(&(0..self.0.buffer.len())).is_some() && !self.is_complete() {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "the index has not arrived"));
        }
        self.0.buffer.share()
    }

    /// Says that nothing more will come: because all is here, or because of `failure`.
    pub(crate) fn end(&self, failure: Option<SeedError>) {
        if failure.is_none() {
            self.0.complete.store(true, Ordering::Release);
        }
        self.0.lock().ended = Some(failure.map(Arc::new));
        self.0.changed.notify_all();
    }

    /// Why nothing more will come, if it is for a failure.
    pub(crate) fn failure(&self) -> Option<Arc<SeedError>> {
        self.0.lock().ended.clone().flatten()
    }

    /// Waits until all of it is here; `false` if it will not be, or is not in time.
    pub(crate) fn wait(&self) -> bool {
        self.0.wait_for(&(0..self.0.buffer.len()))
    }

    /// Whether all of it is here.
    pub(crate) fn is_complete(&self) -> bool {
        self.0.complete.load(Ordering::Acquire)
    }

    /// Whether these bytes are here: nobody waits for them.
    pub(crate) fn is_here(&self, range: &Range<usize>) -> bool {
        self.is_complete() || self.0.missing(range).is_none()
    }

    /// How long a reader waits.
    pub(crate) fn patience(&self) -> Duration {
        self.0.patience
    }
}

impl Bytes for Arriving {
    fn total_len(&self) -> usize {
        self.0.buffer.len()
    }

    fn get_bytes(&self, range: Range<usize>) -> Option<&[u8]> {
        if range.start > range.end || range.end > self.0.buffer.len() {
            return None;
        }
        (self.is_complete() || self.0.wait_for(&range)).then(|| self.0.buffer.read(range))
    }
}

impl Receiver for Arriving {
    fn expect(&self, frames: &[Frame]) {
        let frames: Box<[Arrived]> = frames
            .iter()
            .map(|frame| Arrived { range: frame.range.clone(), here: AtomicBool::new(false) })
            .collect();
        let len =
            frames.iter().try_fold(0, |end, frame| (frame.range.start == end).then_some(frame.range.end));
        assert_eq!(len, Some(self.0.buffer.len()), "the frames make up the index");
        assert!(self.0.frames.set(frames).is_ok(), "an index arrives once");
    }

    fn take(&self, number: usize, bytes: &[u8]) {
        let frame = &self.0.frames.get().expect("frames are expected before they come")[number];
        let waiting = self.0.lock();
        if !frame.here.load(Ordering::Acquire) {
            self.0.buffer.write(frame.range.clone(), bytes);
            frame.here.store(true, Ordering::Release);
        }
        drop(waiting);
        self.0.changed.notify_all();
    }

    fn wanted(&self) -> Option<usize> {
        let offset = *self.0.lock().offsets.first_key_value()?.0;
        let frames = self.0.frames.get()?;
        Some(frames.partition_point(|frame| frame.range.end <= offset))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the bytes are here; `false` if they will not come, or have not come in time.
    fn wait_for(&self, range: &Range<usize>) -> bool {
        if self.missing(range).is_none() {
            return true;
        }
        let deadline = Instant::now() + self.patience;
        let mut waiting = self.lock();
        while let Some(offset) = self.missing(range) {
            let left = deadline.saturating_duration_since(Instant::now());
            if waiting.ended.is_some() || left.is_zero() {
                return false;
            }
            *waiting.offsets.entry(offset).or_insert(0) += 1;
            waiting = self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
            if let Some(readers) = waiting.offsets.get_mut(&offset) {
                *readers -= 1;
                if *readers == 0 {
                    waiting.offsets.remove(&offset);
                }
            }
        }
        true
    }

    /// The first byte of the range that is not here.
    fn missing(&self, range: &Range<usize>) -> Option<usize> {
        let Some(frames) = self.frames.get() else { return Some(range.start) };
        let first = frames.partition_point(|frame| frame.range.end <= range.start);
        let touched = frames[first..].iter().take_while(|frame| frame.range.start < range.end);
        touched
            .filter(|frame| !frame.here.load(Ordering::Acquire))
            .map(|frame| frame.range.start.max(range.start))
            .next()
    }
}

impl fmt::Debug for Arriving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arriving").field("len", &self.0.buffer.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::thread;

    use seed_format::Digest;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// 30 bytes in three frames, of which none is here.
    fn arriving(patience: Duration) -> Arriving {
        let arriving = Arriving::new(30, patience);
        let frames: Vec<_> =
            (0..3).map(|n| Frame::new(n * 10..(n + 1) * 10, 0..1, Digest::of(b""))).collect();
        arriving.expect(&frames);
        arriving
    }

    #[test]
    fn readers_wait_for_what_they_read() {
        let arriving = arriving(LONG);
        arriving.take(1, &[1; 10]);
        assert_eq!(arriving.get_bytes(12..18), Some(&[1; 6][..]));
        assert_eq!(arriving.wanted(), None);
        thread::scope(|scope| {
            let reader = scope.spawn(|| arriving.get_bytes(5..25).map(<[u8]>::to_vec));
            while arriving.wanted() != Some(0) {
                thread::yield_now();
            }
            arriving.take(0, &[0; 10]);
            while arriving.wanted() != Some(2) {
                thread::yield_now();
            }
            arriving.take(2, &[2; 10]);
            let expected = [[0; 5].as_slice(), &[1; 10], &[2; 5]].concat();
            assert_eq!(reader.join().unwrap(), Some(expected));
        });
        assert!(arriving.wanted().is_none() && !arriving.is_complete());
        arriving.end(None);
        assert!(arriving.is_complete() && arriving.wait());
    }

    #[test]
    fn a_frame_never_changes() {
        let arriving = arriving(LONG);
        arriving.take(0, &[1; 10]);
        let read = arriving.get_bytes(0..10).unwrap();
        arriving.take(0, &[2; 10]);
        assert_eq!(read, [1; 10]);
    }

    #[test]
    fn a_failure_ends_the_wait() {
        let arriving = arriving(LONG);
        arriving.take(0, &[1; 10]);
        thread::scope(|scope| {
            let reader = scope.spawn(|| arriving.get_bytes(0..11).is_some());
            while arriving.wanted() != Some(1) {
                thread::yield_now();
            }
            let source = io::Error::other("gone");
            arriving.end(Some(SeedError::Blob { digest: Digest::of(b""), source }));
            assert!(!reader.join().unwrap());
        });
        assert!(arriving.failure().is_some());
        assert!(arriving.get_bytes(0..10).is_some(), "what is here stays");
        assert!(!arriving.wait());
    }

    #[test]
    fn patience_ends() {
        let arriving = arriving(Duration::ZERO);
        assert_eq!(arriving.get_bytes(0..1), None);
        assert!(arriving.failure().is_none());
    }

    #[test]
    fn there_is_nothing_outside() {
        let arriving = arriving(Duration::ZERO);
        #[allow(clippy::reversed_empty_ranges, reason = "a caller may compute one")]
        for range in [0..31, 31..31, 5..4, usize::MAX - 1..usize::MAX] {
            assert_eq!(arriving.get_bytes(range), None);
        }
        assert_eq!(arriving.get_bytes(30..30), Some(&[][..]));
    }
}
