//! Figures of the index: `cargo bench -p seed-format --bench index [-- FILES]`.
//!
//! Builds the index of a store-like tree (by default 100,000 files in 4,000 paths and 60 layers), opens it
//! and asks it what a file server asks. Prints one line a figure; best of several rounds.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use seed_format::entry::{Chunk, Entry, LayerEntry};
use seed_format::index::{FileType, Index, IndexError, LayerInput, Nid, PathInput, build};
use seed_format::{Digest, StorePath};

const LAYERS: usize = 60;
const FILES_IN_A_PATH: usize = 25;
const CHUNK: u64 = 1 << 20;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        return println!("figures come with `cargo bench` only");
    }
    let files = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(100_000);
    let (layers, paths) = store(files);
    let inputs: Vec<_> = layers
        .iter()
        .enumerate()
        .map(|(n, (size, entries))| LayerInput { digest: Digest::of(&n.to_le_bytes()), size: *size, entries })
        .collect();
    let entries: usize = layers.iter().map(|(_, entries)| entries.len()).sum();
    println!("{files} files, {entries} entries, {} paths, {LAYERS} layers", paths.len());

    let (time, bytes) = best(3, || build(&inputs, &paths).unwrap());
    let open = Index::open(bytes.as_slice()).unwrap();
    println!("chunks                 {:>12}", open.chunk_count());
    println!("build                  {time:>12.2?}");
    println!(
        "size                   {:>12} bytes, {} of them EROFS",
        bytes.len(),
        open.image().superblock().len
    );
    for level in [3, 12] {
        let (time, compressed) = best(1, || zstd::bulk::compress(&bytes, level).unwrap());
        println!("size, zstd level {level:<2}    {:>12} bytes in {time:.2?}", compressed.len());
    }
    println!("open                   {:>12.2?}", best(20, || Index::open(bytes.as_slice()).unwrap()).0);

    let tree = Tree::of(&open);
    per_second("inode", tree.inodes.len(), || {
        tree.inodes.iter().for_each(|nid| drop(black_box(open.inode(*nid))))
    });
    per_second("lookup, found", tree.names.len(), || {
        for (directory, name) in &tree.names {
            black_box(open.lookup(directory, name).unwrap().unwrap());
        }
    });
    per_second("lookup, not found", tree.names.len(), || {
        for (directory, _) in &tree.names {
            black_box(open.lookup(directory, b"libmissing.so.6").unwrap());
        }
    });
    per_second("read_dir, entries", tree.names.len(), || {
        for directory in &tree.directories {
            for entry in open.read_dir(directory, 0) {
                black_box(entry.unwrap());
            }
        }
    });
    per_second("extent", tree.files.len(), || {
        for file in &tree.files {
            black_box(open.extent(file).unwrap());
        }
    });
    let extents: Vec<_> = tree.files.iter().filter_map(|file| open.extent(file).unwrap()).collect();
    per_second("chunks_of", extents.len(), || {
        for extent in &extents {
            black_box(open.chunks_of(extent.layer, extent.offset..extent.offset + 4096));
        }
    });
    per_second("chunk", extents.len(), || {
        for extent in &extents {
            black_box(open.chunk(extent.chunks.start).unwrap());
        }
    });
    println!("check, all of it       {:>12.2?}", best(3, || open.check().unwrap()).0);
}

/// Everything in the tree, in an order that no cache knows.
struct Tree {
    inodes: Vec<Nid>,
    directories: Vec<seed_format::index::Inode>,
    files: Vec<seed_format::index::Inode>,
    names: Vec<(seed_format::index::Inode, Vec<u8>)>,
}

impl Tree {
    fn of(index: &Index<&[u8]>) -> Self {
        let mut tree =
            Self { inodes: Vec::new(), directories: Vec::new(), files: Vec::new(), names: Vec::new() };
        index
            .walk::<IndexError>(|path, inode| {
                tree.inodes.push(inode.nid);
                match inode.kind {
                    FileType::Directory => tree.directories.push(*inode),
                    FileType::Regular => tree.files.push(*inode),
                    FileType::Symlink => {}
                }
                let cut = path.iter().rposition(|byte| *byte == b'/');
                if let Some(directory) =
                    index.resolve(&path[..cut.unwrap_or(0)])?.filter(|_| !path.is_empty())
                {
                    tree.names.push((directory, path[cut.map_or(0, |cut| cut + 1)..].to_vec()));
                }
                Ok(())
            })
            .unwrap();
        shuffle(&mut tree.inodes);
        shuffle(&mut tree.files);
        shuffle(&mut tree.names);
        tree
    }
}

