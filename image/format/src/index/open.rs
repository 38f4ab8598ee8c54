//! Opening an index: everything but the file tree is checked here.

use std::fmt;
use std::ops::{Deref, Range};

use super::layout::{
    CHUNK_LEN, Counts, DIGEST_LEN, HEADER_LEN, LAYER_LEN, ORDER_LEN, PATH_LEN, REFERENCE_LEN, Tables, chunk,
    header, layer, path,
};
use super::records::LayerRecord;
use super::{FileTree, MAGIC, MAX_CHUNK_LEN, MAX_INDEX_LEN, MAX_LAYER_LEN, VERSION, max_blob_len};
use crate::Digest;
use crate::bytes::Bytes;
use crate::erofs::{BLOCK_SIZE, Image, ImageError, Nid, le_u32, le_u64};
use crate::store_path::StorePath;

/// Why bytes are not an index, or a part of one cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The EROFS image, or a part of it, is malformed.
    #[error("the index has a malformed file tree")]
    Image(#[from] ImageError),
    /// The file is larger than a reader takes.
    #[error("the index has {0} bytes, more than {MAX_INDEX_LEN}")]
    TooLong(u64),
    /// No header follows the image.
    #[error("no seed index header follows the file tree")]
    Magic,
    /// The tables are of another version.
    #[error("the index is of version {0}; this program reads version {VERSION}")]
    Version(u32),
    /// A field of the header is wrong.
    #[error("the index header's field {field:?} is {value}; it must be {expected}")]
    Header {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What it must be.
        expected: u64,
    },
    /// There is too much of something.
    #[error("the index has {count} {what}, more than {limit}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        count: u64,
        /// How much there may be.
        limit: u64,
    },
    /// A record of a table is wrong.
    #[error("record {number} of the index's {table} table is wrong: {fault}")]
    Record {
        /// The table.
        table: &'static str,
        /// The record, counted from 0.
        number: usize,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// A regular file is not made of the chunks of one file.
    #[error("the bytes of inode {nid} are not those of one file in the chunk table")]
    Extent {
        /// The file's inode.
        nid: Nid,
    },
}

/// An index, opened over its bytes: a vector, a slice, a memory map, or bytes that are arriving.
///
/// Opening it checks the superblock and all tables (see the [module](super)) and keeps nothing but the
/// layer table in memory. No method allocates, but for those that say so. What does not need the tables
/// is asked of its [`FileTree`].
pub struct Index<B> {
    pub(super) tree: FileTree<B>,
    pub(super) layers: Vec<LayerRecord>,
    pub(super) tables: Places,
}

/// Shows what the index is of, not its bytes.
impl<B> fmt::Debug for Index<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index")
            .field("tree", &self.tree)
            .field("layers", &self.layers)
            .finish_non_exhaustive()
    }
}

impl<B> Deref for Index<B> {
    type Target = FileTree<B>;

    fn deref(&self) -> &FileTree<B> {
        &self.tree
    }
}

/// Byte ranges of the tables; all lie in the file.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) chunks: Range<usize>,
    pub(super) digests: Range<usize>,
    pub(super) paths: Range<usize>,
    pub(super) references: Range<usize>,
    pub(super) order: Range<usize>,
    pub(super) names: Range<usize>,
}

impl<B: Bytes> Index<B> {
    /// Opens an index. `bytes` must not change while it is in use.
    pub fn open(bytes: B) -> Result<Self, IndexError> {
        Self::complete(FileTree::open(bytes)?)
    }

    /// Opens the index whose tree is open already: waits for its tables.
    pub fn complete(tree: FileTree<B>) -> Result<Self, IndexError> {
        let image = tree.image();
        let start = tree.superblock.len;
        let len = tree.bytes.total_len();
        // The header, and all that it counts.
        let rest = tree.bytes.get_bytes(start..len).ok_or(IndexError::Magic)?;
        let (counts, tables) = read_header(rest, start, len)?;
        let place = |start: u64, count: u32, len: usize| {
            let start = usize::try_from(start).expect("the header was checked against the file's length");
            start..start + count as usize * len
        };
        let places = Places {
            chunks: place(tables.chunks, counts.chunks, CHUNK_LEN),
            digests: place(tables.digests, counts.chunks, DIGEST_LEN),
            paths: place(tables.paths, counts.paths, PATH_LEN),
            references: place(tables.references, counts.references, REFERENCE_LEN),
            order: place(tables.order, counts.paths, ORDER_LEN),
            names: place(tables.names, counts.names, 1),
        };
        let table = |place: &Range<usize>| &rest[place.start - start..place.end - start];
        let layers =
            read_layers(table(&place(tables.layers, counts.layers, LAYER_LEN)), &image, counts.chunks)?;
        check_chunks(table(&places.chunks), &layers)?;
        check_paths(
            table(&places.paths),
            table(&places.references),
            table(&places.order),
            table(&places.names),
            counts.chunks as usize,
        )?;
        Ok(Self { tree, layers, tables: places })
    }
}

