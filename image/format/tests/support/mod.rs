//! Trees for the tests of the index: a mean one, and random ones.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod exercise;

use std::collections::BTreeMap;

use seed_format::entry::{Chunk, Entry, Kind, LayerEntry};
use seed_format::index::{FileType, Index, LayerInput, PathInput};
use seed_format::{Digest, StorePath};

/// A whole image, as it goes into an index.
#[derive(Debug)]
pub struct Image {
    pub layers: Vec<Layer>,
    pub paths: Vec<PathInput>,
}

#[derive(Debug)]
pub struct Layer {
    pub digest: Digest,
    pub size: u64,
    pub entries: Vec<LayerEntry>,
}

impl Image {
    pub fn build(&self) -> Vec<u8> {
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|layer| LayerInput { digest: layer.digest, size: layer.size, entries: &layer.entries })
            .collect();
        seed_format::index::build(&layers, &self.paths).unwrap()
    }

    /// What the tree must be: every path with its kind and mode, implied directories included.
    pub fn expected(&self) -> BTreeMap<Vec<u8>, (Kind, u16)> {
        let mut expected = BTreeMap::from([(Vec::new(), (Kind::Directory, 0o555))]);
        for LayerEntry { entry, .. } in self.layers.iter().flat_map(|layer| &layer.entries) {
            for (end, _) in entry.path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
                expected.entry(entry.path[..end].to_vec()).or_insert((Kind::Directory, 0o555));
            }
            expected.insert(entry.path.clone(), (entry.kind.clone(), entry.mode));
        }
        expected
    }
}

/// Makes a layer of entries, as if its blob held one frame for each chunk and some bytes between the files.
pub fn layer(name: &str, entries: Vec<Entry>, chunk_size: u32) -> Layer {
    let mut blob_offset = 100;
    let mut with_chunks = Vec::new();
    for entry in entries {
        let size = match entry.kind {
            Kind::Regular { size } => size,
            _ => 0,
        };
        blob_offset += 50;
        let mut chunks = Vec::new();
        let mut offset = 0;
        while offset < size {
            let len = u32::try_from((size - offset).min(chunk_size.into())).unwrap();
            let blob_len = len / 3 + 9;
            let digest = Digest::of(format!("{name} {offset} {}", entry.path.escape_ascii()).as_bytes());
            chunks.push(Chunk { offset_in_file: offset, len, blob_offset, blob_len, digest });
            blob_offset += u64::from(blob_len);
            offset += u64::from(len);
        }
        with_chunks.push(LayerEntry { entry, chunks });
    }
    Layer { digest: Digest::of(name.as_bytes()), size: blob_offset + 1000, entries: with_chunks }
}

/// A store path made up from a name.
pub fn store_path(name: &str) -> StorePath {
    let hash = seed_format::store_path::encode_base32(&Digest::of(name.as_bytes()).as_bytes()[..20]);
    StorePath::from_base_name(&format!("{hash}-{name}")).unwrap()
}

pub fn in_store(path: &StorePath, below: &[u8]) -> Vec<u8> {
    [b"nix/store/", path.base_name().as_bytes(), below].concat()
}

pub fn path_input(path: &StorePath, references: &[&StorePath]) -> PathInput {
    PathInput {
        path: path.clone(),
        nar_hash: Digest::of(path.base_name().as_bytes()),
        nar_size: path.base_name().len() as u64 * 1000,
        references: references.iter().map(|path| (*path).clone()).collect(),
    }
}

/// A small image of two layers that has one of everything.
pub fn small() -> Image {
    let (hello, data) = (store_path("hello-2.12"), store_path("data.txt"));
    let base = vec![
        Entry::directory("bin"),
        Entry::symlink("bin/sh", in_store(&hello, b"/bin/hello")),
        Entry::directory("etc"),
        Entry::regular("etc/passwd", 30, false),
        Entry::directory("tmp").with_mode(0o1777),
    ];
    let store = vec![
        Entry::directory("nix"),
        Entry::directory("nix/store"),
        Entry::regular(in_store(&data, b""), 0, false),
        Entry::directory(in_store(&hello, b"")),
        Entry::directory(in_store(&hello, b"/bin")),
        Entry::regular(in_store(&hello, b"/bin/hello"), 10_000, true),
        Entry::symlink(in_store(&hello, b"/lib"), "bin"),
    ];
    Image {
        layers: vec![layer("base", base, 4096), layer("store", store, 4096)],
        paths: vec![path_input(&hello, &[&hello, &data]), path_input(&data, &[])],
    }
}

