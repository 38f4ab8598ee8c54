//! A terminal of the sandbox's own, relayed to the caller's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use signal_hook::consts::SIGWINCH;
use signal_hook::low_level::{pipe, unregister};

/// Bytes that are read at once.
const BUFFER: usize = 16 << 10;

/// Copies between the caller's terminal, which it puts into raw mode, and the sandbox's.
#[derive(Debug)]
pub(crate) struct Relay {
    thread: JoinHandle<io::Result<()>>,
    _raw: RawMode,
    resized: signal_hook::SigId,
}

impl Relay {
    /// Starts copying. `far` is the controlling end of the sandbox's terminal.
    pub(crate) fn start(far: OwnedFd) -> io::Result<Self> {
        let raw = RawMode::enter()?;
        rustix::io::ioctl_fionbio(&far, true)?;
        let (resizes, sender) = UnixStream::pair()?;
        resizes.set_nonblocking(true)?;
        let resized = pipe::register(SIGWINCH, sender)?;
        let thread =
            std::thread::Builder::new().name("terminal".into()).spawn(move || relay(&far, &resizes))?;
        Ok(Self { thread, _raw: raw, resized })
    }

    /// Waits until all that the sandbox's terminal holds was shown; its last user is gone by now.
    pub(crate) fn finish(self) -> io::Result<()> {
        let result = self.thread.join();
        unregister(self.resized);
        result.unwrap_or_else(|_| Err(io::Error::other("the relay panicked")))
    }
}

/// The size of the caller's terminal: lines and columns.
pub(crate) fn size() -> io::Result<(u16, u16)> {
    let size = tcgetwinsize(rustix::stdio::stdin())?;
    Ok((size.ws_row, size.ws_col))
}

fn copy_size(far: &OwnedFd) -> io::Result<()> {
    Ok(tcsetwinsize(far, tcgetwinsize(rustix::stdio::stdin())?)?)
}

fn relay(far: &OwnedFd, resizes: &UnixStream) -> io::Result<()> {
    let (stdin, stdout) = (rustix::stdio::stdin(), rustix::stdio::stdout());
    let mut buffer = vec![0; BUFFER];
    // What was typed and the sandbox's terminal did not take yet. Nothing more is read meanwhile, so that
    // its bound is the buffer's.
    let mut typed = Vec::new();
    let mut open = true;
    loop {
        let (from_user, to_sandbox) = if typed.is_empty() && open {
            (PollFlags::IN, PollFlags::empty())
        } else {
            (PollFlags::empty(), if typed.is_empty() { PollFlags::empty() } else { PollFlags::OUT })
        };
        let (resized, sandbox, user) = {
            let mut events = [
                PollFd::new(resizes, PollFlags::IN),
                PollFd::new(far, PollFlags::IN | to_sandbox),
                PollFd::new(&stdin, from_user),
            ];
            match poll(&mut events[..if open { 3 } else { 2 }], None) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            (events[0].revents(), events[1].revents(), events[2].revents())
        };
        if !resized.is_empty() {
            while rustix::io::read(resizes, &mut buffer[..]).is_ok_and(|count| count > 0) {}
            copy_size(far)?;
        }
        if sandbox.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            match rustix::io::read(far, &mut buffer[..]) {
                // The terminal says EIO when its last user closed it.
                Ok(0) | Err(Errno::IO) => return Ok(()),
                Ok(count) => write_all(stdout.as_fd(), &buffer[..count])?,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if sandbox.contains(PollFlags::OUT) && !typed.is_empty() {
            match rustix::io::write(far, &typed) {
                Ok(count) => drop(typed.drain(..count)),
                Err(Errno::AGAIN | Errno::INTR | Errno::IO) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if !user.is_empty() && typed.is_empty() {
            match rustix::io::read(stdin, &mut buffer[..]) {
                Ok(0) | Err(Errno::IO) => open = false,
                Ok(count) => typed.extend_from_slice(&buffer[..count]),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn write_all(to: std::os::fd::BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(&to, PollFlags::OUT)], None).or_else(|errno| match errno {
                    Errno::INTR => Ok(0),
                    other => Err(other),
                })?;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// The caller's terminal, passing on each key as it is pressed; as it was before when dropped.
#[derive(Debug)]
struct RawMode {
    before: Termios,
}

impl RawMode {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(rustix::stdio::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // With the terminal gone there is nothing to put back.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &self.before);
    }
}
