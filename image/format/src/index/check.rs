//! The checks that opening an index leaves out, because they need a walk of the whole tree.

use super::STORE;
use super::open::{Index, IndexError};
use crate::bytes::Bytes;
use crate::erofs::{FileType, Inode, Nid};

/// What an index holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Directories, the root included.
    pub directories: u64,
    /// Regular files.
    pub files: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Bytes of all regular files.
    pub bytes: u64,
}

/// What is wrong with an index that could be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// A part of it is malformed.
    #[error("a part of the index is malformed")]
    Index(#[from] IndexError),
    /// Something in the tree contradicts the rest of the index.
    #[error("\"{}\" contradicts the rest of the index: {fault}", path.escape_ascii())]
    Entry {
        /// Its path.
        path: Vec<u8>,
        /// How it does.
        fault: &'static str,
    },
    /// The path table says of a store path what the tree does not.
    #[error("the record of store path {base_name} contradicts the file tree: {fault}")]
    Path {
        /// The path's base name.
        base_name: String,
        /// How it does.
        fault: &'static str,
    },
    /// The tree has more or less of something than the tables say.
    #[error("the file tree has {found} {what}; the index says {expected}")]
    Count {
        /// What was counted.
        what: &'static str,
        /// How much the tree has.
        found: u64,
        /// How much the index says.
        expected: u64,
    },
}

impl<B: Bytes> Index<B> {
    /// Walks the whole tree and checks that it agrees with itself and with the tables: inodes and link
    /// counts; that every file of the chunk table is one file of the tree; that each store path's record
    /// gives its inode and its chunks.
    ///
    /// Takes time linear in the length of the index, and memory of one bit for each chunk and for each
    /// place of an inode.
    pub fn check(&self) -> Result<Summary, CheckError> {
        let mut summary = Summary::default();
        let mut seen_inodes = Bits::new(self.tree.superblock.len / 32);
        let mut seen_chunks = Bits::new(self.chunk_count() as usize);
        self.walk(|path, inode| {
            let entry = |fault| CheckError::Entry { path: path.to_vec(), fault };
            if !usize::try_from(inode.nid.0).is_ok_and(|nid| seen_inodes.insert(nid)) {
                return Err(entry("its inode has another name too"));
            }
            match inode.kind {
                FileType::Directory => summary.directories += 1,
                FileType::Regular => summary.files += 1,
                FileType::Symlink => {
                    self.symlink(inode)?;
                    summary.symlinks += 1;
                }
            }
            if self.expected_links(inode)? != inode.nlink {
                return Err(entry("its link count is wrong"));
            }
            if let Some(extent) = self.extent(inode)? {
                summary.bytes += extent.len;
                if !seen_chunks.insert(extent.chunks.start as usize) {
                    return Err(entry("another file has the same bytes"));
                }
                let owner = self.path_of_chunk(extent.chunks.start);
                if owner != self.path_containing(path) {
                    return Err(entry("its chunks are counted to another store path"));
                }
            }
            Ok(())
        })?;

        let count = |what, found, expected| {
            if found == expected { Ok(()) } else { Err(CheckError::Count { what, found, expected }) }
        };
        let inodes = summary.directories + summary.files + summary.symlinks;
        count("inodes", inodes, self.inode_count())?;
        count("files with bytes", seen_chunks.len, self.file_count())?;
        self.check_path_roots()?;
        Ok(summary)
    }

    fn expected_links(&self, inode: &Inode) -> Result<u32, IndexError> {
        if inode.kind != FileType::Directory {
            return Ok(1);
        }
        let mut links = 2u32;
        for entry in self.read_dir(inode, 0) {
            links += u32::from(entry?.file_type == FileType::Directory);
        }
        Ok(links)
    }

    fn path_containing(&self, path: &[u8]) -> Option<usize> {
        let below = path.strip_prefix(STORE)?.strip_prefix(b"/")?;
        let base = below.split(|byte| *byte == b'/').next()?;
        self.find_path(std::str::from_utf8(base).ok()?)
    }

    /// Files in the chunk table.
    fn file_count(&self) -> u64 {
        let last_files = self.layers().iter().filter_map(|layer| self.chunk(layer.chunks.clone().last()?));
        last_files.map(|chunk| u64::from(chunk.file) + 1).sum()
    }

    fn check_path_roots(&self) -> Result<(), CheckError> {
        let store = self.resolve(STORE)?;
        for record in self.paths() {
            let found: Option<Nid> = match &store {
                Some(store) => self.lookup(store, record.base_name.as_bytes())?.map(|(nid, _)| nid),
                None => None,
            };
            let fail = |fault| Err(CheckError::Path { base_name: record.base_name.to_owned(), fault });
            match found {
                None => return fail("it is not in the store"),
                Some(nid) if nid != record.root => return fail("its inode is another"),
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// A set of small numbers.
struct Bits {
    words: Vec<u64>,
    len: u64,
}

impl Bits {
    fn new(limit: usize) -> Self {
        Self { words: vec![0; limit.div_ceil(64)], len: 0 }
    }

    /// Adds `n`; `false` if it is there already, or is over the limit.
    fn insert(&mut self, n: usize) -> bool {
        let (word, bit) = (n / 64, 1 << (n % 64));
        match self.words.get_mut(word) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                self.len += 1;
                true
            }
            _ => false,
        }
    }
}
