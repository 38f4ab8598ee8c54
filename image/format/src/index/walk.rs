//! Walking the whole tree of an index.

use super::{FileTree, IndexError};
use crate::bytes::Bytes;
use crate::erofs::{FileType, ImageError, Inode, ReadDir};

/// Fewest bytes that an entry takes in a directory.
const MIN_ENTRY_LEN: usize = 13;

impl<B: Bytes> FileTree<B> {
    /// Visits everything in the image, each directory before what is in it, in the order of the names.
    /// `visit` is given the path, without a leading slash, and the inode; the root comes first, as "".
    ///
    /// A directory must name the one that it is found in as its parent, so each is visited once. However
    /// malformed the image is, there are no more visits than an image of its length has room for entries.
    /// Allocates one path, and a few bytes for each level of the tree.
    pub fn walk<E: From<IndexError>>(
        &self,
        mut visit: impl FnMut(&[u8], &Inode) -> Result<(), E>,
    ) -> Result<(), E> {
        let image = self.image();
        let fail = |error: ImageError| E::from(IndexError::from(error));
        let root = image.inode(self.root()).map_err(fail)?;
        if image.parent(&root).map_err(fail)? != root.nid {
            return Err(fail(ImageError::Inode { nid: root.nid, fault: "it is not its own parent" }));
        }
        visit(b"", &root)?;

        let mut room = self.superblock.len / MIN_ENTRY_LEN;
        let mut path = Vec::new();
        let mut open: Vec<(Inode, usize, ReadDir<'_>)> = vec![(root, 0, image.read_dir(&root, 0))];
        while let Some((directory, path_len, listing)) = open.last_mut() {
            path.truncate(*path_len);
            let Some(entry) = listing.next() else {
                open.pop();
                continue;
            };
            let (entry, directory) = (entry.map_err(fail)?, *directory);
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(entry.name);

            let malformed = |fault| fail(ImageError::Inode { nid: entry.nid, fault });
            room = room
                .checked_sub(1)
                .ok_or_else(|| malformed("there are more entries than the image has room for"))?;
            let inode = image.inode(entry.nid).map_err(fail)?;
            if inode.kind != entry.file_type {
                return Err(malformed("its directory says that it is something else"));
            }
            if inode.kind == FileType::Directory && image.parent(&inode).map_err(fail)? != directory.nid {
                return Err(malformed("it lies in a directory that is not its parent"));
            }
            visit(&path, &inode)?;
            if inode.kind == FileType::Directory {
                open.push((inode, path.len(), image.read_dir(&inode, 0)));
            }
        }
        Ok(())
    }
}
