//! A [`Service`] behind a connection to the kernel.
//!
//! Handles hold no state: OPEN and OPENDIR are answered with `ENOSYS`, as is all that a file system of this
//! kind does not have; the kernel then knows the answer and does not ask again. Nothing is remembered of what
//! the kernel knows, so FORGET means nothing, and another process can go on with the same connection.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};
use rustix::io::Errno;
use seed_format::index::FileType;
use serde::{Deserialize, Serialize};

use super::device::{BUFFER, Connection, Received};
use super::pending::{Pending, ReadReply};
use super::service::Service;
use super::wire::{
    self, AttrHead, DIRENT_ALIGN, DirentHead, EntryHead, InHeader, InitIn, InitOut, InterruptIn, ReadIn,
    StatfsOut, capability, file_type, opcode,
};
use crate::stats::{Counters, add};
use crate::tree::{Attr, Ino};

/// As good as for ever: the kernel keeps times in jiffies and cuts off what is longer, in seconds.
const TTL: u64 = u32::MAX as u64;
/// The time of everything in a Nix store.
const STORED_TIME: u64 = 1;
/// The kernel's own limit for one READ: 1 MiB.
const MAX_PAGES: u16 = 256;
/// READs that the kernel may send ahead of need at once; its default is 12.
const MAX_BACKGROUND: u16 = 128;
/// How many of them make the kernel hold back: three quarters, as by its own default.
const CONGESTION: u16 = MAX_BACKGROUND / 4 * 3;
/// There are no WRITEs. The kernel demands a buffer that is larger than this by less than 4 KiB.
const MAX_WRITE: u32 = 4096;
/// The most that a listing may answer with, whatever is asked for.
const MAX_LISTING: u32 = 1 << 20;
const BLOCK: u32 = 4096;

const _: () = assert!(BUFFER >= wire::MIN_BUFFER && BUFFER >= MAX_WRITE as usize + 4096);

/// What was agreed when a connection began, and holds until its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Negotiated {
    /// The kernel's minor version of the protocol.
    pub(crate) minor: u32,
    /// What the kernel offered.
    pub(crate) capabilities: u64,
    /// The farthest that it reads ahead, in bytes.
    pub(crate) max_readahead: u32,
    /// Whether the thread numbers in its requests are those of this process's `/proc`: then a reader can be
    /// killed while it waits.
    pub(crate) sees_threads: bool,
}

impl Negotiated {
    /// Whether a server that died can be replaced without the loss of what it had not answered.
    pub(crate) fn has_resend(&self) -> bool {
        self.capabilities & capability::HAS_RESEND != 0
    }
}

/// A connection that is not served yet.
#[derive(Debug)]
pub(crate) struct Session {
    connection: Connection,
    negotiated: Negotiated,
    /// Requests may be lost that a server before this one had read.
    resumed: bool,
}

impl Session {
    /// Begins the protocol on a descriptor that was just mounted.
    pub(crate) fn begin(device: OwnedFd, sees_threads: bool) -> io::Result<Self> {
        let connection = Connection::new(device);
        let mut buffer = vec![0; BUFFER];
        loop {
            let Received::Request { header, body } = connection.receive(&mut buffer)? else {
                return Err(io::Error::new(io::ErrorKind::NotConnected, "the mount is gone"));
            };
            let asked = InitIn::decode_any(body).filter(|_| header.opcode == opcode::INIT);
            let Some(asked) = asked else {
                connection.refuse(header.unique, Errno::IO);
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the first request is not INIT"));
            };
            if asked.major > wire::MAJOR {
                // It asks once more, in our version.
                let out = InitOut { major: wire::MAJOR, minor: wire::MINOR, ..InitOut::default() };
                connection.answer(header.unique, &[&out.encode()]);
                continue;
            }
            if (asked.major, asked.minor) < (wire::MAJOR, wire::OLDEST_MINOR) {
                connection.refuse(header.unique, Errno::PROTO);
                let said =
                    format!("the kernel speaks version {}.{}, which is too old", asked.major, asked.minor);
                return Err(io::Error::new(io::ErrorKind::Unsupported, said));
            }
            connection.answer(header.unique, &[&init_answer(&asked).encode()]);
            let negotiated = Negotiated {
                minor: asked.minor,
                capabilities: asked.capabilities(),
                max_readahead: asked.max_readahead,
                sees_threads,
            };
            return Ok(Self { connection, negotiated, resumed: false });
        }
    }

