//! From the bytes of an image to inodes, links and extents.

use std::fmt;

use super::{
    BLOCK_BITS, BLOCK_LEN, BLOCK_SIZE, CHUNK_FORMAT_BITS, CHUNK_FORMAT_INDEXES, CHUNK_INDEX_LEN, COMPACT_LEN,
    EXTENDED_LEN, FEATURE_COMPAT, FEATURE_INCOMPAT, FORMAT_BITS, FORMAT_EXTENDED, FileType, INODE_SLOT,
    Layout, MAGIC, MAX_DEVICES, MTIME, Nid, SLOT_LEN, SLOT_OFFSET, SUPERBLOCK_OFFSET, VOLUME_NAME, dir, ino,
    le_u16, le_u32, le_u64, sb, superblock_checksum,
};
use crate::bytes::Bytes;
use crate::entry::MAX_TARGET_LEN;

/// Why bytes are not an image, or a part of one cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The bytes end before the image does.
    #[error("the EROFS image has {needed} bytes, but only {len} are there")]
    Truncated {
        /// Bytes that the image must have.
        needed: u64,
        /// Bytes that are there.
        len: u64,
    },
    /// The superblock's checksum is not that of its block.
    #[error(
        "the EROFS superblock is damaged: its checksum is {stored:08x}, that of its bytes {computed:08x}"
    )]
    Checksum {
        /// What the superblock says.
        stored: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// A field of the superblock has a value that a seed's image does not have.
    #[error("the EROFS superblock's field {field:?} is {value:#x}, which no seed has")]
    Superblock {
        /// Name of the field in `struct erofs_super_block`.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A device is not in the table, or its tag is not the digest of a layer.
    #[error("the EROFS image has no device {number} whose tag is a digest")]
    Device {
        /// The device, counted from 0.
        number: u16,
    },
    /// An inode is malformed, or of a kind that a seed does not have.
    #[error("inode {nid} is malformed: {fault}")]
    Inode {
        /// The inode.
        nid: Nid,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// A directory is malformed.
    #[error("directory {nid} is malformed in block {block}: {fault}")]
    Directory {
        /// The directory's inode.
        nid: Nid,
        /// Block of the directory, counted from 0.
        block: u64,
        /// What is wrong with it.
        fault: &'static str,
    },
}

/// What the superblock says, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// The root directory.
    pub root: Nid,
    /// Inodes of the image, as it claims.
    pub inodes: u64,
    /// Bytes of the image.
    pub len: usize,
    /// Devices of the image.
    pub devices: u16,
}

impl Superblock {
    /// Reads and checks the superblock of the image that `bytes` begin with.
    pub fn parse(bytes: &dyn Bytes) -> Result<Self, ImageError> {
        let truncated = |needed| ImageError::Truncated { needed, len: bytes.total_len() as u64 };
        let block = bytes.get_bytes(0..BLOCK_LEN).and_then(<[u8]>::first_chunk::<BLOCK_LEN>);
        let block = block.ok_or(truncated(BLOCK_SIZE))?;
        let raw = &block[SUPERBLOCK_OFFSET..];

        let expected = [
            ("magic", u64::from(le_u32(raw, sb::MAGIC)), u64::from(MAGIC)),
            ("feature_compat", u64::from(le_u32(raw, sb::FEATURE_COMPAT)), u64::from(FEATURE_COMPAT)),
            ("blkszbits", u64::from(raw[sb::BLOCK_BITS]), u64::from(BLOCK_BITS)),
            ("sb_extslots", u64::from(raw[sb::EXT_SLOTS]), 0),
            ("build_time", le_u64(raw, sb::BUILD_TIME), MTIME),
            ("build_time_nsec", u64::from(le_u32(raw, sb::BUILD_TIME_NSEC)), 0),
            ("meta_blkaddr", u64::from(le_u32(raw, sb::META_BLOCK)), 0),
            ("xattr_blkaddr", u64::from(le_u32(raw, sb::XATTR_BLOCK)), 0),
            ("feature_incompat", u64::from(le_u32(raw, sb::FEATURE_INCOMPAT)), u64::from(FEATURE_INCOMPAT)),
            ("devt_slotoff", u64::from(le_u16(raw, sb::SLOT_OFFSET)), SLOT_OFFSET as u64),
            ("dirblkbits", u64::from(raw[sb::DIR_BLOCK_BITS]), 0),
        ];
        if let Some((field, value, _)) = expected.into_iter().find(|(_, value, wanted)| value != wanted) {
            return Err(ImageError::Superblock { field, value });
        }
        if raw[sb::VOLUME_NAME..][..VOLUME_NAME.len()] != *VOLUME_NAME {
            return Err(ImageError::Superblock { field: "volume_name", value: le_u64(raw, sb::VOLUME_NAME) });
        }

        let (stored, computed) = (le_u32(raw, sb::CHECKSUM), superblock_checksum(block));
        if stored != computed {
            return Err(ImageError::Checksum { stored, computed });
        }

        let devices = le_u16(raw, sb::EXTRA_DEVICES);
        if usize::from(devices) > MAX_DEVICES {
            return Err(ImageError::Superblock { field: "extra_devices", value: devices.into() });
        }
        let needed = u64::from(le_u32(raw, sb::BLOCKS)) * BLOCK_SIZE;
        let len =
            usize::try_from(needed).ok().filter(|len| *len <= bytes.total_len()).ok_or(truncated(needed))?;
        if (SLOT_OFFSET + usize::from(devices)) * SLOT_LEN > len {
            return Err(ImageError::Superblock { field: "blocks", value: needed / BLOCK_SIZE });
        }
        let root = Nid(le_u16(raw, sb::ROOT_NID).into());
        Ok(Self { root, inodes: le_u64(raw, sb::INODES), len, devices })
    }
}

/// An inode, checked as far as it can be by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// Its number.
    pub nid: Nid,
    /// What it is.
    pub kind: FileType,
    /// Permission bits.
    pub mode: u16,
    /// Bytes of a regular file, of a link's target, or of a directory's blocks.
    pub size: u64,
    /// Links to it: 1, or for a directory 2 and its subdirectories.
    pub nlink: u32,
    data: Data,
}

