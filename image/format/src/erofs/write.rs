//! From a tree of nodes to the bytes of an image.

use sha2::{Digest as _, Sha256};

use super::{
    BLOCK_BITS, BLOCK_LEN, BLOCK_SIZE, CHUNK_FORMAT_INDEXES, CHUNK_INDEX_LEN, COMPACT_LEN, DIRENT_LEN,
    EXTENDED_LEN, FEATURE_COMPAT, FEATURE_INCOMPAT, FORMAT_EXTENDED, FORMAT_LAYOUT_SHIFT, FileType,
    INODE_SLOT, Layout, MAGIC, MAX_DEVICES, MTIME, Nid, SLOT_LEN, SLOT_OFFSET, SUPERBLOCK_OFFSET,
    VOLUME_NAME, ino, sb, superblock_checksum,
};
use crate::Digest;
use crate::entry::{MAX_FILE_SIZE, MAX_TARGET_LEN};

/// Index of a [`Node`] in its [`Tree`].
pub type NodeId = u32;

/// One file-system object of a [`Tree`].
#[derive(Debug, Clone)]
pub struct Node<'a> {
    /// Permission bits.
    pub mode: u16,
    /// What it is.
    pub kind: NodeKind<'a>,
}

/// What a [`Node`] is.
#[derive(Debug, Clone)]
pub enum NodeKind<'a> {
    /// A directory.
    Directory {
        /// Names and nodes, in ascending order of the names, which are valid and differ.
        children: Vec<(&'a [u8], NodeId)>,
    },
    /// A regular file.
    Regular {
        /// Bytes of the file.
        size: u64,
        /// Device that holds the bytes, counted from 0.
        device: u16,
        /// First block of the bytes on that device.
        block: u32,
    },
    /// A symbolic link.
    Symlink {
        /// What it holds.
        target: &'a [u8],
    },
}

impl NodeKind<'_> {
    fn file_type(&self) -> FileType {
        match self {
            Self::Directory { .. } => FileType::Directory,
            Self::Regular { .. } => FileType::Regular,
            Self::Symlink { .. } => FileType::Symlink,
        }
    }
}

/// Nodes, of which the first is the root directory. Every other node is the child of exactly one directory.
#[derive(Debug, Clone)]
pub struct Tree<'a> {
    /// The nodes.
    pub nodes: Vec<Node<'a>>,
    /// The devices that regular files lie on: a digest to know each by, and its size in blocks.
    pub devices: Vec<(Digest, u32)>,
}

/// An image, and where its inodes are.
#[derive(Debug, Clone)]
pub struct Written {
    /// The image, a multiple of [`BLOCK_SIZE`] long.
    pub bytes: Vec<u8>,
    /// The inode of each node.
    pub nids: Vec<Nid>,
}

/// Why a tree cannot be an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// There are too many devices.
    #[error("there are {0} devices, more than {MAX_DEVICES}")]
    Devices(usize),
    /// The image would have more blocks than a block address can count.
    #[error("the image would have {0} blocks, more than a block address of 32 bits can count")]
    Blocks(u64),
    /// A file is larger than one chunk can be.
    #[error("a file has {0} bytes, more than {MAX_FILE_SIZE}")]
    FileSize(u64),
    /// A link's target is longer than a path can be.
    #[error("a symbolic link has a target of {0} bytes, more than {MAX_TARGET_LEN}")]
    Target(usize),
}

/// Writes `tree` as an image. Equal trees give equal bytes.
pub fn write(tree: &Tree<'_>) -> Result<Written, WriteError> {
    if tree.devices.len() > MAX_DEVICES {
        return Err(WriteError::Devices(tree.devices.len()));
    }
    let plan = Plan::of(tree)?;
    let blocks = plan.inode_blocks + plan.data_blocks;
    let block_count = u32::try_from(blocks).map_err(|_| WriteError::Blocks(blocks))?;
    let len = usize::try_from(blocks * BLOCK_SIZE).map_err(|_| WriteError::Blocks(blocks))?;

    let mut image = Bytes(vec![0; len]);
    for (serial, id) in plan.order.iter().enumerate() {
        put_node(&mut image, tree, &plan, *id, serial + 1);
    }
    put_superblock(&mut image, tree, &plan, block_count);
    let nids = plan.places.iter().map(Place::nid).collect();
    Ok(Written { bytes: image.0, nids })
}