    /// Goes on with a connection that another process has served.
    pub(crate) fn resume(device: OwnedFd, negotiated: Negotiated) -> Self {
        Self { connection: Connection::new(device), negotiated, resumed: true }
    }

    /// The descriptor.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.connection.descriptor()
    }

    /// What another process needs to go on with the connection: it, and what was agreed.
    pub(crate) fn connection(&self) -> io::Result<(OwnedFd, Negotiated)> {
        Ok((self.descriptor().try_clone_to_owned()?, self.negotiated))
    }

    /// Starts to answer, with as many threads as processors for requests and for reads each.
    pub(crate) fn serve(self, service: Arc<dyn Service>, counters: Arc<Counters>) -> io::Result<Serving> {
        let pending = Arc::new(Pending::new(self.connection, self.negotiated.sees_threads));
        let (reads, queue) = unbounded();
        for number in 0..threads() {
            let (service, queue) = (Arc::clone(&service), queue.clone());
            spawn(format!("read-{number}"), move || answer_reads(&*service, &queue))?;
        }
        let watched = Arc::clone(&pending);
        spawn("interrupts".into(), move || watched.watch())?;
        // One descriptor for all: separate ones (`FUSE_DEV_IOC_CLONE`) gained nothing.
        let mut loops = Vec::new();
        for number in 0..threads() {
            let (service, counters, reads) = (Arc::clone(&service), Arc::clone(&counters), reads.clone());
            let served = Loop { pending: Arc::clone(&pending), service, counters, reads };
            loops.push(spawn(format!("fuse-{number}"), move || served.run())?);
        }
        if self.resumed && !pending.connection.resend()? {
            tracing::warn!("the kernel cannot send again what the former server had not answered");
        }
        Ok(Serving { loops })
    }
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, |n| n.get().min(4))
}

fn spawn<T: Send + 'static>(
    name: String,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(name).spawn(run)
}

/// What is asked for, of what the kernel offers: one by one, so that what it lacks costs nothing else.
fn init_answer(asked: &InitIn) -> InitOut {
    let wanted = capability::ASYNC_READ
        | capability::PARALLEL_DIROPS
        | capability::DO_READDIRPLUS
        | capability::MAX_PAGES
        | capability::CACHE_SYMLINKS
        | capability::NO_OPEN_SUPPORT
        | capability::NO_OPENDIR_SUPPORT
        | capability::INIT_EXT
        | capability::HAS_RESEND;
    let taken = wanted & asked.capabilities();
    let [flags, flags2] = [taken & u64::from(u32::MAX), taken >> 32];
    InitOut {
        major: wire::MAJOR,
        minor: wire::MINOR,
        max_readahead: asked.max_readahead,
        flags: u32::try_from(flags).unwrap_or_default(),
        flags2: u32::try_from(flags2).unwrap_or_default(),
        max_background: MAX_BACKGROUND,
        congestion_threshold: CONGESTION,
        max_write: MAX_WRITE,
        time_gran: 1,
        max_pages: MAX_PAGES,
        ..InitOut::default()
    }
}

/// The threads that answer the kernel.
#[derive(Debug)]
pub(crate) struct Serving {
    loops: Vec<JoinHandle<io::Result<()>>>,
}

impl Serving {
    /// Whether the mount is gone.
    pub(crate) fn is_finished(&self) -> bool {
        self.loops.iter().all(JoinHandle::is_finished)
    }

    /// Waits until the mount is gone.
    pub(crate) fn wait(self) -> io::Result<()> {
        let ended: Vec<_> = self.loops.into_iter().map(JoinHandle::join).collect();
        ended.into_iter().try_for_each(|ended| {
            ended.unwrap_or_else(|_| Err(io::Error::other("a thread of the session panicked")))
        })
    }
}

struct Read {
    ino: Ino,
    offset: u64,
    size: u32,
    reply: ReadReply,
}

/// Ends when no thread is left that could send reads.
fn answer_reads(service: &dyn Service, queue: &Receiver<Read>) {
    while let Ok(Read { ino, offset, size, reply }) = queue.recv() {
        // After a panic the reply was dropped, which answers it. The panic was reported where it happened.
        let _ = catch_unwind(AssertUnwindSafe(|| service.read(ino, offset, size, reply)));
    }
}

