//! The service manager that a mount in the foreground runs under, if there is one: `sd_notify(3)`, and the
//! store of descriptors that it gives back to the next process of the service.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, sendmsg_addr, socket_with,
};

/// Where it listens.
const SOCKET: &str = "NOTIFY_SOCKET";
/// How many descriptors it keeps.
const STORE: &str = "FDSTORE";
/// What it gave: the process it is for, and how many from number 3 on.
const GIVEN: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// Speaks to the service manager, or to nobody.
#[derive(Debug)]
pub(super) struct Manager {
    socket: Option<OsString>,
}

impl Manager {
    pub(super) fn from_env() -> Self {
        Self { socket: std::env::var_os(SOCKET).filter(|socket| !socket.is_empty()) }
    }

    /// Whether it surely keeps what it is given: it says so since systemd 254.
    pub(super) fn stores(&self) -> bool {
        let room = std::env::var(STORE).ok().and_then(|room| room.parse::<u32>().ok());
        self.socket.is_some() && room.is_some_and(|room| room >= 3)
    }

    /// The mount is ready, for the first time or again.
    pub(super) fn ready(&self) {
        self.say("READY=1", None);
    }

    /// A new server is being started.
    pub(super) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"), None);
    }

    /// Gives a descriptor to be kept.
    pub(super) fn store(&self, name: &str, descriptor: &OwnedFd) {
        self.say(&format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"), Some(descriptor.as_fd()));
    }

    /// Nothing is to be kept any more.
    pub(super) fn forget(&self) {
        for name in ["device", "record", "index"] {
            self.say(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None);
        }
    }

    /// What a former keeper has given to be kept: device, record, and index.
    pub(super) fn take_kept(&self) -> Option<(OwnedFd, OwnedFd, Option<OwnedFd>)> {
        let [pid, count, names] = GIVEN.map(|name| std::env::var(name).ok());
        if pid? != std::process::id().to_string() {
            return None;
        }
        let count: usize = count?.parse().ok().filter(|count| *count <= MAX_GIVEN)?;
        let names = names.unwrap_or_default();
        let mut given: HashMap<&str, OwnedFd> = names.split(':').zip(given(count)).collect();
        Some((given.remove("device")?, given.remove("record")?, given.remove("index")))
    }

    /// The manager hears of the mount from its keeper alone.
    pub(super) fn hide(&self, command: &mut Command) {
        command.env_remove(SOCKET).env_remove(STORE);
        for name in GIVEN {
            command.env_remove(name);
        }
    }

    fn say(&self, text: &str, descriptor: Option<BorrowedFd<'_>>) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = send(socket.as_encoded_bytes(), text, descriptor) {
            tracing::warn!(%error, "the service manager cannot be told");
        }
    }
}

/// More is not given by anybody.
const MAX_GIVEN: usize = 16;

/// The descriptors from number 3 on.
#[allow(unsafe_code)]
fn given(count: usize) -> impl Iterator<Item = OwnedFd> {
    use std::os::fd::FromRawFd;
    (3..).take(count).map(|number| {
        // SAFETY: the service manager has opened them for this process alone, as LISTEN_PID says; the keeper
        // takes them once, when it begins, before it opens anything.
        let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
        // They are for no other program.
        let _ = rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC);
        descriptor
    })
}

fn send(socket: &[u8], text: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let address = match socket.strip_prefix(b"@") {
        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
        None => SocketAddrUnix::new(socket)?,
    };
    let from = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let descriptors = [descriptor].into_iter().flatten().collect::<Vec<_>>();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    let message = [IoSlice::new(text.as_bytes())];
    sendmsg_addr(&from, &address, &message, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
