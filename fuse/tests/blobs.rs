//! The files over which the kernel mounts a seed, against the tree that shows the same files one by one.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::fs;
use std::sync::{Arc, LazyLock, mpsc};

use proptest::prelude::*;
use seed_format::bytes::Bytes;
use seed_fuse::blobs::{Blob, Blobs};
use seed_fuse::mount::{OpenOptions, SeedFs, open_seed};
use seed_fuse::tree::{Ino, ROOT, Tree};
use support::noise::noise;

const NAMES: [&str; 3] = [
    "00000000000000000000000000000000-a",
    "11111111111111111111111111111111-b",
    "22222222222222222222222222222222-empty",
];
const CHUNK: u32 = 16 << 10;

/// A seed in memory, its files' reference, and what keeps it on disk.
struct World {
    fs: Arc<SeedFs>,
    blobs: Blobs,
    /// Every virtual blob as the format says it is: files at their extents, zeros elsewhere.
    expected: Vec<Vec<u8>>,
    _root: tempfile::TempDir,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let root = tempfile::tempdir().unwrap();
    let store = root.path().join("store");
    let sizes = [0, 1, 4095, 4096, 4097, 16383, 16384, 16385, 100_000, 1 << 20];
    for (name, sizes) in NAMES.iter().zip([&sizes[..], &sizes[1..4], &[]]) {
        fs::create_dir_all(store.join(name)).unwrap();
        for size in sizes {
            fs::write(store.join(name).join(size.to_string()), noise(*size as u64, *size)).unwrap();
        }
    }
    let groups: Vec<_> = NAMES.iter().map(|name| vec![(*name).to_owned()]).collect();
    let seed = support::pack(&store, &groups, &[], &root.path().join("layout"), CHUNK);
    let fs = open_seed(support::open(&seed.layout), &seed.digest, &OpenOptions::default()).unwrap();
    let expected = expected(&fs, &fs.tree(b"").unwrap());
    World { blobs: fs.blobs().unwrap(), fs, expected, _root: root }
});

/// What the virtual blobs must be, from the files that the tree shows.
fn expected(fs: &SeedFs, tree: &Tree) -> Vec<Vec<u8>> {
    let index = fs.index().whole().unwrap();
    let mut blobs: Vec<_> =
        index.layers().iter().map(|layer| vec![0; usize::try_from(layer.virtual_size).unwrap()]).collect();
    for name in NAMES {
        let directory = find(tree, &["nix", "store", name]);
        for entry in tree.read_dir(directory, 2).unwrap().map(Result::unwrap) {
            let path = [b"nix/store/", name.as_bytes(), b"/", entry.name].concat();
            let inode = index.resolve(&path).unwrap().unwrap();
            let Some(extent) = index.extent(&inode).unwrap() else { continue };
            let data = tree.read_wait(entry.ino, 0, u32::MAX).unwrap();
            assert_eq!(data.len() as u64, inode.size);
            let at = usize::try_from(extent.offset).unwrap();
            data.with(|bytes| blobs[usize::from(extent.layer)][at..][..bytes.len()].copy_from_slice(bytes));
        }
    }
    blobs
}

fn find(tree: &Tree, path: &[&str]) -> Ino {
    path.iter().fold(ROOT, |at, name| tree.lookup(at, name.as_bytes()).unwrap().unwrap().ino)
}

/// Reads by both ways, which must agree.
fn read(blobs: &Blobs, blob: Blob, offset: u64, len: u32) -> Vec<u8> {
    let (sender, receiver) = mpsc::channel();
    blobs.read(blob, offset, len, Box::new(move |data| sender.send(data).unwrap()));
    let data = receiver.recv().unwrap().unwrap();
    let bytes = data.with(<[u8]>::to_vec);
    assert_eq!(data.len(), bytes.len());
    assert_eq!(data.pieces().collect::<Vec<_>>().concat(), bytes);
    let cached = blobs.read_cached(blob, offset, len, u32::MAX).expect("it was just read");
    assert_eq!(cached.with(<[u8]>::to_vec), bytes);
    bytes
}

/// What a file of these bytes gives for such a read.
fn part(whole: &[u8], offset: u64, len: u32) -> &[u8] {
    let start = usize::try_from(offset).map_or(whole.len(), |offset| offset.min(whole.len()));
    &whole[start..][..(len as usize).min(whole.len() - start)]
}

proptest! {
    #[test]
    fn any_read_of_a_layer_is_that_of_its_virtual_blob(
        layer in 0u16..3,
        offset in prop_oneof![0u64..2_000_000, (0u64..400).prop_map(|block| block * 4096), Just(u64::MAX)],
        len in prop_oneof![0u32..10_000, Just(1 << 20), Just(u32::MAX)],
    ) {
        let whole = &WORLD.expected[usize::from(layer)];
        prop_assert_eq!(read(&WORLD.blobs, Blob::Layer(layer), offset, len), part(whole, offset, len));
    }

    #[test]
    fn any_read_of_the_image_is_that_of_the_index(offset in 0u64..40_000, len in 0u32..40_000) {
        let image = WORLD.fs.index().tree().image().superblock().len;
        let whole = WORLD.fs.index().tree().bytes().get_bytes(0..image).unwrap();
        prop_assert_eq!(read(&WORLD.blobs, Blob::Image, offset, len), part(whole, offset, len));
    }
}

#[test]
fn sizes_are_those_of_the_format() {
    let World { blobs, expected, .. } = &*WORLD;
    assert_eq!(usize::from(blobs.layers()), expected.len());
    for (layer, whole) in (0..).zip(expected) {
        assert_eq!(blobs.size(Blob::Layer(layer)), Some(whole.len() as u64));
        assert_eq!(whole.len() % 4096, 0);
    }
    assert_eq!(blobs.size(Blob::Layer(blobs.layers())), None);
    assert_eq!(read(blobs, Blob::Layer(blobs.layers()), 0, 4096), b"");
    assert_eq!(blobs.size(Blob::Layer(2)), Some(0), "a layer without bytes");
    assert!(blobs.size(Blob::Image).unwrap().is_multiple_of(4096));
}
