//! The bytes of a seed's index, and what the scheduler needs of them.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use memmap2::Mmap;
use seed_format::Digest;
use seed_format::index::Index;

use crate::fetch::{ChunkId, ChunkMap, ChunkPlace};

/// An opened index, in memory or mapped.
pub type SeedIndex = Index<IndexBytes>;

/// The bytes of an index, which were verified and cannot change.
#[derive(Debug)]
pub enum IndexBytes {
    /// In memory.
    Owned(Vec<u8>),
    /// Mapped from a file that nobody else can open.
    Mapped(PrivateMap),
}

impl AsRef<[u8]> for IndexBytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Mapped(map) => &map.0,
        }
    }
}

/// A read-only map of a file without a name, which only this process has open.
#[derive(Debug)]
pub struct PrivateMap(Mmap);

impl PrivateMap {
    /// Writes `bytes` to an unnamed file in memory, seals it, and maps it. The kernel may take its pages out
    /// of the process when memory is short, which it cannot with memory of the process itself.
    #[allow(unsafe_code)]
    pub fn of(bytes: &[u8]) -> io::Result<Self> {
        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
        let file = File::from(memfd_create("seed-index", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
        io::Write::write_all(&mut &file, bytes)?;
        fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        // SAFETY: the file has no name and is sealed, so that it can be neither written to nor cut short
        // by anybody while it is mapped.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self(map))
    }
}

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
