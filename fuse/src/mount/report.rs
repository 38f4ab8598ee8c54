//! What a mount has done so far, for those who look at it: a report with layers, store paths and events.

use std::collections::HashMap;

use seed_format::Digest;
use serde::{Deserialize, Serialize};

use super::{MountState, SeedFs};
use crate::activity::{Event, WAIT_BOUNDS};
use crate::fetch::ChunkId;
use crate::stats::Stats;

/// Most store paths of a report: those of which most was fetched.
const MAX_PATHS: usize = 500;

/// What a mount has done so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The mount.
    pub state: MountState,
    /// Its counters.
    pub stats: Stats,
    /// Resident memory of the server, in bytes.
    pub resident: u64,
    /// Microseconds since the seed was opened.
    pub age: u64,
    /// Upper bounds of the histogram of waits, in microseconds.
    pub wait_bounds: Vec<u64>,
    /// How many reads waited up to each bound and longer than the one before; the last: how many longer.
    pub waits: Vec<u64>,
    /// The layers that the index describes.
    pub layers: Vec<Use>,
    /// The store paths of which something came or was read, those first of which most came.
    pub paths: Vec<Use>,
    /// All of the seed.
    pub whole: Use,
    /// The last things that happened, in the order in which they ended.
    pub events: Vec<Event>,
}

/// What became of a part of a seed. All bytes are compressed ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// A store path's base name, or a layer's digest.
    pub name: String,
    /// Bytes of its chunks.
    pub bytes: u64,
    /// Bytes of chunks that came from the source.
    pub fetched: u64,
    /// Bytes of chunks that were read, wherever they were.
    pub read: u64,
    /// Bytes of chunks that came and were not read.
    pub wasted: u64,
    /// Reads that waited for a chunk of it, as far as events are kept.
    pub misses: u64,
    /// How long they waited together, in microseconds.
    pub wait: u64,
}

/// A chunk, and what became of it.
struct Fate {
    bytes: u64,
    fetched: bool,
    read: bool,
}

impl Use {
    fn count(&mut self, fate: &Fate) {
        let Fate { bytes, fetched, read } = *fate;
        self.bytes += bytes;
        self.fetched += if fetched { bytes } else { 0 };
        self.read += if read { bytes } else { 0 };
        self.wasted += if fetched && !read { bytes } else { 0 };
    }
}

impl Report {
    /// Looks at a mount. Before its index is here, there are no layers and paths.
    pub(super) fn of(state: &MountState, fs: &SeedFs, resident: u64) -> Self {
        let activity = &fs.counters().activity;
        let events = activity.events();
        let mut waits: HashMap<ChunkId, (u64, u64)> = HashMap::new();
        for event in &events {
            if let Event::Miss { chunk, wait, .. } = event {
                let of_chunk = waits.entry(*chunk).or_default();
                *of_chunk = (of_chunk.0 + 1, of_chunk.1 + u64::from(*wait));
            }
        }
        let mut whole = Use { name: state.digest.to_string(), ..Use::default() };
        let (mut layers, mut paths) = (Vec::new(), Vec::new());
        if let Some(index) = fs.index().if_whole() {
            let mut read = vec![false; index.chunk_count() as usize];
            for touched in fs.fetcher().touched() {
                if let Some(read) = read.get_mut(touched.chunk as usize) {
                    *read = true;
                }
            }
            let name = |digest: &Digest| Use { name: digest.to_string(), ..Use::default() };
            layers = index.layers().iter().map(|layer| name(&layer.digest)).collect();
            paths = index
                .paths()
                .map(|path| Use { name: path.base_name.to_string(), ..Use::default() })
                .collect();
            for chunk in 0..index.chunk_count() {
                let Some(record) = index.chunk(chunk) else { continue };
                let fate = Fate {
                    bytes: record.blob_len.into(),
                    fetched: activity.was_fetched(chunk),
                    read: read[chunk as usize],
                };
                let path = index.path_of_chunk(chunk).and_then(|path| paths.get_mut(path));
                let parts = [Some(&mut whole), layers.get_mut(usize::from(record.layer)), path];
                for part in parts.into_iter().flatten() {
                    part.count(&fate);
                    if let Some((misses, wait)) = waits.get(&chunk) {
                        part.misses += misses;
                        part.wait += wait;
                    }
                }
            }
            paths.retain(|path| path.fetched + path.read > 0);
            paths.sort_by(|a, b| b.fetched.cmp(&a.fetched).then_with(|| a.name.cmp(&b.name)));
            paths.truncate(MAX_PATHS);
        }
        Self {
            state: state.clone(),
            stats: fs.stats(),
            resident,
            age: activity.age(),
            wait_bounds: WAIT_BOUNDS.to_vec(),
            waits: activity.waits(),
            layers,
            paths,
            whole,
            events,
        }
    }
}
