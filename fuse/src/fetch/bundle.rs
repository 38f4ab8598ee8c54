//! A second place of some chunks: one blob in which they lie in the order in which they will be read.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use seed_format::Digest;

use super::map::{ChunkId, ChunkMap, ChunkPlace};

/// The frames of a trace's chunks, one after another. It is a hint like the trace: what comes of it is verified like
/// all else.
pub(super) struct Bundle {
    map: Arc<dyn ChunkMap>,
    digest: Digest,
    /// Where the frame of each chunk begins, in the order of the chunks' numbers.
    offsets: Vec<(ChunkId, u64)>,
}

impl Bundle {
    /// The blob `digest`, in which the frames of these chunks begin at these bytes.
    pub(super) fn new(map: Arc<dyn ChunkMap>, digest: Digest, mut offsets: Vec<(ChunkId, u64)>) -> Self {
        offsets.sort_unstable();
        Self { map, digest, offsets }
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle").field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// The chunks of the seed, those of the bundle in their places there, and no others.
impl ChunkMap for Bundle {
    fn count(&self) -> ChunkId {
        self.map.count()
    }

    fn chunk(&self, id: ChunkId) -> Option<ChunkPlace> {
        let at = self.offsets.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(ChunkPlace { layer: 0, blob_offset: self.offsets[at].1, ..self.map.chunk(id)? })
    }

    fn layer(&self, _: u16) -> Option<Digest> {
        Some(self.digest)
    }

    fn surroundings(&self, id: ChunkId) -> Range<ChunkId> {
        self.map.surroundings(id)
    }

    fn references(&self, id: ChunkId) -> Vec<Range<ChunkId>> {
        self.map.references(id)
    }

    fn describe(&self, id: ChunkId) -> String {
        self.map.describe(id)
    }
}