/// Where a node's inode and blocks go.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Byte offset of the inode.
    offset: u64,
    extended: bool,
    layout: Layout,
    /// Bytes of a directory or link; those of a regular file.
    size: u64,
    /// The first block of the data of a flat inode, counted from the first data block.
    data_block: u64,
    nlink: u32,
    parent: NodeId,
}

impl Place {
    fn nid(&self) -> Nid {
        Nid(self.offset / INODE_SLOT)
    }

    fn inode_len(&self) -> u64 {
        if self.extended { EXTENDED_LEN } else { COMPACT_LEN }
    }
}

/// The layout of the whole image: all inodes, then all data blocks.
struct Plan {
    places: Vec<Place>,
    /// Nodes in the order of their inodes.
    order: Vec<NodeId>,
    inode_blocks: u64,
    data_blocks: u64,
}

impl Plan {
    /// The root comes first, so that its nid is small. Then, for one directory after the other, all its
    /// children in name order: what `find` and `ls -l` read together lies together.
    fn of(tree: &Tree<'_>) -> Result<Self, WriteError> {
        let unplaced = Place {
            offset: 0,
            extended: false,
            layout: Layout::Plain,
            size: 0,
            data_block: 0,
            nlink: 1,
            parent: 0,
        };
        let mut plan = Self {
            places: vec![unplaced; tree.nodes.len()],
            order: Vec::with_capacity(tree.nodes.len()),
            inode_blocks: 0,
            data_blocks: 0,
        };
        let table_end = (SLOT_OFFSET + tree.devices.len()) * SLOT_LEN;
        let mut end = u64::try_from(table_end).expect("the table of at most 1024 devices is small");
        plan.place(tree, 0, 0, &mut end)?;
        let mut directories = vec![0];
        while let Some(directory) = directories.pop() {
            let NodeKind::Directory { children } = &tree.nodes[directory as usize].kind else { continue };
            for (_, child) in children {
                plan.place(tree, *child, directory, &mut end)?;
            }
            directories.extend(children.iter().rev().map(|(_, child)| *child));
        }
        plan.inode_blocks = end.div_ceil(BLOCK_SIZE);
        Ok(plan)
    }

    fn place(
        &mut self,
        tree: &Tree<'_>,
        id: NodeId,
        parent: NodeId,
        end: &mut u64,
    ) -> Result<(), WriteError> {
        let mut nlink = 1;
        let size = match &tree.nodes[id as usize].kind {
            NodeKind::Directory { children } => {
                let is_directory = |child: &&(&[u8], NodeId)| {
                    matches!(tree.nodes[child.1 as usize].kind, NodeKind::Directory { .. })
                };
                let subdirectories = children.iter().filter(is_directory).count();
                nlink = u32::try_from(subdirectories).map_or(u32::MAX, |count| count.saturating_add(2));
                directory_size(children)
            }
            NodeKind::Regular { size, .. } if *size > MAX_FILE_SIZE => {
                return Err(WriteError::FileSize(*size));
            }
            NodeKind::Regular { size, .. } => *size,
            NodeKind::Symlink { target } if target.len() > MAX_TARGET_LEN => {
                return Err(WriteError::Target(target.len()));
            }
            NodeKind::Symlink { target } => target.len() as u64,
        };
        let extended = u32::try_from(size).is_err() || u16::try_from(nlink).is_err();
        let mut place =
            Place { offset: 0, extended, layout: Layout::Plain, size, data_block: 0, nlink, parent };

        let mut behind_inode = 0;
        if let NodeKind::Regular { .. } = tree.nodes[id as usize].kind {
            if size > 0 {
                place.layout = Layout::Chunk;
                behind_inode = CHUNK_INDEX_LEN;
            }
        } else {
            let tail = size % BLOCK_SIZE;
            if tail > 0 && place.inode_len() + tail <= BLOCK_SIZE {
                place.layout = Layout::Inline;
                behind_inode = tail;
            }
            place.data_block = self.data_blocks;
            self.data_blocks += (size - behind_inode).div_ceil(BLOCK_SIZE);
        }

        // Neither an inode nor what follows it may lie across two blocks: the kernel refuses inline data
        // that does, and reads the rest with one block less.
        let len = place.inode_len() + behind_inode;
        let mut offset = end.next_multiple_of(INODE_SLOT);
        if offset % BLOCK_SIZE + len > BLOCK_SIZE {
            offset = offset.next_multiple_of(BLOCK_SIZE);
        }
        *end = offset + len;
        place.offset = offset;
        self.places[id as usize] = place;
        self.order.push(id);
        Ok(())
    }
}

