//! The bytes of a blob that is to be stored.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The bytes of a blob, readable from any offset and more than once: an upload that was interrupted
/// goes on where the registry stopped.
pub trait BlobContent: Send {
    /// Reads from `offset` to the end.
    fn open(&mut self, offset: u64) -> io::Result<Box<dyn Read + '_>>;

    /// A complete file with these bytes which may be moved away. Whoever gives it has hashed it.
    fn owned_file(&self) -> Option<&Path> {
        None
    }
}

/// A blob in memory.
#[derive(Debug, Clone, Copy)]
pub struct BytesContent<'a>(pub &'a [u8]);

impl BlobContent for BytesContent<'_> {
    fn open(&mut self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        let offset = usize::try_from(offset).ok().filter(|offset| *offset <= self.0.len());
        let offset = offset.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        Ok(Box::new(&self.0[offset..]))
    }
}

/// A blob in a file.
#[derive(Debug, Clone)]
pub struct FileContent {
    path: PathBuf,
    owned: bool,
}

impl FileContent {
    /// A file that stays where it is.
    pub fn borrowed(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), owned: false }
    }

    /// A file that may be moved away. Its digest must be the descriptor's: the caller computed it while
    /// writing, and it is not computed again when the file is moved.
    pub fn owned(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), owned: true }
    }
}

impl BlobContent for FileContent {
    fn open(&mut self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(file))
    }

    fn owned_file(&self) -> Option<&Path> {
        self.owned.then_some(&self.path)
    }
}
