//! From layers and store paths to the bytes of an index.

use std::collections::BTreeMap;
use std::ops::Range;

use super::layout::{Counts, HEADER_LEN, Tables, chunk, header, layer, path};
use super::tree::{Item, Placed, assemble};
use super::{MAGIC, MAX_CHUNK_LEN, MAX_INDEX_LEN, MAX_LAYER_LEN, MAX_LAYERS, STORE, VERSION, max_blob_len};
use crate::Digest;
use crate::entry::{Chunk, EntryError, Kind, LayerEntry};
use crate::erofs::{self, BLOCK_SIZE, NodeId, NodeKind, Tree, WriteError};
use crate::store_path::StorePath;

/// A layer, and what it holds.
#[derive(Debug, Clone, Copy)]
pub struct LayerInput<'a> {
    /// Digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Its entries, in the order of the blob.
    pub entries: &'a [LayerEntry],
}

/// A store path, and what Nix's database says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInput {
    /// The path. An entry of some layer must be `nix/store/<its base name>`.
    pub path: StorePath,
    /// SHA-256 of its NAR.
    pub nar_hash: Digest,
    /// Bytes of its NAR.
    pub nar_size: u64,
    /// The paths that it refers to, itself included if it does. Each must be a path of the index.
    pub references: Vec<StorePath>,
}

/// Why there is no index of some layers and paths.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// An entry cannot be in an image.
    #[error("\"{}\" in layer {layer} cannot be in an image", path.escape_ascii())]
    Entry {
        /// The layer, counted from 0.
        layer: usize,
        /// The entry's path.
        path: Vec<u8>,
        /// What is wrong with it.
        source: EntryError,
    },
    /// A file's chunks are not what the file is made of.
    #[error("the chunks of \"{}\" in layer {layer} are wrong: {fault}", path.escape_ascii())]
    Chunks {
        /// The layer, counted from 0.
        layer: usize,
        /// The file's path.
        path: Vec<u8>,
        /// What is wrong with them.
        fault: &'static str,
    },
    /// A path that is not a directory comes twice.
    #[error("\"{}\" comes twice", path.escape_ascii())]
    Duplicate {
        /// The path.
        path: Vec<u8>,
    },
    /// A path lies below something that is not a directory.
    #[error("\"{}\" lies below something that is not a directory", path.escape_ascii())]
    NotADirectory {
        /// The path.
        path: Vec<u8>,
    },
    /// There are more entries than 32 bits can count.
    #[error("there are more entries than 32 bits can count")]
    Entries,
    /// There is too much of something.
    #[error("there are {count} {what}, more than {limit}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        count: u64,
        /// How much there may be.
        limit: u64,
    },
    /// A store path is given twice.
    #[error("{0} is given twice")]
    DuplicatePath(StorePath),
    /// No layer has an entry for a store path.
    #[error("no layer holds {0}")]
    MissingPath(StorePath),
    /// Another path's files lie between those of a store path.
    #[error("the files of {0} do not lie together in one layer")]
    ScatteredPath(StorePath),
    /// A store path refers to one that is not in the index.
    #[error("{path} refers to {reference}, which is not in the index")]
    MissingReference {
        /// The path.
        path: StorePath,
        /// What it refers to.
        reference: StorePath,
    },
    /// The tree cannot be an EROFS image.
    #[error("the tree cannot be an EROFS image")]
    Image(#[from] WriteError),
}