/// Names of a directory in the order of its entries: `.` and `..` have their place among the others.
fn names<'a>(
    children: &'a [(&'a [u8], NodeId)],
    this: NodeId,
    parent: NodeId,
) -> impl Iterator<Item = (&'a [u8], NodeId)> {
    let dots = [(&b"."[..], this), (&b".."[..], parent)];
    let before = children.partition_point(|(name, _)| *name < &b"."[..]);
    // A name such as ".-" sorts between the two.
    let between = children.partition_point(|(name, _)| *name < &b".."[..]);
    let (first, rest) = children.split_at(before);
    let (second, third) = rest.split_at(between - before);
    first
        .iter()
        .copied()
        .chain([dots[0]])
        .chain(second.iter().copied())
        .chain([dots[1]])
        .chain(third.iter().copied())
}

/// Bytes of a directory: full blocks, of which each holds as many entries as fit, and a partial one.
fn directory_size(children: &[(&[u8], NodeId)]) -> u64 {
    let mut full_blocks = 0;
    let mut used = 0;
    for (name, _) in names(children, 0, 0) {
        let len = DIRENT_LEN as u64 + name.len() as u64;
        if used + len > BLOCK_SIZE {
            full_blocks += 1;
            used = 0;
        }
        used += len;
    }
    full_blocks * BLOCK_SIZE + used
}

/// The image, with writes of little-endian numbers.
struct Bytes(Vec<u8>);