fn best<T>(mut rounds: usize, mut run: impl FnMut() -> T) -> (Duration, T) {
    let mut least = Duration::MAX;
    loop {
        let start = Instant::now();
        let result = run();
        least = least.min(start.elapsed());
        rounds -= 1;
        if rounds == 0 {
            return (least, result);
        }
    }
}

fn per_second(what: &str, count: usize, run: impl FnMut()) {
    let (time, ()) = best(5, run);
    let nanoseconds = time.as_secs_f64() * 1e9 / count as f64;
    println!("{what:<22} {:>12.0} a second, {nanoseconds:.0} ns each", 1e9 / nanoseconds);
}

/// A sequence of numbers that is the same each time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn shuffle<T>(items: &mut [T]) {
    let mut numbers = Numbers(7);
    for n in (1..items.len()).rev() {
        items.swap(n, usize::try_from(numbers.below(n as u64 + 1)).unwrap());
    }
}

/// Layers of paths, with files of the sizes that stores have: most small, few large.
fn store(files: usize) -> (Vec<(u64, Vec<LayerEntry>)>, Vec<PathInput>) {
    let mut numbers = Numbers(1);
    let words =
        ["lib", "share", "include", "bin", "doc", "python3.11", "site-packages", "locale", "man", "src"];
    let mut paths: Vec<PathInput> = Vec::new();
    let mut layers: Vec<(u64, Vec<LayerEntry>)> = vec![(0, Vec::new()); LAYERS];
    for n in 0..files / FILES_IN_A_PATH {
        let hash = seed_format::store_path::encode_base32(&Digest::of(&n.to_le_bytes()).as_bytes()[..20]);
        let path = StorePath::from_base_name(&format!("{hash}-{}-{n}.{}", words[n % 10], n % 17)).unwrap();
        let root = format!("nix/store/{}", path.base_name());
        let (blob_end, entries) = &mut layers[n % LAYERS];
        entries.push(LayerEntry::empty(Entry::directory(root.as_str())));
        let directory = format!("{root}/{}", words[usize::try_from(numbers.below(10)).unwrap()]);
        entries.push(LayerEntry::empty(Entry::directory(directory.as_str())));
        for file in 0..FILES_IN_A_PATH {
            let size = match numbers.below(100) {
                0..70 => numbers.below(8_000),
                70..97 => numbers.below(100_000),
                _ => numbers.below(4_000_000),
            };
            let name = format!("{directory}/{}-{file}.so.{}", words[file % 10], numbers.below(30));
            if file % 8 == 7 {
                entries.push(LayerEntry::empty(Entry::symlink(format!("{name}.link"), name.as_bytes())));
            }
            let mut chunks = Vec::new();
            for offset_in_file in (0..size).step_by(usize::try_from(CHUNK).unwrap()) {
                let len = u32::try_from((size - offset_in_file).min(CHUNK)).unwrap();
                let blob_len = len / 3 + 20;
                let digest = Digest::of(format!("{name} {offset_in_file}").as_bytes());
                *blob_end += 60;
                chunks.push(Chunk { offset_in_file, len, blob_offset: *blob_end, blob_len, digest });
                *blob_end += u64::from(blob_len);
            }
            entries.push(LayerEntry { entry: Entry::regular(name, size, numbers.below(4) == 0), chunks });
        }
        let references = (0..numbers.below(6).min(n as u64))
            .map(|_| paths[usize::try_from(numbers.below(n as u64)).unwrap()].path.clone())
            .collect();
        paths.push(PathInput { nar_hash: Digest::of(root.as_bytes()), nar_size: 1 << 20, references, path });
    }
    (layers, paths)
}
