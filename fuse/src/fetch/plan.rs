//! Which chunks one range request brings: pure functions over a chunk map.

use std::collections::VecDeque;
use std::ops::Range;

use super::map::{ChunkId, ChunkMap};

/// Unwanted bytes that a range may run over to reach the next wanted chunk. At 1 Gbps they take a quarter
/// of a millisecond, and a request of its own takes a round trip.
pub(super) const MAX_GAP: u64 = 32 << 10;

/// Chunks looked at for one range: bounds the time that planning takes under the scheduler's lock.
const MAX_CHUNKS: usize = 4096;

/// Chunks of one blob that one range of it covers, in the order of their bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) layer: u16,
    pub(super) blob: Range<u64>,
    pub(super) ids: Vec<ChunkId>,
}

impl Span {
    pub(super) fn bytes(&self) -> u64 {
        self.blob.end - self.blob.start
    }

    /// A range for just one chunk.
    pub(super) fn single(map: &dyn ChunkMap, id: ChunkId) -> Option<Self> {
        let place = map.chunk(id)?;
        Some(Self { layer: place.layer, blob: place.blob_offset..place.blob_end(), ids: vec![id] })
    }

    /// The same as parts of at most `target` bytes, or one chunk, each.
    pub(super) fn parts(&self, map: &dyn ChunkMap, target: u64) -> Vec<Self> {
        let mut parts: Vec<Self> = Vec::new();
        for id in &self.ids {
            if !parts.last_mut().is_some_and(|part| part.extend(map, *id, target, u64::MAX)) {
                parts.extend(Self::single(map, *id));
            }
        }
        parts
    }

    /// Takes `id` in as well, if the range stays within `target` bytes and one layer, and runs over no more
    /// than `max_gap` bytes to reach it.
    fn extend(&mut self, map: &dyn ChunkMap, id: ChunkId, target: u64, max_gap: u64) -> bool {
        let Some(place) = map.chunk(id) else { return false };
        let start = self.blob.start.min(place.blob_offset);
        let end = self.blob.end.max(place.blob_end());
        let gap = place.blob_offset.saturating_sub(self.blob.end)
            + self.blob.start.saturating_sub(place.blob_end());
        if place.layer != self.layer || end - start > target || gap > max_gap {
            return false;
        }
        self.blob = start..end;
        self.ids.push(id);
        true
    }
}

/// The range for `first` and what follows it in `limit`, as long as it is wanted and within `target` bytes.
pub(super) fn forward(
    map: &dyn ChunkMap,
    first: ChunkId,
    limit: ChunkId,
    target: u64,
    wanted: impl Fn(ChunkId) -> bool,
) -> Option<Span> {
    let mut span = Span::single(map, first)?;
    for id in (first + 1..limit).take(MAX_CHUNKS) {
        if wanted(id) && !span.extend(map, id, target, MAX_GAP) {
            break;
        }
    }
    Some(span)
}

/// The range for `last` and what precedes it down to `limit`.
fn backward(
    map: &dyn ChunkMap,
    last: ChunkId,
    limit: ChunkId,
    target: u64,
    wanted: impl Fn(ChunkId) -> bool,
) -> Option<Span> {
    let mut span = Span::single(map, last)?;
    for id in (limit..last).rev().take(MAX_CHUNKS) {
        if wanted(id) && !span.extend(map, id, target, MAX_GAP) {
            break;
        }
    }
    span.ids.reverse();
    Some(span)
}

/// Goes through the chunks around a first one, the nearest first, alternately above and below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sweep {
    range: Range<ChunkId>,
    above: ChunkId,
    below: ChunkId,
    next_below: bool,
    /// Compressed bytes that may still be asked for; grows when the neighbourhood proves to be in use.
    pub(super) budget: u64,
    /// What `budget` was last raised by.
    pub(super) step: u64,
}

impl Sweep {
    pub(super) fn around(first: ChunkId, range: Range<ChunkId>, budget: u64) -> Self {
        Self { above: first, below: first, next_below: false, range, budget, step: budget }
    }