/// Makes the index of `layers` and `paths`. Equal input gives equal bytes; the order of `paths`, and of
/// their references, does not count.
pub fn build(layers: &[LayerInput<'_>], paths: &[PathInput]) -> Result<Vec<u8>, BuildError> {
    if layers.len() > MAX_LAYERS as usize {
        return Err(too_many("layers", layers.len() as u64, MAX_LAYERS.into()));
    }
    let mut paths = Paths::of(paths)?;
    let mut chunks = Chunks::default();
    let mut items = Vec::new();
    let mut layer_records = Vec::with_capacity(layers.len());
    for (number, layer) in layers.iter().enumerate() {
        let placed = chunks.add_layer(number, layer, &mut paths)?;
        items.extend(
            layer.entries.iter().zip(placed.files).map(|(e, placed)| Item { entry: &e.entry, placed }),
        );
        layer_records.push(placed.record);
    }

    let mut tree = assemble(items)?;
    tree.devices =
        layers.iter().zip(&layer_records).map(|(layer, record)| (layer.digest, record.blocks)).collect();
    let roots = paths.roots(&tree)?;
    let image = erofs::write(&tree)?;

    let mut file = image.bytes;
    let counts = Counts {
        layers: count("layers", layers.len())?,
        chunks: count("chunks", chunks.records.len())?,
        paths: count("store paths", paths.sorted.len())?,
        references: count("references", paths.references.iter().map(Vec::len).sum())?,
        names: count(
            "bytes of store path names",
            paths.sorted.iter().map(|p| p.path.base_name().len()).sum(),
        )?,
    };
    if let Some((what, count, limit)) = counts.over_limit() {
        return Err(too_many(what, count.into(), limit.into()));
    }
    let tables = Tables::of(file.len() as u64, &counts);
    if tables.end > MAX_INDEX_LEN {
        return Err(too_many("bytes of index", tables.end, MAX_INDEX_LEN));
    }

    put_header(&mut file, &counts, &tables);
    for (layer, record) in layers.iter().zip(&layer_records) {
        put_layer(&mut file, layer, record);
    }
    pad_to(&mut file, tables.chunks);
    chunks.records.iter().for_each(|record| file.extend(record));
    pad_to(&mut file, tables.digests);
    chunks.digests.iter().for_each(|digest| file.extend(digest.as_bytes()));
    pad_to(&mut file, tables.paths);
    put_paths(&mut file, &paths, &roots, &image.nids);
    pad_to(&mut file, tables.references);
    paths.references.iter().flatten().for_each(|reference| file.extend(reference.to_le_bytes()));
    pad_to(&mut file, tables.order);
    paths.by_chunk().iter().for_each(|path| file.extend(path.to_le_bytes()));
    pad_to(&mut file, tables.names);
    paths.sorted.iter().for_each(|path| file.extend(path.path.base_name().as_bytes()));
    Ok(file)
}

fn too_many(what: &'static str, count: u64, limit: u64) -> BuildError {
    BuildError::TooMany { what, count, limit }
}

fn count(what: &'static str, count: usize) -> Result<u32, BuildError> {
    u32::try_from(count).map_err(|_| too_many(what, count as u64, u32::MAX.into()))
}

/// The store paths, sorted, and what is found out about them.
struct Paths<'a> {
    sorted: Vec<&'a PathInput>,
    by_name: BTreeMap<&'a str, usize>,
    /// Of each path, the numbers of the paths that it refers to, ascending.
    references: Vec<Vec<u32>>,
    /// Of each path, its chunks.
    chunks: Vec<Range<u32>>,
}

impl<'a> Paths<'a> {
    fn of(paths: &'a [PathInput]) -> Result<Self, BuildError> {
        let mut sorted: Vec<_> = paths.iter().collect();
        sorted.sort_by(|a, b| a.path.cmp(&b.path));
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].path == pair[1].path) {
            return Err(BuildError::DuplicatePath(pair[0].path.clone()));
        }
        count("store paths", sorted.len())?;
        let by_name: BTreeMap<_, _> =
            sorted.iter().enumerate().map(|(n, p)| (p.path.base_name(), n)).collect();
        let references =
            sorted.iter().map(|path| Self::references_of(path, &by_name)).collect::<Result<_, _>>()?;
        let chunks = vec![0..0; sorted.len()];
        Ok(Self { sorted, by_name, references, chunks })
    }

    fn references_of(path: &PathInput, by_name: &BTreeMap<&str, usize>) -> Result<Vec<u32>, BuildError> {
        let number = |reference: &StorePath| match by_name.get(reference.base_name()) {
            Some(number) => count("store paths", *number),
            None => {
                Err(BuildError::MissingReference { path: path.path.clone(), reference: reference.clone() })
            }
        };
        let mut numbers = path.references.iter().map(number).collect::<Result<Vec<_>, _>>()?;
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }

    /// Counts the chunks of the file at `path` to the store path that it lies in, if it lies in one.
    fn add_chunks(&mut self, path: &[u8], chunks: Range<u32>) -> Result<(), BuildError> {
        let Some(number) = self.containing(path).filter(|_| !chunks.is_empty()) else { return Ok(()) };
        let known = &mut self.chunks[number];
        if known.start == known.end {
            *known = chunks;
        } else if known.end == chunks.start {
            known.end = chunks.end;
        } else {
            return Err(BuildError::ScatteredPath(self.sorted[number].path.clone()));
        }
        Ok(())
    }

    fn containing(&self, path: &[u8]) -> Option<usize> {
        let below = path.strip_prefix(STORE)?.strip_prefix(b"/")?;
        let base = below.split(|byte| *byte == b'/').next()?;
        self.by_name.get(std::str::from_utf8(base).ok()?).copied()
    }

    /// The nodes of the paths in the tree.
    fn roots(&self, tree: &Tree<'_>) -> Result<Vec<NodeId>, BuildError> {
        let store = STORE.split(|byte| *byte == b'/').try_fold(0, |node, name| child(tree, node, name));
        self.sorted
            .iter()
            .map(|path| {
                let root = store.and_then(|store| child(tree, store, path.path.base_name().as_bytes()));
                root.ok_or_else(|| BuildError::MissingPath(path.path.clone()))
            })
            .collect()
    }

    /// The paths' numbers in the order of their chunks; those without any come first.
    fn by_chunk(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..).take(self.sorted.len()).collect();
        order.sort_by_key(|n| (self.chunks[*n as usize].start, self.chunks[*n as usize].end));
        order
    }
}

