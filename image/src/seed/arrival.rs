//! An index on its way: in parts, over several connections at once, each frame verified when it is there.
//!
//! On a new connection a server may send about 14 kB, and twice as much with each round trip: an index of
//! 6 MB takes nine of them, of 20 ms or more, on one connection, and four on thirty-two. A mount waits for
//! its index, so the index is fetched this way, and used from its first frame on. The connections are kept,
//! and have grown, for what follows.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use seed_format::toc::Located;

use super::frames::{self, Frame};
use super::{IndexPlace, MAX_INDEX_LAYER, SeedError, read_blob};
use crate::transport::{Transport, TransportError};
use crate::{kept, whole_file};

/// Bytes of a part: less is not worth a request.
const PART: u64 = 128 << 10;

/// Bytes of each of the first parts: what a server sends at once on a new connection. They make up the first
/// frames, which a mount waits for.
const FIRST_PART: u64 = 12 << 10;

/// Parts that take the place of the first of the others.
const FIRST_PARTS: u64 = PART.div_ceil(FIRST_PART);

/// Parts in flight beside the table of contents, which hold the first frame: the link and the server are
/// for these first. All others wait until the table of contents is there.
const EARLY_WORKERS: usize = 3;

/// Most parts in flight: as many connections as a transport keeps open.
const MAX_WORKERS: usize = 32;

/// How long one part may take. A link that is slower than that is no faster with many connections.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the parts of an index are given to, from one thread.
pub trait Receiver: Sync {
    /// The frames that will come, before the first of them.
    fn expect(&self, frames: &[Frame]);

    /// The verified bytes of a frame. Each comes once, in any order.
    fn take(&self, number: usize, bytes: &[u8]);

    /// A frame that something waits for, if there is one. Called from any thread.
    fn wanted(&self) -> Option<usize>;
}

/// Brings the whole index to `receiver`: two round trips until its first frame is there.
///
/// `kept` is a file that keeps the layer for the next time, and may be missing or wrong.
pub(super) fn receive(
    transport: &dyn Transport,
    index: IndexPlace<'_>,
    kept: Option<&Path>,
    receiver: &dyn Receiver,
) -> Result<(), SeedError> {
    let mut arrival = Arrival::new(index)?;
    if let Some(file) = kept.filter(|file| file.exists()) {
        let read = fs::read(file).map_err(|error| index.malformed(error));
        match read.and_then(|blob| arrival.deliver_blob(blob, receiver)) {
            Ok(()) => {
                kept::used(file);
                return Ok(());
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(file = %file.display(), error, "a cached index is wrong: it is fetched again");
            }
        }
    }
    let layer = index.layer;
    if transport.blob_path(&layer.digest).is_some() {
        let blob = transport.read_range(&layer.digest, 0..layer.size, Instant::now() + DEADLINE)?;
        return arrival.deliver_blob(blob, receiver);
    }
    arrival.over_connections(transport, receiver)?;
    if let Some(file) = kept
        && let Err(error) = whole_file::write(file, &arrival.blob)
    {
        tracing::warn!(file = %file.display(), %error, "the index cannot be cached");
    }
    Ok(())
}

/// A range of the blob that was asked for, and what came.
type Part = (Range<u64>, Result<Vec<u8>, TransportError>);

/// What is here of an index.
struct Arrival<'a> {
    index: IndexPlace<'a>,
    located: Located,
    /// Where the table of contents lies.
    toc: Range<u64>,
    /// The layer's blob, as far as it is here.
    blob: Vec<u8>,
    /// Empty until they are known.
    frames: Vec<Frame>,
    /// For each frame, whether it was delivered.
    delivered: Vec<bool>,
}

impl<'a> Arrival<'a> {
    fn new(index: IndexPlace<'a>) -> Result<Self, SeedError> {
        let (digest, size, limit) = (index.layer.digest, index.layer.size, MAX_INDEX_LAYER);
        if size > limit {
            return Err(SeedError::TooLarge { digest, size, limit });
        }
        let (located, toc) = frames::locate(index)?;
        Ok(Self { index, located, toc, blob: Vec::new(), frames: Vec::new(), delivered: Vec::new() })
    }

    /// Learns which frames there are.
    fn expect(&mut self, toc: &[u8], receiver: &dyn Receiver) -> Result<(), SeedError> {
        if self.frames.is_empty() {
            self.frames = frames::read(toc, &self.located, self.index)?;
            self.delivered = vec![false; self.frames.len()];
            receiver.expect(&self.frames);
        }
        Ok(())
    }

