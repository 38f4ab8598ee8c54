//! The index as a reader sees it, once it is open.

use std::ops::Range;

use super::layout::{CHUNK_LEN, DIGEST_LEN, ORDER_LEN, PATH_LEN, REFERENCE_LEN, chunk, path};
use super::open::{Index, IndexError};
use super::records::{ChunkId, ChunkRecord, Extent, LayerRecord, PathRecord};
use crate::Digest;
use crate::bytes::Bytes;
use crate::erofs::{Inode, Nid, le_u32, le_u64};

impl<B: Bytes> Index<B> {
    /// Where the bytes of a regular file lie; `None` for an empty one, and for what is not a file.
    ///
    /// The extent is exactly the chunks of one file of the chunk table: they leave no gap in it.
    pub fn extent(&self, inode: &Inode) -> Result<Option<Extent>, IndexError> {
        let Some((layer, offset)) = self.tree.image().extent(inode) else { return Ok(None) };
        self.file_at(layer, offset, inode.size).map(Some).ok_or(IndexError::Extent { nid: inode.nid })
    }

    fn file_at(&self, layer: u16, offset: u64, len: u64) -> Option<Extent> {
        let record = self.layers.get(usize::from(layer))?;
        let end = offset.checked_add(len).filter(|end| *end <= record.virtual_size)?;
        let chunks = self.chunks_of(layer, offset..end);
        let raw = self.chunk_records();
        let (first, last) = (raw.get(chunks.start as usize)?, raw.get(chunks.end.checked_sub(1)? as usize)?);
        let file = le_u32(first, chunk::FILE);
        let is_other = |id: Option<u32>| {
            id.filter(|id| record.chunks.contains(id))
                .is_none_or(|id| le_u32(&raw[id as usize], chunk::FILE) != file)
        };
        // Chunks of one file follow one another without a gap: that was checked when the index was opened.
        let whole = le_u64(first, chunk::VIRTUAL_OFFSET) == offset
            && le_u32(last, chunk::FILE) == file
            && le_u64(last, chunk::VIRTUAL_OFFSET) + u64::from(le_u32(last, chunk::LEN)) == end
            && is_other(chunks.start.checked_sub(1))
            && is_other(Some(chunks.end));
        whole.then_some(Extent { layer, offset, len, chunks })
    }

    /// The layers, in the order of the manifest.
    pub fn layers(&self) -> &[LayerRecord] {
        &self.layers
    }

    /// Number of chunks of all layers.
    pub fn chunk_count(&self) -> u32 {
        self.layers.last().map_or(0, |layer| layer.chunks.end)
    }

    /// A chunk.
    pub fn chunk(&self, id: ChunkId) -> Option<ChunkRecord> {
        let raw = self.chunk_records().get(id as usize)?;
        let digests = self.table(&self.tables.digests).as_chunks::<DIGEST_LEN>().0;
        let layer = self.layers.partition_point(|layer| layer.chunks.end <= id);
        Some(ChunkRecord {
            layer: u16::try_from(layer).expect("at most 1024 layers"),
            file: le_u32(raw, chunk::FILE),
            virtual_offset: le_u64(raw, chunk::VIRTUAL_OFFSET),
            len: le_u32(raw, chunk::LEN),
            blob_offset: le_u64(raw, chunk::BLOB_OFFSET),
            blob_len: le_u32(raw, chunk::BLOB_LEN),
            digest: Digest::from_bytes(digests[id as usize]),
        })
    }

    /// The chunks that lie, wholly or in part, in a range of a layer's virtual blob.
    pub fn chunks_of(&self, layer: u16, range: Range<u64>) -> Range<ChunkId> {
        let Some(record) = self.layers.get(usize::from(layer)) else { return 0..0 };
        let first = record.chunks.start;
        let raw = &self.chunk_records()[record.chunks.start as usize..record.chunks.end as usize];
        let end_of =
            |raw: &[u8; CHUNK_LEN]| le_u64(raw, chunk::VIRTUAL_OFFSET) + u64::from(le_u32(raw, chunk::LEN));
        let start = raw.partition_point(|raw| end_of(raw) <= range.start);
        // Most ranges are one file of one chunk: look around the start before searching the rest.
        let rest = &raw[start..];
        let begins_before_end = |raw: &[u8; CHUNK_LEN]| le_u64(raw, chunk::VIRTUAL_OFFSET) < range.end;
        let near = rest.iter().take(4).take_while(|raw| begins_before_end(raw)).count();
        let len = if near < 4 { near } else { rest.partition_point(begins_before_end) };
        let id = |n: usize| first + u32::try_from(n).expect("chunks are counted in 32 bits");
        if range.is_empty() { id(start)..id(start) } else { id(start)..id(start + len) }
    }

