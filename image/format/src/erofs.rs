//! EROFS images of metadata only, written and read.
//!
//! The image holds directories, inodes and symbolic links. The bytes of regular files lie elsewhere, on
//! *devices*: file `n` is one extent of device `d`, beginning at a block. The image can be mounted by the
//! kernel (`mount -t erofs -o device=…`), and read here without a kernel.
//!
//! Source of the format: `fs/erofs/erofs_fs.h` of Linux and "EROFS on-disk format" of its documentation.
//! What is written is a small, canonical part of it, and nothing outside of that part is read:
//!
//! - blocks of 4096 bytes; metadata begins at block 0, so that inode `nid` lies at byte `32 × nid`;
//! - compact inodes of 32 bytes, or extended ones of 64 where a size or a link count needs it;
//! - directories and links are flat, with the last, partial block right behind the inode where it fits;
//! - regular files are chunk-based, with a single chunk index of 8 bytes, so one extent each;
//! - owner and group are 0, all times are 1, nothing has extended attributes.
//!
//! Inodes are laid out so that an inode's children lie behind it, in the order of their names. A reader
//! that insists on this (see [`Image::read_dir`]) cannot be led in a circle.

mod dir;
mod read;
mod write;

use std::fmt;

pub use dir::{DirEntry, ReadDir};
pub use read::{Image, ImageError, Inode, Superblock};
pub use write::{Node, NodeId, NodeKind, Tree, WriteError, Written, write};

/// Bytes of a block.
pub const BLOCK_SIZE: u64 = BLOCK_LEN as u64;
/// Binary logarithm of [`BLOCK_SIZE`].
pub const BLOCK_BITS: u8 = 12;
const BLOCK_LEN: usize = 1 << BLOCK_BITS;

/// Most devices of one image.
pub const MAX_DEVICES: usize = 1024;

/// The time of every inode, in seconds since 1970: Nix gives 1 to all that it puts in a store.
pub const MTIME: u64 = 1;

const SUPERBLOCK_OFFSET: usize = 1024;
const SUPERBLOCK_LEN: usize = 128;
const MAGIC: u32 = 0xE0F5_E1E2;
const SLOT_LEN: usize = 128;
/// The device table follows the superblock. In units of [`SLOT_LEN`].
const SLOT_OFFSET: usize = (SUPERBLOCK_OFFSET + SUPERBLOCK_LEN) / SLOT_LEN;
const INODE_SLOT: u64 = 32;
const COMPACT_LEN: u64 = 32;
const EXTENDED_LEN: u64 = 64;
const CHUNK_INDEX_LEN: u64 = 8;
const DIRENT_LEN: usize = 12;
const VOLUME_NAME: &[u8; 16] = b"nix-seed\0\0\0\0\0\0\0\0";

/// A checksum in the superblock, and the modification time is that of the source.
const FEATURE_COMPAT: u32 = 0x1 | 0x2;
/// Chunk-based files, and a device table.
const FEATURE_INCOMPAT: u32 = 0x4 | 0x8;

/// The kernel keeps the root's nid in 16 bits. The root's inode lies at most a block behind the table.
const _: () = assert!(((SLOT_OFFSET + MAX_DEVICES) * SLOT_LEN + BLOCK_LEN) as u64 / INODE_SLOT <= 0xffff);

/// Byte offsets of the fields of the superblock.
mod sb {
    pub(super) const MAGIC: usize = 0x00;
    pub(super) const CHECKSUM: usize = 0x04;
    pub(super) const FEATURE_COMPAT: usize = 0x08;
    pub(super) const BLOCK_BITS: usize = 0x0c;
    pub(super) const EXT_SLOTS: usize = 0x0d;
    pub(super) const ROOT_NID: usize = 0x0e;
    pub(super) const INODES: usize = 0x10;
    pub(super) const BUILD_TIME: usize = 0x18;
    pub(super) const BUILD_TIME_NSEC: usize = 0x20;
    pub(super) const BLOCKS: usize = 0x24;
    pub(super) const META_BLOCK: usize = 0x28;
    pub(super) const XATTR_BLOCK: usize = 0x2c;
    pub(super) const UUID: usize = 0x30;
    pub(super) const VOLUME_NAME: usize = 0x40;
    pub(super) const FEATURE_INCOMPAT: usize = 0x50;
    pub(super) const EXTRA_DEVICES: usize = 0x56;
    pub(super) const SLOT_OFFSET: usize = 0x58;
    pub(super) const DIR_BLOCK_BITS: usize = 0x5a;
}

