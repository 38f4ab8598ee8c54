use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn digest(n: u8) -> Digest {
    Digest::of(&[n])
}

fn chunk(n: u8, offset_in_file: u64, len: u32, blob_offset: u64, blob_len: u32) -> Chunk {
    Chunk { offset_in_file, len, blob_offset, blob_len, digest: digest(n) }
}

/// One entry of each kind, with no, one and three chunks.
fn layer_entries() -> Vec<LayerEntry> {
    let regular = |path: &str, size, chunks| LayerEntry { entry: Entry::regular(path, size, true), chunks };
    vec![
        LayerEntry::empty(Entry::directory("d")),
        LayerEntry::empty(Entry::symlink("d/a", "../\"x\n")),
        LayerEntry::empty(Entry::regular("d/b", 0, false)),
        regular("d/c", 3, vec![chunk(1, 0, 3, 100, 12)]),
        regular("d/d", 10, vec![chunk(2, 0, 4, 200, 9), chunk(3, 4, 4, 209, 10), chunk(4, 8, 2, 219, 11)]),
    ]
}

fn toc() -> Toc {
    let entries = layer_entries();
    let digests = entries.iter().map(|entry| (!entry.chunks.is_empty()).then(|| digest(9)));
    let entries =
        entries.iter().zip(digests).flat_map(|(entry, digest)| TocEntry::of(entry, digest).unwrap());
    Toc { version: 1, entries: entries.collect(), tar_split_digest: Some(digest(7)) }
}

#[test]
fn reads_what_it_wrote() {
    let text = serde_json::to_vec(&toc()).unwrap();
    let read = Toc::parse(&text).unwrap();
    assert_eq!(read, toc());
    assert_eq!(read.layer_entries(230).unwrap(), layer_entries());
    assert!(read.layer_entries(229).is_err(), "a frame ends behind the blob");
}

