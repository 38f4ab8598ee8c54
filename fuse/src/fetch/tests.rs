use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::*;
use crate::store::StoreConfig;

/// Store paths of small chunks in one layer.
struct Library {
    layer: Digest,
    blob: Vec<u8>,
    chunks: Vec<ChunkPlace>,
    contents: Vec<Vec<u8>>,
    paths: Vec<Range<ChunkId>>,
    references: HashMap<usize, Vec<usize>>,
}

impl Library {
    /// `paths` store paths of `per_path` chunks.
    fn new(paths: u32, per_path: u32) -> Self {
        let mut library = Self {
            layer: Digest::of(b"layer"),
            blob: b"header".to_vec(),
            chunks: Vec::new(),
            contents: Vec::new(),
            paths: (0..paths).map(|path| path * per_path..(path + 1) * per_path).collect(),
            references: HashMap::new(),
        };
        for number in 0..paths * per_path {
            let content = format!("chunk {number} ").repeat(100 + number as usize % 7).into_bytes();
            let frame = zstd::bulk::compress(&content, 3).unwrap();
            library.chunks.push(ChunkPlace {
                layer: 0,
                blob_offset: library.blob.len() as u64,
                blob_len: u32::try_from(frame.len()).unwrap(),
                len: u32::try_from(content.len()).unwrap(),
                digest: Digest::of(&content),
            });
            library.blob.extend(frame);
            library.contents.push(content);
        }
        library
    }

    fn path_of(&self, id: ChunkId) -> usize {
        self.paths.iter().position(|path| path.contains(&id)).unwrap()
    }
}

impl ChunkMap for Library {
    fn count(&self) -> ChunkId {
        u32::try_from(self.chunks.len()).unwrap()
    }
    fn chunk(&self, id: ChunkId) -> Option<ChunkPlace> {
        self.chunks.get(id as usize).copied()
    }
    fn layer(&self, _: u16) -> Option<Digest> {
        Some(self.layer)
    }
    fn surroundings(&self, id: ChunkId) -> Range<ChunkId> {
        self.paths[self.path_of(id)].clone()
    }
    fn references(&self, id: ChunkId) -> Vec<Range<ChunkId>> {
        let references = self.references.get(&self.path_of(id));
        references.into_iter().flatten().map(|path| self.paths[*path].clone()).collect()
    }
    fn describe(&self, id: ChunkId) -> String {
        format!("path {}", self.path_of(id))
    }
}

/// What a request meets.
type Behaviour = Box<dyn Fn(Range<u64>, &[u8], usize) -> Result<Vec<u8>, SourceError> + Send + Sync>;

/// A source that answers from memory, as `behaviour` wants it.
struct Scripted {
    blob: Vec<u8>,
    /// Another blob, by its digest.
    bundle: Mutex<Option<(Digest, Vec<u8>)>>,
    behaviour: Behaviour,
    requests: AtomicUsize,
    elsewhere: AtomicUsize,
    asked: Mutex<Vec<Range<u64>>>,
}