/// Where an inode's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Data {
    /// A regular file without bytes.
    None,
    /// In the image, in whole blocks from byte `blocks` on, and the rest at byte `tail`, if that is not
    /// just where the blocks end.
    Flat { blocks: u64, tail: Option<u64> },
    /// On device `device`, counted from 0, from block `block` on.
    Device { device: u16, block: u32 },
}

/// An image in memory, of which nothing but the superblock has been looked at.
///
/// Every method checks what it touches: whatever the bytes, it answers or fails in time that is bounded
/// by what it gives back.
#[derive(Clone, Copy)]
pub struct Image<'a> {
    bytes: &'a dyn Bytes,
    superblock: Superblock,
}

/// Shows what the image is of, not its bytes.
impl fmt::Debug for Image<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image").field("superblock", &self.superblock).finish_non_exhaustive()
    }
}

impl<'a> Image<'a> {
    /// The image that `bytes` begin with.
    pub fn open(bytes: &'a dyn Bytes) -> Result<Self, ImageError> {
        Superblock::parse(bytes).map(|superblock| Self { bytes, superblock })
    }

    /// The image whose superblock was read before from the same bytes.
    pub(crate) fn reopen(bytes: &'a dyn Bytes, superblock: Superblock) -> Self {
        Self { bytes, superblock }
    }

    /// What the superblock says.
    pub fn superblock(&self) -> Superblock {
        self.superblock
    }

