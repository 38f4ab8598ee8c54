//! The scheduler under a model checker, which decides at each lock, wait and thread which one goes on. Run with
//! `cargo test -p seed-fuse --features shuttle --test interleavings`; `./soak` checks more schedules.
//!
//! A schedule in which all threads wait for ever is a failure, as is one in which an assertion fails.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use seed_format::Digest;
use seed_fuse::fetch::{ChunkId, ChunkMap, ChunkPlace, Config, FetchError, Fetcher};
use seed_fuse::source::{BlobSource, SourceError};
use seed_fuse::stats::Counters;
use seed_fuse::store::{ChunkStore, StoreConfig};

const CHUNKS: u32 = 3;

/// Chunks of one store path, and their blob.
struct Seed {
    chunks: Vec<ChunkPlace>,
    blob: Vec<u8>,
    asked: AtomicUsize,
    /// The first answers have wrong bytes.
    wrong: usize,
}

fn content(id: ChunkId) -> Vec<u8> {
    format!("chunk {id}").repeat(9).into_bytes()
}

impl Seed {
    fn new(wrong: usize) -> Self {
        let (mut chunks, mut blob) = (Vec::new(), Vec::new());
        for id in 0..CHUNKS {
            let content = content(id);
            let frame = zstd::bulk::compress(&content, 1).unwrap();
            chunks.push(ChunkPlace {
                layer: 0,
                blob_offset: blob.len() as u64,
                blob_len: u32::try_from(frame.len()).unwrap(),
                len: u32::try_from(content.len()).unwrap(),
                digest: Digest::of(&content),
            });
            blob.extend(frame);
        }
        Self { chunks, blob, asked: AtomicUsize::new(0), wrong }
    }
}

impl ChunkMap for Seed {
    fn count(&self) -> ChunkId {
        CHUNKS
    }
    fn chunk(&self, id: ChunkId) -> Option<ChunkPlace> {
        self.chunks.get(id as usize).copied()
    }
    fn layer(&self, _: u16) -> Option<Digest> {
        Some(Digest::of(b"layer"))
    }
    fn surroundings(&self, _: ChunkId) -> Range<ChunkId> {
        0..CHUNKS
    }
    fn references(&self, _: ChunkId) -> Vec<Range<ChunkId>> {
        Vec::new()
    }
    fn describe(&self, _: ChunkId) -> String {
        "path".into()
    }
}

impl BlobSource for Seed {
    fn read(&self, _: &Digest, range: Range<u64>, _: Instant) -> Result<Vec<u8>, SourceError> {
        let number = self.asked.fetch_add(1, Ordering::SeqCst);
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        let mut bytes = self.blob[range].to_vec();
        if number < self.wrong {
            bytes.fill(0);
        }
        Ok(bytes)
    }
}

/// Readers of the same and of other chunks, while more is fetched ahead, or the fetcher goes away.
fn world(wrong: usize, ahead: bool, goes_away: bool) {
    let seed = Arc::new(Seed::new(wrong));
    let counters = Arc::new(Counters::default());
    let cache = tempfile::tempdir().unwrap();
    let directory = ahead.then(|| cache.path().to_owned());
    let store = StoreConfig { directory, keep_free: Some(0), ..StoreConfig::default() };
    let store = Arc::new(ChunkStore::open(store, Arc::clone(&counters)).unwrap());
    let config = Config { connections: 2, neighbours: ahead, fill: false, ..Config::default() };
    let fetcher =
        Arc::new(Fetcher::start(seed.clone(), store, seed.clone(), Arc::clone(&counters), config).unwrap());
    let readers: Vec<_> = [0..2, 1..2, 2..3]
        .into_iter()
        .map(|ids: Range<ChunkId>| {
            let fetcher = Arc::downgrade(&fetcher);
            let request = move || {
                let (send, receive) = shuttle::sync::mpsc::sync_channel(1);
                let Some(fetcher) = fetcher.upgrade() else { return };
                fetcher.request(ids.clone(), Box::new(move |result| drop(send.send(result))));
                drop(fetcher);
                match receive.recv().expect("each read is answered once") {
                    Ok(chunks) => {
                        assert_eq!(chunks.len(), ids.len());
                        for (id, chunk) in ids.zip(chunks) {
                            assert!(chunk.bytes() == content(id), "wrong bytes");
                        }
                    }
                    Err(error) => {
                        let stopped = matches!(error, FetchError::Stopped) && goes_away;
                        assert!(stopped || (error.is_integrity() && wrong > 1), "{error}");
                    }
                }
            };
            shuttle::thread::spawn(request)
        })
        .collect();
    let (mut fetcher, mut readers) = (Some(fetcher), readers.into_iter());
    if goes_away {
        fetcher = None;
    }
    readers.by_ref().for_each(|reader| reader.join().unwrap());
    if ahead && !goes_away && wrong == 0 {
        assert!(seed.asked.load(Ordering::SeqCst) <= 6, "a chunk is asked for once or, as it comes, twice");
    }
    drop(fetcher);
}

fn check(world: impl Fn() + Send + Sync + 'static) {
    let schedules = std::env::var("SEED_TEST_SCHEDULES").ok().map_or(1000, |text| text.parse().unwrap());
    let mut config = shuttle::Config::new();
    // Decompression and hashing need more than the checker's own threads.
    config.stack_size = 1 << 20;
    config.max_steps = shuttle::MaxSteps::FailAfter(1_000_000);
    let scheduler = shuttle::scheduler::RandomScheduler::new(schedules);
    shuttle::Runner::new(scheduler, config).run(world);
}

#[test]
fn each_read_is_answered_with_its_bytes() {
    check(|| world(0, false, false));
}

#[test]
fn wrong_answers_are_asked_for_again_or_fail_the_read() {
    check(|| world(1, false, false));
    check(|| world(4, false, false));
}

#[test]
fn what_is_fetched_ahead_meets_what_is_read() {
    check(|| world(0, true, false));
}

#[test]
fn a_fetcher_that_goes_away_answers_all() {
    check(|| world(0, false, true));
}
