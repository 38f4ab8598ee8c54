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

/// What other seeds have in the cache takes no memory of who serves one.
#[test]
fn only_what_matters_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let (other, _) = open(config(directory.path()));
    let early = [put(&other, b"mine 1"), put(&other, b"theirs 1")];
    let (store, _) = open(config(directory.path()));
    store.confine([b"mine 1", b"mine 2", b"mine 3"].into_iter().map(|bytes| Digest::of(bytes)));
    let late = [put(&other, b"mine 2"), put(&other, b"theirs 2")];
    write(&store.catalog).refreshed = None;
    store.look_around();
    let own = put(&store, b"mine 3");
    for (digest, bytes) in [(early[0], b"mine 1"), (late[0], b"mine 2"), (own, b"mine 3")] {
        assert_eq!(get(&store, &digest, 6).unwrap(), bytes);
    }
    assert!(!store.contains(&early[1]) && !store.contains(&late[1]));
    assert_eq!(read(&store.catalog).chunks.len(), 3);
}

#[test]
fn at_rest_it_remembers_what_is_nowhere_else() {
    let directory = tempfile::tempdir().unwrap();
    for (directory, remembers) in [(Some(directory.path().to_owned()), false), (None, true)] {
        let (store, counters) = open(StoreConfig { directory, keep_free: Some(0), ..StoreConfig::default() });
        let digest = put(&store, b"x");
        store.remember(&store.admit(&digest, &Arc::new(b"x".to_vec()), 0..1).unwrap());
        store.rest();
        assert_eq!(get(&store, &digest, 1).unwrap(), b"x");
        assert_eq!(counters.snapshot().memory_hits, u64::from(remembers));
    }
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

/// A cache may be deleted at any time, also while a server uses it.
#[test]
fn a_deleted_cache_makes_itself_anew() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("cache");
    let (store, _) = open(config(&directory));
    let first = put(&store, &bytes(1, 1000));
    fs::remove_dir_all(&directory).unwrap();
    // What is open is still read.
    assert_eq!(get(&store, &first, 1000), Some(bytes(1, 1000)));
    let second = put(&store, &bytes(2, 1000));
    assert_eq!(get(&store, &second, 1000), Some(bytes(2, 1000)));
    write(&store.catalog).refreshed = None;
    store.look_around();
    assert!(!store.contains(&first) && store.contains(&second));
    let (other, _) = open(config(&directory));
    assert_eq!(get(&other, &second, 1000), Some(bytes(2, 1000)));
    fs::remove_file(file(&directory, "data")).unwrap();
    let third = put(&store, &bytes(3, 1000));
    let (other, _) = open(config(&directory));
    assert_eq!(get(&other, &third, 1000), Some(bytes(3, 1000)), "one file is enough");
}

#[test]
fn further_caches_are_read_and_never_written() {
    let parent = tempfile::tempdir().unwrap();
    let (lower, upper) = (parent.path().join("lower"), parent.path().join("upper"));
    let (filled, _) = open(config(&lower));
    let (one, two) = (put(&filled, &bytes(1, 1000)), put(&filled, &bytes(2, 1000)));
    drop(filled);
    // A wrong byte there costs a fetch.
    fs::OpenOptions::new().write(true).open(file(&lower, "data")).unwrap().write_all_at(b"!", 1500).unwrap();
    let before: Vec<_> = ["data", "index"].map(|kind| fs::read(file(&lower, kind)).unwrap()).into();

    let read_also = vec![parent.path().join("missing"), lower.clone()];
    let (store, _) = open(StoreConfig { read_also, ..config(&upper) });
    assert_eq!(get(&store, &one, 1000), Some(bytes(1, 1000)));
    assert_eq!(get(&store, &two, 1000), None);
    assert_eq!(fs::read_dir(&upper).unwrap().count(), 0, "what is there is not written again");
    put(&store, &bytes(2, 1000));
    write(&store.catalog).refreshed = None;
    store.look_around();
    assert!(store.contains(&one), "a look at the own directory forgets nothing of others");
    assert_eq!(get(&store, &two, 1000), Some(bytes(2, 1000)));
    assert_eq!(before, ["data", "index"].map(|kind| fs::read(file(&lower, kind)).unwrap()));
    // Without an own one.
    let (store, _) = open(StoreConfig { directory: None, read_also: vec![lower], ..config(&upper) });
    assert_eq!(get(&store, &one, 1000), Some(bytes(1, 1000)));
}

#[test]
fn who_may_read_the_directory_may_read_its_chunks() {
    use std::os::unix::fs::PermissionsExt;
    for (directory, files) in [(0o755, 0o644), (0o750, 0o640), (0o711, 0o600), (0o777, 0o644)] {
        let parent = tempfile::tempdir().unwrap();
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(directory)).unwrap();
        let (store, _) = open(config(parent.path()));
        put(&store, b"x");
        for kind in ["data", "index"] {
            assert_eq!(fs::metadata(file(parent.path(), kind)).unwrap().mode() & 0o777, files);
        }
    }
}