#[test]
fn json_is_that_of_containers_storage() {
    let entries = toc().entries;
    let text = |n: usize| serde_json::to_string(&entries[n]).unwrap();
    assert_eq!(text(0), r#"{"type":"dir","name":"d/","mode":365,"modtime":"1970-01-01T00:00:01Z"}"#);
    let (file, chunk) = (digest(9), digest(3));
    assert_eq!(
        text(4),
        format!(
            r#"{{"type":"reg","name":"d/d","mode":365,"size":10,"modtime":"1970-01-01T00:00:01Z","digest":"{file}","offset":200,"endOffset":230,"chunkSize":4,"chunkDigest":"{}"}}"#,
            digest(2)
        )
    );
    assert_eq!(
        text(5),
        format!(
            r#"{{"type":"chunk","name":"d/d","offset":209,"endOffset":219,"chunkSize":4,"chunkOffset":4,"chunkDigest":"{chunk}"}}"#
        )
    );
}

#[test]
fn reads_what_containers_storage_writes() {
    // Its chunks have no end, and a file's only chunk no size and digest of its own.
    let mut toc = toc();
    for entry in &mut toc.entries {
        if entry.kind == "chunk" {
            entry.end_offset = 0;
        }
        if entry.name == "d/c" {
            entry.chunk_size = 0;
            entry.chunk_digest.clear();
        }
    }
    let mut expected = layer_entries();
    expected[3].chunks[0].digest = digest(9);
    assert_eq!(toc.layer_entries(230).unwrap(), expected);
}

#[test]
fn names_that_json_cannot_hold_have_no_entry() {
    for entry in [Entry::directory(b"\xff".to_vec()), Entry::symlink("l", b"\xff".to_vec())] {
        assert_eq!(TocEntry::of(&LayerEntry::empty(entry), None), None);
    }
}

#[test]
fn refuses_impossible_entries() {
    type Change = fn(&mut Vec<TocEntry>);
    let changes: &[(&str, Change)] = &[
        ("an unknown type", |entries| entries[0].kind = "char".into()),
        ("a chunk without a file", |entries| entries[0].kind = "chunk".into()),
        ("a chunk of an empty file", |entries| {
            entries.remove(3);
            entries.remove(3);
        }),
        ("a parent's name", |entries| entries[1].name = "d/../a".into()),
        ("a target with NUL", |entries| entries[1].link_name = "a\0".into()),
        ("a gap", |entries| entries[5].chunk_offset = 5),
        ("a missing chunk", |entries| drop(entries.remove(5))),
        ("a missing last chunk", |entries| drop(entries.remove(6))),
        ("too large a chunk", |entries| entries[6].chunk_size = 3),
        ("a huge chunk", |entries| entries[6].chunk_size = u64::MAX),
        ("no digest", |entries| entries[6].chunk_digest.clear()),
        ("a bad digest", |entries| entries[6].chunk_digest = "sha256:00".into()),
        ("frames that go backwards", |entries| entries[5].offset = 300),
        ("a huge offset", |entries| entries[6].offset = u64::MAX),
        ("a huge file", |entries| entries[4].size = u64::MAX),
    ];
    for (what, change) in changes {
        let mut toc = toc();
        change(&mut toc.entries);
        assert!(toc.layer_entries(1 << 40).is_err(), "{what}");
    }
}

#[test]
fn refuses_malformed_tables() {
    for text in [
        "",
        "[]",
        "{}",
        r#"{"version":2,"entries":[]}"#,
        r#"{"version":1,"version":1,"entries":[]}"#,
        r#"{"version":1,"entries":[{"type":1}]}"#,
        r#"{"version":1,"entries":[{"size":-1}]}"#,
        r#"{"version":1,"entries":[]}x"#,
        r#"{"version":1,"entries":[],"tarSplitDigest":"sha256:"}"#,
    ] {
        assert!(Toc::parse(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn a_compressed_toc_is_checked_and_bounded() {
    let text = serde_json::to_vec(&toc()).unwrap();
    let compressed = zstd::encode_all(text.as_slice(), 3).unwrap();
    let position = Position { offset: 8, len: compressed.len() as u64, uncompressed_len: text.len() as u64 };
    let located = Located { digest: Digest::of(&compressed), toc: position, tar_split: None };
    assert_eq!(Toc::read(&compressed, &located).unwrap(), toc());

    let other = Located { digest: digest(1), ..located };
    assert!(matches!(Toc::read(&compressed, &other), Err(TocError::Digest { .. })));
    let short = Position { uncompressed_len: position.uncompressed_len - 1, ..position };
    assert!(matches!(Toc::read(&compressed, &Located { toc: short, ..located }), Err(TocError::TooLong(_))));

    let bomb = zstd::encode_all(io::repeat(b' ').take(1 << 24), 1).unwrap();
    let bombed = Located { digest: Digest::of(&bomb), ..located };
    assert!(matches!(Toc::read(&bomb, &bombed), Err(TocError::TooLong(_))));
}

#[test]
fn annotations_round_trip_under_both_prefixes() {
    let position = |offset| Position { offset, len: 10, uncompressed_len: 20 };
    for tar_split in [None, Some(position(40))] {
        let located = Located { digest: digest(1), toc: position(8), tar_split };
        let all = located.to_annotations();
        assert_eq!(Located::from_annotations(&all), Ok(Some(located)));
        for (prefix, tar_split) in PREFIXES.into_iter().zip([tar_split, None]) {
            let only: BTreeMap<_, _> = all
                .iter()
                .filter(|(key, _)| key.starts_with(prefix))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            assert_eq!(Located::from_annotations(&only), Ok(Some(Located { tar_split, ..located })));
        }
    }
    assert_eq!(Located::from_annotations(&BTreeMap::new()), Ok(None));
}

#[test]
fn refuses_bad_annotations() {
    let located = Located {
        digest: digest(1),
        toc: Position { offset: 8, len: 10, uncompressed_len: 20 },
        tar_split: None,
    };
    let key = |name: &str| format!("{}{name}", PREFIXES[0]);
    for (name, value) in [
        ("manifest-checksum", "x"),
        ("manifest-position", ""),
        ("manifest-position", "8:10:20"),
        ("manifest-position", "8:10:20:2"),
        ("manifest-position", "8:10:20:1:1"),
        ("manifest-position", "+8:10:20:1"),
        ("manifest-position", "18446744073709551615:10:20:1"),
        ("manifest-position", "8:10:999999999999:1"),
        ("tarsplit-position", "1:2"),
        ("tarsplit-position", "1:2:3:1"),
    ] {
        let mut annotations = located.to_annotations();
        annotations.insert(key(name), value.to_owned());
        let error = Located::from_annotations(&annotations).unwrap_err();
        assert_eq!((error.key, error.value), (key(name), value.to_owned()));
    }
}

#[test]
fn footers_round_trip() {
    let position = |offset| Position { offset, len: 10, uncompressed_len: 20 };
    let footer = Footer { toc: position(8), tar_split: position(30) };
    let bytes = footer.to_bytes();
    assert_eq!(Footer::from_bytes(&bytes), Ok(footer));
    assert_eq!(&bytes[FOOTER_LEN - 8..], b"GNUlInUx");
    for at in [0, 4, 7, 8 + 24, FOOTER_LEN - 1] {
        let mut changed = bytes;
        changed[at] ^= 1;
        assert_eq!(Footer::from_bytes(&changed), Err(FooterError), "byte {at}");
    }
    assert_eq!(Footer::from_bytes(&[0xff; FOOTER_LEN]), Err(FooterError));
}

proptest! {
    #[test]
    fn any_entry_is_read_or_refused(
        sizes in proptest::collection::vec((0u64..40, 0u64..40, 0u64..40, 0u64..400, 0u64..400), 1..6),
    ) {
        let mut entries = Vec::new();
        for (n, (size, chunk_size, chunk_offset, offset, end_offset)) in sizes.into_iter().enumerate() {
            let kind = if n == 0 { "reg" } else { "chunk" }.to_owned();
            let name = "f".to_owned();
            let digest = digest(1).to_string();
            entries.push(TocEntry { kind, name, digest, size, chunk_size, chunk_offset, offset, end_offset, ..TocEntry::default() });
        }
        let toc = Toc { version: 1, entries, tar_split_digest: None };
        if let Ok(read) = toc.layer_entries(400) {
            let chunks = &read[0].chunks;
            let total: u64 = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
            prop_assert_eq!(Kind::Regular { size: total }, read[0].entry.kind.clone());
            prop_assert!(chunks.iter().all(|chunk| chunk.blob_offset + u64::from(chunk.blob_len) <= 400));
        }
    }
}