impl Bytes {
    fn put(&mut self, at: u64, bytes: &[u8]) {
        let at = usize::try_from(at).expect("an offset in the image, which is in memory");
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Writes a field of the inode or superblock at `at`.
    fn field(&mut self, at: u64, field: usize, bytes: &[u8]) {
        self.put(at + field as u64, bytes);
    }
}

fn put_node(image: &mut Bytes, tree: &Tree<'_>, plan: &Plan, id: NodeId, serial: usize) {
    let node = &tree.nodes[id as usize];
    let place = &plan.places[id as usize];
    put_inode(image, node, place, plan.inode_blocks, serial);

    let tail_at = place.offset + place.inode_len();
    let data_at = (plan.inode_blocks + place.data_block) * BLOCK_SIZE;
    match &node.kind {
        NodeKind::Directory { children } => put_directory(image, tree, plan, id, children, data_at, tail_at),
        NodeKind::Symlink { target } => {
            image.put(if place.layout == Layout::Inline { tail_at } else { data_at }, target);
        }
        NodeKind::Regular { size: 0, .. } => {}
        NodeKind::Regular { device, block, .. } => {
            image.put(tail_at + 2, &(device + 1).to_le_bytes());
            image.put(tail_at + 4, &block.to_le_bytes());
        }
    }
}

fn put_inode(image: &mut Bytes, node: &Node<'_>, place: &Place, first_data_block: u64, serial: usize) {
    let at = place.offset;
    let format =
        (place.layout as u16) << FORMAT_LAYOUT_SHIFT | if place.extended { FORMAT_EXTENDED } else { 0 };
    let mode = node.kind.file_type().mode_bits() | node.mode;
    let union = match place.layout {
        Layout::Chunk => u32::from(CHUNK_FORMAT_INDEXES | chunk_bits(place.size)),
        // An inode without full blocks has no block address.
        _ if place.size == 0 || (place.layout == Layout::Inline && place.size < BLOCK_SIZE) => 0,
        _ => u32::try_from(first_data_block + place.data_block).expect("the image's blocks were counted"),
    };
    image.field(at, ino::FORMAT, &format.to_le_bytes());
    image.field(at, ino::MODE, &mode.to_le_bytes());
    image.field(at, ino::UNION, &union.to_le_bytes());
    let serial = u32::try_from(serial).expect("nodes are counted in 32 bits");
    image.field(at, ino::SERIAL, &serial.to_le_bytes());
    if place.extended {
        image.field(at, ino::SIZE, &place.size.to_le_bytes());
        image.field(at, ino::EXTENDED_MTIME, &MTIME.to_le_bytes());
        image.field(at, ino::EXTENDED_NLINK, &place.nlink.to_le_bytes());
    } else {
        let size = u32::try_from(place.size).expect("a larger size makes the inode an extended one");
        let nlink = u16::try_from(place.nlink).expect("a larger count makes the inode an extended one");
        image.field(at, ino::SIZE, &size.to_le_bytes());
        image.field(at, ino::COMPACT_NLINK, &nlink.to_le_bytes());
    }
}

/// Binary logarithm of the smallest chunk, in blocks, that holds `size` bytes.
fn chunk_bits(size: u64) -> u16 {
    let bits = size.div_ceil(BLOCK_SIZE).next_power_of_two().trailing_zeros();
    u16::try_from(bits).expect("a logarithm of a number of 64 bits")
}

fn put_directory(
    image: &mut Bytes,
    tree: &Tree<'_>,
    plan: &Plan,
    id: NodeId,
    children: &[(&[u8], NodeId)],
    data_at: u64,
    tail_at: u64,
) {
    let place = &plan.places[id as usize];
    let full_blocks = place.size / BLOCK_SIZE;
    let block_at = |block: u64| match place.layout {
        Layout::Inline if block == full_blocks => tail_at,
        _ => data_at + block * BLOCK_SIZE,
    };
    let all: Vec<_> = names(children, id, place.parent).collect();
    let mut rest = all.as_slice();
    let mut block = 0;
    while !rest.is_empty() {
        let mut used = 0;
        let fits = |(name, _): &&(&[u8], NodeId)| {
            used += (DIRENT_LEN + name.len()) as u64;
            used <= BLOCK_SIZE
        };
        let count = rest.iter().take_while(fits).count();
        let (entries, more) = rest.split_at(count);
        put_directory_block(image, tree, plan, entries, block_at(block));
        rest = more;
        block += 1;
    }
}

/// Entries of 12 bytes, and behind them their names, without separators.
fn put_directory_block(
    image: &mut Bytes,
    tree: &Tree<'_>,
    plan: &Plan,
    entries: &[(&[u8], NodeId)],
    at: u64,
) {
    let mut name_offset = entries.len() * DIRENT_LEN;
    let mut dirent_at = at;
    for (name, child) in entries {
        let nid = plan.places[*child as usize].nid();
        let offset = u16::try_from(name_offset).expect("an offset in a block of 4096 bytes");
        let kind = tree.nodes[*child as usize].kind.file_type();
        image.put(dirent_at, &nid.0.to_le_bytes());
        image.put(dirent_at + 8, &offset.to_le_bytes());
        image.put(dirent_at + 10, &[kind.dirent_type(), 0]);
        image.put(at + name_offset as u64, name);
        dirent_at += DIRENT_LEN as u64;
        name_offset += name.len();
    }
}

fn put_superblock(image: &mut Bytes, tree: &Tree<'_>, plan: &Plan, blocks: u32) {
    for (n, (digest, blocks)) in tree.devices.iter().enumerate() {
        let at = ((SLOT_OFFSET + n) * SLOT_LEN) as u64;
        image.put(at, digest.hex().as_bytes());
        image.put(at + 64, &blocks.to_le_bytes());
    }

    let at = SUPERBLOCK_OFFSET as u64;
    let root = u16::try_from(plan.places[0].nid().0).expect("the root is the first inode");
    let devices = u16::try_from(tree.devices.len()).expect("at most 1024 devices");
    let slot_offset = u16::try_from(SLOT_OFFSET).expect("the table follows the superblock");
    image.field(at, sb::MAGIC, &MAGIC.to_le_bytes());
    image.field(at, sb::FEATURE_COMPAT, &FEATURE_COMPAT.to_le_bytes());
    image.field(at, sb::BLOCK_BITS, &[BLOCK_BITS]);
    image.field(at, sb::ROOT_NID, &root.to_le_bytes());
    image.field(at, sb::INODES, &(tree.nodes.len() as u64).to_le_bytes());
    image.field(at, sb::BUILD_TIME, &MTIME.to_le_bytes());
    image.field(at, sb::BLOCKS, &blocks.to_le_bytes());
    image.field(at, sb::VOLUME_NAME, VOLUME_NAME);
    image.field(at, sb::FEATURE_INCOMPAT, &FEATURE_INCOMPAT.to_le_bytes());
    image.field(at, sb::EXTRA_DEVICES, &devices.to_le_bytes());
    image.field(at, sb::SLOT_OFFSET, &slot_offset.to_le_bytes());

    let uuid = uuid(&image.0);
    image.field(at, sb::UUID, &uuid);
    let checksum = superblock_checksum(&image.0[..BLOCK_LEN]);
    image.field(at, sb::CHECKSUM, &checksum.to_le_bytes());
}

/// A UUID of version 8 (RFC 9562) made of the digest of the image that does not have it yet.
fn uuid(image: &[u8]) -> [u8; 16] {
    let digest: [u8; 32] = Sha256::digest(image).into();
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&digest[..16]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}
