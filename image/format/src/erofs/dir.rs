//! Directories: blocks of sorted entries.
//!
//! A block of at most 4096 bytes holds entries of 12 bytes (nid, offset of the name in the block, type)
//! and behind them the names, without separators. The offset of the first name gives the number of
//! entries; a name ends where the next begins, the last one at a NUL or at the end of the block. The
//! names of all blocks together ascend bytewise, `.` and `..` included.

use super::read::{Image, ImageError, Inode};
use super::{BLOCK_BITS, BLOCK_SIZE, DIRENT_LEN, FileType, Nid, le_u16, le_u64};
use crate::entry::check_name;

/// One name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The inode of what it names.
    pub nid: Nid,
    /// What it names, as the directory says.
    pub file_type: FileType,
    /// The cursor from which the listing goes on behind this entry.
    pub next: u64,
}

impl DirEntry<'_> {
    fn is_dot(&self) -> bool {
        matches!(self.name, b"." | b"..")
    }
}

/// A listing of a directory: see [`Image::read_dir`]. It ends after the first error.
#[derive(Debug, Clone)]
pub struct ReadDir<'a> {
    image: Image<'a>,
    directory: Inode,
    block: u64,
    index: usize,
    previous_name: Option<&'a [u8]>,
    /// Of the last entry that is not a dot: `.` and `..` refer backwards.
    previous_nid: Option<Nid>,
    done: bool,
}

impl<'a> ReadDir<'a> {
    pub(super) fn new(image: Image<'a>, directory: &Inode, cursor: u64) -> Self {
        let index = usize::try_from(cursor % BLOCK_SIZE).expect("less than a block");
        let mut listing = Self {
            image,
            directory: *directory,
            block: cursor >> BLOCK_BITS,
            index,
            previous_name: None,
            previous_nid: None,
            done: false,
        };
        let mut before = listing.before_cursor().peekable();
        listing.previous_name = before.peek().map(|entry| entry.name);
        listing.previous_nid = before.find(|entry| !entry.is_dot()).map(|entry| entry.nid);
        listing
    }

    /// The entries before the cursor, backwards, of its block and of the block before.
    fn before_cursor(&self) -> impl Iterator<Item = DirEntry<'a>> + use<'a> {
        let (image, directory, last, index) = (self.image, self.directory, self.block, self.index);
        (last.saturating_sub(1)..=last).rev().flat_map(move |n| {
            let block = Block::read(&image, &directory, n).ok();
            let count = block.as_ref().map_or(0, |block| block.count);
            let end = if n == last { index.min(count) } else { count };
            (0..end).rev().map_while(move |index| block.as_ref()?.entry(index).ok())
        })
    }

    fn next_entry(&mut self) -> Result<Option<DirEntry<'a>>, ImageError> {
        while self.block < block_count(&self.directory) {
            let block = Block::read(&self.image, &self.directory, self.block)?;
            if self.index >= block.count {
                (self.block, self.index) = (self.block + 1, 0);
                continue;
            }
            let entry = block.entry(self.index)?;
            self.index += 1;
            if self.previous_name.is_some_and(|previous| previous >= entry.name) {
                return Err(block.fail("its names do not ascend"));
            }
            self.previous_name = Some(entry.name);
            if entry.is_dot() {
                continue;
            }
            block.check(&entry)?;
            if self.previous_nid.is_some_and(|previous| previous >= entry.nid) {
                return Err(block.fail("its inodes do not ascend"));
            }
            self.previous_nid = Some(entry.nid);
            return Ok(Some(entry));
        }
        Ok(None)
    }
}

