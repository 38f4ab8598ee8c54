//! What a read gives: bytes that were verified, where they lie, without a copy.

use std::ops::Range;

use seed_format::bytes::Bytes;

use crate::index::Arriving;
use crate::store::{Chunk, Verified};

/// Most zeros of one part: less than a block of a virtual blob.
const MAX_ZEROS: usize = 4096;

/// The bytes of one read, all of them verified.
#[derive(Debug, Clone, Default)]
pub struct Data {
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Chunk(Verified<Chunk>, Range<usize>),
    /// Of the index, all of which are here.
    Index(Arriving, Range<usize>),
    /// What lies between two files of a virtual blob.
    Zeros(usize),
}

impl Part {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Chunk(chunk, range) => &chunk.bytes()[range.clone()],
            Self::Index(index, range) => {
                index.get_bytes(range.clone()).expect("bytes that were there once stay there")
            }
            Self::Zeros(len) => &[0; MAX_ZEROS][..*len],
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Chunk(_, range) | Self::Index(_, range) => range.len(),
            Self::Zeros(len) => *len,
        }
    }
}

impl Data {
    /// Bytes of the index, which must be here.
    pub(crate) fn of_index(index: Arriving, range: Range<usize>) -> Self {
        Self { parts: vec![Part::Index(index, range)] }
    }

    /// Adds bytes of a chunk at the end.
    pub(crate) fn push_chunk(&mut self, chunk: Verified<Chunk>, range: Range<usize>) {
        if !range.is_empty() {
            self.parts.push(Part::Chunk(chunk, range));
        }
    }

    /// Adds zeros at the end.
    pub(crate) fn push_zeros(&mut self, mut len: usize) {
        while len > 0 {
            let part = len.min(MAX_ZEROS);
            self.parts.push(Part::Zeros(part));
            len -= part;
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.parts.iter().map(Part::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(|part| part.len() == 0)
    }

    /// The pieces that make up the bytes, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().map(Part::bytes)
    }

    /// Calls `f` with the bytes in one piece; copies them only if they are in several.
    pub fn with<T>(&self, f: impl FnOnce(&[u8]) -> T) -> T {
        match self.parts.as_slice() {
            [] => f(&[]),
            [part] => f(part.bytes()),
            _ => {
                let mut whole = Vec::with_capacity(self.len());
                self.pieces().for_each(|piece| whole.extend_from_slice(piece));
                f(&whole)
            }
        }
    }
}
