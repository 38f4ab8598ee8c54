//! A server's side of its [keeper](super::keeper).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, memfd_create};
use seed_format::json;
use seed_image::seed::{Seed, SeedError};
use serde::{Deserialize, Serialize};

use super::detached::Request;
use super::keeper::{self, Order, Say};
use super::runtime::MountState;
use crate::kernel::Negotiated;

/// Largest record, in bytes: a manifest and a configuration are most of it.
const MAX_RECORD: usize = 64 << 20;

/// What a server must know to go on with a mount that another has made.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) request: Request,
    pub(super) state: MountState,
    pub(super) negotiated: Negotiated,
    /// The seed's manifest and configuration, which were verified.
    manifest: String,
    config: String,
}

impl Record {
    pub(super) fn new(request: Request, state: MountState, negotiated: Negotiated, seed: &Seed) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("JSON is text");
        let (manifest, config) = (text(seed.manifest.to_bytes()), text(seed.config.to_bytes()));
        Self { request, state, negotiated, manifest, config }
    }

    pub(super) fn seed(&self) -> Result<Seed, SeedError> {
        Seed::of_documents(&self.state.digest, self.manifest.as_bytes(), self.config.as_bytes())
    }

    fn to_memory(&self) -> io::Result<OwnedFd> {
        let mut file = File::from(memfd_create("seed-mount", MemfdFlags::CLOEXEC)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        Ok(file.into())
    }

    fn of_memory(memory: &OwnedFd) -> io::Result<Self> {
        // Its position is that of all who have it.
        let file = File::from(memory.try_clone()?);
        let len = usize::try_from(file.metadata()?.len()).ok().filter(|len| *len <= MAX_RECORD);
        let mut bytes = vec![0; len.ok_or(io::ErrorKind::InvalidData)?];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0)?;
        json::from_slice(&bytes, MAX_RECORD).map_err(io::Error::other)
    }
}

/// What a server shall do.
pub(super) enum Task {
    /// Mount what is read from here, or what its own arguments say.
    Mount(File),
    /// Go on with a mount.
    GoOn(Box<Inheritance>),
}

/// A mount to go on with.
pub(super) struct Inheritance {
    pub(super) device: OwnedFd,
    pub(super) record: Record,
    pub(super) index: Option<OwnedFd>,
    /// How many servers it has had before.
    pub(super) takeovers: u32,
}

/// The socket to the keeper.
#[derive(Debug)]
pub(super) struct Link {
    socket: OwnedFd,
    /// Whether a service manager would start the keeper again, with all that it keeps.
    pub(super) managed: bool,
}

impl Link {
    /// Makes this process the server of its keeper, if [`is_kept`](keeper::is_kept): it dies with it.
    pub(super) fn take() -> io::Result<Self> {
        let managed = keeper::become_server()?;
        let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        Ok(Self { socket, managed })
    }

    /// Waits for the first order.
    pub(super) fn task(&self) -> io::Result<Task> {
        let (message, descriptors) = keeper::receive(self.socket.as_fd())?;
        let (order, rest) = message.split_first().ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or(io::ErrorKind::InvalidData);
        if *order == Order::Mount as u8 {
            return Ok(Task::Mount(File::from(next()?)));
        }
        let takeovers = rest.first_chunk().filter(|_| *order == Order::TakeOver as u8);
        let takeovers = u32::from_ne_bytes(*takeovers.ok_or(io::ErrorKind::InvalidData)?);
        let (device, record) = (next()?, Record::of_memory(&next()?)?);
        Ok(Task::GoOn(Box::new(Inheritance { device, record, index: next().ok(), takeovers })))
    }

    /// Gives the keeper what the next server needs.
    pub(super) fn mounted(&self, device: BorrowedFd<'_>, record: &Record) -> io::Result<()> {
        let said = if record.negotiated.has_resend() { Say::Mounted } else { Say::MountedForOnce };
        keeper::send(self.socket.as_fd(), &[said as u8], &[device, record.to_memory()?.as_fd()])
    }

    /// Gives it the index as well.
    pub(super) fn index(&self, index: &OwnedFd) -> io::Result<()> {
        keeper::send(self.socket.as_fd(), &[Say::Index as u8], &[index.as_fd()])
    }

    /// Says that this server could go on, and waits until it shall.
    pub(super) fn prepared(&self) -> io::Result<()> {
        keeper::send(self.socket.as_fd(), &[Say::Prepared as u8], &[])?;
        let (message, _) = keeper::receive(self.socket.as_fd())?;
        if message == [Order::Go as u8] { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Says that this server answers the kernel.
    pub(super) fn serving(&self) -> io::Result<()> {
        keeper::send(self.socket.as_fd(), &[Say::Serving as u8], &[])
    }
}

/// Reads all of a request, whose length is limited.
pub(super) fn read_request(file: File, limit: usize) -> io::Result<Request> {
    let mut text = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut text)?;
    json::from_slice(&text, limit).map_err(io::Error::other)
}
