//! What the kernel is told without having asked: which pages it shall have, and which it shall let go of.
//!
//! Sources: `struct fuse_notify_store_out` and `struct fuse_notify_inval_inode_out` of `linux/fuse.h`.

use std::io::{self, IoSlice};
use std::os::fd::{BorrowedFd, OwnedFd};

use super::wire::OutHeader;
use crate::tree::Ino;

const NOTIFY_INVAL_INODE: i32 = 2;
const NOTIFY_STORE: i32 = 4;

/// A connection to the kernel, for notices only. Must not be used by a thread that answers requests: the
/// kernel may wait for a page that it has asked for.
#[derive(Debug)]
pub(crate) struct Notices(OwnedFd);

impl Notices {
    /// Notices by the connection on this descriptor.
    pub(crate) fn new(device: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self(device.try_clone_to_owned()?))
    }

    /// Gives the kernel bytes of a file that it knows, which lie at whole pages. `false` if the file is gone.
    pub(crate) fn store(&self, ino: Ino, offset: u64, bytes: &[u8]) -> io::Result<bool> {
        let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let mut message = [0; 24];
        message[..8].copy_from_slice(&ino.0.to_ne_bytes());
        message[8..16].copy_from_slice(&offset.to_ne_bytes());
        message[16..20].copy_from_slice(&size.to_ne_bytes());
        self.send(NOTIFY_STORE, &message, bytes)
    }

    /// Lets the kernel forget the pages of a part of a file. `false` if the file is gone.
    pub(crate) fn forget(&self, ino: Ino, offset: u64, len: u64) -> io::Result<bool> {
        let mut message = [0; 24];
        message[..8].copy_from_slice(&ino.0.to_ne_bytes());
        message[8..16].copy_from_slice(&offset.to_ne_bytes());
        message[16..].copy_from_slice(&len.to_ne_bytes());
        self.send(NOTIFY_INVAL_INODE, &message, &[])
    }

    fn send(&self, notice: i32, message: &[u8], bytes: &[u8]) -> io::Result<bool> {
        let len = u32::try_from(OutHeader::SIZE + message.len() + bytes.len()).map_err(io::Error::other)?;
        let header = OutHeader { len, error: notice, unique: 0 }.encode();
        let parts = [&header[..], message, bytes].map(IoSlice::new);
        match rustix::io::writev(&self.0, &parts) {
            Ok(_) => Ok(true),
            Err(
                rustix::io::Errno::NOENT
                | rustix::io::Errno::NOTCONN
                | rustix::io::Errno::NODEV
                | rustix::io::Errno::CONNABORTED
                | rustix::io::Errno::PERM,
            ) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