/// An image with what the small one lacks: an extended inode, a directory of several blocks, and links in a
/// block of their own.
pub fn large() -> Image {
    let path = store_path("large");
    let mut entries = vec![
        Entry::directory(in_store(&path, b"")),
        Entry::regular(in_store(&path, b"/huge"), HUGE, false),
        Entry::symlink(in_store(&path, b"/long"), vec![b'l'; 4095]),
    ];
    entries.extend((0..40).map(|n| {
        let name = format!("/names/{n:02}{}", "n".repeat(253));
        Entry::regular(in_store(&path, name.as_bytes()), u64::from(n == 7), false)
    }));
    Image { layers: vec![layer("large", entries, 16 << 20)], paths: vec![path_input(&path, &[])] }
}

/// The size of the largest file of [`mean`].
pub const HUGE: u64 = (4 << 30) + 4097;

/// An image with everything that a store may hold and that has been seen to break tools.
pub fn mean() -> Image {
    let (mean, many, huge) = (store_path("mean"), store_path("many"), store_path("huge"));
    let (file, link) = (store_path("file.patch"), store_path("link"));
    Image {
        layers: vec![
            layer("base", vec![Entry::directory("tmp").with_mode(0o1777), Entry::directory("root")], 1 << 20),
            layer("mean", mean_entries(&mean), 5000),
            layer("many", many_entries(&many), 1 << 20),
            layer(
                "huge",
                vec![
                    Entry::directory("nix"),
                    Entry::directory("nix/store"),
                    Entry::regular(in_store(&file, b""), 17, true),
                    Entry::directory(in_store(&huge, b"")),
                    Entry::regular(in_store(&huge, b"/huge"), HUGE, false),
                    Entry::regular(in_store(&huge, b"/small"), 1, false),
                    Entry::symlink(in_store(&link, b""), "../../etc"),
                ],
                16 << 20,
            ),
        ],
        paths: vec![
            path_input(&mean, &[&mean, &huge]),
            path_input(&many, &[]),
            path_input(&huge, &[&many, &mean, &file]),
            path_input(&file, &[]),
            path_input(&link, &[&link]),
        ],
    }
}

fn mean_entries(root: &StorePath) -> Vec<Entry> {
    let below = |name: &[u8]| in_store(root, &[b"/", name].concat());
    let mut entries = vec![Entry::directory(in_store(root, b""))];
    for size in [0, 1, 4095, 4096, 4097, 4999, 5000, 5001, 8192, 10_000, 65_537] {
        entries.push(Entry::regular(below(format!("size-{size}").as_bytes()), size, size % 2 == 1));
    }
    let names: [&[u8]; 24] = [
        b"README",
        b"Readme",
        b"readme",
        b"a\nb",
        b"\n",
        b" ",
        b"\t",
        b"\\",
        b"\"",
        b"*",
        b"\xff\xfe",
        b"caf\xe9",
        b"caf\xc3\xa9",
        b"\x01",
        b"\x7f",
        b"!",
        b"-rf",
        b"-",
        b".-",
        b"...",
        b"..a",
        b".hidden",
        b"/"[1..].as_ref(),
        b"~",
    ];
    for name in names.into_iter().filter(|name| !name.is_empty()) {
        entries.push(Entry::regular(below(name), 3, false));
    }
    for byte in [b'n', 0xff, b'\n'] {
        let name = [byte; 255];
        entries.push(Entry::directory(below(&name)));
        entries.push(Entry::regular(below(&[&name[..], b"/", &name[..]].concat()), 5, false));
    }
    for len in [1, 59, 60, 61, 4031, 4032, 4063, 4064, 4065, 4094, 4095] {
        entries.push(Entry::symlink(below(format!("link-{len}").as_bytes()), vec![b'x'; len]));
    }
    entries.push(Entry::symlink(below(b"link-odd"), b"\xff\n/../.".as_slice()));
    // Directories of which the last block is just short of, at, and just over what fits behind the inode.
    for len in 0..8 {
        let directory = below(format!("edge-{len}").as_bytes());
        entries.push(Entry::directory(directory.clone()));
        for n in 0..15 {
            let name = format!("{n:02}{}", "e".repeat(if n == 14 { 235 + len * 5 } else { 253 }));
            let name = &name[..name.len().min(255)];
            entries.push(Entry::symlink([&directory[..], b"/", name.as_bytes()].concat(), "t"));
        }
    }
    // Far beyond PATH_MAX.
    let mut deep = below(b"deep");
    for level in 0..120 {
        entries.push(Entry::directory(deep.clone()));
        deep.extend_from_slice(format!("/{level:03}{}", "d".repeat(97)).as_bytes());
    }
    entries.push(Entry::directory(deep.clone()));
    entries.push(Entry::regular([&deep[..], b"/end"].concat(), 4097, false));
    entries
}

