//! The index holds what it was made of, byte for byte the same each time.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use seed_format::Digest;
use seed_format::index::{Index, Summary};
use support::{HUGE, Image, assert_holds, large, mean, small, store_path};

fn open(image: &Image) -> Index<Vec<u8>> {
    Index::open(image.build()).unwrap()
}

/// Compares with a checked-in file, or makes it anew when `SEED_BLESS=1`.
fn assert_golden(name: &str, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("SEED_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(&path, bytes).unwrap();
    }
    let golden = std::fs::read(&path).unwrap_or_default();
    let differs = golden.iter().zip(bytes).position(|(a, b)| a != b).unwrap_or(golden.len().min(bytes.len()));
    assert!(
        golden == bytes,
        "the format has changed: {name} has {} bytes, {} are written, they differ from byte {differs:#x} on. If the \
         change is meant, raise the format's version and run this test with SEED_BLESS=1",
        golden.len(),
        bytes.len()
    );
}

#[test]
fn small_index_is_golden() {
    assert_golden("tests/golden/small.index", &small().build());
}

#[test]
fn seeds_of_the_fuzz_targets_are_current() {
    let nothing = Image { layers: Vec::new(), paths: Vec::new() };
    for (name, image) in [("nothing", nothing), ("small", small()), ("large", large())] {
        let index = open(&image);
        assert_golden(&format!("../../fuzz/corpus/index/{name}"), index.bytes());
        let image_len = index.image().superblock().len;
        assert_golden(&format!("../../fuzz/corpus/erofs/{name}"), &index.bytes()[..image_len]);
    }
}

#[test]
fn mean_index_is_golden() {
    assert_golden("tests/golden/mean.index.digest", format!("{}\n", Digest::of(&mean().build())).as_bytes());
}

#[test]
fn mean_tree_is_held() {
    let image = mean();
    let index = open(&image);
    assert_holds(&index, &image);
    let summary = index.check().unwrap();
    let files: u64 = (0..60_000).map(|n| n % 7).sum();
    assert_eq!(summary.directories, 5 + 1 + 3 + 8 + 121 + 3 + 66_000 + 1);
    assert!(summary.bytes > HUGE + files, "{summary:?}");
}

#[test]
fn small_tree_is_held() {
    let image = small();
    let index = open(&image);
    assert_holds(&index, &image);
    assert_eq!(index.check().unwrap(), Summary { directories: 8, files: 3, symlinks: 2, bytes: 10_030 });
}

#[test]
fn paths_and_their_chunks() {
    let image = small();
    let index = open(&image);
    let (hello, data) = (store_path("hello-2.12"), store_path("data.txt"));
    let number = index.find_path(hello.base_name()).unwrap();
    let record = index.path(number).unwrap();
    assert_eq!(record.store_path(), hello);
    assert_eq!((record.nar_hash, record.nar_size), (image.paths[0].nar_hash, image.paths[0].nar_size));
    assert_eq!(record.chunks, 1..4, "behind the chunk of etc/passwd");
    let mut references: Vec<_> =
        index.references(number).map(|number| index.path(number).unwrap().store_path()).collect();
    references.sort();
    let mut expected = vec![hello.clone(), data.clone()];
    expected.sort();
    assert_eq!(references, expected);
    assert_eq!(index.path_of_chunk(0), None);
    assert!((1..4).all(|id| index.path_of_chunk(id) == Some(number)));
    assert_eq!(index.path_of_chunk(4), None);
    assert_eq!(index.find_path("nothing"), None);
    assert_eq!(index.references(usize::MAX).len(), 0);
    let empty = index.path(index.find_path(data.base_name()).unwrap()).unwrap();
    assert!(empty.chunks.is_empty());
    assert!(index.paths().is_sorted_by(|a, b| a.base_name < b.base_name));
}

#[test]
fn chunks_of_a_range() {
    let index = open(&small());
    // Layer 1 holds one file of 10,000 bytes in chunks of 4096.
    for (range, chunks) in [
        (0..1, 1..2),
        (0..4096, 1..2),
        (0..4097, 1..3),
        (4095..4097, 1..3),
        (4096..4097, 2..3),
        (8192..10_000, 3..4),
        (9_999..u64::MAX, 3..4),
        (0..u64::MAX, 1..4),
    ] {
        assert_eq!(index.chunks_of(1, range.clone()), chunks, "{range:?}");
    }
    for range in [0..0, 5000..5000, 10_000..12_288, 10_000..u64::MAX, u64::MAX..u64::MAX] {
        assert!(index.chunks_of(1, range.clone()).is_empty(), "{range:?}");
    }
    assert!(index.chunks_of(2, 0..u64::MAX).is_empty(), "there is no layer 2");
    assert_eq!(index.chunk(4), None);
}

#[test]
fn input_order_does_not_count_where_it_must_not() {
    let mut image = small();
    let bytes = image.build();
    image.paths.reverse();
    image.paths.iter_mut().for_each(|path| {
        path.references.reverse();
        path.references.extend(path.references.clone());
    });
    assert_eq!(image.build(), bytes);
}

#[test]
fn nothing_at_all_is_an_index() {
    let index = open(&Image { layers: Vec::new(), paths: Vec::new() });
    assert_eq!(index.check().unwrap(), Summary { directories: 1, ..Summary::default() });
    let root = index.inode(index.root()).unwrap();
    assert_eq!(index.read_dir(&root, 0).count(), 0);
    assert_eq!(index.parent(&root).unwrap(), root.nid);
    for name in [&b"."[..], b"..", b"", b"a/b", b"nix"] {
        assert_eq!(index.lookup(&root, name).unwrap(), None, "{name:?}");
    }
}

#[test]
fn listing_goes_on_from_every_cursor() {
    let image = mean();
    let index = open(&image);
    let directory = index.resolve(&support::in_store(&store_path("mean"), b"")).unwrap().unwrap();
    let all: Vec<_> = index.read_dir(&directory, 0).map(Result::unwrap).collect();
    assert!(all.is_sorted_by(|a, b| a.name < b.name));
    for (n, entry) in all.iter().enumerate() {
        let rest: Vec<_> = index.read_dir(&directory, entry.next).map(Result::unwrap).collect();
        assert_eq!(rest, all[n + 1..]);
    }
    for cursor in [4095, 4096, 1 << 20, u64::MAX] {
        assert!(index.read_dir(&directory, cursor).count() <= all.len(), "{cursor}");
    }
}