    pub(super) fn covers(&self, id: ChunkId) -> bool {
        self.range.contains(&id)
    }

    pub(super) fn is_done(&self) -> bool {
        self.above >= self.range.end && self.below <= self.range.start
    }

    /// Moves to another place of the same neighbourhood.
    pub(super) fn recentre(&mut self, id: ChunkId) {
        (self.above, self.below, self.next_below) = (id, id, false);
    }

    /// The next range to ask for; `None` when all is asked for or the budget is used up.
    pub(super) fn next(
        &mut self,
        map: &dyn ChunkMap,
        target: u64,
        wanted: impl Fn(ChunkId) -> bool + Copy,
    ) -> Option<Span> {
        while self.budget > 0 && (self.above < self.range.end || self.below > self.range.start) {
            let down = self.below > self.range.start && (self.next_below || self.above >= self.range.end);
            self.next_below = !self.next_below;
            let found = if down {
                self.span_below(map, target, wanted)
            } else {
                self.span_above(map, target, wanted)
            };
            if let Some(span) = found {
                self.budget = self.budget.saturating_sub(span.bytes());
                return Some(span);
            }
        }
        None
    }

    fn span_above(
        &mut self,
        map: &dyn ChunkMap,
        target: u64,
        wanted: impl Fn(ChunkId) -> bool + Copy,
    ) -> Option<Span> {
        let Some(first) = (self.above..self.range.end).find(|id| wanted(*id)) else {
            self.above = self.range.end;
            return None;
        };
        self.above = first + 1;
        let span = forward(map, first, self.range.end, target, wanted)?;
        self.above = span.ids.last().map_or(self.above, |last| last + 1);
        Some(span)
    }

    fn span_below(
        &mut self,
        map: &dyn ChunkMap,
        target: u64,
        wanted: impl Fn(ChunkId) -> bool + Copy,
    ) -> Option<Span> {
        let Some(last) = (self.range.start..self.below).rev().find(|id| wanted(*id)) else {
            self.below = self.range.start;
            return None;
        };
        self.below = last;
        let span = backward(map, last, self.range.start, target, wanted)?;
        self.below = span.ids.first().copied().unwrap_or(self.below);
        Some(span)
    }
}