impl<'a> Iterator for ReadDir<'a> {
    type Item = Result<DirEntry<'a>, ImageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.next_entry().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

impl std::iter::FusedIterator for ReadDir<'_> {}

pub(super) fn lookup(
    image: &Image<'_>,
    directory: &Inode,
    name: &[u8],
) -> Result<Option<(Nid, FileType)>, ImageError> {
    if check_name(name).is_err() {
        check_directory(directory)?;
        return Ok(None);
    }
    match find(image, directory, name)? {
        Some((block, entry)) => block.check(&entry).map(|()| Some((entry.nid, entry.file_type))),
        None => Ok(None),
    }
}

pub(super) fn parent(image: &Image<'_>, directory: &Inode) -> Result<Nid, ImageError> {
    let fault = "it has no entry \"..\"";
    let missing = ImageError::Directory { nid: directory.nid, block: 0, fault };
    find(image, directory, b"..")?.map(|(_, entry)| entry.nid).ok_or(missing)
}

/// Finds the block whose first name is the last that is not greater than `name`, then the name in it.
fn find<'a>(
    image: &Image<'a>,
    directory: &Inode,
    name: &[u8],
) -> Result<Option<(Block<'a>, DirEntry<'a>)>, ImageError> {
    check_directory(directory)?;
    let (mut low, mut high) = (0, block_count(directory));
    let mut candidate = None;
    while low < high {
        let middle = low + (high - low) / 2;
        let block = Block::read(image, directory, middle)?;
        if block.entry(0)?.name <= name {
            candidate = Some(block);
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let Some(block) = candidate else { return Ok(None) };
    let (mut low, mut high) = (0, block.count);
    while low < high {
        let middle = low + (high - low) / 2;
        let entry = block.entry(middle)?;
        match entry.name.cmp(name) {
            std::cmp::Ordering::Equal => return Ok(Some((block, entry))),
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    Ok(None)
}

fn check_directory(inode: &Inode) -> Result<(), ImageError> {
    match inode.kind {
        FileType::Directory => Ok(()),
        _ => Err(ImageError::Inode { nid: inode.nid, fault: "it is not a directory" }),
    }
}

fn block_count(directory: &Inode) -> u64 {
    directory.size.div_ceil(BLOCK_SIZE)
}

/// One block of a directory, of which only the number of entries has been looked at.
struct Block<'a> {
    bytes: &'a [u8],
    count: usize,
    directory: Nid,
    number: u64,
}

impl<'a> Block<'a> {
    fn read(image: &Image<'a>, directory: &Inode, number: u64) -> Result<Self, ImageError> {
        check_directory(directory)?;
        let bytes = image.flat_block(directory, number).unwrap_or_default();
        let mut block = Self { bytes, count: 0, directory: directory.nid, number };
        if bytes.len() < DIRENT_LEN {
            return Err(block.fail("it has no room for an entry"));
        }
        let names = usize::from(le_u16(bytes, 8));
        if names < DIRENT_LEN || names % DIRENT_LEN != 0 || names >= bytes.len() {
            return Err(block.fail("its names begin at a wrong place"));
        }
        block.count = names / DIRENT_LEN;
        Ok(block)
    }

    /// Entry `index`, which must be less than `count`.
    fn entry(&self, index: usize) -> Result<DirEntry<'a>, ImageError> {
        let dirent = &self.bytes[index * DIRENT_LEN..][..DIRENT_LEN];
        let start = usize::from(le_u16(dirent, 8));
        let name = if index + 1 < self.count {
            let end = usize::from(le_u16(self.bytes, (index + 1) * DIRENT_LEN + 8));
            self.bytes.get(start..end)
        } else {
            self.bytes.get(start..).map(|rest| match rest.iter().position(|byte| *byte == 0) {
                Some(end) => &rest[..end],
                None => rest,
            })
        };
        let in_names = start >= self.count * DIRENT_LEN;
        let name = name.filter(|_| in_names).ok_or_else(|| self.fail("a name lies outside of the names"))?;
        let file_type = FileType::from_dirent_type(dirent[10])
            .ok_or_else(|| self.fail("an entry is no directory, regular file or symbolic link"))?;
        let next = self.number << BLOCK_BITS | (index as u64 + 1);
        Ok(DirEntry { name, nid: Nid(le_u64(dirent, 0)), file_type, next })
    }

    /// Checks an entry that is given out.
    fn check(&self, entry: &DirEntry<'_>) -> Result<(), ImageError> {
        check_name(entry.name).map_err(|_| self.fail("a name is empty, too long or has a NUL byte"))?;
        if entry.name.contains(&b'/') {
            return Err(self.fail("a name has a slash"));
        }
        if entry.nid <= self.directory {
            return Err(self.fail("an entry's inode does not lie behind that of the directory"));
        }
        Ok(())
    }

    fn fail(&self, fault: &'static str) -> ImageError {
        ImageError::Directory { nid: self.directory, block: self.number, fault }
    }
}
