//! Where the tables lie in the file, and the offsets of the fields in their records.
//!
//! All numbers are little-endian. The header begins where the EROFS image ends; every table begins at
//! the next multiple of 8 behind the one before it, in the order of [`Tables`], and the file ends with
//! the last one. So the counts give all offsets; the header says them nonetheless, for simple readers.

use super::{MAX_CHUNKS, MAX_LAYERS, MAX_PATHS, MAX_REFERENCES};

pub(super) const HEADER_LEN: usize = 128;
pub(super) const LAYER_LEN: usize = 64;
pub(super) const CHUNK_LEN: usize = 32;
pub(super) const DIGEST_LEN: usize = 32;
pub(super) const PATH_LEN: usize = 72;
pub(super) const REFERENCE_LEN: usize = 4;
pub(super) const ORDER_LEN: usize = 4;
const ALIGNMENT: u64 = 8;

pub(super) mod header {
    pub(crate) const MAGIC: usize = 0;
    pub(crate) const VERSION: usize = 8;
    pub(crate) const HEADER_LEN: usize = 12;
    pub(crate) const FILE_LEN: usize = 16;
    pub(crate) const LAYER_COUNT: usize = 24;
    pub(crate) const CHUNK_COUNT: usize = 28;
    pub(crate) const PATH_COUNT: usize = 32;
    pub(crate) const REFERENCE_COUNT: usize = 36;
    pub(crate) const NAMES_LEN: usize = 40;
    pub(crate) const RESERVED: usize = 44;
    /// Seven offsets of 8 bytes, in the order of the tables.
    pub(crate) const OFFSETS: usize = 48;
    pub(crate) const END: usize = 104;
}

pub(super) mod layer {
    pub(crate) const DIGEST: usize = 0;
    pub(crate) const SIZE: usize = 32;
    pub(crate) const VIRTUAL_SIZE: usize = 40;
    pub(crate) const FIRST_CHUNK: usize = 48;
    pub(crate) const CHUNK_COUNT: usize = 52;
    pub(crate) const RESERVED: usize = 56;
}

pub(super) mod chunk {
    pub(crate) const VIRTUAL_OFFSET: usize = 0;
    pub(crate) const BLOB_OFFSET: usize = 8;
    pub(crate) const LEN: usize = 16;
    pub(crate) const BLOB_LEN: usize = 20;
    pub(crate) const FILE: usize = 24;
    pub(crate) const RESERVED: usize = 28;
}

pub(super) mod path {
    pub(crate) const NAR_HASH: usize = 0;
    pub(crate) const NAR_SIZE: usize = 32;
    pub(crate) const ROOT: usize = 40;
    pub(crate) const NAME_OFFSET: usize = 48;
    pub(crate) const NAME_LEN: usize = 52;
    pub(crate) const FIRST_CHUNK: usize = 56;
    pub(crate) const CHUNK_COUNT: usize = 60;
    pub(crate) const FIRST_REFERENCE: usize = 64;
    pub(crate) const REFERENCE_COUNT: usize = 68;
}

/// How many records there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) layers: u32,
    pub(super) chunks: u32,
    pub(super) paths: u32,
    pub(super) references: u32,
    /// Bytes of all base names.
    pub(super) names: u32,
}

/// Most bytes of all base names: 32 digits, a dash and a name each.
const MAX_NAMES_LEN: u32 = MAX_PATHS * 256;

impl Counts {
    /// The first count that is over its limit: what is counted, the count, the limit.
    pub(super) fn over_limit(&self) -> Option<(&'static str, u32, u32)> {
        [
            ("layers", self.layers, MAX_LAYERS),
            ("chunks", self.chunks, MAX_CHUNKS),
            ("store paths", self.paths, MAX_PATHS),
            ("references", self.references, MAX_REFERENCES),
            ("bytes of store path names", self.names, MAX_NAMES_LEN),
        ]
        .into_iter()
        .find(|(_, count, limit)| count > limit)
    }
}

/// Byte offsets of the tables in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tables {
    pub(super) layers: u64,
    pub(super) chunks: u64,
    pub(super) digests: u64,
    pub(super) paths: u64,
    pub(super) references: u64,
    /// The paths' numbers in the order of their chunks.
    pub(super) order: u64,
    pub(super) names: u64,
    /// Where the file ends.
    pub(super) end: u64,
}

impl Tables {
    pub(super) fn of(header: u64, counts: &Counts) -> Self {
        let mut end = header + HEADER_LEN as u64;
        let mut table = |count: u32, len: usize| {
            let start = end.next_multiple_of(ALIGNMENT);
            end = start + u64::from(count) * len as u64;
            start
        };
        let layers = table(counts.layers, LAYER_LEN);
        let chunks = table(counts.chunks, CHUNK_LEN);
        let digests = table(counts.chunks, DIGEST_LEN);
        let paths = table(counts.paths, PATH_LEN);
        let references = table(counts.references, REFERENCE_LEN);
        let order = table(counts.paths, ORDER_LEN);
        let names = table(counts.names, 1);
        Self { layers, chunks, digests, paths, references, order, names, end }
    }

    /// The offsets as the header has them.
    pub(super) fn offsets(&self) -> [u64; 7] {
        [self.layers, self.chunks, self.digests, self.paths, self.references, self.order, self.names]
    }
}
