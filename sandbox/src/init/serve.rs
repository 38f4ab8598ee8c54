//! Process 1 of the sandbox: makes the inside, gives up all that it needed for that, and then starts the
//! commands that it is told to.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_process_group, set_parent_process_death_signal, wait,
};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::{During, Failure, Prepared, filter, root, syscalls};
use crate::channel::Channel;
use crate::error::Step;
use crate::protocol::{Execution, Network, Note, Plan, Reply, Request};
use crate::spec::Exit;

/// Runs as process 1 until the supervisor or the outer process is gone. `outer` is readable when the
/// latter is. Returns the exit code.
pub(super) fn inner(channel: &Channel, plan: &Plan, prepared: Prepared, outer: BorrowedFd<'_>) -> i32 {
    let made = make(channel, plan, prepared);
    // From here on the death signal is set for good; a death before is seen here.
    if gone(outer) {
        return 70;
    }
    let ready = match made {
        Ok(notes) => channel.send(&Reply::Ready(notes), &[]),
        Err(failure) => return super::report(channel, failure),
    };
    match ready.and_then(|()| Server { channel, command: None }.serve(outer)) {
        Ok(()) => 0,
        Err(_) => 70,
    }
}

fn make(channel: &Channel, plan: &Plan, prepared: Prepared) -> Result<Vec<Note>, Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).during(Step::Namespaces)?;
    let Prepared { identity, sources } = prepared;
    if plan.network == Network::None {
        syscalls::raise_loopback().during(Step::Loopback)?;
    }
    let notes = root::enter(channel, plan, identity, sources)?;
    identity.assume()?;
    filter::install().during(Step::Filter)?;
    Ok(notes)
}

fn gone(outer: BorrowedFd<'_>) -> bool {
    let mut events = [PollFd::new(&outer, PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut events, Some(&now)).is_ok_and(|count| count > 0)
}

struct Server<'a> {
    channel: &'a Channel,
    /// The command that runs: the leader of its process group.
    command: Option<Pid>,
}

impl Server<'_> {
    fn serve(mut self, outer: BorrowedFd<'_>) -> io::Result<()> {
        let children = syscalls::child_events()?;
        loop {
            let (asked, ended, outer_gone) = {
                let mut events = [
                    PollFd::new(self.channel, PollFlags::IN),
                    PollFd::new(&children, PollFlags::IN),
                    PollFd::new(&outer, PollFlags::IN),
                ];
                match poll(&mut events, None) {
                    Err(Errno::INTR) => continue,
                    other => other?,
                };
                let happened = |n: usize| !events[n].revents().is_empty();
                (happened(0), happened(1), happened(2))
            };
            if outer_gone {
                return Ok(());
            }
            if ended {
                drain(&children)?;
                self.reap()?;
            }
            if asked {
                match self.channel.receive()? {
                    Some((request, descriptors)) => self.answer(request, descriptors)?,
                    None => return Ok(()),
                }
            }
        }
    }

    fn answer(&mut self, request: Request, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        match request {
            Request::Execute(execution) => match start(&execution, descriptors) {
                Ok((pid, terminal)) => {
                    self.command = Some(pid);
                    let terminal: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
                    self.channel.send(&Reply::Started, &terminal)
                }
                Err(error) => self.channel.send(&Reply::NotStarted { errno: errno_of(&error) }, &[]),
            },
            Request::Signal(signal) => {
                if let (Some(command), Some(signal)) = (self.command, Signal::from_named_raw(signal)) {
                    // It may have ended in this moment.
                    let _ = kill_process_group(command, signal);
                }
                Ok(())
            }
            Request::Open(path) => match open(&path) {
                Ok(file) => self.channel.send(&Reply::Opened, &[file.as_fd()]),
                Err(error) => self.channel.send(&Reply::NotOpened { errno: errno_of(&error) }, &[]),
            },
            Request::Start(_) | Request::SeedServed => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Collects all children that ended. With the command, all that it left running is ended too: nothing
    /// of one command is there when the next one starts.
    fn reap(&mut self) -> io::Result<()> {
        while let Some((pid, status)) = next_ended(WaitOptions::NOHANG)? {
            if self.command == Some(pid) {
                self.command = None;
                kill_the_rest()?;
                self.channel.send(&Reply::Exited(exit_of(status)), &[])?;
            }
        }
        Ok(())
    }
}

/// Ends every process in the namespace but this one.
fn kill_the_rest() -> io::Result<()> {
    loop {
        // The group of process 1, to kill(2), is everybody.
        match kill_process_group(Pid::INIT, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH | Errno::PERM) => {}
            Err(errno) => return Err(errno.into()),
        }
        match next_ended(WaitOptions::empty())? {
            Some(_) => {}
            None => return Ok(()),
        }
    }
}

/// The next child that ended; `None` if none has, or there is none.
fn next_ended(options: WaitOptions) -> io::Result<Option<(Pid, WaitStatus)>> {
    match rustix::io::retry_on_intr(|| wait(options)) {
        Ok(ended) => Ok(ended),
        Err(Errno::CHILD) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn exit_of(status: WaitStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(u8::try_from(code).unwrap_or(u8::MAX)),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Code(u8::MAX),
    }
}

fn drain(events: &OwnedFd) -> io::Result<()> {
    let mut buffer = [0u8; 1024];
    loop {
        match rustix::io::read(events, &mut buffer) {
            Ok(_) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Starts a command; returns it and the far end of its terminal, if it was to get one.
fn start(execution: &Execution, descriptors: Vec<OwnedFd>) -> io::Result<(Pid, Option<OwnedFd>)> {
    let [program, arguments @ ..] = execution.argv.as_slice() else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let mut command = Command::new(program);
    command.args(arguments).current_dir(&execution.directory).env_clear().envs(&execution.environment);

    let terminal = if let Some(size) = execution.terminal {
        let (near, far) = open_terminal(size)?;
        let near = std::fs::File::from(near);
        command.stdin(near.try_clone()?).stdout(near.try_clone()?).stderr(near);
        syscalls::own_terminal(&mut command);
        Some(far)
    } else {
        let mut streams = descriptors.into_iter().map(Stdio::from);
        let mut next = || streams.next().unwrap_or_else(Stdio::null);
        command.stdin(next()).stdout(next()).stderr(next());
        command.process_group(0);
        None
    };
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    Ok((pid, terminal))
}

/// A terminal of the sandbox's own: what the command gets, and what the supervisor relays.
fn open_terminal((rows, columns): (u16, u16)) -> io::Result<(OwnedFd, OwnedFd)> {
    let far = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&far)?;
    tcsetwinsize(&far, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?;
    let near = ioctl_tiocgptpeer(&far, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    Ok((near, far))
}

fn open(path: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
