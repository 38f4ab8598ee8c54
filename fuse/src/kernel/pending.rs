//! Reads that were not answered at once, and those whose readers were interrupted meanwhile.
//!
//! A process that waits for the network must be killable. The kernel says so by INTERRUPT, for any signal,
//! and only once; yet an answer `EINTR` to a process that only caught a signal would break it: reading a file
//! is never interrupted so, and a page fault would end in `SIGBUS`. So `EINTR` is answered when the thread
//! that waits is being killed, which `/proc` tells, and else the read goes on.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use super::device::Connection;
use crate::data::Data;

/// How often it is looked whether an interrupted reader is being killed by now.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Interrupts that are remembered though their reads are not known yet.
const EARLY: usize = 64;
/// The bit of SIGKILL in the masks of `/proc/PID/status`. The kernel gives SIGKILL to each thread of a
/// process that any signal is going to end.
const KILL_BIT: u64 = 1 << (9 - 1);

/// A connection, and the reads that wait for their bytes.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) connection: Connection,
    /// Whether the kernel's thread numbers are those of this process's `/proc`.
    sees_threads: bool,
    reads: Mutex<Reads>,
    interrupted: Condvar,
}

#[derive(Debug, Default)]
struct Reads {
    waiting: HashMap<u64, Waiting>,
    /// The last interrupts whose reads had not begun to wait when they came.
    early: VecDeque<u64>,
    ended: bool,
}

#[derive(Debug)]
struct Waiting {
    thread: u32,
    interrupted: bool,
}

impl Pending {
    pub(super) fn new(connection: Connection, sees_threads: bool) -> Self {
        Self { connection, sees_threads, reads: Mutex::default(), interrupted: Condvar::new() }
    }

    /// Notes that somebody got a signal while waiting for this request.
    pub(super) fn interrupt(&self, unique: u64) {
        let mut reads = self.lock();
        match reads.waiting.get_mut(&unique) {
            Some(read) => {
                read.interrupted = true;
                self.interrupted.notify_one();
            }
            None => {
                if reads.early.len() == EARLY {
                    reads.early.pop_front();
                }
                reads.early.push_back(unique);
            }
        }
    }