/// Reads the header, which `rest` begins with, at `start` in a file of `file_len` bytes, and checks that the
/// tables are where their counts put them.
fn read_header(rest: &[u8], start: usize, file_len: usize) -> Result<(Counts, Tables), IndexError> {
    let raw = rest.get(..HEADER_LEN).ok_or(IndexError::Magic)?;
    if raw[header::MAGIC..][..MAGIC.len()] != MAGIC {
        return Err(IndexError::Magic);
    }
    let version = le_u32(raw, header::VERSION);
    if version != VERSION {
        return Err(IndexError::Version(version));
    }
    let counts = Counts {
        layers: le_u32(raw, header::LAYER_COUNT),
        chunks: le_u32(raw, header::CHUNK_COUNT),
        paths: le_u32(raw, header::PATH_COUNT),
        references: le_u32(raw, header::REFERENCE_COUNT),
        names: le_u32(raw, header::NAMES_LEN),
    };
    if let Some((what, count, limit)) = counts.over_limit() {
        return Err(IndexError::TooMany { what, count: count.into(), limit: limit.into() });
    }
    let tables = Tables::of(start as u64, &counts);
    let expected = [
        ("header length", u64::from(le_u32(raw, header::HEADER_LEN)), HEADER_LEN as u64),
        ("file length", le_u64(raw, header::FILE_LEN), tables.end),
        ("reserved", u64::from(le_u32(raw, header::RESERVED)), 0),
    ];
    let names = ["layers", "chunks", "digests", "paths", "references", "order", "names"];
    let offsets = names.into_iter().zip(tables.offsets()).enumerate();
    let offsets = offsets.map(|(n, (field, offset))| (field, le_u64(raw, header::OFFSETS + 8 * n), offset));
    for (field, value, expected) in expected.into_iter().chain(offsets) {
        if value != expected {
            return Err(IndexError::Header { field, value, expected });
        }
    }
    if raw[header::END..].iter().any(|byte| *byte != 0) {
        return Err(IndexError::Header { field: "reserved", value: 1, expected: 0 });
    }
    if file_len as u64 != tables.end {
        let (field, value, expected) = ("file length", tables.end, file_len as u64);
        return Err(IndexError::Header { field, value, expected });
    }
    Ok((counts, tables))
}

/// Reads the layer table: the layers share out the chunks, and are the image's devices.
fn read_layers(raw: &[u8], image: &Image<'_>, chunk_count: u32) -> Result<Vec<LayerRecord>, IndexError> {
    let raw = raw.as_chunks::<LAYER_LEN>().0;
    if raw.len() != usize::from(image.superblock().devices) {
        let (value, expected) = (raw.len() as u64, image.superblock().devices.into());
        return Err(IndexError::Header { field: "layer count", value, expected });
    }
    let mut first_chunk = 0;
    let mut layers = Vec::with_capacity(raw.len());
    for (number, raw) in raw.iter().enumerate() {
        let fail = |fault| Err(IndexError::Record { table: "layer", number, fault });
        let mut digest = [0; 32];
        digest.copy_from_slice(&raw[layer::DIGEST..][..32]);
        let digest = Digest::from_bytes(digest);
        let (size, virtual_size) = (le_u64(raw, layer::SIZE), le_u64(raw, layer::VIRTUAL_SIZE));
        let (first, count) = (le_u32(raw, layer::FIRST_CHUNK), le_u32(raw, layer::CHUNK_COUNT));
        if first != first_chunk {
            return fail("its chunks do not follow those of the layer before it");
        }
        let Some(end) = first.checked_add(count).filter(|end| *end <= chunk_count) else {
            return fail("its chunks lie outside of the chunk table");
        };
        if size > MAX_LAYER_LEN {
            return fail("its blob is too large");
        }
        if le_u64(raw, layer::RESERVED) != 0 {
            return fail("its reserved field is not 0");
        }
        let device = u16::try_from(number).ok().and_then(|number| image.device(number));
        if device.is_none_or(|(tag, blocks)| {
            *tag != *digest.hex().as_bytes() || u64::from(blocks) * BLOCK_SIZE != virtual_size
        }) {
            return fail("its digest or size is not that of its device");
        }
        first_chunk = end;
        layers.push(LayerRecord { digest, size, virtual_size, chunks: first..end });
    }
    if first_chunk != chunk_count {
        return Err(IndexError::Record { table: "layer", number: raw.len(), fault: "chunks are left over" });
    }
    Ok(layers)
}