    /// The tag of a device, which a seed gives the 64 hexadecimal digits of a layer's digest, and its blocks.
    pub fn device(&self, device: u16) -> Option<(&'a [u8; 64], u32)> {
        let at = (SLOT_OFFSET + usize::from(device)) * SLOT_LEN;
        let slot = self.slice(at as u64, SLOT_LEN as u64).filter(|_| device < self.superblock.devices)?;
        slot.first_chunk().map(|tag| (tag, le_u32(slot, 64)))
    }

    /// Reads an inode.
    pub fn inode(&self, nid: Nid) -> Result<Inode, ImageError> {
        let fail = |fault| ImageError::Inode { nid, fault };
        let offset = nid.0.checked_mul(INODE_SLOT).ok_or(fail("it lies outside of the image"))?;
        let compact = self.slice(offset, COMPACT_LEN).ok_or(fail("it lies outside of the image"))?;
        let format = le_u16(compact, ino::FORMAT);
        if format & !FORMAT_BITS != 0 {
            return Err(fail("its format has unknown bits"));
        }
        let layout = Layout::from_format(format).ok_or(fail("its data layout is not one of a seed"))?;
        if le_u16(compact, ino::XATTR_COUNT) != 0 {
            return Err(fail("it has extended attributes"));
        }
        let mode = le_u16(compact, ino::MODE);
        let kind =
            FileType::from_mode(mode).ok_or(fail("it is no directory, regular file or symbolic link"))?;

        let (raw, size, nlink, owned);
        if format & FORMAT_EXTENDED == 0 {
            raw = compact;
            size = le_u32(raw, ino::SIZE).into();
            nlink = le_u16(raw, ino::COMPACT_NLINK).into();
            owned = le_u32(raw, ino::COMPACT_OWNER) != 0;
        } else {
            raw = self.slice(offset, EXTENDED_LEN).ok_or(fail("it lies outside of the image"))?;
            size = le_u64(raw, ino::SIZE);
            nlink = le_u32(raw, ino::EXTENDED_NLINK);
            owned = le_u64(raw, ino::EXTENDED_OWNER) != 0;
            if le_u64(raw, ino::EXTENDED_MTIME) != MTIME || le_u32(raw, ino::EXTENDED_MTIME_NSEC) != 0 {
                return Err(fail("its time is not 1"));
            }
        }
        if owned {
            return Err(fail("its owner or group is not 0"));
        }

        let behind = offset + raw.len() as u64;
        let union = le_u32(raw, ino::UNION);
        let data = match kind {
            FileType::Regular if size == 0 => Ok(Data::None),
            FileType::Regular => self.extent_data(layout, size, union, behind),
            FileType::Symlink if size > MAX_TARGET_LEN as u64 => Err("its target is too long"),
            FileType::Directory | FileType::Symlink => self.flat_data(layout, size, union, behind),
        };
        Ok(Inode { nid, kind, mode: mode & 0o7777, size, nlink, data: data.map_err(fail)? })
    }