/// Byte offsets of the fields of an inode. The first four are common to both forms.
mod ino {
    pub(super) const FORMAT: usize = 0x00;
    pub(super) const XATTR_COUNT: usize = 0x02;
    pub(super) const MODE: usize = 0x04;
    pub(super) const SIZE: usize = 0x08;
    /// Block address of a flat inode, or chunk format of a chunk-based one.
    pub(super) const UNION: usize = 0x10;
    pub(super) const SERIAL: usize = 0x14;

    pub(super) const COMPACT_NLINK: usize = 0x06;
    pub(super) const COMPACT_OWNER: usize = 0x18;

    pub(super) const EXTENDED_OWNER: usize = 0x18;
    pub(super) const EXTENDED_MTIME: usize = 0x20;
    pub(super) const EXTENDED_MTIME_NSEC: usize = 0x28;
    pub(super) const EXTENDED_NLINK: usize = 0x2c;
}

const FORMAT_EXTENDED: u16 = 1;
const FORMAT_LAYOUT_SHIFT: u16 = 1;
const FORMAT_BITS: u16 = 0xf;
const CHUNK_FORMAT_BITS: u16 = 0x1f;
const CHUNK_FORMAT_INDEXES: u16 = 0x20;

/// How the bytes of an inode are found (`i_format` bits 1 to 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// All in blocks, one after the other.
    Plain = 0,
    /// In blocks, but for the last, partial one, which follows the inode.
    Inline = 2,
    /// On a device, where the chunk index behind the inode says.
    Chunk = 4,
}

impl Layout {
    fn from_format(format: u16) -> Option<Self> {
        match format >> FORMAT_LAYOUT_SHIFT {
            0 => Some(Self::Plain),
            2 => Some(Self::Inline),
            4 => Some(Self::Chunk),
            _ => None,
        }
    }
}

/// Number of an inode: its offset in the image in units of 32 bytes. It serves as `st_ino`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nid(pub u64);

impl fmt::Display for Nid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an inode is. There are no other kinds in a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

impl FileType {
    /// As a directory entry writes it (`FT_*` of Linux).
    const fn dirent_type(self) -> u8 {
        match self {
            Self::Regular => 1,
            Self::Directory => 2,
            Self::Symlink => 7,
        }
    }

    fn from_dirent_type(byte: u8) -> Option<Self> {
        [Self::Regular, Self::Directory, Self::Symlink].into_iter().find(|kind| kind.dirent_type() == byte)
    }

    /// The type bits of `st_mode` (`S_IF*`).
    pub const fn mode_bits(self) -> u16 {
        match self {
            Self::Regular => 0o100_000,
            Self::Directory => 0o040_000,
            Self::Symlink => 0o120_000,
        }
    }

    fn from_mode(mode: u16) -> Option<Self> {
        [Self::Regular, Self::Directory, Self::Symlink]
            .into_iter()
            .find(|kind| kind.mode_bits() == mode & 0o170_000)
    }
}

/// Checksum of the superblock: CRC-32C without the final inversion, from the superblock to the end of its
/// block, with the checksum itself taken as 0.
fn superblock_checksum(block: &[u8]) -> u32 {
    let (head, tail) = block[SUPERBLOCK_OFFSET..].split_at(sb::CHECKSUM);
    let crc = crc32c::crc32c_append(crc32c::crc32c(head), &[0; 4]);
    !crc32c::crc32c_append(crc, &tail[4..])
}

pub(crate) fn le_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn le_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn le_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from(le_u32(bytes, at)) | u64::from(le_u32(bytes, at + 4)) << 32
}
