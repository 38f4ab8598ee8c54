//! Memory of which one part is read while another is written, and which other processes can go on with.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::Errno;

/// Bytes that are zero until they are written.
///
/// Who owns it must see to it that no byte is read before it was written, and that none is written twice:
/// see the frames' flags.
pub(super) struct Buffer {
    /// What is mapped, if that is a file of its own in memory.
    memory: Option<File>,
    /// Whole pages, at least one.
    map: MmapRaw,
    len: usize,
}

/// Nobody makes it shorter, so that reading it is safe, and nobody writes to it who does not yet.
const SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE).union(SealFlags::SEAL);

impl Buffer {
    /// Pages take no memory until bytes are written to them.
    pub(super) fn new(len: usize) -> Self {
        match Self::in_file(len) {
            Ok(buffer) => buffer,
            Err(error) => {
                tracing::debug!(%error, "the index is in memory that cannot be shared");
                let map = MmapOptions::new().len(len.max(1)).map_anon();
                Self { memory: None, map: map.expect("memory for the index").into(), len }
            }
        }
    }

    fn in_file(len: usize) -> io::Result<Self> {
        let memory = File::from(memory_file()?);
        memory.set_len(len.max(1) as u64)?;
        let map = MmapRaw::map_raw(&memory)?;
        Ok(Self { memory: Some(memory), map, len })
    }

    /// Lets nobody write to the bytes through a new mapping or descriptor, and gives them away.
    pub(super) fn share(&self) -> io::Result<OwnedFd> {
        let memory = self.memory.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        if !fcntl_get_seals(memory)?.contains(SEALS) {
            fcntl_add_seals(memory, SEALS)?;
        }
        Ok(memory.try_clone()?.into())
    }

    /// What [`share`](Self::share) gave.
    pub(super) fn of_shared(memory: OwnedFd) -> io::Result<Self> {
        if !fcntl_get_seals(&memory)?.contains(SEALS) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the memory could change"));
        }
        let memory = File::from(memory);
        let len = usize::try_from(memory.metadata()?.len()).map_err(io::Error::other)?;
        let map = MmapOptions::new().map_raw_read_only(&memory)?;
        Ok(Self { memory: Some(memory), map, len })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that were written: nobody writes them any more.
    pub(super) fn read(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.len, "a range of the buffer");
        // SAFETY: the map has at least `len` bytes and cannot shrink: it is anonymous, or of a file that only
        // this process has, or that is sealed. The owner reads only what was written before, and writes
        // nothing twice; so no byte of these changes while the slice lives.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(range.start), range.len()) }
    }

    /// Writes bytes that nobody has read. Not to be called for [shared](Self::of_shared) bytes.
    pub(super) fn write(&self, range: Range<usize>, bytes: &[u8]) {
        assert!(range.start <= range.end && range.end <= self.len, "a range of the buffer");
        assert_eq!(range.len(), bytes.len(), "a frame has its length");
        // SAFETY: the range lies in the map, which `bytes` is no part of; the owner has given no slice of it
        // to anybody.
        unsafe {
            let first = self.map.as_mut_ptr().add(range.start);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), first, bytes.len());
        }
    }
}

/// A file without a name that takes seals.
fn memory_file() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Some systems refuse files that could be run as programs; kernels before 6.3 do not know the flag.
    match memfd_create("seed-index", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => Ok(memfd_create("seed-index", flags)?),
        created => Ok(created?),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_was_written_is_shared_and_stays() {
        let buffer = Buffer::new(10_000);
        assert_eq!((buffer.len(), buffer.read(0..3)), (10_000, &[0; 3][..]));
        buffer.write(9_998..10_000, b"ab");
        for _ in 0..2 {
            let memory = buffer.share().unwrap();
            let mut file = File::from(memory.try_clone().unwrap());
            assert!(file.write_all(b"x").is_err() && file.set_len(1).is_err(), "it is sealed");
            let other = Buffer::of_shared(memory).unwrap();
            assert_eq!((other.len(), other.read(9_997..10_000)), (10_000, &b"\0ab"[..]));
        }
        assert_eq!(buffer.read(9_998..10_000), b"ab");
    }

    #[test]
    fn memory_that_could_change_is_refused() {
        let memory = memory_file().unwrap();
        File::from(memory.try_clone().unwrap()).write_all(b"abc").unwrap();
        assert!(Buffer::of_shared(memory).is_err());
        let file = tempfile::tempfile().unwrap();
        assert!(Buffer::of_shared(file.into()).is_err());
    }

    #[test]
    fn nothing_is_a_length_too() {
        let buffer = Buffer::new(0);
        buffer.write(0..0, b"");
        assert_eq!(buffer.read(0..0), b"");
    }
}