/// One thread that takes requests from the kernel.
struct Loop {
    pending: Arc<Pending>,
    service: Arc<dyn Service>,
    counters: Arc<Counters>,
    reads: Sender<Read>,
}

impl Loop {
    fn run(self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        let mut listing = Vec::new();
        let result = loop {
            match self.pending.connection.receive(&mut buffer) {
                Ok(Received::Request { header, body }) => {
                    let answered =
                        catch_unwind(AssertUnwindSafe(|| self.answer(&header, body, &mut listing)));
                    if answered.is_err() {
                        // It was reported; for who waits it must not be the end.
                        self.pending.connection.refuse(header.unique, Errno::IO);
                    }
                }
                Ok(Received::Gone) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.pending.end();
        result
    }

    fn answer(&self, header: &InHeader, body: &[u8], listing: &mut Vec<u8>) {
        let (unique, ino) = (header.unique, Ino(header.nodeid));
        let answered = match header.opcode {
            opcode::LOOKUP => self.lookup(unique, ino, body),
            opcode::GETATTR => self.getattr(unique, ino),
            opcode::READLINK => self.readlink(unique, ino),
            opcode::READ => self.read(header, ino, body),
            opcode::READDIR => self.list(unique, ino, body, false, listing),
            opcode::READDIRPLUS => self.list(unique, ino, body, true, listing),
            opcode::STATFS => self.statfs(unique),
            opcode::INTERRUPT => {
                if let Some(InterruptIn { unique }) = InterruptIn::decode(body) {
                    self.pending.interrupt(unique);
                }
                Ok(())
            }
            opcode::FORGET | opcode::BATCH_FORGET | opcode::NOTIFY_REPLY => Ok(()),
            // Of files that were opened before the kernel knew that it need not.
            opcode::RELEASE | opcode::RELEASEDIR | opcode::DESTROY => {
                self.send(unique, &[]);
                Ok(())
            }
            _ => Err(Errno::NOSYS),
        };
        if let Err(error) = answered {
            self.pending.connection.refuse(unique, error);
        }
    }

    fn send(&self, unique: u64, pieces: &[&[u8]]) {
        self.pending.connection.answer(unique, pieces);
    }

    fn lookup(&self, unique: u64, directory: Ino, body: &[u8]) -> Result<(), Errno> {
        add(&self.counters.fuse_lookups, 1);
        let name = wire::name(body).ok_or(Errno::INVAL)?;
        let found = self.service.lookup(directory, name)?;
        self.send(unique, &[&entry_head(found.as_ref()).encode(), &attr_out(found.as_ref()).encode()]);
        Ok(())
    }

    fn getattr(&self, unique: u64, ino: Ino) -> Result<(), Errno> {
        add(&self.counters.fuse_getattrs, 1);
        let attr = self.service.attr(ino)?;
        let head = AttrHead { attr_valid: TTL, ..AttrHead::default() };
        self.send(unique, &[&head.encode(), &attr_out(Some(&attr)).encode()]);
        Ok(())
    }

    fn readlink(&self, unique: u64, ino: Ino) -> Result<(), Errno> {
        add(&self.counters.fuse_readlinks, 1);
        let target = self.service.read_link(ino)?;
        self.send(unique, &[target]);
        Ok(())
    }

    fn read(&self, header: &InHeader, ino: Ino, body: &[u8]) -> Result<(), Errno> {
        add(&self.counters.fuse_reads, 1);
        let ReadIn { offset, size, .. } = ReadIn::decode(body).ok_or(Errno::INVAL)?;
        let reply = ReadReply::new(&self.pending, header.unique);
        if let Err(reply) = self.service.read_now(ino, offset, size, reply) {
            // If the pool is gone, the reply is dropped, which answers it.
            let _ = self.reads.send(Read { ino, offset, size, reply: reply.wait(header.pid) });
        }
        Ok(())
    }

    fn list(
        &self,
        unique: u64,
        directory: Ino,
        body: &[u8],
        plus: bool,
        listing: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        add(&self.counters.fuse_readdirs, 1);
        let asked = ReadIn::decode(body).ok_or(Errno::INVAL)?;
        let room = asked.size.min(MAX_LISTING) as usize;
        listing.clear();
        let mut failed = None;
        self.service.list(directory, asked.offset, &mut |entry| {
            let attr = match plus.then(|| self.service.attr(entry.ino)).transpose() {
                Ok(attr) => attr,
                Err(error) => {
                    failed = Some(error);
                    return false;
                }
            };
            let before = listing.len();
            if plus {
                listing.extend_from_slice(&entry_head(attr.as_ref()).encode());
                listing.extend_from_slice(&attr_out(attr.as_ref()).encode());
            }
            let namelen = u32::try_from(entry.name.len()).unwrap_or(u32::MAX);
            let head = DirentHead { ino: entry.ino.0, off: entry.next, namelen, kind: kind(entry.kind) };
            listing.extend_from_slice(&head.encode());
            listing.extend_from_slice(entry.name);
            listing.resize(listing.len().next_multiple_of(DIRENT_ALIGN), 0);
            let fits = listing.len() <= room;
            if !fits {
                listing.truncate(before);
            }
            fits
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        self.send(unique, &[listing]);
        Ok(())
    }

    fn statfs(&self, unique: u64) -> Result<(), Errno> {
        let space = self.service.space();
        let out = StatfsOut {
            blocks: space.bytes.div_ceil(u64::from(BLOCK)),
            files: space.files,
            bsize: BLOCK,
            frsize: BLOCK,
            namelen: 255,
            ..StatfsOut::default()
        };
        self.send(unique, &[&out.encode()]);
        Ok(())
    }
}

/// Inode 0 with a time to live: the kernel remembers that the name does not exist. Inode numbers of a seed
/// are never used again for something else, so there is one generation.
fn entry_head(attr: Option<&Attr>) -> EntryHead {
    EntryHead {
        nodeid: attr.map_or(0, |attr| attr.ino.0),
        entry_valid: TTL,
        attr_valid: TTL,
        ..EntryHead::default()
    }
}

fn attr_out(attr: Option<&Attr>) -> wire::Attr {
    let Some(attr) = attr else { return wire::Attr::default() };
    wire::Attr {
        ino: attr.ino.0,
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: STORED_TIME,
        mtime: STORED_TIME,
        ctime: STORED_TIME,
        mode: kind(attr.kind) << 12 | u32::from(attr.mode),
        nlink: attr.nlink,
        blksize: BLOCK,
        ..wire::Attr::default()
    }
}

fn kind(kind: FileType) -> u32 {
    match kind {
        FileType::Regular => file_type::REGULAR,
        FileType::Directory => file_type::DIRECTORY,
        FileType::Symlink => file_type::SYMLINK,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::super::service::Space;
    use super::super::wire::OutHeader;
    use super::*;
    use crate::tree::ListedEntry;

    /// A root with the file 2, called `file`, of three bytes. It panics for inode 3.
    #[derive(Debug)]
    struct Sample;

    const FILE: Attr = Attr { ino: Ino(2), kind: FileType::Regular, mode: 0o444, size: 3, nlink: 1 };

    impl Service for Sample {
        fn lookup(&self, _: Ino, name: &[u8]) -> Result<Option<Attr>, Errno> {
            Ok((name == b"file").then_some(FILE))
        }

        fn attr(&self, ino: Ino) -> Result<Attr, Errno> {
            assert_ne!(ino, Ino(3), "a bug");
            Ok(Attr { ino, ..FILE })
        }

        fn read_link(&self, _: Ino) -> Result<&[u8], Errno> {
            Err(Errno::INVAL)
        }

        fn list(
            &self,
            _: Ino,
            cursor: u64,
            each: &mut dyn FnMut(&ListedEntry<'_>) -> bool,
        ) -> Result<(), Errno> {
            for next in cursor + 1..=3 {
                let entry = ListedEntry { name: b"file", ino: Ino(2), kind: FileType::Regular, next };
                if !each(&entry) {
                    break;
                }
            }
            Ok(())
        }

        fn space(&self) -> Space {
            Space { bytes: 4097, files: 2 }
        }

        fn read_now(&self, _: Ino, _: u64, _: u32, reply: ReadReply) -> Result<(), ReadReply> {
            Err(reply)
        }

        fn read(&self, _: Ino, _: u64, _: u32, reply: ReadReply) {
            drop(reply);
        }
    }

    /// The kernel's side of a connection: each message is whole, as on the device.
    struct Kernel(UnixDatagram);

    fn connection() -> (OwnedFd, Kernel) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        (ours.into(), Kernel(theirs))
    }

    impl Kernel {
        fn ask(&self, opcode: u32, nodeid: u64, body: &[u8]) {
            let len = u32::try_from(InHeader::SIZE + body.len()).unwrap();
            let header = InHeader { len, opcode, unique: 8, nodeid, ..InHeader::default() };
            self.0.send(&[&header.encode()[..], body].concat()).unwrap();
        }

        fn answer(&self) -> (OutHeader, Vec<u8>) {
            let mut bytes = vec![0; 4096];
            let len = self.0.recv(&mut bytes).unwrap();
            bytes.truncate(len);
            let header = OutHeader::decode(&bytes).unwrap();
            assert_eq!(header.len as usize, len);
            (header, bytes.split_off(OutHeader::SIZE))
        }

        fn begin(&self, device: OwnedFd, asked: &InitIn) -> (io::Result<Session>, OutHeader, Vec<u8>) {
            self.ask(opcode::INIT, 0, &asked.encode());
            let session = Session::begin(device, false);
            let (header, body) = self.answer();
            (session, header, body)
        }
    }

    const ASKED: InitIn = InitIn {
        major: 7,
        minor: 45,
        max_readahead: 131_072,
        flags: 1 | 1 << 13 | 1 << 17 | 1 << 18 | 1 << 22 | 1 << 23 | 1 << 24 | 1 << 30 | 1 << 15,
        flags2: 1 << 7 | 1 << 9,
    };

    #[test]
    fn what_is_agreed() {
        let (device, kernel) = connection();
        let (session, header, body) = kernel.begin(device, &ASKED);
        assert_eq!((header.error, header.unique), (0, 8));
        let expected = InitOut {
            major: 7,
            minor: 41,
            max_readahead: 131_072,
            // What was offered and not wanted is not taken.
            flags: ASKED.flags & !(1 << 15),
            flags2: 1 << 7,
            max_background: 128,
            congestion_threshold: 96,
            max_write: 4096,
            time_gran: 1,
            max_pages: 256,
            ..InitOut::default()
        };
        assert_eq!(InitOut::decode(&body), Some(expected));
        let (_, negotiated) = session.unwrap().connection().unwrap();
        assert!(negotiated.has_resend() && negotiated.minor == 45);

        // What an old kernel lacks costs nothing else.
        let (device, kernel) = connection();
        let old = InitIn { minor: 31, flags: 1 | 1 << 13 | 1 << 17, flags2: 0, ..ASKED };
        let (session, _, body) = kernel.begin(device, &old);
        assert_eq!(InitOut::decode(&body).unwrap().flags, old.flags);
        assert!(!session.unwrap().connection().unwrap().1.has_resend());
    }

    #[test]
    fn what_cannot_be_agreed() {
        let (device, kernel) = connection();
        let (session, header, _) = kernel.begin(device, &InitIn { minor: 22, ..ASKED });
        assert_eq!(header.error, -Errno::PROTO.raw_os_error());
        assert!(session.unwrap_err().to_string().contains("7.22, which is too old"));

        let (device, kernel) = connection();
        kernel.ask(opcode::LOOKUP, 1, b"file\0");
        assert!(Session::begin(device, false).is_err());
        assert_eq!(kernel.answer().0.error, -Errno::IO.raw_os_error());

        // A later kernel asks once more, in our version.
        let (device, kernel) = connection();
        kernel.ask(opcode::INIT, 0, &InitIn { major: 8, ..ASKED }.encode());
        kernel.ask(opcode::INIT, 0, &ASKED.encode());
        assert!(Session::begin(device, false).is_ok());
        assert_eq!(InitOut::decode(&kernel.answer().1).unwrap().major, 7);
        assert_eq!(InitOut::decode(&kernel.answer().1).unwrap().max_pages, 256);
    }

    /// Serves the sample on a connection that another server had.
    fn served() -> (Serving, Kernel) {
        let (device, kernel) = connection();
        let capabilities = capability::HAS_RESEND;
        let negotiated = Negotiated { minor: 45, capabilities, max_readahead: 0, sees_threads: false };
        let serving = Session::resume(device, negotiated).serve(Arc::new(Sample), Arc::default()).unwrap();
        let (resend, body) = kernel.answer();
        assert_eq!(
            (resend.unique, resend.error, body.len()),
            (0, wire::NOTIFY_RESEND, 0),
            "what was lost is asked for"
        );
        (serving, kernel)
    }

    #[test]
    fn requests_and_answers() {
        let (_serving, kernel) = served();
        let read = |size| ReadIn { size, ..ReadIn::default() }.encode();
        let plus = EntryHead::SIZE + wire::Attr::SIZE;
        // Request, inode, body; error and bytes of the answer.
        for (asked, nodeid, body, error, bytes) in [
            (opcode::LOOKUP, 1, &b"file\0"[..], 0, plus),
            (opcode::LOOKUP, 1, b"none\0", 0, plus),
            (opcode::LOOKUP, 1, b"no end", Errno::INVAL.raw_os_error(), 0),
            (opcode::GETATTR, 2, b"", 0, AttrHead::SIZE + wire::Attr::SIZE),
            (opcode::GETATTR, 3, b"", Errno::IO.raw_os_error(), 0),
            (opcode::READLINK, 2, b"", Errno::INVAL.raw_os_error(), 0),
            (opcode::READ, 2, &read(10), Errno::IO.raw_os_error(), 0),
            (opcode::READ, 2, b"short", Errno::INVAL.raw_os_error(), 0),
            (opcode::READDIR, 1, &read(4096), 0, 3 * 32),
            (opcode::READDIR, 1, &read(95), 0, 2 * 32),
            (opcode::READDIRPLUS, 1, &read(4096), 0, 3 * (plus + 32)),
            (opcode::STATFS, 1, b"", 0, StatfsOut::SIZE),
            (opcode::RELEASE, 2, b"", 0, 0),
            // OPEN, OPENDIR, FLUSH, GETXATTR, and one that nobody knows.
            (14, 2, b"", Errno::NOSYS.raw_os_error(), 0),
            (27, 1, b"", Errno::NOSYS.raw_os_error(), 0),
            (25, 2, b"", Errno::NOSYS.raw_os_error(), 0),
            (22, 2, b"", Errno::NOSYS.raw_os_error(), 0),
            (4000, 2, b"", Errno::NOSYS.raw_os_error(), 0),
        ] {
            kernel.ask(asked, nodeid, body);
            let (header, answer) = kernel.answer();
            assert_eq!(
                (header.unique, header.error, answer.len()),
                (8, -error, bytes),
                "{asked} of {nodeid}"
            );
        }
        // These have no answer: what comes next is that of the last.
        kernel.ask(opcode::FORGET, 2, &[0; 8]);
        kernel.ask(opcode::BATCH_FORGET, 0, &[0; 8]);
        kernel.ask(opcode::INTERRUPT, 0, &[0; 8]);
        kernel.ask(opcode::INTERRUPT, 0, b"");
        kernel.ask(opcode::STATFS, 1, b"");
        let (_, answer) = kernel.answer();
        let space = StatfsOut::decode(&answer).unwrap();
        assert_eq!((space.blocks, space.files, space.bfree), (2, 2, 0));
    }

    #[test]
    fn a_missing_name_is_remembered_for_ever() {
        let (_serving, kernel) = served();
        for (name, nodeid) in [(&b"file\0"[..], 2), (b"none\0", 0)] {
            kernel.ask(opcode::LOOKUP, 1, name);
            let (_, answer) = kernel.answer();
            let entry = EntryHead::decode(&answer).unwrap();
            assert_eq!((entry.nodeid, entry.entry_valid, entry.attr_valid), (nodeid, TTL, TTL));
            let attr = wire::Attr::decode(&answer[EntryHead::SIZE..]).unwrap();
            let expected = if nodeid == 0 { (0, 0, 0, 0) } else { (2, 0o100_444, 3, 1) };
            assert_eq!((attr.ino, attr.mode, attr.size, attr.mtime), expected);
        }
    }

    /// The format of what the kernel sends is not ours to trust blindly: it is refused, not guessed.
    #[test]
    fn a_request_that_is_cut_off_ends_the_session() {
        let (serving, kernel) = served();
        let header = InHeader { len: 100, opcode: opcode::STATFS, ..InHeader::default() };
        for _ in 0..threads() {
            kernel.0.send(&header.encode()).unwrap();
        }
        assert!(serving.wait().is_err());
    }
}