/// The next range of an ordered list of chunks. What follows in the list is taken along where one range
/// reaches it without running over more than `max_gap` bytes, in whatever order it stands there.
pub(super) fn from_list(
    map: &dyn ChunkMap,
    list: &mut VecDeque<ChunkId>,
    target: u64,
    max_gap: u64,
    wanted: impl Fn(ChunkId) -> bool,
) -> Option<Span> {
    let first = loop {
        let id = list.pop_front()?;
        if wanted(id) && map.chunk(id).is_some() {
            break id;
        }
    };
    let mut span = Span::single(map, first)?;
    while let Some(id) = list.front().copied() {
        if wanted(id) && !span.ids.contains(&id) && !span.extend(map, id, target, max_gap) {
            break;
        }
        list.pop_front();
        if span.ids.len() >= MAX_CHUNKS {
            break;
        }
    }
    span.ids.sort_unstable_by_key(|id| map.chunk(*id).map(|place| place.blob_offset));
    Some(span)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fetch::map::ChunkPlace;
    use seed_format::Digest;

    /// Chunks of the given sizes, `gap` bytes apart, in layers of `per_layer` chunks and one store path.
    struct Rows {
        sizes: Vec<u32>,
        gap: u64,
        per_layer: usize,
    }

    impl ChunkMap for Rows {
        fn count(&self) -> ChunkId {
            u32::try_from(self.sizes.len()).unwrap()
        }
        fn chunk(&self, id: ChunkId) -> Option<ChunkPlace> {
            let at = id as usize;
            let blob_len = *self.sizes.get(at)?;
            let first = at / self.per_layer * self.per_layer;
            let before: u64 = self.sizes[first..at].iter().map(|size| u64::from(*size) + self.gap).sum();
            let layer = u16::try_from(at / self.per_layer).unwrap();
            Some(ChunkPlace { layer, blob_offset: before, blob_len, len: 1, digest: Digest::of(b"") })
        }
        fn layer(&self, _: u16) -> Option<Digest> {
            None
        }
        fn surroundings(&self, _: ChunkId) -> Range<ChunkId> {
            0..self.count()
        }
        fn references(&self, _: ChunkId) -> Vec<Range<ChunkId>> {
            Vec::new()
        }
        fn describe(&self, _: ChunkId) -> String {
            String::new()
        }
    }

    #[test]
    fn nearest_first() {
        let map = Rows { sizes: vec![10; 9], gap: 0, per_layer: 9 };
        let mut sweep = Sweep::around(4, 0..9, u64::MAX);
        let ids: Vec<_> =
            std::iter::from_fn(|| sweep.next(&map, 20, |_| true)).map(|span| span.ids).collect();
        assert_eq!(ids, [vec![4, 5], vec![2, 3], vec![6, 7], vec![0, 1], vec![8]]);
    }

    #[test]
    fn a_gap_or_another_layer_ends_a_range() {
        let far = Rows { sizes: vec![10; 4], gap: MAX_GAP + 1, per_layer: 4 };
        assert_eq!(forward(&far, 1, 4, 1 << 20, |_| true).unwrap().ids, [1]);
        let near = Rows { gap: MAX_GAP, ..far };
        assert_eq!(forward(&near, 1, 4, 1 << 20, |_| true).unwrap().ids, [1, 2, 3]);
        let layers = Rows { sizes: vec![10; 4], gap: 0, per_layer: 2 };
        assert_eq!(forward(&layers, 0, 4, 1 << 20, |_| true).unwrap().ids, [0, 1]);
    }

    #[test]
    fn lists_keep_their_order_and_coalesce() {
        let map = Rows { sizes: vec![10; 100], gap: MAX_GAP, per_layer: 100 };
        let mut list = VecDeque::from([50, 51, 53, 7, 6, 50]);
        let ids: Vec<_> = std::iter::from_fn(|| from_list(&map, &mut list, 1 << 20, MAX_GAP, |id| id != 53))
            .map(|span| span.ids)
            .collect();
        assert_eq!(ids, [vec![50, 51], vec![6, 7], vec![50]]);
    }

    proptest! {
        /// A sweep asks for each wanted chunk exactly once, whatever the sizes, and its ranges hold their
        /// chunks and do not pass the target unless one chunk does.
        #[test]
        fn each_chunk_once(
            sizes in prop::collection::vec(1u32..5000, 1..200),
            gap in 0u64..40_000,
            per_layer in 1usize..100,
            start in any::<prop::sample::Index>(),
            target in 1u64..20_000,
            modulus in 1u32..5,
        ) {
            let map = Rows { sizes, gap, per_layer };
            let count = map.count();
            let first = u32::try_from(start.index(count as usize)).unwrap();
            let wanted = |id: ChunkId| !id.is_multiple_of(modulus) || modulus == 1;
            let mut sweep = Sweep::around(first, 0..count, u64::MAX);
            let mut asked = Vec::new();
            while let Some(span) = sweep.next(&map, target, wanted) {
                prop_assert!(span.ids.is_sorted());
                prop_assert!(span.ids.len() == 1 || span.bytes() <= target);
                for id in &span.ids {
                    let place = map.chunk(*id).unwrap();
                    prop_assert_eq!(place.layer, span.layer);
                    prop_assert!(span.blob.start <= place.blob_offset && place.blob_end() <= span.blob.end);
                }
                asked.extend(span.ids);
            }
            asked.sort_unstable();
            let all: Vec<_> = (0..count).filter(|id| wanted(*id)).collect();
            prop_assert_eq!(asked, all);
        }
    }
}
