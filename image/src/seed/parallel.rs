//! A blob in parts, over several connections at once.
//!
//! On a new connection a server may send about 14 kB, and twice as much with each round trip: a blob of
//! 6 MB takes nine of them, of 20 ms or more, on one connection, and four on thirty-two. A mount waits for
//! its index, so the index is fetched this way. The connections are kept, and have grown, for what follows.

use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use seed_format::Digest;

use crate::manifest::Descriptor;
use crate::transport::Transport;

/// Least bytes of a part: less is not worth a request.
const MIN_PART: u64 = 128 << 10;

/// Most parts: as many connections as a transport keeps open.
const MAX_PARTS: u64 = 32;

/// How long the parts may take. A link that is slower than that is no faster with many connections.
const DEADLINE: Duration = Duration::from_secs(30);

/// The blob, if it is worth being read in parts, all of them came, and they have the blob's digest.
///
/// `None` says nothing about the blob: read it as a whole, and learn from that what is wrong.
pub(super) fn read(transport: &dyn Transport, blob: &Descriptor) -> Option<Vec<u8>> {
    let parts = parts(blob.size);
    if parts.len() < 2 || transport.blob_path(&blob.digest).is_some() {
        return None;
    }
    let deadline = Instant::now() + DEADLINE;
    let bytes = thread::scope(|scope| {
        let readers: Vec<_> = parts
            .into_iter()
            .map(|part| scope.spawn(move || transport.read_range(&blob.digest, part, deadline)))
            .collect();
        let mut bytes = Vec::with_capacity(usize::try_from(blob.size).ok()?);
        let mut failed = false;
        for reader in readers {
            match reader.join() {
                Ok(Ok(part)) => bytes.extend_from_slice(&part),
                Ok(Err(error)) => {
                    tracing::debug!(blob = %blob.digest, %error, "a part of the blob did not come");
                    failed = true;
                }
                Err(_) => failed = true,
            }
        }
        (!failed).then_some(bytes)
    })?;
    if Digest::of(&bytes) == blob.digest {
        return Some(bytes);
    }
    tracing::warn!(blob = %blob.digest, "the parts of the blob do not have its digest");
    transport.distrust(&blob.digest);
    None
}

/// `0..size` in equal parts of whole bytes.
fn parts(size: u64) -> Vec<Range<u64>> {
    let count = (size / MIN_PART).clamp(1, MAX_PARTS);
    let len = size.div_ceil(count);
    (0..count).map(|n| (n * len).min(size)..((n + 1) * len).min(size)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_blob() {
        for size in [0, 1, MIN_PART, 2 * MIN_PART - 1, 2 * MIN_PART, 5_000_001, 1 << 30] {
            let parts = parts(size);
            assert!(parts.len() as u64 <= MAX_PARTS);
            assert_eq!((parts[0].start, parts[parts.len() - 1].end), (0, size));
            assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start), "{size}");
        }
        assert_eq!(parts(2 * MIN_PART - 1).len(), 1, "small ones are read whole");
        assert_eq!(parts(6 << 20).len(), 32);
    }
}
