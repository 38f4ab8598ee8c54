//! Bundles: the frames of a trace's chunks, in its order, in one blob.
//!
//! What a command reads lies scattered over the layers, a file here and a file there: fetched from there, it is
//! hundreds of requests. From a bundle it is one stream. The frames are those of the layers, byte for byte, and the
//! index has their sizes: a bundle needs no table, and is verified chunk by chunk like the layers.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use seed_format::bytes::Bytes;
use seed_format::index::{ChunkId, ChunkRecord, Index};
use seed_format::trace::{BUNDLE_MEDIA_TYPE, MAX_BUNDLE_LEN, Trace};
use seed_format::{Digest, DigestReader};

use super::{TracesError, limit};
use crate::manifest::Descriptor;
use crate::transport::{FileContent, Transport};

/// Ranges of layers that are asked for at once.
const CONNECTIONS: usize = 8;
/// Longest range, in bytes, where one chunk is not longer.
const RANGE: u64 = 4 << 20;
/// Unwanted bytes that a range may run over to reach the next wanted chunk.
const MAX_GAP: u64 = 128 << 10;
/// How long one range may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A frame, and where it goes.
struct Part {
    record: ChunkRecord,
    /// Its first byte in the bundle.
    at: u64,
}

/// Gathers the bundle of a trace of the seed with this index in the file `scratch`, which may be left, and stores it.
/// `None` for a trace of so much that a reader would rather fetch the whole seed.
pub fn put_bundle<B: Bytes + Sync>(
    transport: &dyn Transport,
    index: &Index<B>,
    trace: &Trace,
    scratch: &Path,
) -> Result<Option<Descriptor>, TracesError> {
    let chunks = trace.distinct_chunks(index.chunk_count());
    let (parts, size) = place(chunks.iter().filter_map(|id| index.chunk(*id)));
    let all = index.layers().iter().map(|layer| layer.size).sum();
    if parts.is_empty() || size > limit(all).min(MAX_BUNDLE_LEN) {
        return Ok(None);
    }
    let file = File::options().read(true).write(true).create(true).truncate(true).open(scratch)?;
    gather(transport, index, parts, &file)?;
    let mut content = DigestReader::new(&file);
    io::copy(&mut content, &mut io::sink())?;
    let (_, digest, _) = content.finish();
    let descriptor = Descriptor::new(BUNDLE_MEDIA_TYPE, digest, size);
    transport.put_blob(&descriptor, &mut FileContent::owned(scratch))?;
    Ok(Some(descriptor))
}

/// One frame after another.
fn place(records: impl Iterator<Item = ChunkRecord>) -> (Vec<Part>, u64) {
    let mut end = 0;
    let parts = records.map(|record| {
        let at = end;
        end += u64::from(record.blob_len);
        Part { record, at }
    });
    (parts.collect(), end)
}

/// Parts that one range of a layer brings, and that range.
struct Gathered<'a> {
    layer: u16,
    blob: Range<u64>,
    parts: &'a [Part],
}

/// Fetches all parts, verifies them, and writes each to its place.
fn gather<B: Bytes + Sync>(
    transport: &dyn Transport,
    index: &Index<B>,
    mut parts: Vec<Part>,
    file: &File,
) -> Result<(), TracesError> {
    parts.sort_unstable_by_key(|part| (part.record.layer, part.record.blob_offset));
    let ranges = ranges(&parts);
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), TracesError> {
        while let Some(range) = ranges.get(next.fetch_add(1, Ordering::Relaxed)) {
            fetch(transport, index, range, file)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..CONNECTIONS.min(ranges.len())).map(|_| scope.spawn(work)).collect();
        let ended = workers.into_iter().map(|worker| worker.join().expect("a worker does not panic"));
        ended.collect::<Result<Vec<()>, _>>().map(drop)
    })
}

fn ranges(parts: &[Part]) -> Vec<Gathered<'_>> {
    let mut ranges = Vec::new();
    let mut rest = parts;
    while let Some(first) = rest.first() {
        let layer = first.record.layer;
        let start = first.record.blob_offset;
        let mut end = blob_end(&first.record);
        let more = rest.iter().skip(1).take_while(|part| {
            let near = part.record.layer == layer
                && part.record.blob_offset.saturating_sub(end) <= MAX_GAP
                && blob_end(&part.record) - start <= RANGE;
            if near {
                end = end.max(blob_end(&part.record));
            }
            near
        });
        let count = 1 + more.count();
        let (these, others) = rest.split_at(count);
        ranges.push(Gathered { layer, blob: start..end, parts: these });
        rest = others;
    }
    ranges
}

fn blob_end(record: &ChunkRecord) -> u64 {
    record.blob_offset + u64::from(record.blob_len)
}

fn fetch<B: Bytes + Sync>(
    transport: &dyn Transport,
    index: &Index<B>,
    range: &Gathered<'_>,
    file: &File,
) -> Result<(), TracesError> {
    let layer = index.layers()[usize::from(range.layer)].digest;
    let bytes = transport.read_range(&layer, range.blob.clone(), Instant::now() + PATIENCE)?;
    for Part { record, at } in range.parts {
        let start = usize::try_from(record.blob_offset - range.blob.start).expect("within a range");
        let frame = &bytes[start..start + record.blob_len as usize];
        let holds = zstd::bulk::decompress(frame, record.len as usize)
            .is_ok_and(|chunk| chunk.len() == record.len as usize && Digest::of(&chunk) == record.digest);
        if !holds {
            return Err(TracesError::Chunk { layer, chunk: record.digest });
        }
        file.write_all_at(frame, *at)?;
    }
    Ok(())
}

/// Where each frame of a bundle lies: that of each chunk which the index has, in the order of the trace.
pub fn offsets<B: Bytes>(index: &Index<B>, trace: &Trace) -> (Vec<(ChunkId, u64)>, u64) {
    let chunks = trace.distinct_chunks(index.chunk_count());
    let known = chunks.iter().copied().filter(|id| index.chunk(*id).is_some());
    let (parts, size) = place(chunks.iter().filter_map(|id| index.chunk(*id)));
    (known.zip(parts.iter().map(|part| part.at)).collect(), size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(layer: u16, blob_offset: u64, blob_len: u32) -> ChunkRecord {
        let digest = Digest::of(&blob_offset.to_le_bytes());
        ChunkRecord { layer, file: 0, virtual_offset: 0, len: 1, blob_offset, blob_len, digest }
    }

    #[test]
    fn frames_lie_one_after_another_in_the_order_of_the_trace() {
        let (parts, size) = place([record(1, 500, 7), record(0, 3, 20), record(1, 10, 1)].into_iter());
        assert_eq!(parts.iter().map(|part| part.at).collect::<Vec<_>>(), [0, 7, 27]);
        assert_eq!(size, 28);
    }

    #[test]
    fn what_is_near_in_a_layer_is_one_range() {
        let far = 100 + MAX_GAP + 1;
        let records = [
            record(0, 0, 100),
            record(0, far - 1, 50),
            record(0, far + 50 + MAX_GAP, 10),
            record(1, 0, 10),
            record(1, 10, u32::try_from(RANGE).unwrap()),
        ];
        let (parts, _) = place(records.into_iter());
        let ranges: Vec<_> =
            ranges(&parts).into_iter().map(|range| (range.layer, range.blob, range.parts.len())).collect();
        let last = far + 50 + MAX_GAP;
        assert_eq!(
            ranges,
            [(0, 0..far + 49, 2), (0, last..last + 10, 1), (1, 0..10, 1), (1, 10..10 + RANGE, 1)]
        );
    }
}
