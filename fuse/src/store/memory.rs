//! The few chunks that were read last, so that a file read page by page is hashed once.

use std::collections::{BTreeMap, HashMap};

use seed_format::Digest;

use super::verified::{Chunk, Verified};

/// Least-recently-used chunks, bounded by their bytes.
#[derive(Debug)]
pub(super) struct Memory {
    limit: usize,
    used: usize,
    clock: u64,
    chunks: HashMap<Digest, (u64, Verified<Chunk>)>,
    by_age: BTreeMap<u64, Digest>,
}

impl Memory {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, used: 0, clock: 0, chunks: HashMap::new(), by_age: BTreeMap::new() }
    }

    pub(super) fn get(&mut self, digest: &Digest) -> Option<Verified<Chunk>> {
        let (age, chunk) = self.chunks.get_mut(digest)?;
        self.by_age.remove(age);
        self.clock += 1;
        *age = self.clock;
        self.by_age.insert(self.clock, *digest);
        Some(chunk.clone())
    }

    /// Forgets all chunks.
    pub(super) fn clear(&mut self) {
        *self = Self { clock: self.clock, ..Self::new(self.limit) };
    }

    /// Keeps a chunk, if it is not so large that it would drive out most others.
    pub(super) fn insert(&mut self, chunk: &Verified<Chunk>) {
        let size = chunk.bytes().len();
        if size > self.limit / 2 || self.chunks.contains_key(chunk.digest()) {
            return;
        }
        while self.used + size > self.limit {
            let Some((_, oldest)) = self.by_age.pop_first() else { break };
            if let Some((_, dropped)) = self.chunks.remove(&oldest) {
                self.used -= dropped.bytes().len();
            }
        }
        self.clock += 1;
        self.used += size;
        self.by_age.insert(self.clock, *chunk.digest());
        self.chunks.insert(*chunk.digest(), (self.clock, chunk.detached()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::verified::verify;

    fn chunk(byte: u8, len: usize) -> Verified<Chunk> {
        let buffer = Arc::new(vec![byte; len]);
        verify(&Digest::of(&buffer), &buffer, 0..len).unwrap()
    }

    #[test]
    fn drops_what_was_used_longest_ago() {
        let mut memory = Memory::new(30);
        let chunks: Vec<_> = (0..4).map(|byte| chunk(byte, 10)).collect();
        for chunk in &chunks[..3] {
            memory.insert(chunk);
        }
        assert!(memory.get(chunks[0].digest()).is_some());
        memory.insert(&chunks[3]);
        let kept: Vec<_> = chunks.iter().map(|chunk| memory.get(chunk.digest()).is_some()).collect();
        assert_eq!(kept, [true, false, true, true]);
        assert_eq!(memory.used, 30);
        memory.insert(&chunk(9, 16));
        assert_eq!(memory.used, 30, "a chunk larger than half the limit is not kept");
        memory.clear();
        assert!(memory.used == 0 && memory.get(chunks[3].digest()).is_none());
        memory.insert(&chunks[3]);
        assert!(memory.get(chunks[3].digest()).is_some());
    }

    #[test]
    fn a_kept_chunk_does_not_hold_its_neighbours() {
        let buffer = Arc::new(vec![7; 1000]);
        let part = verify(&Digest::of(&buffer[..10]), &buffer, 0..10).unwrap();
        let mut memory = Memory::new(100);
        memory.insert(&part);
        drop(part);
        assert_eq!(Arc::strong_count(&buffer), 1);
    }
}
