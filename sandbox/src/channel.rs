//! Messages with file descriptors between the supervisor and the sandbox's first process.
//!
//! A message is a little-endian `u32` length and that many bytes of JSON, on a UNIX stream socket. Its
//! file descriptors travel with the length.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest message. Arguments and environment travel in one: the kernel's own limit for both is near.
const MAX_MESSAGE: u32 = 4 << 20;

/// Most file descriptors that a message carries: the three streams of a command.
const MAX_DESCRIPTORS: usize = 3;

/// One end.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
}

impl Channel {
    /// Two connected ends.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        Ok((Self { socket: a }, Self { socket: b }))
    }

    /// The end that another process made and this one inherited.
    pub(crate) fn from_socket(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// The socket, to hand to a child.
    pub(crate) fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Sends a message. Blocks while the other end does not read.
    pub(crate) fn send<T: Serialize>(&self, message: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        assert!(
            descriptors.len() <= MAX_DESCRIPTORS,
            "a message carries at most {MAX_DESCRIPTORS} descriptors"
        );
        let body = serde_json::to_vec(message)?;
        let length =
            u32::try_from(body.len()).ok().filter(|length| *length <= MAX_MESSAGE).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidInput, "arguments and environment are too long")
            })?;

        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
            assert!(fits, "the buffer is sized for {MAX_DESCRIPTORS} descriptors");
        }
        let header = length.to_le_bytes();
        let sent =
            retry(|| sendmsg(&self.socket, &[IoSlice::new(&header)], &mut control, SendFlags::NOSIGNAL))?;
        self.write_all(&header[sent..])?;
        self.write_all(&body)
    }

    /// The next message and its descriptors; `None` when the other end is gone.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut header = [0; 4];
        let received = retry(|| {
            let mut parts = [IoSliceMut::new(&mut header)];
            recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
        });
        let received = match received {
            Ok(message) => message.bytes,
            // The other process was killed with bytes of ours unread: gone, like an end of file.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            Err(error) => return Err(error),
        };
        if received == 0 {
            return Ok(None);
        }
        let descriptors: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten()
            .collect();
        self.read_exact(&mut header[received..])?;

        let length = u32::from_le_bytes(header);
        if length > MAX_MESSAGE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
        }
        let mut body = vec![0; length as usize];
        self.read_exact(&mut body)?;
        let message =
            serde_json::from_slice(&body).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        Ok(Some((message, descriptors)))
    }

    fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = retry(|| rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL))?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    fn read_exact(&self, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (received, _) = retry(|| rustix::net::recv(&self.socket, &mut *bytes, RecvFlags::empty()))?;
            if received == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes = &mut bytes[received..];
        }
        Ok(())
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn retry<T>(call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    rustix::io::retry_on_intr(call).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn carries_messages_and_descriptors_in_order() {
        let (here, there) = Channel::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        here.send(&"first", &[]).unwrap();
        here.send(&"second", &[writer.as_fd()]).unwrap();
        drop((here, writer));

        let (text, descriptors) = there.receive::<String>().unwrap().unwrap();
        assert_eq!((text.as_str(), descriptors.len()), ("first", 0));
        let (text, mut descriptors) = there.receive::<String>().unwrap().unwrap();
        assert_eq!((text.as_str(), descriptors.len()), ("second", 1));
        std::fs::File::from(descriptors.remove(0)).write_all(b"x").unwrap();
        assert!(there.receive::<String>().unwrap().is_none());

        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        assert_eq!(read, "x");
    }

    #[test]
    fn refuses_malformed_messages() {
        for (bytes, kind) in [
            (&b"\xff\xff\xff\xff"[..], io::ErrorKind::InvalidData),
            (b"\x02\x00", io::ErrorKind::UnexpectedEof),
            (b"\x08\x00\x00\x00\"x\"", io::ErrorKind::UnexpectedEof),
            (b"\x03\x00\x00\x00nul", io::ErrorKind::InvalidData),
        ] {
            let (here, there) = Channel::pair().unwrap();
            here.write_all(bytes).unwrap();
            drop(here);
            assert_eq!(there.receive::<String>().unwrap_err().kind(), kind, "{bytes:?}");
        }
    }
}
