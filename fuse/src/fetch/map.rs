//! What the scheduler must know of a seed's chunks.

use std::ops::Range;

use seed_format::Digest;

/// A chunk of a seed: chunks are numbered by layer and by their order in the layer's blob.
pub type ChunkId = u32;

/// Where a chunk's frame lies, and what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkPlace {
    /// Number of the layer.
    pub layer: u16,
    /// First byte of the frame in the layer's blob.
    pub blob_offset: u64,
    /// Bytes of the frame.
    pub blob_len: u32,
    /// Uncompressed bytes.
    pub len: u32,
    /// Digest of the uncompressed bytes.
    pub digest: Digest,
}

impl ChunkPlace {
    /// One past the last byte of the frame.
    pub fn blob_end(&self) -> u64 {
        self.blob_offset.saturating_add(u64::from(self.blob_len))
    }
}

/// The chunks of a seed, as its index tells them. All answers are immediate. While the index is on its way
/// there are none; once it is here, each answer is the same every time.
pub trait ChunkMap: Send + Sync {
    /// How many chunks there are; ids are below it.
    fn count(&self) -> ChunkId;
    /// A chunk's place; `None` for an id or a record that is not valid.
    fn chunk(&self, id: ChunkId) -> Option<ChunkPlace>;
    /// The digest of a layer's blob.
    fn layer(&self, layer: u16) -> Option<Digest>;
    /// The chunks that belong with this one, itself included: those of its store path.
    fn surroundings(&self, id: ChunkId) -> Range<ChunkId>;
    /// The surroundings of what this chunk's store path refers to.
    fn references(&self, id: ChunkId) -> Vec<Range<ChunkId>>;
    /// What an error message calls this chunk: its store path.
    fn describe(&self, id: ChunkId) -> String;
}
