//! Proof that bytes have the digest that they are known by.

use std::ops::{Deref, Range};
use std::sync::Arc;

use seed_format::Digest;

/// A value whose bytes were hashed and found right.
///
/// Only [`ChunkStore::admit`](super::ChunkStore::admit) and [`ChunkStore::get`](super::ChunkStore::get)
/// make one, both after hashing, and nothing else can be served.
#[derive(Debug, Clone)]
pub struct Verified<T>(T);

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// The uncompressed bytes of one chunk.
///
/// It may share its buffer with other chunks of one fetched range; nobody can write to that buffer.
#[derive(Clone)]
pub struct Chunk {
    digest: Digest,
    buffer: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Chunk {
    /// The digest of the bytes.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The uncompressed bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chunk({}, {} bytes)", self.digest, self.range.len())
    }
}

/// The bytes are not those of the digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the bytes have the digest {actual}, not {expected}")]
pub struct Mismatch {
    /// The digest that they should have.
    pub expected: Digest,
    /// The digest that they have.
    pub actual: Digest,
}

/// Hashes `buffer[range]`; the only place where a `Verified` is made from bytes.
pub(super) fn verify(
    expected: &Digest,
    buffer: &Arc<Vec<u8>>,
    range: Range<usize>,
) -> Result<Verified<Chunk>, Mismatch> {
    let actual = Digest::of(&buffer[range.clone()]);
    if actual != *expected {
        return Err(Mismatch { expected: *expected, actual });
    }
    Ok(Verified(Chunk { digest: actual, buffer: Arc::clone(buffer), range }))
}

impl Verified<Chunk> {
    /// The same chunk in a buffer of its own, so that it does not keep its neighbours in memory.
    pub(super) fn detached(&self) -> Self {
        if self.buffer.len() == self.range.len() {
            return self.clone();
        }
        let bytes = self.bytes().to_vec();
        let range = 0..bytes.len();
        Self(Chunk { digest: self.digest, buffer: Arc::new(bytes), range })
    }
}