    /// What a symbolic link holds.
    pub fn symlink(&self, inode: &Inode) -> Result<&'a [u8], ImageError> {
        let fail = |fault| ImageError::Inode { nid: inode.nid, fault };
        if inode.kind != FileType::Symlink {
            return Err(fail("it is not a symbolic link"));
        }
        let target = self.flat_block(inode, 0).ok_or(fail("its target lies outside of the image"))?;
        crate::entry::check_target(target).map_err(|_| fail("its target is empty or has a NUL byte"))?;
        Ok(target)
    }

    /// The device of a regular file, counted from 0, and the byte at which it begins there; `None` for a
    /// file without bytes, and for what is not a file.
    pub fn extent(&self, inode: &Inode) -> Option<(u16, u64)> {
        match inode.data {
            Data::Device { device, block } => Some((device, u64::from(block) * BLOCK_SIZE)),
            Data::None | Data::Flat { .. } => None,
        }
    }

    /// Finds `name` in a directory, by binary search. `.` and `..` are not found: see [`Self::parent`].
    pub fn lookup(&self, directory: &Inode, name: &[u8]) -> Result<Option<(Nid, FileType)>, ImageError> {
        dir::lookup(self, directory, name)
    }

    /// The directory that a directory says it lies in; the root lies in itself.
    pub fn parent(&self, directory: &Inode) -> Result<Nid, ImageError> {
        dir::parent(self, directory)
    }

    /// Lists a directory in the order of its names, without `.` and `..`, from `cursor` on: 0, or what
    /// [`DirEntry::next`](super::DirEntry::next) says.
    ///
    /// Names must ascend, and so must their inodes, which must lie behind the directory's own. So no
    /// directory is below itself, and nothing is listed twice in one directory.
    pub fn read_dir(&self, directory: &Inode, cursor: u64) -> super::ReadDir<'a> {
        super::ReadDir::new(*self, directory, cursor)
    }

    fn slice(&self, offset: u64, len: u64) -> Option<&'a [u8]> {
        let start = usize::try_from(offset).ok()?;
        let end = usize::try_from(offset.checked_add(len)?).ok()?;
        if end > self.superblock.len { None } else { self.bytes.get_bytes(start..end) }
    }

    fn extent_data(&self, layout: Layout, size: u64, format: u32, behind: u64) -> Result<Data, &'static str> {
        if layout != Layout::Chunk {
            return Err("its bytes are not on a device");
        }
        let format = u16::try_from(format).map_err(|_| "its chunk format has unknown bits")?;
        if format & !CHUNK_FORMAT_BITS != CHUNK_FORMAT_INDEXES {
            return Err("its chunk format has unknown bits, or lacks chunk indexes");
        }
        if size > BLOCK_SIZE << (format & CHUNK_FORMAT_BITS) {
            return Err("it has more than one chunk");
        }
        let index = behind.next_multiple_of(CHUNK_INDEX_LEN);
        let index = self.slice(index, CHUNK_INDEX_LEN).ok_or("its chunk index lies outside of the image")?;
        let (advice, device, block) = (le_u16(index, 0), le_u16(index, 2), le_u32(index, 4));
        if advice != 0 || block == u32::MAX {
            return Err("its chunk index has unknown bits, or is a hole");
        }
        match device.checked_sub(1).filter(|device| *device < self.superblock.devices) {
            Some(device) => Ok(Data::Device { device, block }),
            None => Err("its device is not in the device table"),
        }
    }

    fn flat_data(&self, layout: Layout, size: u64, block: u32, behind: u64) -> Result<Data, &'static str> {
        if size == 0 {
            return Err("it is empty");
        }
        let blocks = u64::from(block) * BLOCK_SIZE;
        let tail_len = size % BLOCK_SIZE;
        let (in_blocks, tail) = match layout {
            Layout::Plain => (size, None),
            Layout::Inline if tail_len == 0 => {
                return Err("it has full blocks only, but is said to end inline");
            }
            Layout::Inline => (size - tail_len, Some(behind)),
            Layout::Chunk => return Err("its bytes are on a device"),
        };
        if in_blocks > 0 {
            self.slice(blocks, in_blocks).ok_or("its blocks lie outside of the image")?;
        }
        if let Some(tail) = tail {
            self.slice(tail, tail_len).ok_or("its inline data lies outside of the image")?;
            if tail % BLOCK_SIZE + tail_len > BLOCK_SIZE {
                return Err("its inline data crosses a block boundary");
            }
        }
        Ok(Data::Flat { blocks, tail })
    }

    /// Block `n` of what is flat; the last one may be short.
    pub(super) fn flat_block(&self, inode: &Inode, n: u64) -> Option<&'a [u8]> {
        let Data::Flat { blocks, tail } = inode.data else { return None };
        let start = n.checked_mul(BLOCK_SIZE)?;
        let len = inode.size.checked_sub(start)?.min(BLOCK_SIZE);
        match tail {
            Some(tail) if len < BLOCK_SIZE => self.slice(tail, len),
            _ => self.slice(blocks.checked_add(start)?, len),
        }
    }
}