    /// Delivers from the whole blob what was not delivered yet.
    fn deliver_blob(&mut self, blob: Vec<u8>, receiver: &dyn Receiver) -> Result<(), SeedError> {
        self.blob = blob;
        let whole = self.blob.len() as u64 == self.index.layer.size;
        let toc = self.bytes(&self.toc).filter(|_| whole);
        let toc = toc.ok_or_else(|| self.index.malformed("it has another size"))?.to_vec();
        self.expect(&toc, receiver)?;
        let delivered = (0..self.frames.len()).try_for_each(|number| self.deliver(number, receiver));
        delivered.map_err(|error| self.index.malformed(error))
    }

    fn over_connections(
        &mut self,
        transport: &dyn Transport,
        receiver: &dyn Receiver,
    ) -> Result<(), SeedError> {
        let layer = self.index.layer;
        // Zeroed pages take no memory until bytes are written to them.
        self.blob = vec![0; usize::try_from(layer.size).expect("at most MAX_INDEX_LAYER")];
        let queue = Parts::new(layer.size);
        let whole = thread::scope(|scope| {
            // Asked for before the parts: nothing can be verified without it.
            let toc = self.toc.clone();
            let toc =
                scope.spawn(move || transport.read_range(&layer.digest, toc, Instant::now() + DEADLINE));
            let (send, parts) = mpsc::channel();
            let work = |_| {
                let (send, queue) = (send.clone(), &queue);
                scope.spawn(move || {
                    while let Some(part) = queue.next(receiver) {
                        let deadline = Instant::now() + DEADLINE;
                        let bytes = transport.read_range(&layer.digest, part.clone(), deadline);
                        if send.send((part, bytes)).is_err() {
                            return;
                        }
                    }
                });
            };
            let workers = queue.workers();
            (0..workers.min(EARLY_WORKERS)).for_each(work);
            let toc = toc.join().unwrap_or_else(|panic| resume_unwind(panic));
            (EARLY_WORKERS..workers).for_each(work);
            drop(send);
            let result = self.collect(transport, &queue, toc, &parts, receiver);
            queue.stop();
            result
        })?;
        if whole { Ok(()) } else { self.start_over(transport, receiver) }
    }