    /// The store paths, in the order of their names.
    pub fn paths(&self) -> impl ExactSizeIterator<Item = PathRecord<'_>> + DoubleEndedIterator {
        let names = self.table(&self.tables.names);
        self.path_records().iter().map(|raw| path_record(raw, names))
    }

    /// The store path with this number.
    pub fn path(&self, number: usize) -> Option<PathRecord<'_>> {
        let names = self.table(&self.tables.names);
        self.path_records().get(number).map(|raw| path_record(raw, names))
    }

    /// The number of the store path with this base name.
    pub fn find_path(&self, base_name: &str) -> Option<usize> {
        let names = self.table(&self.tables.names);
        let found =
            self.path_records().binary_search_by(|raw| path_name(raw, names).cmp(base_name.as_bytes()));
        found.ok()
    }

    /// The number of the store path that a chunk's file lies in; `None` for files outside of the store.
    pub fn path_of_chunk(&self, id: ChunkId) -> Option<usize> {
        let order = self.table(&self.tables.order).as_chunks::<ORDER_LEN>().0;
        let paths = self.path_records();
        let path_at = |raw: &[u8; ORDER_LEN]| u32::from_le_bytes(*raw) as usize;
        let behind = order.partition_point(|raw| le_u32(&paths[path_at(raw)], path::FIRST_CHUNK) <= id);
        let number = path_at(order.get(behind.checked_sub(1)?)?);
        path_chunks(&paths[number]).contains(&id).then_some(number)
    }

    /// The numbers of the store paths that a store path refers to, ascending.
    pub fn references(&self, number: usize) -> impl ExactSizeIterator<Item = usize> + '_ {
        let all = self.table(&self.tables.references).as_chunks::<REFERENCE_LEN>().0;
        let range = self.path_records().get(number).map_or(0..0, |raw| {
            let first = le_u32(raw, path::FIRST_REFERENCE) as usize;
            first..first + le_u32(raw, path::REFERENCE_COUNT) as usize
        });
        all[range].iter().map(|raw| u32::from_le_bytes(*raw) as usize)
    }

    /// The bytes of a table. All of them were there when the index was opened.
    fn table(&self, place: &Range<usize>) -> &[u8] {
        let bytes = &self.tree.bytes;
        bytes.get_bytes(place.clone()).expect("bytes that were there once stay there")
    }

    fn chunk_records(&self) -> &[[u8; CHUNK_LEN]] {
        self.table(&self.tables.chunks).as_chunks().0
    }

    fn path_records(&self) -> &[[u8; PATH_LEN]] {
        self.table(&self.tables.paths).as_chunks().0
    }
}

fn path_chunks(raw: &[u8; PATH_LEN]) -> Range<u32> {
    let first = le_u32(raw, path::FIRST_CHUNK);
    first..first + le_u32(raw, path::CHUNK_COUNT)
}

fn path_name<'a>(raw: &[u8; PATH_LEN], names: &'a [u8]) -> &'a [u8] {
    let start = le_u32(raw, path::NAME_OFFSET) as usize;
    &names[start..start + le_u32(raw, path::NAME_LEN) as usize]
}

fn path_record<'a>(raw: &[u8; PATH_LEN], names: &'a [u8]) -> PathRecord<'a> {
    let mut nar_hash = [0; 32];
    nar_hash.copy_from_slice(&raw[path::NAR_HASH..][..32]);
    PathRecord {
        base_name: std::str::from_utf8(path_name(raw, names))
            .expect("names were checked when the index was opened"),
        root: Nid(le_u64(raw, path::ROOT)),
        nar_hash: Digest::from_bytes(nar_hash),
        nar_size: le_u64(raw, path::NAR_SIZE),
        chunks: path_chunks(raw),
        reference_count: le_u32(raw, path::REFERENCE_COUNT),
    }
}
