//! The index of a seed: every name, inode and chunk of the image in one file that is used as it lies.
//!
//! The file begins with an [EROFS image](crate::erofs) of metadata, so that the kernel can mount it, and
//! goes on with tables: which layers there are, where each chunk of each file lies in its layer blob and
//! what its digest is, and which store paths the image holds. `docs/format.md` gives every field.
//!
//! **Virtual blobs.** The bytes of the files of one layer lie, uncompressed, in the address space of that
//! layer's *virtual blob*: in the order of the layer blob, every file at the next multiple of 4096. That
//! address space exists only in the index: device `n + 1` of the EROFS image is the virtual blob of layer
//! `n`. The chunk table says which range of the layer blob each range of the virtual blob is made of.
//! What lies between the end of a file and the next multiple of 4096 reads as zeros.
//!
//! **What is checked when.** [`Index::open`] checks the superblock and the tables, all of them, in time
//! linear in their size; afterwards no record can lead out of its layer, its table or the file. The tree
//! is checked where it is walked, and needs no tables: a [`FileTree`] can be used before they are there. [`Index::extent`] checks that a file is exactly the chunks of one file
//! of the chunk table. [`Index::check`] walks and checks everything, for verification.

mod build;
mod check;
mod file_tree;
mod layout;
mod open;
mod records;
mod tree;
mod view;
mod walk;

pub use build::{BuildError, LayerInput, PathInput, build};
pub use check::{CheckError, Summary};
pub use file_tree::FileTree;
pub use open::{Index, IndexError};
pub use records::{ChunkId, ChunkRecord, Extent, LayerRecord, PathRecord};

pub use crate::erofs::{DirEntry, FileType, ImageError, Inode, Nid, ReadDir};

/// First bytes of the header of the tables.
pub const MAGIC: [u8; 8] = *b"SEEDIDX1";
/// Version of the tables. A reader refuses every other one.
pub const VERSION: u32 = 1;

/// Largest index, in bytes.
pub const MAX_INDEX_LEN: u64 = 1 << 31;
/// Most layers. Container engines stop at 127.
pub const MAX_LAYERS: u32 = 1024;
/// Most chunks of all layers together: with 4 MiB each they make 64 TiB.
pub const MAX_CHUNKS: u32 = 1 << 24;
/// Most store paths.
pub const MAX_PATHS: u32 = 1 << 20;
/// Most references of all store paths together.
pub const MAX_REFERENCES: u32 = 1 << 26;
/// Largest layer blob, in bytes.
pub const MAX_LAYER_LEN: u64 = 1 << 44;
/// Most uncompressed bytes of one chunk: a reader holds a chunk in memory as a whole.
pub const MAX_CHUNK_LEN: u32 = 16 << 20;

/// Most bytes that a frame of `len` uncompressed bytes may have: a frame is never much larger than what
/// it holds (`ZSTD_COMPRESSBOUND`, and room for checksum and header).
pub const fn max_blob_len(len: u32) -> u32 {
    len + len / 256 + 1024
}

/// Where the store lies below the image's root.
pub const STORE: &[u8] = b"nix/store";
