use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::*;

fn config(directory: &Path) -> StoreConfig {
    // No memory: each read comes from the disk.
    StoreConfig {
        directory: Some(directory.to_owned()),
        keep_free: Some(0),
        memory: 0,
        ..StoreConfig::default()
    }
}

fn open(config: StoreConfig) -> (ChunkStore, Arc<Counters>) {
    let counters = Arc::new(Counters::default());
    (ChunkStore::open(config, Arc::clone(&counters)).unwrap(), counters)
}

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..=250u8).cycle().take(len).map(|at| seed ^ at).collect()
}

fn put(store: &ChunkStore, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    let chunk = store.admit(&digest, &Arc::new(bytes.to_vec()), 0..bytes.len()).unwrap();
    store.keep(&[chunk]);
    digest
}

fn get(store: &ChunkStore, digest: &Digest, len: usize) -> Option<Vec<u8>> {
    store.get(digest, u32::try_from(len).unwrap()).map(|chunk| chunk.bytes().to_vec())
}

/// The only file in `directory` with this extension.
fn file(directory: &Path, extension: &str) -> PathBuf {
    let mut files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.extension().is_some_and(|found| found == extension)).unwrap()
}

#[test]
fn only_right_bytes_are_admitted() {
    let (store, _) = open(StoreConfig::default());
    let buffer = Arc::new(b"right".to_vec());
    assert!(store.admit(&Digest::of(b"right"), &buffer, 0..5).is_ok());
    assert_eq!(
        store.admit(&Digest::of(b"right"), &buffer, 0..4).unwrap_err(),
        Mismatch { expected: Digest::of(b"right"), actual: Digest::of(b"righ") }
    );
}

#[test]
fn chunks_outlive_the_process_that_fetched_them() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(config(directory.path()));
    let chunks: Vec<_> = (0..50).map(|seed| bytes(seed, usize::from(seed) * 100 + 1)).collect();
    let digests: Vec<_> = chunks.iter().map(|chunk| put(&store, chunk)).collect();
    drop(store);

    let (store, counters) = open(config(directory.path()));
    for (digest, chunk) in digests.iter().zip(&chunks) {
        assert_eq!(get(&store, digest, chunk.len()).as_ref(), Some(chunk));
    }
    assert_eq!(counters.snapshot().cache_hits, 50);
}

#[test]
fn the_cache_is_for_its_owner_only() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("new/cache");
    let (store, _) = open(config(&directory));
    put(&store, b"x");
    assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(file(&directory, "data")).unwrap().mode() & 0o777, 0o600);
}

/// What may happen to the files of a cache, and must not matter.
#[test]
fn damage_costs_a_fetch_and_never_a_wrong_byte() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 7] = [
        ("a flipped bit", |directory| {
            let data = fs::OpenOptions::new().write(true).open(file(directory, "data")).unwrap();
            data.write_all_at(&[0xff], 17).unwrap();
        }),
        ("bytes that never reached the disk", |directory| {
            fs::OpenOptions::new().write(true).open(file(directory, "data")).unwrap().set_len(20).unwrap();
        }),
        ("an empty data file", |directory| fs::write(file(directory, "data"), b"").unwrap()),
        ("a record of zeros", |directory| {
            let index = fs::OpenOptions::new().write(true).open(file(directory, "index")).unwrap();
            index.write_all_at(&[0; 48], 0).unwrap();
        }),
        ("half a record", |directory| {
            fs::OpenOptions::new().write(true).open(file(directory, "index")).unwrap().set_len(30).unwrap();
        }),
        ("a record that leads elsewhere", |directory| {
            let index = fs::OpenOptions::new().write(true).open(file(directory, "index")).unwrap();
            index.write_all_at(&7u64.to_le_bytes(), 32).unwrap();
        }),
        ("no index", |directory| fs::remove_file(file(directory, "index")).unwrap()),
    ];
    for (what, damage) in damages {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = open(config(directory.path()));
        let chunk = bytes(1, 1000);
        let digest = put(&store, &chunk);
        drop(store);
        damage(directory.path());
        let (store, _) = open(config(directory.path()));
        assert_eq!(get(&store, &digest, 1000), None, "{what}");
        assert!(!store.contains(&digest), "{what}: it is fetched again");
        put(&store, &chunk);
        assert_eq!(get(&store, &digest, 1000), Some(chunk), "{what}: and kept again");
    }
}