fn many_entries(root: &StorePath) -> Vec<Entry> {
    let mut entries = vec![Entry::directory(in_store(root, b""))];
    entries.push(Entry::directory(in_store(root, b"/entries")));
    for n in 0..60_000 {
        entries.push(Entry::regular(in_store(root, format!("/entries/{n:05}").as_bytes()), n % 7, false));
    }
    entries.push(Entry::directory(in_store(root, b"/subdirectories")));
    for n in 0..66_000 {
        entries.push(Entry::directory(in_store(root, format!("/subdirectories/{n:05}").as_bytes())));
    }
    entries
}

/// Checks that an index holds exactly `image`, by walking it.
pub fn assert_holds(index: &Index<impl AsRef<[u8]>>, image: &Image) {
    let mut expected = image.expected();
    index
        .walk::<seed_format::index::IndexError>(|path, inode| {
            let (kind, mode) =
                expected.remove(path).unwrap_or_else(|| panic!("{:?} is not expected", path.escape_ascii()));
            let shown = path.escape_ascii();
            assert_eq!(inode.mode, mode, "{shown}");
            match kind {
                Kind::Directory => assert_eq!(inode.kind, FileType::Directory, "{shown}"),
                Kind::Symlink { target } => {
                    assert_eq!(inode.kind, FileType::Symlink, "{shown}");
                    assert_eq!(index.symlink(inode)?, target, "{shown}");
                    assert_eq!(inode.size, target.len() as u64, "{shown}");
                }
                Kind::Regular { size } => {
                    assert_eq!((inode.kind, inode.size), (FileType::Regular, size), "{shown}");
                }
            }
            Ok(())
        })
        .unwrap();
    assert!(
        expected.is_empty(),
        "{} entries are missing, the first {:?}",
        expected.len(),
        expected.first_key_value()
    );
    assert_chunks(index, image);
}

/// Checks that each file's extent is made of the chunks that it was given.
fn assert_chunks(index: &Index<impl AsRef<[u8]>>, image: &Image) {
    for (number, layer) in image.layers.iter().enumerate() {
        let mut end = index.layers()[number].chunks.start;
        for LayerEntry { entry, chunks } in &layer.entries {
            let inode = index.resolve(&entry.path).unwrap().unwrap();
            let Some(extent) = index.extent(&inode).unwrap() else {
                assert!(chunks.is_empty());
                continue;
            };
            assert_eq!((usize::from(extent.layer), extent.len), (number, inode.size));
            assert_eq!((extent.offset % 4096, extent.chunks.start), (0, end), "files lie in blob order");
            assert_eq!(extent.chunks.len(), chunks.len());
            end = extent.chunks.end;
            for (id, given) in extent.chunks.zip(chunks) {
                let chunk = index.chunk(id).unwrap();
                assert_eq!(chunk.virtual_offset, extent.offset + given.offset_in_file);
                assert_eq!(
                    (usize::from(chunk.layer), chunk.len, chunk.blob_offset, chunk.blob_len, chunk.digest),
                    (number, given.len, given.blob_offset, given.blob_len, given.digest)
                );
            }
        }
        assert_eq!(end, index.layers()[number].chunks.end);
    }
}
