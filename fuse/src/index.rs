//! A seed's index, and what the scheduler needs of it.

use std::ops::Range;
use std::sync::Arc;

use seed_format::Digest;
use seed_format::index::Index;

use crate::fetch::{ChunkId, ChunkMap, ChunkPlace};

/// An opened index, in memory. Nobody else can change it there, and it is small: 20 MB for 97,000 files.
pub type SeedIndex = Index<Vec<u8>>;

/// The chunks of an index.
#[derive(Debug, Clone)]
pub(crate) struct IndexedChunks(pub(crate) Arc<SeedIndex>);

impl ChunkMap for IndexedChunks {
    fn count(&self) -> ChunkId {
        self.0.chunk_count()
    }

    fn chunk(&self, id: ChunkId) -> Option<ChunkPlace> {
        let record = self.0.chunk(id)?;
        Some(ChunkPlace {
            layer: record.layer,
            blob_offset: record.blob_offset,
            blob_len: record.blob_len,
            len: record.len,
            digest: record.digest,
        })
    }

    fn layer(&self, layer: u16) -> Option<Digest> {
        self.0.layers().get(usize::from(layer)).map(|record| record.digest)
    }

    /// The chunks of the store path; for a file outside of the store, those of its layer.
    fn surroundings(&self, id: ChunkId) -> Range<ChunkId> {
        if let Some(path) = self.0.path_of_chunk(id).and_then(|number| self.0.path(number)) {
            return path.chunks;
        }
        let layer = self.0.layers().iter().find(|layer| layer.chunks.contains(&id));
        layer.map_or(id..id.saturating_add(1), |layer| layer.chunks.clone())
    }

    fn references(&self, id: ChunkId) -> Vec<Range<ChunkId>> {
        let Some(number) = self.0.path_of_chunk(id) else { return Vec::new() };
        let others = self.0.references(number).filter(|other| *other != number);
        others.filter_map(|other| self.0.path(other)).map(|path| path.chunks).collect()
    }

    fn describe(&self, id: ChunkId) -> String {
        match self.0.path_of_chunk(id).and_then(|number| self.0.path(number)) {
            Some(path) => format!("{}/{}", seed_format::store_path::STORE_DIR, path.base_name),
            None => "a file outside of the store".to_owned(),
        }
    }
}
