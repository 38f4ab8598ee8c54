//! Pages that lie in the kernel twice.
//!
//! EROFS copies what it reads from a virtual blob into pages of its own files, and the pages of the blob are
//! not read again while those stay. So the kernel is told to forget them. Not at once: it may not have copied
//! what it has read ahead.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};
use std::{io, thread};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::notice::Notices;
use crate::tree::Ino;

/// How long pages stay after they were given to the kernel.
const STAY: Duration = Duration::from_secs(2);

/// Pages that the kernel was given.
#[derive(Debug)]
struct Given {
    ino: Ino,
    bytes: Range<u64>,
    at: Instant,
}

/// Tells the kernel to forget pages, a while after it was given them.
#[derive(Debug)]
pub(super) struct Pages(Sender<Given>);

impl Pages {
    /// Starts the thread that tells it. It ends with this value, or with the mount.
    pub(super) fn forgotten_by(notices: Notices) -> io::Result<Self> {
        let (sender, given) = unbounded();
        thread::Builder::new().name("pages".into()).spawn(move || forget(&notices, &given))?;
        Ok(Self(sender))
    }

    /// Notes that the kernel is given pages.
    pub(super) fn give(&self, ino: Ino, bytes: Range<u64>) {
        // If the mount is gone, so are its pages.
        let _ = self.0.send(Given { ino, bytes, at: Instant::now() });
    }
}

fn forget(notices: &Notices, given: &Receiver<Given>) {
    let mut waiting = VecDeque::new();
    loop {
        let next = match waiting.front() {
            None => given.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(Given { at, .. }) => given.recv_deadline(*at + STAY),
        };
        match next {
            Ok(pages) => add(&mut waiting, pages),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let Some(Given { ino, bytes, .. }) = waiting.pop_front() else { continue };
                match notices.forget(ino, bytes.start, bytes.end - bytes.start) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => tracing::debug!(%error, "the kernel does not forget pages"),
                }
            }
        }
    }
}

/// Adds pages at the end, to the last ones if they follow them: these have been read in one go.
fn add(waiting: &mut VecDeque<Given>, pages: Given) {
    match waiting.back_mut() {
        Some(last) if last.ino == pages.ino && last.bytes.end == pages.bytes.start => {
            last.bytes.end = pages.bytes.end;
            last.at = pages.at;
        }
        _ => waiting.push_back(pages),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one() {
        let mut waiting = VecDeque::new();
        let begin = Instant::now();
        for (ino, bytes, after) in
            [(2, 0..4096, 0), (2, 4096..8192, 1), (3, 8192..9000, 1), (2, 8192..9000, 2), (2, 0..1, 3)]
        {
            add(&mut waiting, Given { ino: Ino(ino), bytes, at: begin + Duration::from_secs(after) });
        }
        let left: Vec<_> = waiting
            .iter()
            .map(|pages| (pages.ino.0, pages.bytes.clone(), (pages.at - begin).as_secs()))
            .collect();
        assert_eq!(left, [(2, 0..8192, 1), (3, 8192..9000, 1), (2, 8192..9000, 2), (2, 0..1, 3)]);
    }
}
