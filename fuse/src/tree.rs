//! The file system of a seed, without a kernel: names, attributes, links, listings and bytes.
//!
//! Everything but bytes comes from the index, which is in memory: no other call waits for anything, once all
//! of the index is there.

use std::ops::Range;
use std::sync::Arc;

use seed_format::entry::MAX_NAME_LEN;
use seed_format::index::{FileType, IndexError, Inode, Nid};

use crate::fetch::{ChunkId, FetchError, Fetcher};
use crate::index::{IndexFault, SeedIndex, WholeIndex};
use crate::store::{Chunk, Verified};

pub use crate::data::Data;

/// Number of an inode, as the kernel and users see it. The root of the tree is 1, whatever it is in the
/// image; every other number is that of the index and 2, and so the same in every mount of the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ino(pub u64);

/// The root of every tree.
pub const ROOT: Ino = Ino(1);

/// What `stat` tells. Owner and group are 0 and all times are 1, in every seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// The inode's number.
    pub ino: Ino,
    /// What it is.
    pub kind: FileType,
    /// Permission bits.
    pub mode: u16,
    /// Bytes of a file or of a link's target; for a directory, those of its blocks in the index.
    pub size: u64,
    /// Hard links.
    pub nlink: u32,
}

/// One entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedEntry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// What it names.
    pub ino: Ino,
    /// What that is.
    pub kind: FileType,
    /// Where the listing goes on behind this entry.
    pub next: u64,
}

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TreeError {
    /// It is not a directory.
    #[error("inode {} is not a directory", .0.0)]
    NotDirectory(Ino),
    /// No name has so many bytes.
    #[error("a name of {0} bytes is longer than {MAX_NAME_LEN}")]
    NameTooLong(usize),
    /// It is not a symbolic link.
    #[error("inode {} is not a symbolic link", .0.0)]
    NotSymlink(Ino),
    /// It is not a regular file.
    #[error("inode {} is not a regular file", .0.0)]
    NotFile(Ino),
    /// The subtree is not in the image, or not a directory.
    #[error("the image has no directory {0:?}")]
    NoSubtree(String),
    /// The index is malformed there, or cannot be had.
    #[error("the index cannot be used")]
    Index(#[from] IndexFault),
    /// The bytes could not be had.
    #[error("the bytes could not be read")]
    Fetch(#[from] FetchError),
}

/// Is called once with the bytes of a read, from any thread.
pub type ReadDone = Box<dyn FnOnce(Result<Data, TreeError>) + Send>;

/// A directory of a seed as a file system of its own.
#[derive(Debug, Clone)]
pub struct Tree {
    index: Arc<SeedIndex>,
    fetcher: Arc<Fetcher>,
    root: Nid,
}

/// The chunks of a read, and which of their bytes it wants.
struct Wanted {
    chunks: Range<ChunkId>,
    /// In the layer's virtual blob.
    bytes: Range<u64>,
}

impl Tree {
    /// The tree below `subtree`, a path from the image's root without a leading slash; empty for all of it.
    pub fn new(index: Arc<SeedIndex>, fetcher: Arc<Fetcher>, subtree: &[u8]) -> Result<Self, TreeError> {
        let found = index.tree().resolve(subtree).map_err(|error| index.fault(error))?;
        let root = found.filter(|inode| inode.kind == FileType::Directory);
        let root =
            root.ok_or_else(|| TreeError::NoSubtree(String::from_utf8_lossy(subtree).into_owned()))?.nid;
        Ok(Self { index, fetcher, root })
    }

    /// The seed's index.
    pub fn index(&self) -> &SeedIndex {
        &self.index
    }

    /// What `stat` tells of an inode.
    pub fn attr(&self, ino: Ino) -> Result<Attr, TreeError> {
        Ok(self.attr_of(&self.inode(ino)?))
    }

    /// Finds a name in a directory; `None` if it is not there.
    pub fn lookup(&self, directory: Ino, name: &[u8]) -> Result<Option<Attr>, TreeError> {
        if name.len() > MAX_NAME_LEN {
            return Err(TreeError::NameTooLong(name.len()));
        }
        let directory = self.directory(directory)?;
        let tree = self.index.tree();
        let found = tree.lookup(&directory, name).and_then(|found| match found {
            Some((nid, _)) => tree.inode(nid).map(Some),
            None => Ok(None),
        });
        Ok(self.usable(found)?.map(|inode| self.attr_of(&inode)))
    }

    /// What a symbolic link holds.
    pub fn read_link(&self, ino: Ino) -> Result<&[u8], TreeError> {
        let inode = self.inode(ino)?;
        if inode.kind != FileType::Symlink {
            return Err(TreeError::NotSymlink(ino));
        }
        self.usable(self.index.tree().symlink(&inode))
    }

    /// Lists a directory from `cursor` on: 0, or the `next` of an entry. `.` and `..` come first.
    pub fn read_dir(
        &self,
        ino: Ino,
        cursor: u64,
    ) -> Result<impl Iterator<Item = Result<ListedEntry<'_>, TreeError>>, TreeError> {
        let directory = self.directory(ino)?;
        let parent =
            if directory.nid == self.root { Ok(self.root) } else { self.index.tree().parent(&directory) };
        let parent = self.usable(parent)?;
        let dots = [(&b"."[..], directory.nid), (b"..", parent)];
        let dots = (0u64..).zip(dots).skip_while(move |(at, _)| *at < cursor).map(|(at, (name, nid))| {
            Ok(ListedEntry { name, ino: self.ino(nid), kind: FileType::Directory, next: at + 1 })
        });
        let entries = self.index.tree().read_dir(&directory, cursor.saturating_sub(DOTS)).map(|entry| {
            let entry = self.usable(entry.map_err(IndexError::from))?;
            let next = entry.next.saturating_add(DOTS);
            Ok(ListedEntry { name: entry.name, ino: self.ino(entry.nid), kind: entry.file_type, next })
        });
        Ok(dots.chain(entries))
    }

    /// Reads up to `len` bytes of a file at `offset`, fewer only where the file ends. `done` is called
    /// before this returns if all bytes are in the cache.
    pub fn read(&self, ino: Ino, offset: u64, len: u32, done: ReadDone) {
        match self.wanted(ino, offset, len) {
            Err(error) => done(Err(error)),
            Ok(None) => done(Ok(Data::default())),
            Ok(Some(wanted)) => {
                let index = Arc::clone(&self.index);
                let chunks = wanted.chunks.clone();
                let finish = move |result: Result<Vec<_>, FetchError>| {
                    let cut = |chunks| Ok(cut(index.whole()?, &wanted, chunks));
                    done(result.map_err(TreeError::from).and_then(cut));
                };
                self.fetcher.request(chunks, Box::new(finish));
            }
        }
    }

    /// Reads as [`read`](Self::read) does, and waits for the bytes.
    pub fn read_wait(&self, ino: Ino, offset: u64, len: u32) -> Result<Data, TreeError> {
        match self.wanted(ino, offset, len)? {
            None => Ok(Data::default()),
            Some(wanted) => Ok(cut(self.index.whole()?, &wanted, self.fetcher.get(wanted.chunks.clone())?)),
        }
    }

    /// Reads what is in memory, or in chunks of at most `load` bytes on disk; `None` for other reads, and
    /// for those that fail.
    pub fn read_cached(&self, ino: Ino, offset: u64, len: u32, load: u32) -> Option<Data> {
        let index = self.index.if_whole()?;
        match self.wanted(ino, offset, len).ok()? {
            None => Some(Data::default()),
            Some(wanted) => {
                let chunks = self.fetcher.get_cached(wanted.chunks.clone(), load)?;
                Some(cut(index, &wanted, chunks))
            }
        }
    }

    fn wanted(&self, ino: Ino, offset: u64, len: u32) -> Result<Option<Wanted>, TreeError> {
        let inode = self.inode(ino)?;
        if inode.kind != FileType::Regular {
            return Err(TreeError::NotFile(ino));
        }
        let index = self.index.whole()?;
        let Some(extent) = self.usable(index.extent(&inode))? else { return Ok(None) };
        let end = offset.saturating_add(u64::from(len)).min(extent.len);
        if offset >= end {
            return Ok(None);
        }
        let bytes = extent.offset + offset..extent.offset + end;
        let chunks = index.chunks_of(extent.layer, bytes.clone());
        Ok(Some(Wanted { chunks, bytes }))
    }

    fn inode(&self, ino: Ino) -> Result<Inode, TreeError> {
        let nid = if ino == ROOT { self.root } else { Nid(ino.0.wrapping_sub(NUMBER_OFFSET)) };
        self.usable(self.index.tree().inode(nid))
    }

    fn usable<T>(&self, answer: Result<T, IndexError>) -> Result<T, TreeError> {
        answer.map_err(|error| self.index.fault(error).into())
    }

    fn directory(&self, ino: Ino) -> Result<Inode, TreeError> {
        let inode = self.inode(ino)?;
        if inode.kind == FileType::Directory { Ok(inode) } else { Err(TreeError::NotDirectory(ino)) }
    }

    fn ino(&self, nid: Nid) -> Ino {
        if nid == self.root { ROOT } else { Ino(nid.0.wrapping_add(NUMBER_OFFSET)) }
    }

    fn attr_of(&self, inode: &Inode) -> Attr {
        Attr {
            ino: self.ino(inode.nid),
            kind: inode.kind,
            mode: inode.mode,
            size: inode.size,
            nlink: inode.nlink,
        }
    }
}

/// 0 is no inode and 1 is the root.
const NUMBER_OFFSET: u64 = 2;

/// Entries of a listing that the index does not have.
const DOTS: u64 = 2;

/// Cuts the wanted bytes out of the chunks, which are those of `wanted` in order.
fn cut(index: &WholeIndex, wanted: &Wanted, chunks: Vec<Verified<Chunk>>) -> Data {
    let mut data = Data::default();
    for (id, chunk) in wanted.chunks.clone().zip(chunks) {
        let place = index.chunk(id).expect("it was wanted").virtual_range();
        data.push_chunk(chunk, within(&wanted.bytes, &place));
    }
    data
}

/// The part of the bytes at `place` that lies in `wanted`, counted from the beginning of `place`.
pub(crate) fn within(wanted: &Range<u64>, place: &Range<u64>) -> Range<usize> {
    let part = wanted.start.clamp(place.start, place.end)..wanted.end.clamp(place.start, place.end);
    let index = |at: u64| usize::try_from(at - place.start).expect("a chunk lies in memory");
    index(part.start)..index(part.end)
}
