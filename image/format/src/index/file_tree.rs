//! The tree of files: the part of an index that answers everything but what a file holds.

use std::fmt;

use super::{IndexError, MAX_INDEX_LEN};
use crate::Digest;
use crate::bytes::Bytes;
use crate::erofs::{BLOCK_SIZE, FileType, Image, ImageError, Inode, Nid, ReadDir, Superblock};

/// The tree of files of an index, opened over the bytes of the whole index.
///
/// Opening it looks at the superblock only, and everything else is checked where it is touched: an index
/// can be walked while most of it is still on its way.
#[derive(Clone)]
pub struct FileTree<B> {
    pub(super) bytes: B,
    pub(super) superblock: Superblock,
}

/// Shows what the tree is of, not its bytes.
impl<B> fmt::Debug for FileTree<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileTree").field("superblock", &self.superblock).finish_non_exhaustive()
    }
}

impl<B: Bytes> FileTree<B> {
    /// Opens the tree of the index in `bytes`.
    pub fn open(bytes: B) -> Result<Self, IndexError> {
        let len = bytes.total_len() as u64;
        if len > MAX_INDEX_LEN {
            return Err(IndexError::TooLong(len));
        }
        let superblock = Superblock::parse(&bytes)?;
        Ok(Self { bytes, superblock })
    }

    /// The layers as the image's device table has them, in the order of the manifest: digest, and bytes of
    /// the virtual blob.
    pub fn devices(&self) -> impl Iterator<Item = Result<(Digest, u64), IndexError>> + '_ {
        (0..self.superblock.devices).map(|number| {
            let device = self.image().device(number);
            let named = device.and_then(|(tag, blocks)| {
                let digest = format!("sha256:{}", std::str::from_utf8(tag).ok()?).parse().ok()?;
                Some((digest, u64::from(blocks) * BLOCK_SIZE))
            });
            named.ok_or(IndexError::Image(ImageError::Device { number }))
        })
    }

    /// The bytes of the whole index.
    pub fn bytes(&self) -> &B {
        &self.bytes
    }

    /// The EROFS image that the file begins with.
    pub fn image(&self) -> Image<'_> {
        Image::reopen(&self.bytes, self.superblock)
    }

    /// The root directory of the image; the store is `nix/store` below it.
    pub fn root(&self) -> Nid {
        self.superblock.root
    }

    /// Number of inodes, as the image claims.
    pub fn inode_count(&self) -> u64 {
        self.superblock.inodes
    }

    /// Reads an inode. Any number may be asked for.
    pub fn inode(&self, nid: Nid) -> Result<Inode, IndexError> {
        Ok(self.image().inode(nid)?)
    }

    /// Finds `name` in a directory; `.` and `..` are not found.
    pub fn lookup(&self, directory: &Inode, name: &[u8]) -> Result<Option<(Nid, FileType)>, IndexError> {
        Ok(self.image().lookup(directory, name)?)
    }

    /// The directory that a directory lies in; the root lies in itself.
    pub fn parent(&self, directory: &Inode) -> Result<Nid, IndexError> {
        Ok(self.image().parent(directory)?)
    }

    /// Lists a directory in the order of its names, without `.` and `..`, from `cursor` on: 0, or
    /// [`DirEntry::next`](super::DirEntry::next) of an entry listed before.
    pub fn read_dir(&self, directory: &Inode, cursor: u64) -> ReadDir<'_> {
        self.image().read_dir(directory, cursor)
    }

    /// What a symbolic link holds.
    pub fn symlink(&self, inode: &Inode) -> Result<&[u8], IndexError> {
        Ok(self.image().symlink(inode)?)
    }

    /// Finds what `path` names, from the root, without following links; the empty path is the root.
    pub fn resolve(&self, path: &[u8]) -> Result<Option<Inode>, IndexError> {
        let mut inode = self.inode(self.root())?;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            if inode.kind != FileType::Directory {
                return Ok(None);
            }
            match self.lookup(&inode, name)? {
                Some((nid, _)) => inode = self.inode(nid)?,
                None => return Ok(None),
            }
        }
        Ok(Some(inode))
    }
}
