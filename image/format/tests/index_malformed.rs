//! What a reader refuses, and what cannot be built. Offsets are those of `docs/format.md`.

#![allow(clippy::unwrap_used)]

mod support;

use std::error::Error;

use seed_format::entry::{Chunk, Entry, LayerEntry};
use seed_format::index::{BuildError, Index, IndexError, LayerInput, MAX_CHUNK_LEN, PathInput, build};
use seed_format::{Chain, Digest, StorePath};
use support::{Image, exercise, in_store, layer, path_input, small, store_path};

/// An error and its causes, as a user sees them.
fn chain(error: &dyn Error) -> String {
    Chain(error).to_string()
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Byte offsets of the header and of the tables of an index.
struct Offsets {
    header: usize,
    layers: usize,
    chunks: usize,
    paths: usize,
    references: usize,
    order: usize,
    names: usize,
}

fn offsets(index: &[u8]) -> Offsets {
    let header = Index::open(index).unwrap().image().superblock().len;
    let table = |n: usize| {
        let at = header + 48 + 8 * n;
        usize::try_from(u64::from_le_bytes(index[at..at + 8].try_into().unwrap())).unwrap()
    };
    Offsets {
        header,
        layers: table(0),
        chunks: table(1),
        paths: table(3),
        references: table(4),
        order: table(5),
        names: table(6),
    }
}

#[test]
fn malformed_tables_are_refused() {
    let good = small().build();
    let at = offsets(&good);
    let u32s = |value: u32| value.to_le_bytes().to_vec();
    let u64s = |value: u64| value.to_le_bytes().to_vec();
    let second_chunk = at.chunks + 32;
    let cases: Vec<(&str, usize, Vec<u8>, &str)> = vec![
        ("magic", at.header, b"SEEDIDX2".to_vec(), "no seed index header"),
        ("version", at.header + 8, u32s(2), "version 2"),
        ("header length", at.header + 12, u32s(136), "header length"),
        ("file length", at.header + 16, u64s(1), "file length"),
        ("layer count", at.header + 24, u32s(1), "\"file length\""),
        ("too many layers", at.header + 24, u32s(1025), "1025 layers, more than 1024"),
        ("too many chunks", at.header + 28, u32s(u32::MAX), "chunks, more than"),
        ("too many paths", at.header + 32, u32s(u32::MAX), "store paths, more than"),
        ("too many references", at.header + 36, u32s(u32::MAX), "references, more than"),
        ("too many names", at.header + 40, u32s(u32::MAX), "names, more than"),
        ("reserved", at.header + 44, u32s(1), "reserved"),
        ("overlapping tables", at.header + 56, u64s(at.layers as u64), "\"chunks\""),
        ("end of header", at.header + 127, vec![1], "reserved"),
        ("layer's first chunk", at.layers + 48, u32s(1), "do not follow"),
        ("layer's chunk count", at.layers + 64 + 52, u32s(4), "outside of the chunk table"),
        ("layer's chunk count overflows", at.layers + 52, u32s(u32::MAX), "outside of the chunk table"),
        ("chunks left over", at.layers + 64 + 52, u32s(2), "left over"),
        ("layer too large", at.layers + 32, u64s((1 << 44) + 1), "too large"),
        ("layer's reserved field", at.layers + 56, u64s(1), "reserved"),
        ("layer's digest", at.layers, vec![1, 2, 3], "that of its device"),
        ("layer's virtual size", at.layers + 40, u64s(8192), "that of its device"),
        ("layer too small for a frame", at.layers + 32, u64s(0), "outside of the layer's blob"),
        ("chunk not at its place", at.chunks, u64s(4096), "does not follow"),
        ("chunk within another", second_chunk + 32, u64s(100), "does not follow"),
        ("chunk of a far file", second_chunk + 24, u32s(7), "neither to the file"),
        ("first chunk of file 1", at.chunks + 24, u32s(1), "neither to the file"),
        ("chunk of no file", at.chunks + 24, u32s(u32::MAX), "neither to the file"),
        ("empty chunk", at.chunks + 16, u32s(0), "not allowed"),
        ("chunk too large", at.chunks + 16, u32s(MAX_CHUNK_LEN + 1), "not allowed"),
        ("empty frame", at.chunks + 20, u32s(0), "not allowed"),
        ("frame too large", at.chunks + 20, u32s(MAX_CHUNK_LEN), "not allowed"),
        ("overlapping frames", second_chunk + 32 + 8, u64s(150), "begins before"),
        ("frame overflows", second_chunk + 8, u64s(u64::MAX), "outside of the layer's blob"),
        ("chunk's reserved field", second_chunk + 28, u32s(1), "reserved"),
        ("chunk too long for its layer", at.chunks + 96 + 16, u32s(5000), "do not fill"),
        ("path's name offset", at.paths + 48, u32s(1), "does not follow the one before"),
        ("path's name length", at.paths + 52, u32s(u32::MAX), "does not follow the one before"),
        ("name is no store path", at.names + 3, b"e".to_vec(), "not that of a store path"),
        ("name is not UTF-8", at.names + 40, vec![0xff], "not that of a store path"),
        ("paths descend", at.names, b"zzzz".to_vec(), "does not ascend"),
        ("path's references", at.paths + 72 + 64, u32s(1), "do not follow those before"),
        ("path's reference count", at.paths + 72 + 68, u32s(3), "do not follow those before"),
        ("references left over", at.paths + 72 + 68, u32s(1), "left over"),
        ("reference to no path", at.references + 4, u32s(2), "outside of the path table"),
        ("references descend", at.references, u32s(1), "do not ascend"),
        ("path's chunks", at.paths + 72 + 60, u32s(100), "outside of the chunk table"),
        ("path's chunks overflow", at.paths + 72 + 56, u32s(u32::MAX), "outside of the chunk table"),
        ("path without chunks, but at one", at.paths + 56, u32s(1), "outside of the chunk table"),
        ("order", at.order, u32s(1), "out of order"),
        ("order outside", at.order + 4, u32s(2), "outside of the path table"),
    ];
    for (case, offset, bytes, expected) in cases {
        let mut bad = good.clone();
        put(&mut bad, offset, &bytes);
        assert_ne!(bad, good, "{case} changes nothing");
        let error = Index::open(bad).expect_err(case);
        assert!(chain(&error).contains(expected), "{case}: {}", chain(&error));
    }
}

#[test]
fn bytes_behind_the_end_are_refused() {
    let mut bad = small().build();
    bad.push(0);
    assert!(matches!(Index::open(bad), Err(IndexError::Header { field: "file length", .. })));
}

#[test]
fn malformed_superblocks_are_refused() {
    let good = small().build();
    for (case, offset, expected) in [
        ("magic", 0, "magic"),
        ("compatible features", 0x08, "feature_compat"),
        ("block size", 0x0c, "blkszbits"),
        ("larger superblock", 0x0d, "sb_extslots"),
        ("time", 0x18, "build_time"),
        ("time", 0x20, "build_time_nsec"),
        ("blocks", 0x24, "bytes, but only"),
        ("metadata", 0x28, "meta_blkaddr"),
        ("attributes", 0x2c, "xattr_blkaddr"),
        ("name", 0x40, "volume_name"),
        ("incompatible features", 0x50, "feature_incompat"),
        ("devices", 0x57, "extra_devices"),
        ("device table", 0x58, "devt_slotoff"),
        ("directory blocks", 0x5a, "dirblkbits"),
    ] {
        let mut bad = good.clone();
        bad[1024 + offset] ^= 0x40;
        exercise::seal(&mut bad);
        let error = Index::open(bad).expect_err(case);
        assert!(chain(&error).contains(expected), "{case}: {}", chain(&error));
    }
    let mut bad = good.clone();
    bad[1500] ^= 1;
    assert!(
        chain(&Index::open(bad).unwrap_err()).contains("checksum"),
        "the rest of the block is summed up too"
    );
}

#[test]
fn malformed_inodes_are_refused() {
    let image = small();
    let good = image.build();
    let open = Index::open(good.as_slice()).unwrap();
    let nid = |path: &[u8]| usize::try_from(open.resolve(path).unwrap().unwrap().nid.0).unwrap() * 32;
    let hello = in_store(&store_path("hello-2.12"), b"");
    let file = nid(&[&hello[..], b"/bin/hello"].concat());
    let (link, directory) = (nid(b"bin/sh"), nid(b"etc"));
    let cases: [(&str, usize, &[u8], &str); 21] = [
        ("format", file, &[0x19], "unknown bits"),
        ("layout", file, &[1 << 1], "data layout"),
        ("attributes", file + 2, &[1], "extended attributes"),
        ("device node", file + 4, &[0x24, 0x21], "no directory, regular file or symbolic link"),
        ("pipe", file + 4, &[0x24, 0x11], "no directory, regular file or symbolic link"),
        ("socket", file + 4, &[0x24, 0xc1], "no directory, regular file or symbolic link"),
        ("owner", file + 0x18, &[1], "owner or group"),
        ("group", file + 0x1a, &[1], "owner or group"),
        ("inline file", file, &[2 << 1], "not on a device"),
        ("chunk format", file + 0x10, &[0x02], "lacks chunk indexes"),
        ("chunk format's other bits", file + 0x11, &[1], "unknown bits"),
        ("chunk format's reserved half", file + 0x12, &[1], "unknown bits"),
        ("several chunks", file + 0x10, &[0x20], "more than one chunk"),
        ("chunk's advice", file + 32, &[1], "unknown bits, or is a hole"),
        ("hole", file + 36, &[0xff; 4], "unknown bits, or is a hole"),
        ("device 0", file + 34, &[0], "device table"),
        ("device 3", file + 34, &[3], "device table"),
        ("empty link", link + 8, &[0], "empty"),
        ("long link", link + 8, &[0, 0x10], "too long"),
        ("chunked directory", directory, &[4 << 1], "on a device"),
        ("huge directory", directory + 8, &[1, 0, 0, 0xff], "outside of the image"),
    ];
    for (case, offset, bytes, expected) in cases {
        let mut bad = good.clone();
        put(&mut bad, offset, bytes);
        exercise::seal(&mut bad);
        let index = Index::open(bad.as_slice()).unwrap_or_else(|error| panic!("{case}: {}", chain(&error)));
        let error = index.check().expect_err(case);
        assert!(chain(&error).contains(expected), "{case}: {}", chain(&error));
        exercise::index(&bad).unwrap();
        exercise::image(&bad).unwrap();
    }
}

#[test]
fn trees_that_contradict_themselves_are_found() {
    let image = small();
    let good = image.build();
    let open = Index::open(good.as_slice()).unwrap();
    let inode = |path: &[u8]| open.resolve(path).unwrap().unwrap();
    let at = |path: &[u8]| usize::try_from(inode(path).nid.0).unwrap() * 32;
    let (etc, root) = (at(b"etc"), at(b""));
    let hello = at(&in_store(&store_path("hello-2.12"), b"/bin/hello"));
    // Inline directories begin behind their inode of 32 bytes; entries have 12 bytes: ".", "..", "passwd".
    let entry = |n: usize| etc + 32 + 12 * n;
    let root_nid = u8::try_from(inode(b"").nid.0).unwrap();
    let data_nid = u8::try_from(inode(&in_store(&store_path("data.txt"), b"")).nid.0).unwrap();
    let paths = offsets(&good).paths;
    let cases: [(&str, usize, &[u8], &str); 17] = [
        ("a directory below itself", entry(2), &[root_nid], "does not lie behind"),
        ("another parent", entry(1), &[data_nid], "not its parent"),
        ("a root below something", root + 32 + 12, &[data_nid], "not its own parent"),
        ("another file's name", entry(2), &[data_nid], "has another name too"),
        ("another kind", entry(2) + 10, &[7], "something else"),
        ("no kind", entry(2) + 10, &[4], "no directory, regular file or symbolic link"),
        ("names out of order", entry(3) + 3, b"!", "do not ascend"),
        ("name with a slash", entry(3) + 4, b"/", "slash"),
        ("no parent", entry(2) + 8, &[12 * 3 + 9], "no entry \"..\""),
        ("name in the entries", entry(2) + 8, &[5], "outside of the names"),
        ("names at a wrong place", entry(0) + 8, &[13], "wrong place"),
        ("names at the very end", entry(0) + 8, &[0, 0x10], "wrong place"),
        ("link count", etc + 6, &[3], "link count"),
        ("file longer than its chunks", hello + 9, &[0x28], "not those of one file"),
        ("file at the wrong block", hello + 36, &[1], "not those of one file"),
        ("file of another layer", hello + 34, &[1], "not those of one file"),
        ("path's inode", paths + 40, &[1], "its inode is another"),
    ];
    for (case, offset, bytes, expected) in cases {
        let mut bad = good.clone();
        put(&mut bad, offset, bytes);
        assert_ne!(bad, good, "{case} changes nothing");
        exercise::seal(&mut bad);
        let index = Index::open(bad.as_slice()).unwrap_or_else(|error| panic!("{case}: {}", chain(&error)));
        let error = index.check().expect_err(case);
        assert!(chain(&error).contains(expected), "{case}: {}", chain(&error));
        exercise::index(&bad).unwrap();
        exercise::image(&bad).unwrap();
    }
}

/// Builds with one layer of a blob of 1000 bytes.
fn build_one(entries: Vec<LayerEntry>, paths: &[PathInput]) -> Result<Vec<u8>, BuildError> {
    build(&[LayerInput { digest: Digest::of(b""), size: 1000, entries: &entries }], paths)
}

#[test]
fn entries_that_make_no_tree_are_refused() {
    let no_chunks =
        |entries: Vec<Entry>| build_one(entries.into_iter().map(LayerEntry::empty).collect(), &[]);
    for (entries, expected) in [
        (vec![Entry::directory("/nix")], "empty component"),
        (vec![Entry::directory("nix/../etc")], "\"..\""),
        (vec![Entry::directory("./nix")], "\".\""),
        (vec![Entry::regular("a\0b", 0, false)], "NUL"),
        (vec![Entry::regular("n".repeat(256), 0, false)], "256 bytes"),
        (vec![Entry::symlink("link", "")], "0 bytes"),
        (vec![Entry::regular("a", 0, false), Entry::regular("a", 0, true)], "\"a\" comes twice"),
        (vec![Entry::directory("a"), Entry::regular("a", 0, false)], "\"a\" comes twice"),
        (vec![Entry::symlink("a", "b"), Entry::directory("a")], "\"a\" comes twice"),
        (vec![Entry::directory("a/b"), Entry::symlink("a", "b")], "not a directory"),
        (vec![Entry::regular("", 0, false)], "\"\" comes twice"),
        (vec![Entry::regular("a", 5, false)], "not as many bytes"),
    ] {
        let error = no_chunks(entries).expect_err(expected);
        assert!(chain(&error).contains(expected), "{}", chain(&error));
    }
}

#[test]
fn a_directory_may_come_again_and_be_implied() {
    let image = Image {
        layers: vec![
            layer("1", vec![Entry::directory("a").with_mode(0o700), Entry::regular("a/x/f", 0, false)], 1),
            layer("2", vec![Entry::directory("a").with_mode(0o755)], 1),
        ],
        paths: Vec::new(),
    };
    let index = Index::open(image.build()).unwrap();
    assert_eq!(index.resolve(b"a").unwrap().unwrap().mode, 0o755, "as when unpacked one over the other");
    assert_eq!(index.resolve(b"a/x").unwrap().unwrap().mode, 0o555);
}

#[test]
fn chunks_that_make_no_file_are_refused() {
    let chunk = |offset_in_file, len, blob_offset, blob_len| Chunk {
        offset_in_file,
        len,
        blob_offset,
        blob_len,
        digest: Digest::of(b""),
    };
    for (chunks, expected) in [
        (vec![chunk(0, 5, 0, 9), chunk(6, 4, 9, 9)], "does not begin where"),
        (vec![chunk(1, 9, 0, 9)], "does not begin where"),
        (vec![chunk(0, 5, 0, 9)], "not as many bytes"),
        (vec![chunk(0, 0, 0, 9), chunk(0, 10, 9, 9)], "empty or larger"),
        (vec![chunk(0, MAX_CHUNK_LEN + 1, 0, 9)], "empty or larger"),
        (vec![chunk(0, 10, 0, 0)], "empty or much larger"),
        (vec![chunk(0, 10, 0, 1 << 20)], "empty or much larger"),
        (vec![chunk(0, 5, 0, 9), chunk(5, 5, 8, 9)], "begins before"),
        (vec![chunk(0, 10, 992, 9)], "outside of the layer"),
        (vec![chunk(0, 10, u64::MAX, 9)], "outside of the layer"),
    ] {
        let entries = vec![LayerEntry { entry: Entry::regular("f", 10, false), chunks }];
        let error = build_one(entries, &[]).expect_err(expected);
        assert!(chain(&error).contains(expected), "{}", chain(&error));
    }
    let on_a_link = LayerEntry { entry: Entry::symlink("l", "t"), chunks: vec![chunk(0, 10, 0, 9)] };
    assert!(matches!(build_one(vec![on_a_link], &[]), Err(BuildError::Chunks { .. })));
}

#[test]
fn paths_that_the_layers_do_not_hold_are_refused() {
    let (a, b) = (store_path("a"), store_path("b"));
    let holding = |paths: &[&StorePath]| {
        paths.iter().map(|path| LayerEntry::empty(Entry::directory(in_store(path, b"")))).collect::<Vec<_>>()
    };
    let error = build_one(holding(&[&a]), &[path_input(&b, &[])]).unwrap_err();
    assert_eq!(error, BuildError::MissingPath(b.clone()));
    let error = build_one(holding(&[&a]), &[path_input(&a, &[&b])]).unwrap_err();
    assert_eq!(error, BuildError::MissingReference { path: a.clone(), reference: b.clone() });
    let error = build_one(holding(&[&a]), &[path_input(&a, &[]), path_input(&a, &[])]).unwrap_err();
    assert_eq!(error, BuildError::DuplicatePath(a.clone()));

    let files = [in_store(&a, b"/1"), in_store(&b, b"/1"), in_store(&a, b"/2")];
    let scattered = layer("l", files.map(|path| Entry::regular(path, 1, false)).to_vec(), 1);
    let input = LayerInput { digest: scattered.digest, size: scattered.size, entries: &scattered.entries };
    let error = build(&[input], &[path_input(&a, &[]), path_input(&b, &[])]).unwrap_err();
    assert_eq!(error, BuildError::ScatteredPath(a));
}

#[test]
fn too_many_layers_are_refused() {
    let empty = LayerInput { digest: Digest::of(b""), size: 0, entries: &[] };
    assert!(matches!(build(&vec![empty; 1025], &[]), Err(BuildError::TooMany { what: "layers", .. })));
    let most = build(&vec![empty; 1024], &[]).unwrap();
    assert_eq!(Index::open(most).unwrap().layers().len(), 1024, "and the root's nid still fits 16 bits");
}
