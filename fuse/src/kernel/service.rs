//! What the kernel asks a file system of which nothing ever changes.

use std::fmt;

use rustix::io::Errno;

use super::pending::ReadReply;
use crate::tree::{Attr, Ino, ListedEntry};

/// A read-only file system. Its calls come from several threads at once.
///
/// What it says may be cached for ever, and holds in every process that serves the same: inode numbers, and
/// the cursors of listings, are as good after a takeover as before.
pub(crate) trait Service: fmt::Debug + Send + Sync + 'static {
    /// Finds a name in a directory; `None` if it is not there, which is remembered too.
    fn lookup(&self, directory: Ino, name: &[u8]) -> Result<Option<Attr>, Errno>;

    /// What `stat` tells of an inode. The root is inode 1.
    fn attr(&self, ino: Ino) -> Result<Attr, Errno>;

    /// What a symbolic link holds.
    fn read_link(&self, ino: Ino) -> Result<&[u8], Errno>;

    /// Lists a directory from `cursor` on, which is 0 or the `next` of an entry: calls `each` until that
    /// gives `false`.
    fn list(
        &self,
        directory: Ino,
        cursor: u64,
        each: &mut dyn FnMut(&ListedEntry<'_>) -> bool,
    ) -> Result<(), Errno>;

    /// Size of the whole.
    fn space(&self) -> Space;

    /// Answers a read whose bytes are at hand; otherwise gives `reply` back, at once. Runs in a thread that
    /// reads requests, which all wait meanwhile.
    fn read_now(&self, ino: Ino, offset: u64, size: u32, reply: ReadReply) -> Result<(), ReadReply>;

    /// Answers a read, now or later: with `size` bytes from `offset`, fewer only where the file ends. Runs
    /// in a thread of a pool, which should not wait for the network.
    fn read(&self, ino: Ino, offset: u64, size: u32, reply: ReadReply);
}

/// What `statfs` tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Space {
    /// Bytes of all files.
    pub(crate) bytes: u64,
    /// Number of inodes.
    pub(crate) files: u64,
}