/// Checks that the chunks of each layer follow one another, in its virtual blob without a gap but the one
/// before each file, and in its blob without an overlap.
fn check_chunks(raw: &[u8], layers: &[LayerRecord]) -> Result<(), IndexError> {
    let raw = raw.as_chunks::<CHUNK_LEN>().0;
    for layer in layers {
        let range = layer.chunks.start as usize..layer.chunks.end as usize;
        let (mut end, mut blob_end, mut next_file) = (0u64, 0u64, 0u32);
        for (number, raw) in raw[range.clone()].iter().enumerate() {
            let fail =
                |fault| Err(IndexError::Record { table: "chunk", number: range.start + number, fault });
            let (len, blob_len) = (le_u32(raw, chunk::LEN), le_u32(raw, chunk::BLOB_LEN));
            let file = le_u32(raw, chunk::FILE);
            let start = if file == next_file {
                next_file += 1;
                end.next_multiple_of(BLOCK_SIZE)
            } else if file.checked_add(1) == Some(next_file) {
                end
            } else {
                return fail("it belongs neither to the file of the chunk before it nor to the next");
            };
            if le_u64(raw, chunk::VIRTUAL_OFFSET) != start {
                return fail("it does not follow the chunk before it in the virtual blob");
            }
            if len == 0 || len > MAX_CHUNK_LEN || blob_len == 0 || blob_len > max_blob_len(len) {
                return fail("its length or that of its frame is not allowed");
            }
            let blob_offset = le_u64(raw, chunk::BLOB_OFFSET);
            if blob_offset < blob_end {
                return fail("its frame begins before that of the chunk before it ends");
            }
            match blob_offset.checked_add(blob_len.into()) {
                Some(frame_end) if frame_end <= layer.size => blob_end = frame_end,
                _ => return fail("its frame ends outside of the layer's blob"),
            }
            if le_u32(raw, chunk::RESERVED) != 0 {
                return fail("its reserved field is not 0");
            }
            end = start + u64::from(len);
        }
        if end.next_multiple_of(BLOCK_SIZE) != layer.virtual_size {
            let fault = "the chunks before it do not fill their layer's virtual blob";
            return Err(IndexError::Record { table: "chunk", number: range.end, fault });
        }
    }
    Ok(())
}

/// Checks that paths ascend, that their names, references and chunks lie in their tables, and that the
/// order by chunks is one.
fn check_paths(
    paths: &[u8],
    references: &[u8],
    order: &[u8],
    names: &[u8],
    chunk_count: usize,
) -> Result<(), IndexError> {
    let paths = paths.as_chunks::<PATH_LEN>().0;
    let references = references.as_chunks::<REFERENCE_LEN>().0;
    let (mut name_end, mut reference_end) = (0, 0);
    let mut previous: &[u8] = b"";
    for (number, raw) in paths.iter().enumerate() {
        let fail = |fault| Err(IndexError::Record { table: "path", number, fault });
        let (start, len) = (le_u32(raw, path::NAME_OFFSET) as usize, le_u32(raw, path::NAME_LEN) as usize);
        let Some(name) = names.get(start..start.saturating_add(len)).filter(|_| start == name_end) else {
            return fail("its name does not follow the one before it");
        };
        if !std::str::from_utf8(name).is_ok_and(|name| StorePath::check_base_name(name).is_ok()) {
            return fail("its name is not that of a store path");
        }
        if name <= previous {
            return fail("it does not ascend");
        }
        let first = le_u32(raw, path::FIRST_REFERENCE) as usize;
        let count = le_u32(raw, path::REFERENCE_COUNT) as usize;
        let Some(own) = references.get(first..first.saturating_add(count)).filter(|_| first == reference_end)
        else {
            return fail("its references do not follow those before them");
        };
        let mut own = own.iter().map(|raw| u32::from_le_bytes(*raw) as usize);
        if !own.clone().is_sorted_by(|a, b| a < b) || own.next_back().is_some_and(|last| last >= paths.len())
        {
            return fail("its references do not ascend, or lie outside of the path table");
        }
        reference_end = first + count;
        let (first, count) =
            (le_u32(raw, path::FIRST_CHUNK) as usize, le_u32(raw, path::CHUNK_COUNT) as usize);
        if first.saturating_add(count) > chunk_count || (count == 0 && first != 0) {
            return fail("its chunks lie outside of the chunk table");
        }
        (previous, name_end) = (name, start + len);
    }
    if name_end != names.len() || reference_end != references.len() {
        return Err(IndexError::Record {
            table: "path",
            number: paths.len(),
            fault: "names or references are left over",
        });
    }
    check_order(order.as_chunks::<ORDER_LEN>().0, paths)
}

/// Checks that `order` has every path once, by first chunk, and that no two paths share a chunk.
fn check_order(order: &[[u8; ORDER_LEN]], paths: &[[u8; PATH_LEN]]) -> Result<(), IndexError> {
    let mut end = 0;
    let mut previous = None;
    for (number, raw) in order.iter().enumerate() {
        let fail = |fault| Err(IndexError::Record { table: "path order", number, fault });
        let path = u32::from_le_bytes(*raw);
        let Some(raw) = paths.get(path as usize) else { return fail("it lies outside of the path table") };
        let first = le_u32(raw, path::FIRST_CHUNK);
        let chunks = first..first + le_u32(raw, path::CHUNK_COUNT);
        // Paths without chunks come first, by number; all others differ in their first chunk. So each path
        // comes at most once, and as there are as many numbers as paths, each comes once.
        let key = (chunks.start, chunks.end, path);
        if previous.is_some_and(|previous| previous >= key) || chunks.start < end {
            return fail("it is out of order, or shares a chunk with the path before it");
        }
        previous = Some(key);
        end = chunks.end;
    }
    Ok(())
}