    /// Takes the parts as they come; says whether all of them came and were right.
    fn collect(
        &mut self,
        transport: &dyn Transport,
        queue: &Parts,
        toc: Result<Vec<u8>, TransportError>,
        parts: &mpsc::Receiver<Part>,
        receiver: &dyn Receiver,
    ) -> Result<bool, SeedError> {
        let digest = self.index.layer.digest;
        let distrust = |error: SeedError| {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(index = %digest, error, "a part of the index is wrong or did not come");
            transport.distrust(&digest);
        };
        if let Err(error) = toc.map_err(SeedError::from).and_then(|toc| self.expect(&toc, receiver)) {
            distrust(error);
            return Ok(false);
        }
        tracing::debug!(index = %digest, frames = self.frames.len(), "the frames of the index are known");
        let _ = queue.frames.set(self.frames.clone());
        let mut here = BTreeSet::new();
        for (part, bytes) in parts {
            match bytes {
                Ok(bytes) => self.put(&part, &bytes),
                Err(error) => {
                    tracing::debug!(index = %digest, %error, "a part of the index did not come");
                    return Ok(false);
                }
            }
            tracing::trace!(index = %digest, start = part.start, "a part of the index came");
            here.insert(Parts::number(part.start));
            for number in self.frames_in(&part) {
                let complete = Parts::of(&self.frames[number].blob).all(|part| here.contains(&part));
                if complete && let Err(error) = self.deliver(number, receiver) {
                    distrust(self.index.malformed(error));
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Fetches the blob as a whole, verified, from whoever has it: what a transport does its best for.
    fn start_over(&mut self, transport: &dyn Transport, receiver: &dyn Receiver) -> Result<(), SeedError> {
        let blob = read_blob(transport, self.index.layer, MAX_INDEX_LAYER)?;
        self.deliver_blob(blob, receiver)
    }

    /// Delivers a frame, unless it was delivered before.
    fn deliver(&mut self, number: usize, receiver: &dyn Receiver) -> io::Result<()> {
        if !self.delivered[number] {
            let frame = &self.frames[number];
            let compressed = self.bytes(&frame.blob).ok_or(io::ErrorKind::UnexpectedEof)?;
            receiver.take(number, &frame.decode(compressed)?);
            self.delivered[number] = true;
        }
        Ok(())
    }

    fn put(&mut self, part: &Range<u64>, bytes: &[u8]) {
        let start = usize::try_from(part.start).expect("less than MAX_INDEX_LAYER");
        self.blob[start..start + bytes.len()].copy_from_slice(bytes);
    }

    fn bytes(&self, range: &Range<u64>) -> Option<&[u8]> {
        self.blob.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
    }

    /// The frames of which a part has bytes.
    fn frames_in(&self, part: &Range<u64>) -> Range<usize> {
        let start = self.frames.partition_point(|frame| frame.blob.end <= part.start);
        let end = self.frames.partition_point(|frame| frame.blob.start < part.end);
        start..end.max(start)
    }
}

/// The parts of a blob that nobody has asked for yet.
struct Parts {
    size: u64,
    left: Mutex<BTreeSet<u64>>,
    /// Once they are known.
    frames: OnceLock<Vec<Frame>>,
}

impl Parts {
    fn new(size: u64) -> Self {
        let count = size.checked_sub(1).map_or(0, |last| Self::number(last) + 1);
        Self { size, left: Mutex::new((0..count).collect()), frames: OnceLock::new() }
    }

    fn workers(&self) -> usize {
        self.left().len().min(MAX_WORKERS)
    }

    /// The part that has this byte.
    fn number(at: u64) -> u64 {
        if at < PART { at / FIRST_PART } else { FIRST_PARTS - 1 + at / PART }
    }

    /// Where a part begins.
    fn start(number: u64) -> u64 {
        if number < FIRST_PARTS { number * FIRST_PART } else { (number + 1 - FIRST_PARTS) * PART }
    }

    /// The parts that have bytes of this range, which is not empty.
    fn of(blob: &Range<u64>) -> RangeInclusive<u64> {
        Self::number(blob.start)..=Self::number(blob.end - 1)
    }

    /// The part to fetch next: of a frame that something waits for, or the first.
    fn next(&self, receiver: &dyn Receiver) -> Option<Range<u64>> {
        let frame = self.frames.get().and_then(|frames| frames.get(receiver.wanted()?));
        let mut left = self.left();
        let wanted = frame.and_then(|frame| left.range(Self::of(&frame.blob)).next().copied());
        let number = wanted.or_else(|| left.first().copied())?;
        left.remove(&number);
        Some(Self::start(number)..Self::start(number + 1).min(self.size))
    }

    fn stop(&self) {
        self.left().clear();
    }

    fn left(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Collects the whole index.
#[derive(Debug, Default)]
pub(super) struct Whole(Mutex<(Vec<Range<usize>>, Vec<u8>)>);

impl Whole {
    /// The bytes.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner).1
    }
}

impl Receiver for Whole {
    fn expect(&self, frames: &[Frame]) {
        let len = frames.last().map_or(0, |frame| frame.range.end);
        let ranges = frames.iter().map(|frame| frame.range.clone()).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (ranges, vec![0; len]);
    }

    fn take(&self, number: usize, bytes: &[u8]) {
        let (ranges, whole) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        whole[ranges[number].clone()].copy_from_slice(bytes);
    }

    fn wanted(&self) -> Option<usize> {
        None
    }
}

#[cfg(test)]
mod tests {
    use seed_format::Digest;

    use super::*;

    /// Waits for one frame.
    struct Waits(Option<usize>);

    impl Receiver for Waits {
        fn expect(&self, _: &[Frame]) {}
        fn take(&self, _: usize, _: &[u8]) {}
        fn wanted(&self) -> Option<usize> {
            self.0
        }
    }

    #[test]
    fn parts_cover_the_blob() {
        for size in [0, 1, FIRST_PART, PART - 1, PART, PART + 1, 10 * PART, 10 * PART + 7] {
            let queue = Parts::new(size);
            let parts: Vec<_> = std::iter::from_fn(|| queue.next(&Waits(None))).collect();
            assert_eq!(parts.iter().map(|part| part.end - part.start).sum::<u64>(), size);
            assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start), "{size}");
            assert!(parts.iter().all(|part| part.start < part.end), "{size}");
            for (number, part) in (0..).zip(&parts) {
                assert_eq!((Parts::number(part.start), Parts::number(part.end - 1)), (number, number));
            }
        }
        assert_eq!(Parts::new(1000 * PART).workers(), MAX_WORKERS);
    }

    #[test]
    fn what_is_waited_for_comes_first() {
        let queue = Parts::new(10 * PART);
        let frame = |blob| Frame::new(0..1, blob, Digest::of(b""));
        queue.frames.set(vec![frame(0..FIRST_PART), frame(5 * PART - 1..6 * PART + 1)]).unwrap();
        let next = |wanted| queue.next(&Waits(wanted)).map(|part| part.start);
        assert_eq!(next(None), Some(0));
        let waited = [next(Some(1)), next(Some(1)), next(Some(1))];
        assert_eq!(waited, [Some(4 * PART), Some(5 * PART), Some(6 * PART)]);
        assert_eq!(next(Some(1)), Some(FIRST_PART), "all of it is on its way");
        assert_eq!(next(Some(7)), Some(2 * FIRST_PART), "there is no such frame");
        queue.stop();
        assert_eq!(next(None), None);
    }
}