impl BlobSource for Scripted {
    fn read(&self, blob: &Digest, range: Range<u64>, _: Instant) -> Result<Vec<u8>, SourceError> {
        let number = self.requests.fetch_add(1, Ordering::SeqCst);
        if let Some((digest, bundle)) = &*self.bundle.lock().unwrap()
            && digest == blob
        {
            let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            return bundle.get(range).map(<[u8]>::to_vec).ok_or(SourceError::Transport("404".into()));
        }
        self.asked.lock().unwrap().push(range.clone());
        let bytes = &self.blob[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
        (self.behaviour)(range, bytes, number)
    }
    fn read_elsewhere(
        &self,
        layer: &Digest,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Vec<u8>, SourceError> {
        self.elsewhere.fetch_add(1, Ordering::SeqCst);
        self.read(layer, range, deadline)
    }
}

struct Bench {
    library: Arc<Library>,
    source: Arc<Scripted>,
    counters: Arc<Counters>,
    store: Arc<ChunkStore>,
    fetcher: Fetcher,
    _cache: tempfile::TempDir,
}

fn quiet() -> Config {
    Config { neighbours: false, fill: false, ..Config::default() }
}

fn bench(library: Library, config: Config, behaviour: Behaviour) -> Bench {
    let cache = tempfile::tempdir().unwrap();
    let counters = Arc::new(Counters::default());
    let store = StoreConfig {
        directory: Some(cache.path().to_owned()),
        keep_free: Some(0),
        ..StoreConfig::default()
    };
    let store = Arc::new(ChunkStore::open(store, Arc::clone(&counters)).unwrap());
    let library = Arc::new(library);
    let source = Arc::new(Scripted {
        blob: library.blob.clone(),
        bundle: Mutex::new(None),
        behaviour,
        requests: AtomicUsize::new(0),
        elsewhere: AtomicUsize::new(0),
        asked: Mutex::new(Vec::new()),
    });
    let fetcher = Fetcher::start(
        Arc::clone(&library) as Arc<dyn ChunkMap>,
        Arc::clone(&store),
        Arc::clone(&source) as Arc<dyn BlobSource>,
        Arc::clone(&counters),
        config,
    )
    .unwrap();
    Bench { library, source, counters, store, fetcher, _cache: cache }
}

fn honest() -> Behaviour {
    Box::new(|_, bytes, _| Ok(bytes.to_vec()))
}

impl Bench {
    fn check(&self, ids: Range<ChunkId>) {
        let chunks = self.fetcher.get(ids.clone()).unwrap();
        assert_eq!(chunks.len(), ids.len());
        for (id, chunk) in ids.zip(chunks) {
            assert_eq!(chunk.bytes(), self.library.contents[id as usize], "chunk {id}");
        }
    }

    /// Waits until all these chunks are cached; fails if they are not after ten seconds.
    fn wait_for(&self, ids: Range<ChunkId>) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !ids.clone().all(|id| self.store.contains(&self.library.chunks[id as usize].digest)) {
            assert!(Instant::now() < deadline, "the chunks {ids:?} are not fetched ahead");
            std::thread::yield_now();
        }
    }
}

#[test]
fn reads_are_answered_and_cached() {
    let bench = bench(Library::new(3, 20), quiet(), honest());
    bench.check(5..9);
    let requests = bench.source.requests.load(Ordering::SeqCst);
    bench.check(5..9);
    assert_eq!(bench.source.requests.load(Ordering::SeqCst), requests, "the second time from the cache");
    assert_eq!(bench.counters.snapshot().demand_misses, 1);
    assert!(matches!(bench.fetcher.get(59..61), Err(FetchError::NoChunk(60))));
}

#[test]
fn one_read_takes_its_small_neighbours_along() {
    let bench = bench(Library::new(1, 20), quiet(), honest());
    bench.check(5..6);
    bench.wait_for(5..20);
    assert_eq!(bench.source.requests.load(Ordering::SeqCst), 1);
}

#[test]
fn a_miss_brings_its_store_path_and_its_references() {
    let mut library = Library::new(4, 30);
    library.references.insert(1, vec![3]);
    let config = Config { fill: false, ..Config::default() };
    let bench = bench(library, config, honest());
    bench.check(45..46);
    bench.wait_for(30..60);
    bench.wait_for(90..120);
    assert!(!bench.store.contains(&bench.library.chunks[0].digest));
    assert!(!bench.store.contains(&bench.library.chunks[60].digest));
}

#[test]
fn the_fill_brings_everything() {
    let config = Config { neighbours: false, ..Config::default() };
    let bench = bench(Library::new(4, 30), config, honest());
    bench.wait_for(0..120);
    let asked = bench.source.asked.lock().unwrap();
    let total: u64 = asked.iter().map(|range| range.end - range.start).sum();
    assert_eq!(total, bench.library.blob.len() as u64 - 6, "each byte once");
}

#[test]
fn traces_are_fetched_one_after_another() {
    let bench = bench(Library::new(4, 30), Config { connections: 1, ..quiet() }, honest());
    bench.fetcher.prefetch([100, 7_000_000], u64::MAX);
    bench.fetcher.prefetch([3, 50, 100], u64::MAX);
    for id in [100, 3, 50] {
        bench.wait_for(id..id + 1);
    }
    let asked = bench.source.asked.lock().unwrap();
    let first = bench.library.chunks[100].blob_offset;
    assert!(asked[0].contains(&first));
}

/// Each on its own, the chunks would be 200 requests.
#[test]
fn a_scattered_trace_is_fetched_in_few_requests() {
    let library = Library::new(20, 30);
    let bench = bench(library, Config { connections: 1, ..quiet() }, honest());
    let scattered: Vec<u32> = (0..200u32).map(|n| n.wrapping_mul(2_654_435_761) % 200 * 3).collect();
    bench.fetcher.prefetch(scattered.iter().copied(), u64::MAX);
    bench.wait_for(0..1);
    for id in &scattered {
        bench.wait_for(*id..id + 1);
    }
    let asked = bench.source.asked.lock().unwrap();
    let (wanted, fetched) = (
        scattered.iter().map(|id| u64::from(bench.library.chunks[*id as usize].blob_len)).sum::<u64>(),
        asked.iter().map(|range| range.end - range.start).sum::<u64>(),
    );
    assert!(asked.len() < 180, "{} requests", asked.len());
    assert!(fetched * 100 <= wanted * 116, "{fetched} bytes for {wanted}");
}

impl Bench {
    /// Gives the source a bundle of these chunks, and says what a trace says of it. `wrong` changes its bytes.
    fn bundle(&self, ids: &[ChunkId], wrong: impl Fn(&mut Vec<u8>)) -> (Digest, Vec<(ChunkId, u64)>) {
        let (mut bytes, mut offsets) = (Vec::new(), Vec::new());
        for id in ids {
            let place = &self.library.chunks[*id as usize];
            let start = usize::try_from(place.blob_offset).unwrap();
            offsets.push((*id, bytes.len() as u64));
            bytes.extend(&self.library.blob[start..start + place.blob_len as usize]);
        }
        let digest = Digest::of(&bytes);
        wrong(&mut bytes);
        *self.source.bundle.lock().unwrap() = Some((digest, bytes));
        (digest, offsets)
    }
}

fn scattered() -> Vec<ChunkId> {
    (0..200).map(|n| n * 77 % 200 * 3).collect()
}

/// From the layers they are dozens.
#[test]
fn a_bundle_is_one_request() {
    let bench = bench(Library::new(20, 30), quiet(), honest());
    let ids = scattered();
    let (digest, offsets) = bench.bundle(&ids, |_| ());
    let bytes = bench.fetcher.prefetch_bundle(digest, offsets, u64::MAX);
    for id in &ids {
        bench.wait_for(*id..id + 1);
    }
    assert_eq!(bench.source.requests.load(Ordering::SeqCst), 1);
    assert_eq!(bench.counters.snapshot().bytes_fetched, bytes);
    assert!(!bench.store.contains(&bench.library.chunks[1].digest));
    for id in ids {
        bench.check(id..id + 1);
    }
    assert_eq!(bench.counters.snapshot().demand_misses, 0);
}

#[test]
fn what_a_bundle_costs_is_bounded() {
    let bench = bench(Library::new(20, 30), quiet(), honest());
    let (digest, offsets) = bench.bundle(&scattered(), |_| ());
    let limit = offsets[10].1;
    assert_eq!(bench.fetcher.prefetch_bundle(digest, offsets, limit + 1), limit);
    bench.fetcher.settle();
    assert!(bench.counters.snapshot().bytes_fetched <= limit);
}

/// What is wrong with it, its chunks come from the layers, and reads are right.
#[test]
fn a_bundle_that_is_wrong_or_missing_changes_nothing() {
    type Wrong = fn(&mut Vec<u8>);
    let wrong: [Wrong; 4] = [
        |bytes| bytes.iter_mut().for_each(|byte| *byte ^= 0x55),
        |bytes| bytes.reverse(),
        |bytes| bytes.truncate(1000),
        Vec::clear,
    ];
    for wrong in wrong {
        let bench = bench(Library::new(20, 30), quiet(), honest());
        let ids = scattered();
        let (digest, offsets) = bench.bundle(&ids, wrong);
        bench.fetcher.prefetch_bundle(digest, offsets, u64::MAX);
        bench.check(ids[0]..ids[0] + 1);
        for id in &ids {
            bench.wait_for(*id..id + 1);
            bench.check(*id..id + 1);
        }
        let stats = bench.counters.snapshot();
        assert_eq!(stats.failed_reads, 0, "{stats:?}");
    }
}

#[test]
fn what_is_read_is_recorded_once_whether_it_was_here_or_not() {
    let bench = bench(Library::new(2, 30), quiet(), honest());
    let chunks = |bench: &Bench| -> Vec<u32> {
        let touched = bench.fetcher.touched();
        assert!(touched.is_sorted_by_key(|touched| touched.at_ms));
        touched.into_iter().map(|touched| touched.chunk).collect()
    };
    bench.fetcher.prefetch([20], u64::MAX);
    bench.wait_for(20..21);
    bench.fetcher.get(7..9).unwrap();
    assert_eq!(chunks(&bench), [7, 8], "what is fetched ahead is not read");
    bench.fetcher.get(20..21).unwrap();
    bench.fetcher.get_cached(8..9, 1 << 20).unwrap();
    bench.fetcher.get(6..9).unwrap();
    bench.fetcher.get(0..0).unwrap();
    assert_eq!(chunks(&bench), [7, 8, 20, 6]);
    bench.fetcher.restart_recording();
    assert!(chunks(&bench).is_empty());
    bench.fetcher.get_cached(8..9, 1 << 20).unwrap();
    assert_eq!(chunks(&bench), [8]);
}

#[test]
fn many_readers_of_one_chunk_make_one_request() {
    let (open, gate) = std::sync::mpsc::sync_channel::<()>(0);
    let gate = Mutex::new(gate);
    let bench = bench(
        Library::new(1, 4),
        quiet(),
        Box::new(move |_, bytes, _| {
            gate.lock().unwrap().recv().unwrap();
            Ok(bytes.to_vec())
        }),
    );
    let (send, receive) = std::sync::mpsc::channel();
    for _ in 0..32 {
        let send = send.clone();
        bench.fetcher.request(2..3, Box::new(move |result| send.send(result.unwrap().len()).unwrap()));
    }
    open.send(()).unwrap();
    for _ in 0..32 {
        assert_eq!(receive.recv().unwrap(), 1);
    }
    assert_eq!(bench.source.requests.load(Ordering::SeqCst), 1);
}

#[test]
fn wrong_bytes_once_are_asked_for_elsewhere() {
    let flip = |bytes: &[u8]| {
        let mut wrong = bytes.to_vec();
        // The last byte of a frame is in its last block, whose checksum frames here do not have.
        let last = wrong.len() - 1;
        wrong[last] ^= 0x40;
        wrong
    };
    let bench = bench(
        Library::new(1, 1),
        quiet(),
        Box::new(move |_, bytes, number| Ok(if number == 0 { flip(bytes) } else { bytes.to_vec() })),
    );
    bench.check(0..1);
    assert_eq!(bench.source.elsewhere.load(Ordering::SeqCst), 1);
    assert_eq!(bench.counters.snapshot().mismatches, 1);
}

#[test]
fn wrong_bytes_twice_are_an_error_that_names_them() {
    // Another chunk's frame: it decompresses, and is not what was asked for.
    let library = Library::new(1, 8);
    let frame = |id: usize| {
        let place = library.chunks[id];
        let start = usize::try_from(place.blob_offset).unwrap();
        library.blob[start..start + place.blob_len as usize].to_vec()
    };
    let (other, victim) = (frame(0), 7);
    assert_eq!(library.chunks[7].len, library.chunks[0].len, "only the digest can tell them apart");
    assert_eq!(library.chunks[7].blob_len, library.chunks[0].blob_len);
    let bench = bench(library, quiet(), Box::new(move |_, _, _| Ok(other.clone())));
    let error = bench.fetcher.get(victim..victim + 1).unwrap_err();
    assert!(matches!(error, FetchError::Integrity { .. }), "{error}");
    assert!(error.to_string().contains("path 0"), "{error}");
    assert!(error.to_string().contains(&bench.library.layer.to_string()), "{error}");
    assert!(error.to_string().contains(&bench.library.chunks[victim as usize].digest.to_string()), "{error}");
    assert_eq!(bench.source.elsewhere.load(Ordering::SeqCst), 1);
    assert!(bench.counters.snapshot().mismatches >= 2);
    assert!(!bench.store.contains(&bench.library.chunks[victim as usize].digest));
}

/// Each bit of a frame in turn: the right bytes or an error, never other bytes.
#[test]
fn no_flipped_bit_is_served() {
    let bit = Arc::new(AtomicU64::new(0));
    let flipped = Arc::clone(&bit);
    let library = Library::new(1, 1);
    let bits = u64::from(library.chunks[0].blob_len) * 8;
    let content = library.contents[0].clone();
    let bench = bench(
        library,
        quiet(),
        Box::new(move |_, bytes, _| {
            let bit = usize::try_from(flipped.load(Ordering::SeqCst)).unwrap();
            let mut wrong = bytes.to_vec();
            wrong[bit / 8] ^= 1 << (bit % 8);
            Ok(wrong)
        }),
    );
    for at in 0..bits {
        bit.store(at, Ordering::SeqCst);
        match bench.fetcher.get(0..1) {
            Err(error) => assert!(error.is_integrity(), "{error}"),
            Ok(chunks) => {
                // Some bits of a frame's header mean nothing. The chunk is then cached, and so ends this.
                assert_eq!(chunks[0].bytes(), content);
                return;
            }
        }
    }
}

/// Reads are answered before their chunks are written to the cache.
#[test]
fn what_has_settled_is_in_the_cache() {
    for _ in 0..100 {
        let bench = bench(Library::new(1, 4), quiet(), honest());
        bench.check(0..4);
        bench.fetcher.settle();
        assert!(bench.library.chunks.iter().all(|place| bench.store.contains(&place.digest)));
    }
}

/// The same of a fetcher that ends at once.
#[test]
fn what_was_read_is_in_the_cache_when_the_fetcher_has_ended() {
    for _ in 0..100 {
        let Bench { library, store, fetcher, _cache, .. } = bench(Library::new(1, 4), quiet(), honest());
        fetcher.get(0..4).unwrap();
        drop(fetcher);
        assert!(library.chunks.iter().all(|place| store.contains(&place.digest)));
    }
}

#[test]
fn a_short_answer_and_a_failing_source_are_errors() {
    type Fault = fn(&[u8]) -> Result<Vec<u8>, SourceError>;
    let faults: [Fault; 4] = [
        |bytes| Ok(bytes[1..].to_vec()),
        |bytes| Ok([bytes, b"x"].concat()),
        |_| Ok(Vec::new()),
        |_| Err(SourceError::Transport("503".into())),
    ];
    for fault in faults {
        let bench = bench(Library::new(1, 3), quiet(), Box::new(move |_, bytes, _| fault(bytes)));
        let error = bench.fetcher.get(1..2).unwrap_err();
        assert!(matches!(error, FetchError::Source { .. }), "{error}");
        assert_eq!(bench.source.requests.load(Ordering::SeqCst), 3);
        assert_eq!(bench.counters.snapshot().failed_reads, 1);
    }
}

/// Whatever of a range is still being decoded when all have come: what was wrong is never taken for there.
#[test]
fn fetching_everything_ends_with_an_error_where_a_chunk_is_wrong() {
    for _ in 0..200 {
        let library = Library::new(2, 30);
        let wrong = library.chunks[40].blob_offset + 9;
        let flip = move |range: Range<u64>, bytes: &[u8], _| {
            let mut bytes = bytes.to_vec();
            if range.contains(&wrong) {
                bytes[usize::try_from(wrong - range.start).unwrap()] ^= 1;
            }
            Ok(bytes)
        };
        let bench = bench(library, quiet(), Box::new(flip));
        bench.fetcher.fetch_all();
        let error = bench.fetcher.wait_for_all(&mut || ()).unwrap_err();
        assert!(error.is_integrity(), "{error}");
        assert_eq!(bench.fetcher.missing(), 1);
    }
}

#[test]
fn a_passing_failure_is_survived() {
    let bench = bench(
        Library::new(1, 3),
        quiet(),
        Box::new(|_, bytes, number| match number {
            0 | 1 => Err(SourceError::Deadline),
            _ => Ok(bytes.to_vec()),
        }),
    );
    bench.check(0..3);
}

#[test]
fn a_stalled_source_ends_in_time() {
    let config = Config {
        read_deadline: Duration::from_millis(400),
        hedge_after: Duration::from_millis(100),
        ..quiet()
    };
    let (_keep, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let bench = bench(
        Library::new(1, 3),
        config,
        Box::new(move |_, _, _| {
            // Ends when the test does: the sender is dropped.
            let _ = gate.lock().unwrap().recv();
            Err(SourceError::Deadline)
        }),
    );
    let begin = Instant::now();
    let error = bench.fetcher.get(0..2).unwrap_err();
    assert!(matches!(error, FetchError::Deadline { .. }), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
fn a_stalled_request_is_overtaken() {
    let config = Config { hedge_after: Duration::from_millis(50), ..quiet() };
    let (_keep, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let bench = bench(
        Library::new(1, 3),
        config,
        Box::new(move |_, bytes, number| {
            if number == 0 {
                let _ = gate.lock().unwrap().recv();
                return Err(SourceError::Deadline);
            }
            Ok(bytes.to_vec())
        }),
    );
    bench.check(0..3);
}

#[test]
fn without_a_cache_reads_go_on() {
    let counters = Arc::new(Counters::default());
    let store = Arc::new(ChunkStore::open(StoreConfig::default(), Arc::clone(&counters)).unwrap());
    let library = Arc::new(Library::new(2, 30));
    let source = Arc::new(Scripted {
        blob: library.blob.clone(),
        bundle: Mutex::new(None),
        behaviour: honest(),
        requests: AtomicUsize::new(0),
        elsewhere: AtomicUsize::new(0),
        asked: Mutex::new(Vec::new()),
    });
    let fetcher = Fetcher::start(
        Arc::clone(&library) as Arc<dyn ChunkMap>,
        store,
        Arc::clone(&source) as Arc<dyn BlobSource>,
        counters,
        Config::default(),
    )
    .unwrap();
    for id in 0..60 {
        let chunks = fetcher.get(id..id + 1).unwrap();
        assert_eq!(chunks[0].bytes(), library.contents[id as usize]);
    }
    assert_eq!(source.requests.load(Ordering::SeqCst), 60, "nothing is fetched that cannot be kept");
}

#[test]
fn dropping_the_fetcher_answers_who_waits() {
    let (_keep, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let bench = bench(
        Library::new(1, 3),
        quiet(),
        Box::new(move |_, _, _| {
            let _ = gate.lock().unwrap().recv();
            Err(SourceError::Deadline)
        }),
    );
    let (send, receive) = std::sync::mpsc::channel();
    bench.fetcher.request(0..1, Box::new(move |result| send.send(result).unwrap()));
    drop(bench.fetcher);
    assert!(matches!(receive.recv().unwrap(), Err(FetchError::Stopped)));
}

/// Many threads, random ranges, a source that fails and lies now and then, a small memory: every answer is
/// right or an error, and all are given.
#[test]
fn under_stress_every_answer_is_right() {
    let library = Library::new(10, 40);
    let config = Config { connections: 6, ..Config::default() };
    let bench = bench(
        library,
        config,
        Box::new(|_, bytes, number| match number % 11 {
            3 => Err(SourceError::Deadline),
            7 => {
                let mut wrong = bytes.to_vec();
                let at = number % wrong.len();
                wrong[at] ^= 1;
                Ok(wrong)
            }
            _ => Ok(bytes.to_vec()),
        }),
    );
    let right = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8u32 {
            let (bench, right) = (&bench, &right);
            scope.spawn(move || {
                let mut state = thread * 7919 + 1;
                for _ in 0..200 {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let first = (state >> 8) % 395;
                    let ids = first..first + 1 + (state >> 3) % 5;
                    if let Ok(chunks) = bench.fetcher.get(ids.clone()) {
                        for (id, chunk) in ids.zip(chunks) {
                            assert_eq!(chunk.bytes(), bench.library.contents[id as usize]);
                        }
                        right.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    assert!(right.load(Ordering::SeqCst) > 1000);
}