fn child(tree: &Tree<'_>, node: NodeId, name: &[u8]) -> Option<NodeId> {
    match &tree.nodes[node as usize].kind {
        NodeKind::Directory { children } => {
            let at = children.binary_search_by(|(child, _)| (*child).cmp(name)).ok()?;
            Some(children[at].1)
        }
        _ => None,
    }
}

/// The chunk table, as far as it has been made.
#[derive(Default)]
struct Chunks {
    records: Vec<[u8; super::layout::CHUNK_LEN]>,
    digests: Vec<Digest>,
}

struct PlacedLayer {
    record: LayerPart,
    /// Where each entry's bytes are.
    files: Vec<Placed>,
}

/// What the layer table says of a layer beyond what was given.
struct LayerPart {
    chunks: Range<u32>,
    /// Blocks of the virtual blob.
    blocks: u32,
}

impl Chunks {
    fn add_layer(
        &mut self,
        number: usize,
        layer: &LayerInput<'_>,
        paths: &mut Paths<'_>,
    ) -> Result<PlacedLayer, BuildError> {
        if layer.size > MAX_LAYER_LEN {
            return Err(too_many("bytes in a layer", layer.size, MAX_LAYER_LEN));
        }
        let first = count("chunks", self.records.len())?;
        let layer_number = u16::try_from(number).expect("at most 1024 layers");
        let mut files = Vec::with_capacity(layer.entries.len());
        let (mut file, mut block, mut blob_end) = (0u32, 0u32, 0u64);
        for LayerEntry { entry, chunks } in layer.entries {
            let at = |source| BuildError::Entry { layer: number, path: entry.path.clone(), source };
            entry.check().map_err(at)?;
            files.push(Placed { layer: layer_number, block });
            let size = match entry.kind {
                Kind::Regular { size } => size,
                Kind::Directory | Kind::Symlink { .. } => 0,
            };
            let wrong = |fault| BuildError::Chunks { layer: number, path: entry.path.clone(), fault };
            check_chunks(chunks, size, &mut blob_end, layer.size).map_err(wrong)?;
            if chunks.is_empty() {
                continue;
            }
            let first = count("chunks", self.records.len())?;
            self.extend(chunks, file, u64::from(block) * BLOCK_SIZE);
            paths.add_chunks(&entry.path, first..count("chunks", self.records.len())?)?;
            file += 1;
            // Block addresses end before the one that means a hole.
            block = u32::try_from(size.div_ceil(BLOCK_SIZE))
                .ok()
                .and_then(|blocks| block.checked_add(blocks))
                .filter(|block| *block < u32::MAX)
                .ok_or(too_many(
                    "bytes in the files of a layer",
                    u64::from(block) * BLOCK_SIZE + size,
                    1 << 44,
                ))?;
        }
        let record = LayerPart { chunks: first..count("chunks", self.records.len())?, blocks: block };
        Ok(PlacedLayer { record, files })
    }

    fn extend(&mut self, chunks: &[Chunk], file: u32, virtual_offset: u64) {
        for part in chunks {
            let mut record = [0; super::layout::CHUNK_LEN];
            let mut put = |at: usize, bytes: &[u8]| record[at..at + bytes.len()].copy_from_slice(bytes);
            put(chunk::VIRTUAL_OFFSET, &(virtual_offset + part.offset_in_file).to_le_bytes());
            put(chunk::BLOB_OFFSET, &part.blob_offset.to_le_bytes());
            put(chunk::LEN, &part.len.to_le_bytes());
            put(chunk::BLOB_LEN, &part.blob_len.to_le_bytes());
            put(chunk::FILE, &file.to_le_bytes());
            self.records.push(record);
            self.digests.push(part.digest);
        }
    }
}

