//! What the tables hold, as values.

use std::ops::Range;

use crate::Digest;
use crate::erofs::Nid;
use crate::store_path::StorePath;

/// Number of a chunk in the whole seed. Chunks are counted by layer, then by place in the layer.
pub type ChunkId = u32;

/// A layer of the seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRecord {
    /// Digest of the layer's blob.
    pub digest: Digest,
    /// Bytes of the layer's blob.
    pub size: u64,
    /// Bytes of the layer's virtual blob, a multiple of 4096.
    pub virtual_size: u64,
    /// The layer's chunks.
    pub chunks: Range<ChunkId>,
}

/// A chunk: one zstd frame of a layer's blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRecord {
    /// The layer, counted from 0 in the order of the manifest.
    pub layer: u16,
    /// The file that the chunk is a part of, counted from 0 in its layer.
    pub file: u32,
    /// Where the chunk's bytes lie in the layer's virtual blob.
    pub virtual_offset: u64,
    /// Uncompressed bytes.
    pub len: u32,
    /// Where the frame lies in the layer's blob.
    pub blob_offset: u64,
    /// Bytes of the frame.
    pub blob_len: u32,
    /// Digest of the uncompressed bytes.
    pub digest: Digest,
}

impl ChunkRecord {
    /// The chunk's place in the virtual blob.
    pub fn virtual_range(&self) -> Range<u64> {
        self.virtual_offset..self.virtual_offset + u64::from(self.len)
    }

    /// The frame's place in the layer's blob.
    pub fn blob_range(&self) -> Range<u64> {
        self.blob_offset..self.blob_offset + u64::from(self.blob_len)
    }
}

/// Where the bytes of a regular file lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// The layer, counted from 0.
    pub layer: u16,
    /// Where the file begins in the layer's virtual blob, a multiple of 4096.
    pub offset: u64,
    /// Bytes of the file; not 0.
    pub len: u64,
    /// The chunks that the file is made of, all of them whole.
    pub chunks: Range<ChunkId>,
}

/// A store path of the seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathRecord<'a> {
    /// `<hash part>-<name>`.
    pub base_name: &'a str,
    /// The inode of `nix/store/<base name>`.
    pub root: Nid,
    /// SHA-256 of the path's NAR.
    pub nar_hash: Digest,
    /// Bytes of the path's NAR.
    pub nar_size: u64,
    /// The chunks of the path's files; empty for a path without bytes.
    pub chunks: Range<ChunkId>,
    /// Number of paths that it refers to.
    pub reference_count: u32,
}

impl PathRecord<'_> {
    /// The path as a value of its own.
    pub fn store_path(&self) -> StorePath {
        StorePath::from_base_name(self.base_name).expect("the index was opened, so its names are store paths")
    }
}
