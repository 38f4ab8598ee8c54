use std::io::{self, Read};

use super::*;
use crate::toc::{FOOTER_LEN, Footer, Located, Toc};

const CHUNK: u32 = 4096;
const OPTIONS: Options = Options { level: 3, chunk_size: CHUNK };

/// Bytes that do not compress, the same in every run.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(len)
    .collect()
}

/// Files at the borders of chunks, between other entries.
fn members() -> Vec<(Entry, Vec<u8>)> {
    let mut members = vec![
        (Entry::directory("d"), Vec::new()),
        (Entry::symlink("d/a", "../x"), Vec::new()),
        (Entry::regular("d/empty", 0, false), Vec::new()),
    ];
    for len in [1, 511, 512, 4095, 4096, 4097, 8192, 20_000] {
        members.push((Entry::regular(format!("f{len:05}"), len as u64, len % 2 == 0), noise(len)));
    }
    members.push((Entry::regular("zeros", 9000, false), vec![0; 9000]));
    members
}

fn write(members: &[(Entry, Vec<u8>)]) -> (Vec<u8>, Layer) {
    let mut writer = LayerWriter::new(Vec::new(), OPTIONS).unwrap();
    for (entry, contents) in members {
        writer.file(entry.clone(), contents.as_slice()).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn a_layer_is_a_compressed_tar_stream() {
    let (blob, layer) = write(&members());
    assert_eq!((layer.digest, layer.size), (Digest::of(&blob), blob.len() as u64));
    let stream = zstd::decode_all(blob.as_slice()).unwrap();
    assert_eq!((layer.diff_id, layer.uncompressed_size), (Digest::of(&stream), stream.len() as u64));

    let mut expected = Vec::new();
    for (entry, contents) in members() {
        tar::header(&entry, &mut expected);
        expected.extend_from_slice(&contents);
        expected.resize(expected.len().next_multiple_of(tar::BLOCK), 0);
    }
    expected.extend_from_slice(&tar::END);
    assert!(stream == expected);
}

#[test]
fn every_chunk_stands_alone() {
    let (blob, layer) = write(&members());
    assert_eq!(layer.entries.len(), members().len());
    for (written, (entry, contents)) in layer.entries.iter().zip(members()) {
        assert_eq!(written.entry, entry);
        let mut rebuilt = Vec::new();
        for chunk in &written.chunks {
            assert_eq!(chunk.offset_in_file, rebuilt.len() as u64);
            assert!(chunk.len <= CHUNK && chunk.len > 0);
            let at = usize::try_from(chunk.blob_offset).unwrap();
            let frame = &blob[at..at + chunk.blob_len as usize];
            let bytes = zstd::bulk::decompress(frame, chunk.len as usize).unwrap();
            assert_eq!((bytes.len(), Digest::of(&bytes)), (chunk.len as usize, chunk.digest));
            rebuilt.extend_from_slice(&bytes);
        }
        assert!(rebuilt == contents, "{}", entry.path.escape_ascii());
    }
}

#[test]
fn tables_are_found_by_annotations_and_by_the_footer() {
    let (blob, layer) = write(&members());
    let located = Located::from_annotations(&layer.annotations).unwrap().unwrap();
    let footer = Footer::from_bytes(blob.last_chunk::<FOOTER_LEN>().unwrap()).unwrap();
    assert_eq!((footer.toc, Some(footer.tar_split)), (located.toc, located.tar_split));
    let part = |position: crate::toc::Position| {
        let at = usize::try_from(position.offset).unwrap();
        &blob[at..at + usize::try_from(position.len).unwrap()]
    };
    let toc = Toc::read(part(located.toc), &located).unwrap();
    assert_eq!(toc.layer_entries(layer.size).unwrap(), layer.entries);

    let tar_split = part(located.tar_split.unwrap());
    assert_eq!(toc.tar_split_digest, Some(Digest::of(tar_split)));
    assert_eq!(rebuild(&zstd::decode_all(tar_split).unwrap()), zstd::decode_all(blob.as_slice()).unwrap());
}

/// The tar stream that tar-split data and the files make together.
fn rebuild(tar_split: &[u8]) -> Vec<u8> {
    use data_encoding::BASE64;
    let members = members();
    let mut stream = Vec::new();
    for (n, line) in tar_split.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).enumerate() {
        let line: serde_json::Value = serde_json::from_slice(line).unwrap();
        assert_eq!(line["position"], n);
        let payload = line["payload"].as_str().map(|text| BASE64.decode(text.as_bytes()).unwrap());
        if line["type"] == 2 {
            stream.extend_from_slice(&payload.unwrap());
            continue;
        }
        let name = line["name"].as_str().unwrap().trim_end_matches('/').as_bytes();
        let (_, contents) = members.iter().find(|(entry, _)| entry.path == name).unwrap();
        assert_eq!(line["size"].as_u64().unwrap_or(0), contents.len() as u64);
        let mut checksum = Checksum::new();
        checksum.update(contents);
        assert_eq!(payload, (!contents.is_empty()).then(|| checksum.finish().to_vec()));
        stream.extend_from_slice(contents);
    }
    stream
}

#[test]
fn names_beyond_utf8_have_no_tables() {
    for entry in [Entry::regular(b"\xff".to_vec(), 1, false), Entry::symlink("l", b"\xff".to_vec())] {
        let contents = if entry.path == b"l" { vec![] } else { vec![1] };
        let (blob, layer) =
            write(&[(entry.clone(), contents), (Entry::directory(b"\xff\xff".to_vec()), vec![])]);
        assert_eq!(layer.annotations, BTreeMap::new());
        assert_eq!(layer.entries[0].entry, entry);
        assert_eq!(Digest::of(&zstd::decode_all(blob.as_slice()).unwrap()), layer.diff_id);
    }
}

#[test]
fn many_headers_are_cut_into_frames() {
    let mut writer = LayerWriter::new(Vec::new(), OPTIONS).unwrap();
    for n in 0..1000 {
        writer.entry(Entry::directory(format!("{n:04}"))).unwrap();
    }
    let (blob, layer) = writer.finish().unwrap();
    let stream = zstd::decode_all(blob.as_slice()).unwrap();
    assert_eq!((stream.len(), Digest::of(&stream)), (1002 * tar::BLOCK, layer.diff_id));
}

#[test]
fn refuses_what_is_out_of_order_or_changing() {
    let fresh = || LayerWriter::new(Vec::new(), OPTIONS).unwrap();
    for (first, second) in [("b", "a"), ("a", "a"), ("a/b", "a"), ("a-b", "a/b")] {
        let mut writer = fresh();
        writer.entry(Entry::directory(first)).unwrap();
        let error = writer.entry(Entry::directory(second)).unwrap_err();
        assert!(matches!(error, LayerError::Order { .. }), "{first} {second}: {error}");
    }
    assert!(matches!(fresh().entry(Entry::directory("")), Err(LayerError::Order { .. })));
    assert!(matches!(fresh().entry(Entry::directory("a//b")), Err(LayerError::Entry { .. })));
    for (size, contents) in [(3, &b"ab"[..]), (3, b"abcd"), (0, b"a")] {
        let error = fresh().file(Entry::regular("f", size, false), contents).unwrap_err();
        assert!(matches!(error, LayerError::Size { .. }), "{error}");
    }
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("broken"))
        }
    }
    let error = fresh().file(Entry::regular("f", 1, false), Broken).unwrap_err();
    assert!(matches!(error, LayerError::Source { .. }), "{error}");
    for options in [
        Options { level: 0, ..OPTIONS },
        Options { level: 20, ..OPTIONS },
        Options { chunk_size: 5000, ..OPTIONS },
        Options { chunk_size: 2048, ..OPTIONS },
        Options { chunk_size: 1 << 25, ..OPTIONS },
    ] {
        assert!(matches!(LayerWriter::new(Vec::new(), options), Err(LayerError::Options(_))), "{options:?}");
    }
}

#[test]
fn golden() {
    let (_, layer) = write(&members());
    let all = format!("{} {}", layer.diff_id, layer.digest);
    let pinned = concat!(
        "sha256:3d0fb91feecace7516d2a1f7873c343c8a70f6079ed776d81faa0cc152752a37 ",
        "sha256:44df114ef05009327a3501bf9ebf32f9b03c05839fc3029fc97da5cedbcda302"
    );
    assert_eq!(all, pinned, "the bytes of layers changed: every seed changes; a new zstd is a reason");
}