/// Checks that chunks make a file of `size` bytes, and follow `blob_end` in a blob of `blob_len` bytes.
fn check_chunks(chunks: &[Chunk], size: u64, blob_end: &mut u64, blob_len: u64) -> Result<(), &'static str> {
    let mut end = 0;
    for chunk in chunks {
        if chunk.offset_in_file != end {
            return Err("a chunk does not begin where the one before it ends");
        }
        if chunk.len == 0 || chunk.len > MAX_CHUNK_LEN {
            return Err("a chunk is empty or larger than 16 MiB");
        }
        if chunk.blob_len == 0 || chunk.blob_len > max_blob_len(chunk.len) {
            return Err("a frame is empty or much larger than its bytes");
        }
        if chunk.blob_offset < *blob_end {
            return Err("a frame begins before the one before it ends");
        }
        end += u64::from(chunk.len);
        *blob_end = chunk
            .blob_offset
            .checked_add(chunk.blob_len.into())
            .filter(|blob_end| *blob_end <= blob_len)
            .ok_or("a frame ends outside of the layer's blob")?;
    }
    if end != size {
        return Err("together they have not as many bytes as the file");
    }
    Ok(())
}

/// Where the next table begins: the bytes up to it are zeros.
fn pad_to(file: &mut Vec<u8>, offset: u64) {
    let offset = usize::try_from(offset).expect("the file's length was checked");
    debug_assert!(file.len() <= offset && offset - file.len() < 8, "tables lie as planned");
    file.resize(offset, 0);
}

fn put_header(file: &mut Vec<u8>, counts: &Counts, tables: &Tables) {
    let mut record = [0; HEADER_LEN];
    let mut put = |at: usize, bytes: &[u8]| record[at..at + bytes.len()].copy_from_slice(bytes);
    put(header::MAGIC, &MAGIC);
    put(header::VERSION, &VERSION.to_le_bytes());
    put(header::HEADER_LEN, &u32::try_from(HEADER_LEN).expect("a small constant").to_le_bytes());
    put(header::FILE_LEN, &tables.end.to_le_bytes());
    put(header::LAYER_COUNT, &counts.layers.to_le_bytes());
    put(header::CHUNK_COUNT, &counts.chunks.to_le_bytes());
    put(header::PATH_COUNT, &counts.paths.to_le_bytes());
    put(header::REFERENCE_COUNT, &counts.references.to_le_bytes());
    put(header::NAMES_LEN, &counts.names.to_le_bytes());
    for (n, offset) in tables.offsets().iter().enumerate() {
        put(header::OFFSETS + 8 * n, &offset.to_le_bytes());
    }
    file.extend(record);
}

fn put_layer(file: &mut Vec<u8>, input: &LayerInput<'_>, part: &LayerPart) {
    let mut record = [0; super::layout::LAYER_LEN];
    let mut put = |at: usize, bytes: &[u8]| record[at..at + bytes.len()].copy_from_slice(bytes);
    put(layer::DIGEST, input.digest.as_bytes());
    put(layer::SIZE, &input.size.to_le_bytes());
    put(layer::VIRTUAL_SIZE, &(u64::from(part.blocks) * BLOCK_SIZE).to_le_bytes());
    put(layer::FIRST_CHUNK, &part.chunks.start.to_le_bytes());
    put(layer::CHUNK_COUNT, &(part.chunks.end - part.chunks.start).to_le_bytes());
    file.extend(record);
}

fn put_paths(file: &mut Vec<u8>, paths: &Paths<'_>, roots: &[NodeId], nids: &[erofs::Nid]) {
    let (mut name_offset, mut first_reference) = (0u32, 0u32);
    let small = |len: usize| u32::try_from(len).expect("the counts were checked");
    for (n, input) in paths.sorted.iter().enumerate() {
        let (name_len, references) = (small(input.path.base_name().len()), small(paths.references[n].len()));
        let chunks = &paths.chunks[n];
        let mut record = [0; super::layout::PATH_LEN];
        let mut put = |at: usize, bytes: &[u8]| record[at..at + bytes.len()].copy_from_slice(bytes);
        put(path::NAR_HASH, input.nar_hash.as_bytes());
        put(path::NAR_SIZE, &input.nar_size.to_le_bytes());
        put(path::ROOT, &nids[roots[n] as usize].0.to_le_bytes());
        put(path::NAME_OFFSET, &name_offset.to_le_bytes());
        put(path::NAME_LEN, &name_len.to_le_bytes());
        put(path::FIRST_CHUNK, &chunks.start.to_le_bytes());
        put(path::CHUNK_COUNT, &(chunks.end - chunks.start).to_le_bytes());
        put(path::FIRST_REFERENCE, &first_reference.to_le_bytes());
        put(path::REFERENCE_COUNT, &references.to_le_bytes());
        file.extend(record);
        name_offset += name_len;
        first_reference += references;
    }
}