    /// Answers the reads of those who are being killed, until [`end`](Self::end).
    pub(super) fn watch(&self) {
        let mut reads = self.lock();
        while !reads.ended {
            let interrupted: Vec<_> = reads
                .waiting
                .iter()
                .filter(|(_, read)| read.interrupted)
                .map(|(unique, read)| (*unique, read.thread))
                .collect();
            if interrupted.is_empty() || !self.sees_threads {
                reads = self.interrupted.wait(reads).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            drop(reads);
            for (unique, thread) in interrupted {
                if is_being_killed(thread) && self.lock().waiting.remove(&unique).is_some() {
                    self.connection.refuse(unique, Errno::INTR);
                }
            }
            reads = self.lock();
            let again = self.interrupted.wait_timeout(reads, LOOK_AGAIN);
            reads = again.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends [`watch`](Self::watch).
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.interrupted.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Reads> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a thread will run no more, whatever it waits for.
fn is_being_killed(thread: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    pending_signals(&status).is_some_and(|mask| mask & KILL_BIT != 0)
}

/// The line `SigPnd` (proc(5)): signals that wait for this very thread, one bit each.
fn pending_signals(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigPnd:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// The answer to one READ. It is given once; one that is dropped is `EIO`.
#[derive(Debug)]
pub(crate) struct ReadReply {
    pending: Arc<Pending>,
    unique: u64,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Nobody else knows of it.
    Fresh,
    /// It is among those that wait.
    Waiting,
    Answered,
}

impl ReadReply {
    pub(super) fn new(pending: &Arc<Pending>, unique: u64) -> Self {
        Self { pending: Arc::clone(pending), unique, state: State::Fresh }
    }

    /// From now on its reader may be killed. `thread` is the reader's, or 0 if none waits.
    pub(super) fn wait(mut self, thread: u32) -> Self {
        if thread != 0 {
            let mut reads = self.pending.lock();
            let early = reads.early.iter().position(|unique| *unique == self.unique);
            let interrupted = early.is_some_and(|at| reads.early.remove(at).is_some());
            reads.waiting.insert(self.unique, Waiting { thread, interrupted });
            if interrupted {
                self.pending.interrupted.notify_one();
            }
            drop(reads);
            self.state = State::Waiting;
        }
        self
    }

    /// Gives the bytes.
    pub(crate) fn data(self, data: &Data) {
        self.pieces(&data.pieces().collect::<Vec<_>>());
    }

    fn pieces(mut self, pieces: &[&[u8]]) {
        if self.take() {
            self.pending.connection.answer(self.unique, pieces);
        }
    }

    /// Ends the read with an error.
    pub(crate) fn error(mut self, error: Errno) {
        if self.take() {
            self.pending.connection.refuse(self.unique, error);
        }
    }

    /// Whether the read is still to be answered; it is, after this.
    fn take(&mut self) -> bool {
        match std::mem::replace(&mut self.state, State::Answered) {
            State::Fresh => true,
            State::Waiting => self.pending.lock().waiting.remove(&self.unique).is_some(),
            State::Answered => false,
        }
    }
}

impl Drop for ReadReply {
    fn drop(&mut self) {
        if self.take() {
            self.pending.connection.refuse(self.unique, Errno::IO);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::super::wire::OutHeader;
    use super::*;

    /// Replies whose answers can be read at the other end.
    fn pending() -> (Arc<Pending>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Arc::new(Pending::new(Connection::new(OwnedFd::from(ours)), true)), theirs)
    }

    fn header(kernel: &mut UnixStream) -> (u64, i32, u32) {
        let mut bytes = [0; OutHeader::SIZE];
        kernel.read_exact(&mut bytes).unwrap();
        let header = OutHeader::decode(&bytes).unwrap();
        (header.unique, header.error, header.len)
    }

    #[test]
    fn each_read_is_answered_once() {
        let (pending, mut kernel) = pending();
        for thread in [0, 1] {
            let reply = |unique| ReadReply::new(&pending, unique).wait(thread);
            reply(2).pieces(&[b"ab", b"c"]);
            assert_eq!(header(&mut kernel), (2, 0, 19));
            let mut bytes = [0; 3];
            kernel.read_exact(&mut bytes).unwrap();
            assert_eq!(bytes, *b"abc");
            reply(4).error(Errno::ISDIR);
            assert_eq!(header(&mut kernel), (4, -21, 16));
            drop(reply(6));
            assert_eq!(header(&mut kernel), (6, -5, 16));
        }
        assert!(pending.lock().waiting.is_empty());
        drop(pending);
        assert_eq!(kernel.read(&mut [0]).unwrap(), 0, "and nothing more");
    }

    #[test]
    fn more_pieces_than_one_call_may_have() {
        let (pending, mut kernel) = pending();
        let pieces = vec![&b"x"[..]; 3000];
        ReadReply::new(&pending, 2).pieces(&pieces);
        assert_eq!(header(&mut kernel), (2, 0, 3016));
        let mut bytes = [0; 3000];
        kernel.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, [b'x'; 3000]);
    }

    #[test]
    fn a_signal_alone_ends_no_read() {
        let (pending, mut kernel) = pending();
        // The reader is this thread, which nobody kills. The interrupts come before and after it waits.
        let thread = u32::try_from(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
        pending.interrupt(2);
        let early = ReadReply::new(&pending, 2).wait(thread);
        let late = ReadReply::new(&pending, 4).wait(thread);
        pending.interrupt(4);
        assert!(pending.lock().waiting.values().all(|read| read.interrupted));
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| pending.watch());
            early.pieces(&[b""]);
            late.pieces(&[b""]);
            pending.end();
            watch.join().unwrap();
        });
        assert_eq!((header(&mut kernel), header(&mut kernel)), ((2, 0, 16), (4, 0, 16)));
    }

    #[test]
    fn early_interrupts_are_bounded() {
        let (pending, _kernel) = pending();
        (0..1000).for_each(|unique| pending.interrupt(unique));
        assert_eq!(pending.lock().early.len(), EARLY);
    }

    #[test]
    fn signals_of_a_thread() {
        let status = "Name:\tcat\nSigQ:\t0/31\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000004000\n";
        assert_eq!(pending_signals(status), Some(KILL_BIT));
        for (status, expected) in
            [("SigPnd:\tx", None), ("", None), ("SigPnd:\t0000000000004000\n", Some(1 << 14))]
        {
            assert_eq!(pending_signals(status), expected);
        }
        assert!(!is_being_killed(std::process::id()) && !is_being_killed(u32::MAX));
    }
}
