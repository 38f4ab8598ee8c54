//! The zstd frames of an index: where each lies in the layer's blob, what it holds, what that hashes to.
//!
//! The table of contents of the index layer tells; the manifest has its digest. So each frame can be verified
//! by itself, and used, while the others are still on their way.

use std::io;
use std::ops::Range;

use seed_format::Digest;
use seed_format::index::{MAX_CHUNK_LEN, max_blob_len};
use seed_format::toc::{Located, Toc};

use super::{INDEX_PATH, IndexPlace, IndexPosition, SeedError};

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its bytes in the index.
    pub range: Range<usize>,
    /// Its compressed bytes in the layer's blob.
    pub blob: Range<u64>,
    /// Digest of its bytes in the index.
    digest: Digest,
}

impl Frame {
    /// A frame that holds `range` of the index, lies at `blob`, and hashes to `digest` when it is decompressed.
    pub fn new(range: Range<usize>, blob: Range<u64>, digest: Digest) -> Self {
        Self { range, blob, digest }
    }

    /// Decompresses and verifies the frame.
    pub(super) fn decode(&self, compressed: &[u8]) -> io::Result<Vec<u8>> {
        let bytes = zstd::bulk::decompress(compressed, self.range.len())?;
        let actual = Digest::of(&bytes);
        if bytes.len() != self.range.len() || actual != self.digest {
            let what = format!("a part of the index hashes to {actual}, not to {}", self.digest);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(bytes)
    }
}

/// What the annotations of the index layer say of its table of contents, and where in the blob it lies.
pub(super) fn locate(index: IndexPlace<'_>) -> Result<(Located, Range<u64>), SeedError> {
    let malformed = |what: String| index.malformed(what);
    let located = Located::from_annotations(&index.layer.annotations);
    let located = located.map_err(|error| malformed(error.to_string()))?;
    let located = located.ok_or_else(|| malformed("it has no table of contents".to_owned()))?;
    let end = located.toc.offset.checked_add(located.toc.len).filter(|end| *end <= index.layer.size);
    let end = end.ok_or_else(|| malformed("its table of contents lies outside of it".to_owned()))?;
    Ok((located, located.toc.offset..end))
}

/// Reads the table of contents. The frames fill the index without a gap.
pub(super) fn read(toc: &[u8], located: &Located, index: IndexPlace<'_>) -> Result<Vec<Frame>, SeedError> {
    let toc = Toc::read(toc, located).map_err(|error| index.malformed(error.to_string()))?;
    frames(&toc, index.position, index.layer.size).map_err(|what| index.malformed(what))
}

fn frames(toc: &Toc, position: &IndexPosition, blob_len: u64) -> Result<Vec<Frame>, String> {
    let entries = toc.layer_entries(blob_len).map_err(|error| error.to_string())?;
    let index = entries.into_iter().find(|entry| entry.entry.path == INDEX_PATH.as_bytes());
    let chunks = index.ok_or("its table of contents does not name the index")?.chunks;
    let (mut at, mut blob_at) = (0, position.offset);
    let mut frames = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        if chunk.blob_offset != blob_at
            || chunk.len > MAX_CHUNK_LEN
            || chunk.blob_len > max_blob_len(chunk.len)
        {
            return Err("the frames of the index are too long, or do not follow one another".to_owned());
        }
        let len = usize::try_from(chunk.len).map_err(|error| error.to_string())?;
        let blob_end = blob_at + u64::from(chunk.blob_len);
        frames.push(Frame::new(at..at + len, blob_at..blob_end, chunk.digest));
        (at, blob_at) = (at + len, blob_end);
    }
    if at as u64 != position.uncompressed_len || blob_at != position.offset + position.len {
        return Err("the index has another length than its annotation says".to_owned());
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::fixture::index_layer;
    use crate::manifest::{Descriptor, media_type};

    const CHUNK: u32 = 4096;

    fn layer(name: &str, index: &[u8]) -> (Vec<u8>, Descriptor) {
        let (blob, layer) = index_layer(name, index, CHUNK);
        let mut descriptor = Descriptor::new(media_type::LAYER_ZSTD, layer.digest, layer.size);
        descriptor.annotations = layer.annotations;
        (blob, descriptor)
    }

    fn index() -> Vec<u8> {
        (0..3000)
            .fold(String::new(), |mut text, n| {
                let _ = writeln!(text, "line {n}");
                text
            })
            .into_bytes()
    }

    /// The frames that the table of contents tells of, with the position that fits them.
    fn read_all(blob: &[u8], layer: &Descriptor, position: &IndexPosition) -> Result<Vec<Frame>, SeedError> {
        let index = IndexPlace { layer, position };
        let (located, toc) = locate(index)?;
        read(&blob[usize::try_from(toc.start).unwrap()..usize::try_from(toc.end).unwrap()], &located, index)
    }

    fn position(blob: &[u8], layer: &Descriptor) -> IndexPosition {
        let (located, _) = locate(IndexPlace { layer, position: &IndexPosition::default() }).unwrap();
        let toc = &blob[usize::try_from(located.toc.offset).unwrap()..]
            [..usize::try_from(located.toc.len).unwrap()];
        let entries = Toc::read(toc, &located).unwrap().layer_entries(layer.size).unwrap();
        IndexPosition::of(&entries.last().unwrap().chunks).unwrap()
    }

    #[test]
    fn frames_decode_to_the_index() {
        let index = index();
        let (blob, layer) = layer(INDEX_PATH, &index);
        let frames = read_all(&blob, &layer, &position(&blob, &layer)).unwrap();
        assert_eq!(frames.len(), index.len().div_ceil(CHUNK as usize));
        for frame in frames {
            let compressed =
                &blob[usize::try_from(frame.blob.start).unwrap()..usize::try_from(frame.blob.end).unwrap()];
            assert_eq!(frame.decode(compressed).unwrap(), index[frame.range.clone()]);
            let mut wrong = compressed.to_vec();
            let middle = wrong.len() / 2;
            wrong[middle] ^= 1;
            assert!(frame.decode(&wrong).is_err());
            assert!(frame.decode(&compressed[1..]).is_err());
        }
    }

    #[test]
    fn the_index_must_be_where_it_is_said_to_be() {
        let (blob, layer) = layer(INDEX_PATH, &index());
        let position = position(&blob, &layer);
        for wrong in [
            IndexPosition { offset: position.offset - 1, ..position },
            IndexPosition { len: position.len - 1, ..position },
            IndexPosition { len: position.len + 1, ..position },
            IndexPosition { uncompressed_len: position.uncompressed_len - 1, ..position },
            IndexPosition { uncompressed_len: position.uncompressed_len + 1, ..position },
        ] {
            let error = read_all(&blob, &layer, &wrong).unwrap_err();
            assert!(matches!(error, SeedError::IndexLayer { .. }), "{wrong}: {error:?}");
        }
    }

    #[test]
    fn a_layer_without_an_index_is_refused() {
        let (blob, layer) = layer("nix/other", &index());
        let position = position(&blob, &layer);
        assert!(read_all(&blob, &layer, &position).is_err(), "another file");
        let mut bare = layer.clone();
        bare.annotations.clear();
        assert!(read_all(&blob, &bare, &position).is_err(), "no table of contents");
        let mut short = layer;
        short.size = 10;
        assert!(read_all(&blob, &short, &position).is_err(), "outside of the blob");
    }
}
