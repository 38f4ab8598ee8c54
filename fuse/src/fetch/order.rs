//! In which order the chunks of a trace are asked for, and how much between them is taken along.
//!
//! A trace jumps from path to path and from layer to layer. Asked for as it stands, 1,200 chunks here and there
//! are hundreds of requests, each of which costs a round trip. But nobody can tell apart what is needed in the
//! next sixth of a second: so a window of the trace is sorted by place, and neighbours become one range even
//! where something lies between them that nobody has asked for.

use super::map::{ChunkId, ChunkMap, ChunkPlace};

/// Compressed bytes that are sorted by place: what a link of 1 Gbps brings in a sixth of a second. Most traces are
/// smaller, and are one window: with 4 MiB, the 1,371 chunks of a large flake's shell made 745 requests.
const WINDOW: u64 = 16 << 20;
/// Of the bytes that a trace asks for, the part that may be spent on what lies between them.
const SLACK: f64 = 0.25;
/// The largest gap that is worth it: 256 KiB are two milliseconds of a link of 1 Gbps, a request about one of
/// the processor, and a round trip on a connection that others could use.
const MAX_GAP: u64 = 256 << 10;

/// The chunks of a trace, each once, in the order in which they are to be asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ordered {
    pub(super) ids: Vec<ChunkId>,
    /// Bytes that a range may run over to reach the next of them.
    pub(super) gap: u64,
}

/// Orders chunks; those that do not exist are left out, and those behind the first `limit` compressed bytes.
pub(super) fn order(map: &dyn ChunkMap, ids: impl IntoIterator<Item = ChunkId>, limit: u64) -> Ordered {
    let count = map.count() as usize;
    let mut seen = vec![0u64; count.div_ceil(64)];
    let mut fresh = |id: ChunkId| {
        let Some(word) = seen.get_mut(id as usize / 64) else { return false };
        let bit = 1 << (id % 64);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    };
    let (mut total, mut windows, mut bytes) = (0u64, vec![Vec::new()], 0u64);
    for id in ids {
        if !fresh(id) {
            continue;
        }
        let Some(place) = map.chunk(id) else { continue };
        let len = u64::from(place.blob_len);
        if total + len > limit {
            break;
        }
        if bytes > WINDOW {
            windows.push(Vec::new());
            bytes = 0;
        }
        total += len;
        bytes += len;
        windows.last_mut().expect("there is one from the start").push((id, place));
    }
    for window in &mut windows {
        window.sort_unstable_by_key(|(_, place)| (place.layer, place.blob_offset));
    }
    let gap = gap(&windows, total);
    Ordered { ids: windows.into_iter().flatten().map(|(id, _)| id).collect(), gap }
}

/// The largest gap such that all gaps up to it together are within the slack.
fn gap(windows: &[Vec<(ChunkId, ChunkPlace)>], total: u64) -> u64 {
    let mut gaps: Vec<u64> = windows
        .iter()
        .flat_map(|window| window.windows(2))
        .filter(|pair| pair[0].1.layer == pair[1].1.layer)
        .map(|pair| pair[1].1.blob_offset.saturating_sub(pair[0].1.blob_end()))
        .filter(|gap| *gap <= MAX_GAP)
        .collect();
    gaps.sort_unstable();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a u64")]
    let mut left = (total as f64 * SLACK) as u64;
    let mut largest = 0;
    for gap in gaps {
        let Some(rest) = left.checked_sub(gap) else { break };
        (left, largest) = (rest, gap);
    }
    largest
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use proptest::prelude::*;
    use seed_format::Digest;

    use super::*;

    /// Chunks of 1000 compressed bytes, of which each layer has `per_layer`, without gaps.
    struct Rows {
        count: u32,
        per_layer: u32,
    }

    impl ChunkMap for Rows {
        fn count(&self) -> ChunkId {
            self.count
        }
        fn chunk(&self, id: ChunkId) -> Option<ChunkPlace> {
            (id < self.count).then(|| ChunkPlace {
                layer: u16::try_from(id / self.per_layer).unwrap(),
                blob_offset: u64::from(id % self.per_layer) * 1000,
                blob_len: 1000,
                len: 2000,
                digest: Digest::of(&id.to_le_bytes()),
            })
        }
        fn layer(&self, _: u16) -> Option<Digest> {
            None
        }
        fn surroundings(&self, id: ChunkId) -> Range<ChunkId> {
            id..id + 1
        }
        fn references(&self, _: ChunkId) -> Vec<Range<ChunkId>> {
            Vec::new()
        }
        fn describe(&self, _: ChunkId) -> String {
            String::new()
        }
    }

    #[test]
    fn what_jumps_is_sorted_and_what_does_not_exist_left_out() {
        let map = Rows { count: 100, per_layer: 50 };
        let ordered = order(&map, [70, 3, 99, 4, 3, 1000, u32::MAX, 51], u64::MAX);
        assert_eq!(ordered.ids, [3, 4, 51, 70, 99]);
    }

    #[test]
    fn the_first_of_a_trace_come_first() {
        let map = Rows { count: 20_000, per_layer: 20_000 };
        let ordered = order(&map, (0..20_000).rev(), u64::MAX);
        let window = WINDOW / 1000 + 1;
        let first: Vec<u32> = ordered.ids[..usize::try_from(window).unwrap()].to_vec();
        assert_eq!(first, (20_000 - u32::try_from(window).unwrap()..20_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_trace_costs_no_more_than_its_limit() {
        let map = Rows { count: 100, per_layer: 50 };
        assert_eq!(order(&map, 0..100, 3500).ids, [0, 1, 2]);
    }

    /// Gaps are bridged from the smallest on, for as long as they cost little.
    #[test]
    fn slack_is_spent_where_it_saves_most() {
        let map = Rows { count: 1000, per_layer: 1000 };
        assert_eq!(order(&map, 0..100, u64::MAX).gap, 0);
        let every_second = order(&map, (0..100).map(|n| n * 2), u64::MAX);
        assert_eq!(every_second.gap, 1000);
        let far = order(&map, (0..9).map(|n| n * 100), u64::MAX);
        assert_eq!(far.gap, 0, "a gap of 99 kB costs more than 9 chunks may");
    }

    proptest! {
        #[test]
        fn each_chunk_is_asked_for_once(
            ids in prop::collection::vec(0u32..3000, 0..500),
            count in 1u32..2500,
            per_layer in 1u32..500,
        ) {
            let map = Rows { count, per_layer: per_layer.max(count / 60_000 + 1) };
            let mut expected: Vec<_> = ids.iter().copied().filter(|id| *id < count).collect();
            expected.sort_unstable();
            expected.dedup();
            let mut got = order(&map, ids, u64::MAX).ids;
            got.sort_unstable();
            prop_assert_eq!(got, expected);
        }
    }
}
