//! A [`Tree`] as the kernel's FUSE protocol wants it (`linux/fuse.h`, version 7.31 and later).
//!
//! Nothing in a seed ever changes, so the kernel may cache all that it is told for ever: attributes,
//! entries, names that do not exist, links, listings and pages. Handles hold no state: `open` and `opendir`
//! are answered with `ENOSYS`, which tells the kernel not to ask.
//!
//! No call waits in the thread that read it from the kernel. All but READ are answered from the index, and
//! a READ whose bytes are not at hand goes to a pool and is answered when they come.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, unbounded};
use fuser::{
    AccessFlags, Config, Errno, FileAttr, FileHandle, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request, SessionACL,
};
use seed_format::index::FileType;

use crate::stats::{Counters, add};
use crate::tree::{Attr, Ino, Tree, TreeError};

/// As good as for ever: the kernel keeps times in jiffies and cuts off what is longer.
const TTL: Duration = Duration::from_secs(u32::MAX as u64);
/// Inode numbers of a seed are never used again for something else.
const GENERATION: Generation = Generation(0);
/// The kernel's own limit for one READ.
const MAX_READ: u32 = 1 << 20;
/// READs that the kernel may send ahead of need at once; its default is 12.
const MAX_BACKGROUND: u16 = 128;
/// Chunks up to this size are loaded from the cache's disk, and hashed, without a change of thread.
const INLINE_CHUNK: u32 = 128 << 10;

/// The file system as fuser calls it.
pub(crate) struct Filesystem {
    tree: Arc<Tree>,
    counters: Arc<Counters>,
    reads: Sender<Read>,
}

struct Read {
    ino: Ino,
    offset: u64,
    size: u32,
    reply: ReplyData,
}

/// As many event loops as processors. Their requests come from one queue: separate descriptors gained
/// nothing.
pub(crate) fn session_config() -> Config {
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(threads());
    config
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, |n| n.get().min(4))
}

impl Filesystem {
    /// Starts the pool that answers reads.
    pub(crate) fn new(tree: Arc<Tree>, counters: Arc<Counters>) -> io::Result<Self> {
        let (reads, queue) = unbounded();
        for number in 0..threads() {
            let (tree, queue) = (Arc::clone(&tree), queue.clone());
            let name = format!("read-{number}");
            thread::Builder::new().name(name).spawn(move || answer_reads(&tree, &queue))?;
        }
        Ok(Self { tree, counters, reads })
    }
}

/// Ends when the file system is dropped.
fn answer_reads(tree: &Tree, queue: &Receiver<Read>) {
    while let Ok(Read { ino, offset, size, reply }) = queue.recv() {
        tree.read(
            ino,
            offset,
            size,
            Box::new(move |result| match result {
                Ok(data) => data.with(|bytes| reply.data(bytes)),
                Err(error) => reply.error(logged(ino, &error)),
            }),
        );
    }
}

/// The errno for an error, which is said in full in the log.
fn logged(ino: Ino, error: &TreeError) -> Errno {
    let cause = std::error::Error::source(error).map_or_else(String::new, ToString::to_string);
    tracing::error!(inode = ino.0, %error, cause, "a read failed");
    Errno::from(error)
}

impl fuser::Filesystem for Filesystem {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // One by one: asked for together, one that the kernel lacks would turn all off.
        for capability in [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
        ] {
            if let Err(missing) = config.add_capabilities(capability) {
                tracing::debug!(?missing, "the kernel lacks a capability");
            }
        }
        // The size of a READ is bounded by that of a WRITE, though there are none.
        if let Err(nearest) = config.set_max_write(MAX_READ) {
            tracing::debug!(nearest, "the kernel's limit of a request is lower");
        }
        if let Err(nearest) = config.set_max_background(MAX_BACKGROUND) {
            tracing::debug!(nearest, "the number of requests ahead cannot be raised");
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        add(&self.counters.fuse_lookups, 1);
        match self.tree.lookup(Ino(parent.0), name.as_bytes()) {
            Ok(Some(attr)) => reply.entry(&TTL, &file_attr(&attr), GENERATION),
            // Inode 0 with a time to live: the kernel remembers that the name does not exist.
            Ok(None) => reply.entry(&TTL, &no_attr(), GENERATION),
            Err(error) => reply.error(Errno::from(&error)),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        add(&self.counters.fuse_getattrs, 1);
        match self.tree.attr(Ino(ino.0)) {
            Ok(attr) => reply.attr(&TTL, &file_attr(&attr)),
            Err(error) => reply.error(Errno::from(&error)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        add(&self.counters.fuse_readlinks, 1);
        match self.tree.read_link(Ino(ino.0)) {
            Ok(target) => reply.data(target),
            Err(error) => reply.error(Errno::from(&error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        add(&self.counters.fuse_reads, 1);
        let ino = Ino(ino.0);
        if let Some(data) = self.tree.read_cached(ino, offset, size, INLINE_CHUNK) {
            return data.with(|bytes| reply.data(bytes));
        }
        if let Err(unsent) = self.reads.send(Read { ino, offset, size, reply }) {
            unsent.into_inner().reply.error(Errno::EIO);
        }
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        add(&self.counters.fuse_readdirs, 1);
        let entries = match self.tree.read_dir(Ino(ino.0), offset) {
            Ok(entries) => entries,
            Err(error) => return reply.error(Errno::from(&error)),
        };
        for entry in entries {
            match entry {
                Ok(entry) => {
                    let name = OsStr::from_bytes(entry.name);
                    if reply.add(INodeNo(entry.ino.0), entry.next, kind(entry.kind), name) {
                        break;
                    }
                }
                Err(error) => return reply.error(Errno::from(&error)),
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        add(&self.counters.fuse_readdirs, 1);
        let entries = match self.tree.read_dir(Ino(ino.0), offset) {
            Ok(entries) => entries,
            Err(error) => return reply.error(Errno::from(&error)),
        };
        for entry in entries {
            let listed = entry.and_then(|entry| Ok((self.tree.attr(entry.ino)?, entry)));
            match listed {
                Ok((attr, entry)) => {
                    let name = OsStr::from_bytes(entry.name);
                    let ino = INodeNo(entry.ino.0);
                    if reply.add(ino, entry.next, name, &TTL, &file_attr(&attr), GENERATION) {
                        break;
                    }
                }
                Err(error) => return reply.error(Errno::from(&error)),
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let index = self.tree.index().tree();
        let bytes: u64 = index.devices().flatten().map(|(_, bytes)| bytes).sum();
        let block = 4096;
        reply.statfs(bytes / u64::from(block), 0, 0, index.inode_count(), 0, block, 255, block);
    }

    // What follows is answered with ENOSYS: the kernel then knows the answer and does not ask again.

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS);
    }
}

fn kind(kind: FileType) -> fuser::FileType {
    match kind {
        FileType::Regular => fuser::FileType::RegularFile,
        FileType::Directory => fuser::FileType::Directory,
        FileType::Symlink => fuser::FileType::Symlink,
    }
}

fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: stored_time(),
        mtime: stored_time(),
        ctime: stored_time(),
        crtime: stored_time(),
        kind: kind(attr.kind),
        perm: attr.mode,
        nlink: attr.nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// The time of everything in a Nix store.
fn stored_time() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1)
}

/// "There is no such name", with a time to live.
fn no_attr() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        kind: fuser::FileType::RegularFile,
        ..file_attr(&Attr { ino: Ino(0), kind: FileType::Regular, mode: 0, size: 0, nlink: 0 })
    }
}