#[test]
fn bytes_that_change_after_they_were_read_are_not_served() {
    let directory = tempfile::tempdir().unwrap();
    let (store, counters) = open(config(directory.path()));
    let digest = put(&store, &bytes(1, 1000));
    assert!(get(&store, &digest, 1000).is_some());
    let data = fs::OpenOptions::new().write(true).open(file(directory.path(), "data")).unwrap();
    data.write_all_at(b"!", 500).unwrap();
    assert_eq!(get(&store, &digest, 1000), None);
    assert_eq!(counters.snapshot().cache_dropped, 1);
}

#[test]
fn a_wrong_length_is_not_served() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(config(directory.path()));
    let digest = put(&store, &bytes(1, 1000));
    assert_eq!(get(&store, &digest, 999), None);
}

#[test]
fn two_processes_share() {
    let directory = tempfile::tempdir().unwrap();
    let (one, _) = open(config(directory.path()));
    let (other, _) = open(config(directory.path()));
    let digest = put(&one, b"shared");
    assert!(!other.contains(&digest));
    write(&other.catalog).refreshed = None;
    other.look_around();
    assert_eq!(get(&other, &digest, 6).as_deref(), Some(&b"shared"[..]));
    put(&other, b"shared");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "what one has the other does not write");
    let later = put(&one, b"later");
    write(&other.catalog).refreshed = None;
    other.look_around();
    assert_eq!(get(&other, &later, 5).as_deref(), Some(&b"later"[..]));
}

#[test]
fn a_cache_without_room_keeps_nothing_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(StoreConfig { limit: 0, ..config(directory.path()) });
    assert!(store.keeps());
    let refused = put(&store, b"not kept");
    assert!(!store.keeps(), "after a refusal nothing is fetched ahead");
    assert_eq!(get(&store, &refused, 8), None);
}

#[test]
fn the_oldest_segments_are_evicted_and_running_reads_go_on() {
    let directory = tempfile::tempdir().unwrap();
    // A segment is closed at an eighth of the limit.
    let limit = 8 << 20;
    let (store, _) = open(StoreConfig { limit, ..config(directory.path()) });
    let chunks: Vec<_> = (0..40).map(|seed| bytes(seed, 512 << 10)).collect();
    let mut first_segment = None;
    for chunk in &chunks {
        put(&store, chunk);
        let on_disk =
            segment::list(directory.path()).unwrap().iter().map(|segment| segment.size).sum::<u64>();
        assert!(on_disk <= limit + (1 << 20), "{on_disk} bytes");
        first_segment
            .get_or_insert_with(|| Arc::clone(read(&store.catalog).segments.values().next().unwrap()));
    }
    assert!(!store.contains(&Digest::of(&chunks[0])), "the first is evicted");
    assert!(get(&store, &Digest::of(&chunks[39]), 512 << 10).is_some(), "the last is not");
    let running = first_segment.unwrap().read(0, 512 << 10).unwrap();
    assert!(running == chunks[0], "an open segment is read to its end");

    drop(store);
    let report = collect_garbage(directory.path(), 0).unwrap();
    assert_eq!(report.left, 0);
    assert!(report.freed > 0);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn many_threads() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(config(directory.path()));
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            let store = &store;
            scope.spawn(move || {
                for seed in 0..64u8 {
                    let chunk = bytes(seed.wrapping_mul(thread % 2 + 1), 3000);
                    let digest = put(store, &chunk);
                    assert_eq!(get(store, &digest, 3000), Some(chunk));
                }
            });
        }
    });
    let (again, _) = open(config(directory.path()));
    for seed in 0..64u8 {
        assert!(get(&again, &Digest::of(&bytes(seed, 3000)), 3000).is_some());
    }
}
