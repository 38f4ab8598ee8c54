//! A connection to the kernel: one open file of `/dev/fuse`, which may outlive this process.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::wire::{InHeader, NOTIFY_RESEND, OutHeader};

/// Requests are short: names and numbers, as nothing is ever written. The kernel packs as many FORGETs into
/// one as fit.
pub(super) const BUFFER: usize = 32 << 10;

/// The most pieces that one answer may be made of (`IOV_MAX`), without its header.
const MAX_PIECES: usize = 1023;

/// An open file of `/dev/fuse` that is mounted.
#[derive(Debug)]
pub(super) struct Connection {
    device: OwnedFd,
}

/// What came from the kernel.
pub(super) enum Received<'a> {
    Request {
        header: InHeader,
        body: &'a [u8],
    },
    /// The mount is gone.
    Gone,
}

impl Connection {
    pub(super) fn new(device: OwnedFd) -> Self {
        Self { device }
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// Waits for a request. `buffer` has [`BUFFER`] bytes: the kernel refuses short ones.
    pub(super) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Received<'a>> {
        let len = loop {
            match rustix::io::read(&self.device, &mut *buffer) {
                Ok(len) => break len,
                // A request was taken back by who made it, or a signal came.
                Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => {}
                Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(Received::Gone),
                Err(error) => return Err(error.into()),
            }
        };
        let request = &buffer[..len];
        let header = InHeader::decode(request).filter(|header| header.len as usize == len);
        let header =
            header.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a request is cut off"))?;
        Ok(Received::Request { header, body: &request[InHeader::SIZE..] })
    }

    /// Answers a request with bytes that lie in one piece or in several, which are not copied together.
    pub(super) fn answer(&self, unique: u64, pieces: &[&[u8]]) {
        if pieces.len() > MAX_PIECES {
            return self.answer(unique, &[&pieces.concat()]);
        }
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        let Ok(len) = u32::try_from(OutHeader::SIZE + bytes) else { return self.refuse(unique, Errno::IO) };
        let header = OutHeader { len, error: 0, unique }.encode();
        match pieces {
            [] => self.write(&[IoSlice::new(&header)]),
            [piece] => self.write(&[IoSlice::new(&header), IoSlice::new(piece)]),
            pieces => {
                let mut all = Vec::with_capacity(1 + pieces.len());
                all.push(IoSlice::new(&header));
                all.extend(pieces.iter().map(|piece| IoSlice::new(piece)));
                self.write(&all);
            }
        }
    }

    /// Answers a request with an error.
    pub(super) fn refuse(&self, unique: u64, error: Errno) {
        let header = OutHeader { len: 16, error: -error.raw_os_error(), unique }.encode();
        self.write(&[IoSlice::new(&header)]);
    }

    /// Asks for all requests that were read and not answered: by a process that is no more. `false` if the
    /// kernel cannot (before Linux 6.9).
    pub(super) fn resend(&self) -> io::Result<bool> {
        let message = OutHeader { len: 16, error: NOTIFY_RESEND, unique: 0 }.encode();
        match rustix::io::write(&self.device, &message) {
            Ok(_) => Ok(true),
            Err(Errno::INVAL) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn write(&self, message: &[IoSlice<'_>]) {
        match rustix::io::writev(&self.device, message) {
            // The kernel takes an answer whole. Nobody waits for it any more: that is no failure.
            Ok(_) | Err(Errno::NOENT | Errno::NODEV | Errno::CONNABORTED) => {}
            Err(error) => tracing::error!(%error, "the kernel refused an answer"),
        }
    }
}