#[test]
fn a_disk_without_room_to_spare_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(config(directory.path()));
    let old = put(&store, &bytes(1, 1000));
    drop(store);
    let (store, _) = open(StoreConfig { keep_free: Some(u64::MAX / 2), ..config(directory.path()) });
    assert!(store.contains(&old));
    put(&store, &bytes(2, 1000));
    assert!(!store.keeps());
    assert!(!store.contains(&old), "what is there makes room for others");
    assert_eq!(segment::list(directory.path()).unwrap().len(), 0);
}

/// A cache of three chunks that were written one after another.
struct Written {
    digests: Vec<Digest>,
    data: Vec<u8>,
    index: Vec<u8>,
    /// Of both files, before the first chunk and after each.
    lengths: Vec<(usize, usize)>,
}

fn written(directory: &Path) -> Written {
    let (store, _) = open(config(directory));
    let (mut digests, mut lengths) = (Vec::new(), vec![(0, 0)]);
    for seed in 0..3u8 {
        digests.push(put(&store, &bytes(seed, 700 + usize::from(seed))));
        let [data, index] = ["data", "index"].map(|kind| fs::read(file(directory, kind)).unwrap().len());
        lengths.push((data, index));
    }
    let [data, index] = ["data", "index"].map(|kind| fs::read(file(directory, kind)).unwrap());
    Written { digests, data, index, lengths }
}

/// Opens a cache of these files: what it gives is right or nothing. Says how many chunks it gave.
fn right_or_nothing(data: &[u8], index: &[u8], digests: &[Digest]) -> usize {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("s.data"), data).unwrap();
    fs::write(directory.path().join("s.index"), index).unwrap();
    let (store, _) = open(config(directory.path()));
    let given = (0u8..).zip(digests).filter(|(seed, digest)| {
        let chunk = bytes(*seed, 700 + usize::from(*seed));
        match get(&store, digest, chunk.len()) {
            Some(given) => {
                assert!(given == chunk, "wrong bytes");
                true
            }
            None => false,
        }
    });
    given.count()
}

#[test]
fn no_damaged_byte_of_a_cache_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let Written { digests, data, index, .. } = written(directory.path());
    assert_eq!(right_or_nothing(&data, &index, &digests), 3);
    // Every byte in the soak.
    let step = if std::env::var_os("SEED_TEST_READS").is_some() { 1 } else { 7 };
    for at in (0..data.len()).step_by(step) {
        let mut wrong = data.clone();
        wrong[at] ^= 0x81;
        assert_eq!(right_or_nothing(&wrong, &index, &digests), 2, "byte {at} of the data");
    }
    for at in 0..index.len() {
        let mut wrong = index.clone();
        wrong[at] ^= 0x81;
        // The second half of a digest is not what a chunk is found by.
        let given = if (16..32).contains(&(at % segment::RECORD_LEN)) { 3 } else { 2 };
        assert_eq!(right_or_nothing(&data, &wrong, &digests), given, "byte {at} of the index");
    }
}

/// Nothing is synced, so a power cut may leave any prefix of each file, in any combination, and zeros in the place
/// of any block that was never written though what follows it was.
#[test]
fn no_power_cut_yields_a_wrong_byte() {
    let directory = tempfile::tempdir().unwrap();
    let Written { digests, data, index, lengths } = written(directory.path());
    // Each write was in part or in whole, before or behind those of the other file.
    let cuts = |all: &[usize]| -> Vec<usize> {
        let halves = all.windows(2).map(|pair| usize::midpoint(pair[0], pair[1]));
        let beside = all.iter().flat_map(|at| [at.saturating_sub(1), *at]);
        let mut cuts: Vec<_> = halves.chain(beside).collect();
        cuts.sort_unstable();
        cuts.dedup();
        cuts
    };
    let data_cuts = cuts(&lengths.iter().map(|(data, _)| *data).collect::<Vec<_>>());
    let index_cuts = cuts(&lengths.iter().map(|(_, index)| *index).collect::<Vec<_>>());
    for data_cut in &data_cuts {
        for index_cut in &index_cuts {
            let whole =
                lengths[1..].iter().filter(|(data, index)| data <= data_cut && index <= index_cut).count();
            assert_eq!(right_or_nothing(&data[..*data_cut], &index[..*index_cut], &digests), whole);
        }
    }
    const BLOCK: usize = 512;
    for (which, len) in [(0, data.len()), (1, index.len())] {
        for start in (0..len).step_by(BLOCK) {
            let mut files = [data.clone(), index.clone()];
            files[which][start..(start + BLOCK).min(len)].fill(0);
            assert!(right_or_nothing(&files[0], &files[1], &digests) < 3);
        }
    }
}
