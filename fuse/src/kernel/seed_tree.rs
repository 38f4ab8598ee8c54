//! A [`Tree`] as the kernel asks for it.

use std::sync::Arc;

use rustix::io::Errno;

use super::failures::Failures;
use super::pending::ReadReply;
use super::service::{Service, Space};
use crate::data::Data;
use crate::tree::{Attr, Ino, ListedEntry, Tree, TreeError};

/// Chunks up to this size are loaded from the cache's disk, and hashed, without a change of thread.
const INLINE_CHUNK: u32 = 128 << 10;

/// All files of a seed, names and bytes.
#[derive(Debug)]
pub(crate) struct SeedTree {
    tree: Tree,
    failures: Arc<Failures>,
}

impl SeedTree {
    /// The files of this tree.
    pub(crate) fn new(tree: Tree) -> Self {
        Self { tree, failures: Arc::default() }
    }
}

impl Service for SeedTree {
    fn lookup(&self, directory: Ino, name: &[u8]) -> Result<Option<Attr>, Errno> {
        Ok(self.tree.lookup(directory, name)?)
    }

    fn attr(&self, ino: Ino) -> Result<Attr, Errno> {
        Ok(self.tree.attr(ino)?)
    }

    fn read_link(&self, ino: Ino) -> Result<&[u8], Errno> {
        Ok(self.tree.read_link(ino)?)
    }

    fn list(
        &self,
        directory: Ino,
        cursor: u64,
        each: &mut dyn FnMut(&ListedEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        for entry in self.tree.read_dir(directory, cursor)? {
            if !each(&entry?) {
                break;
            }
        }
        Ok(())
    }

    fn space(&self) -> Space {
        let index = self.tree.index().tree();
        Space { bytes: index.devices().flatten().map(|(_, bytes)| bytes).sum(), files: index.inode_count() }
    }

    fn read_now(&self, ino: Ino, offset: u64, size: u32, reply: ReadReply) -> Result<(), ReadReply> {
        match self.tree.read_cached(ino, offset, size, INLINE_CHUNK) {
            Some(data) => {
                reply.data(&data);
                Ok(())
            }
            None => Err(reply),
        }
    }

    fn read(&self, ino: Ino, offset: u64, size: u32, reply: ReadReply) {
        if let Some(error) = self.failures.of(ino, offset, size) {
            return reply.error(error);
        }
        let failures = Arc::clone(&self.failures);
        let answer = move |result: Result<Data, TreeError>| match result {
            Ok(data) => reply.data(&data),
            Err(error) => {
                let error = logged(ino, &error);
                failures.note(ino, offset, size, error);
                reply.error(error);
            }
        };
        self.tree.read(ino, offset, size, Box::new(answer));
    }
}

/// The errno for an error, which is said in full in the log.
pub(super) fn logged(ino: Ino, error: &TreeError) -> Errno {
    let cause = std::error::Error::source(error).map_or_else(String::new, ToString::to_string);
    tracing::error!(inode = ino.0, %error, cause, "a read failed");
    Errno::from(error)
}
