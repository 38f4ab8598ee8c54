//! The keeper of a mount: the process that holds what the mount needs to outlive its server.
//!
//! It is this program, run with [`ARGUMENT`] before the arguments of the server, which it starts, and starts
//! again when it dies. It has one thread and no network, and understands nothing of what it keeps: a
//! descriptor of `/dev/fuse`, and pieces of memory that only a server reads. As long as it lives the kernel
//! lets who reads the mount wait. When it dies, its server is killed too, and the mount fails.
//!
//! The two speak over a socket, which is the server's standard input: see [`Say`] and [`Order`].

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::manager::Manager;

/// The first argument of a keeper.
pub const ARGUMENT: &str = "--keep-mount";
/// Tells a server who its keeper is.
pub(super) const KEEPER: &str = "NIX_SEED_KEEPER";
const MANAGED: &str = "managed";
/// Where a keeper that may not be killed before others notes what was usual: its server has that.
const OOM_SCORE: &str = "/proc/self/oom_score_adj";
/// As far as the keeper is spared when memory is short, where that is permitted.
const SPARED: &str = "-900";

/// When so many servers, one after another, have died at once, none can serve.
const DEATHS: u32 = 5;
/// A server that has answered the kernel for so long did not die at once.
const LIVED: Duration = Duration::from_millis(500);
/// A server that goes on with a mount must be ready in this time.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// What a server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Say {
    /// It has mounted: with the device and a record for the server after it.
    Mounted = b'M',
    /// The same, but the kernel will not send again what this server has read and not answered.
    MountedForOnce = b'm',
    /// The whole index, as memory.
    Index = b'I',
    /// It could go on with the mount.
    Prepared = b'P',
    /// It serves, and can be told to end.
    Serving = b'R',
}

/// What a server is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Order {
    /// Mount; with the keeper's standard input.
    Mount = b'S',
    /// Prepare to go on with a mount: with the device, the record and, if that has arrived, the index. The
    /// number of servers before it follows, in four bytes.
    TakeOver = b'T',
    /// Go on: no other server is left.
    Go = b'G',
}

/// The most descriptors of one message.
const MAX_DESCRIPTORS: usize = 3;

/// Sends one message.
pub(super) fn send(link: BorrowedFd<'_>, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    loop {
        match sendmsg(link, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}

/// Receives one message of at most 8 bytes; an empty one when the other side is gone.
pub(super) fn receive(link: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = [0; 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let len = loop {
        match recvmsg(link, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => break 0,
            Err(error) => return Err(error.into()),
            Ok(message) => break message.bytes,
        }
    };
    let descriptors = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        _ => Vec::new(),
    });
    Ok((bytes[..len].to_vec(), descriptors.collect()))
}

/// The command that becomes the keeper of a server: `program`, with these arguments for the server.
pub(super) fn command(program: &Path, arguments: &[&OsStr]) -> Command {
    let mut command = Command::new(program);
    command.arg(ARGUMENT).args(arguments).env_remove(KEEPER);
    command
}

/// Whether a keeper has started this process, to serve.
pub fn is_kept() -> bool {
    std::env::var_os(KEEPER).is_some()
}

/// Becomes the keeper of a server in the foreground. Returns only if that fails.
pub fn become_keeper(program: &Path, arguments: &[&OsStr]) -> io::Error {
    command(program, arguments).exec()
}

/// Keeps a mount, if this process was started for that: to be called before anything else. What it gives is
/// the process's end.
pub fn keep_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    let program = arguments.next()?;
    if arguments.next()? != ARGUMENT {
        return None;
    }
    let said = Keeper::new(program, arguments.collect()).and_then(Keeper::run);
    Some(said.unwrap_or_else(|error| {
        log(&format!("the keeper of the mount ends: {error}"));
        ExitCode::FAILURE
    }))
}

/// The keeper has no logger: it would be most of its memory.
#[allow(clippy::print_stderr, reason = "standard error is the mount's log")]
fn log(text: &str) {
    eprintln!("keeper: {text}");
}

/// What is kept.
#[derive(Debug)]
struct Kept {
    device: OwnedFd,
    record: OwnedFd,
    index: Option<OwnedFd>,
    /// Whether the mount can outlive its server at all.
    resends: bool,
}

/// A server process.
#[derive(Debug)]
struct Server {
    process: Child,
    link: OwnedFd,
    state: State,
    /// When it must be serving.
    deadline: Option<Instant>,
    serving_since: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Prepared,
    Serving,
}

/// Which program a server is started from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    /// That of the keeper, whatever lies on the disk by now.
    Own,
    /// That on the disk, after it has proved able to go on.
    OnDisk,
}

struct Keeper {
    program: OsString,
    arguments: Vec<OsString>,
    /// Each has a byte for each signal.
    end: UnixStream,
    replace: UnixStream,
    manager: Manager,
    kept: Option<Kept>,
    server: Option<Server>,
    /// The server that shall take the place of the other.
    next: Option<Server>,
    from: Program,
    /// How many of the last servers died at once.
    deaths: u32,
    takeovers: u32,
    /// The mount shall end.
    ending: bool,
    /// The server shall be replaced as soon as it serves.
    replacing: bool,
    /// What servers have.
    oom_score: Option<String>,
}

impl Keeper {
    fn new(program: OsString, arguments: Vec<OsString>) -> io::Result<Self> {
        let (end, on_end) = UnixStream::pair()?;
        let (replace, on_replace) = UnixStream::pair()?;
        for (signal, pipe) in [(SIGTERM, on_end.try_clone()?), (SIGINT, on_end), (SIGHUP, on_replace)] {
            signal_hook::low_level::pipe::register(signal, pipe)?;
        }
        for pipe in [&end, &replace] {
            pipe.set_nonblocking(true)?;
        }
        Ok(Self {
            program,
            arguments,
            end,
            replace,
            manager: Manager::from_env(),
            kept: None,
            server: None,
            next: None,
            from: Program::Own,
            deaths: 0,
            takeovers: 0,
            ending: false,
            replacing: false,
            oom_score: spare_this_process(),
        })
    }

    /// Starts the first server, and looks after it until the mount's end.
    fn run(mut self) -> io::Result<ExitCode> {
        match self.manager.take_kept() {
            Some((device, record, index)) => {
                // The manager had them of a keeper that is no more.
                self.kept = Some(Kept { device, record, index, resends: true });
                self.takeovers += 1;
                self.server = Some(self.start_takeover(Program::Own, self.takeovers)?);
            }
            None => {
                let server = self.start(Program::Own)?;
                send(server.link.as_fd(), &[Order::Mount as u8], &[rustix::stdio::stdin()])?;
                self.server = Some(server);
            }
        }
        self.let_go_of_stdio()?;
        loop {
            if let Some(end) = self.step()? {
                return Ok(end);
            }
        }
    }

    /// The server answers the command that waits. What it does not answer is known by the pipe's end.
    fn let_go_of_stdio(&self) -> io::Result<()> {
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        Ok(rustix::stdio::dup2_stdout(&null)?)
    }

    /// Waits for the next thing to happen, and deals with it.
    fn step(&mut self) -> io::Result<Option<ExitCode>> {
        let servers = [&self.server, &self.next];
        let links = servers.map(|server| server.as_ref().map(|server| server.link.as_fd()));
        let deadline = servers.into_iter().flatten().filter_map(|server| server.deadline).min();
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|timeout| rustix::time::Timespec::try_from(timeout).ok());
        let waiting = [Some(self.end.as_fd()), Some(self.replace.as_fd()), links[0], links[1]];
        let present: Vec<_> = (0..).zip(waiting).filter_map(|(number, fd)| Some((number, fd?))).collect();
        let mut polled: Vec<_> =
            present.iter().map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        match poll(&mut polled, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(None),
            polled => polled?,
        };
        let happened: Vec<u32> = (present.iter().zip(&polled))
            .filter(|(_, polled)| !polled.revents().is_empty())
            .map(|((number, _), _)| *number)
            .collect();
        drop(polled);
        for number in happened {
            let end = match number {
                0 => self.asked_to_end(),
                1 => self.asked_to_replace(),
                2 => self.heard_server()?,
                _ => self.heard_next()?,
            };
            if end.is_some() {
                return Ok(end);
            }
        }
        self.kill_the_late();
        Ok(None)
    }

    fn asked_to_end(&mut self) -> Option<ExitCode> {
        drain(&self.end);
        self.ending = true;
        self.stop_next();
        self.pass_end_on();
        None
    }

    /// A server that is not serving yet would only die of the signal.
    fn pass_end_on(&self) {
        let server = self.server.as_ref().filter(|server| self.ending && server.state == State::Serving);
        if let Some(server) = server {
            signal(&server.process, Signal::TERM);
        } else if self.kept.is_none()
            && let Some(server) = &self.server
        {
            // It has not mounted; if it does so just now, it takes the mount away again.
            signal(&server.process, Signal::TERM);
        }
    }

    fn asked_to_replace(&mut self) -> Option<ExitCode> {
        drain(&self.replace);
        self.replacing = true;
        self.replace_if_serving();
        None
    }

    fn replace_if_serving(&mut self) {
        let serving = self.server.as_ref().is_some_and(|server| server.state == State::Serving);
        if !self.replacing || !serving {
            return;
        }
        self.replacing = false;
        if self.ending || self.next.is_some() {
            return;
        }
        if !self.kept.as_ref().is_some_and(|kept| kept.resends) {
            log("the server stays: this kernel would lose what it has not answered");
            return;
        }
        self.manager.reloading();
        match self.start_takeover(Program::OnDisk, self.takeovers + 1) {
            Ok(next) => self.next = Some(next),
            Err(error) => {
                log(&format!("the server stays: the program cannot be started: {error}"));
                self.manager.ready();
            }
        }
    }

    fn heard_server(&mut self) -> io::Result<Option<ExitCode>> {
        let Some(server) = &mut self.server else { return Ok(None) };
        let (message, descriptors) = receive(server.link.as_fd())?;
        match message.first() {
            None => {
                let server = self.server.take();
                return server.map_or(Ok(None), |server| self.server_ended(server));
            }
            Some(said) if *said == Say::Mounted as u8 || *said == Say::MountedForOnce as u8 => {
                let resends = *said == Say::Mounted as u8;
                if let Ok([device, record]) = <[OwnedFd; 2]>::try_from(descriptors) {
                    if resends {
                        self.manager.store("device", &device);
                        self.manager.store("record", &record);
                    }
                    self.kept = Some(Kept { device, record, index: None, resends });
                }
            }
            Some(said) if *said == Say::Index as u8 => {
                if let (Some(kept), Some(index)) = (&mut self.kept, descriptors.into_iter().next()) {
                    self.manager.store("index", &index);
                    kept.index = Some(index);
                }
            }
            Some(said) if *said == Say::Prepared as u8 => {
                server.state = State::Prepared;
                // If it is gone, that is heard next.
                let _ = send(server.link.as_fd(), &[Order::Go as u8], &[]);
            }
            Some(said) if *said == Say::Serving as u8 => {
                server.state = State::Serving;
                server.deadline = None;
                server.serving_since = Some(Instant::now());
                self.manager.ready();
                self.pass_end_on();
                self.replace_if_serving();
            }
            Some(_) => {}
        }
        Ok(None)
    }

    fn heard_next(&mut self) -> io::Result<Option<ExitCode>> {
        let Some(mut next) = self.next.take() else { return Ok(None) };
        let (message, _) = receive(next.link.as_fd())?;
        match message.first() {
            None => {
                let status = next.process.wait()?;
                log(&format!("the server stays: the new one ended with {status}"));
                self.manager.ready();
            }
            Some(said) if *said == Say::Prepared as u8 => {
                next.state = State::Prepared;
                if let Some(mut old) = self.server.take() {
                    // What it had read and not answered comes again, to the new one.
                    old.process.kill()?;
                    let status = old.process.wait()?;
                    if status.success() {
                        // The mount was taken away just now.
                        next.process.kill()?;
                        next.process.wait()?;
                        return Ok(Some(self.ended(status)));
                    }
                }
                self.takeovers += 1;
                self.from = Program::OnDisk;
                let _ = send(next.link.as_fd(), &[Order::Go as u8], &[]);
                self.server = Some(next);
                return Ok(None);
            }
            Some(_) => {}
        }
        if !message.is_empty() {
            self.next = Some(next);
        }
        Ok(None)
    }

    /// Its end of the link is closed: it has ended, or is about to.
    fn server_ended(&mut self, mut server: Server) -> io::Result<Option<ExitCode>> {
        let status = server.process.wait()?;
        let resends = self.kept.as_ref().map(|kept| kept.resends);
        match resends {
            // The mount was taken away, or could not be made.
            _ if status.success() => return Ok(Some(self.ended(status))),
            None => return Ok(Some(self.ended(status))),
            Some(false) => {
                log(&format!("the server ended with {status}; this kernel cannot go on without it"));
                return Ok(Some(self.ended(status)));
            }
            Some(true) => {}
        }
        let now = Instant::now();
        let lived = server.serving_since.is_some_and(|since| now.saturating_duration_since(since) >= LIVED);
        self.deaths = if lived { 1 } else { self.deaths + 1 };
        if self.deaths == DEATHS {
            log(&format!(
                "the server ended with {status}, as did the {} before it: the mount ends",
                DEATHS - 1
            ));
            return Ok(Some(self.ended(status)));
        }
        log(&format!("the server ended with {status}: a new one goes on"));
        self.takeovers += 1;
        if let Some(mut next) = self.next.take() {
            // It was started for the other's place, and is as good as any.
            if next.state == State::Prepared {
                let _ = send(next.link.as_fd(), &[Order::Go as u8], &[]);
            }
            next.deadline = Some(now + READY_WITHIN);
            self.server = Some(next);
            return Ok(None);
        }
        if server.state != State::Serving {
            self.from = Program::Own;
        }
        let started = self
            .start_takeover(self.from, self.takeovers)
            .or_else(|_| self.start_takeover(Program::Own, self.takeovers))?;
        self.server = Some(started);
        Ok(None)
    }

    /// The end of the mount, and of this process with it.
    fn ended(&mut self, status: ExitStatus) -> ExitCode {
        self.stop_next();
        self.manager.forget();
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        code.map_or(ExitCode::FAILURE, ExitCode::from)
    }

    fn stop_next(&mut self) {
        if let Some(mut next) = self.next.take() {
            let _ = next.process.kill();
            let _ = next.process.wait();
        }
    }

    fn kill_the_late(&mut self) {
        let now = Instant::now();
        for server in [&mut self.server, &mut self.next].into_iter().flatten() {
            if server.deadline.is_some_and(|deadline| deadline <= now) {
                server.deadline = None;
                // That it has ended is heard by its link.
                let _ = server.process.kill();
            }
        }
    }

    /// `before`: how many servers the mount had before this one.
    fn start_takeover(&self, from: Program, before: u32) -> io::Result<Server> {
        let Some(kept) = &self.kept else { return Err(io::ErrorKind::NotFound.into()) };
        let mut server = self.start(from)?;
        server.deadline = Some(Instant::now() + READY_WITHIN);
        let mut message = vec![Order::TakeOver as u8];
        message.extend(before.to_ne_bytes());
        let mut descriptors = vec![kept.device.as_fd(), kept.record.as_fd()];
        descriptors.extend(kept.index.as_ref().map(AsFd::as_fd));
        // If it is gone, that is heard by its link.
        let _ = send(server.link.as_fd(), &message, &descriptors);
        Ok(server)
    }

    fn start(&self, from: Program) -> io::Result<Server> {
        let (link, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let program = match from {
            // Whose name is better to look at, if it is the same.
            Program::Own if !is_same_file(OWN, &self.program) => OsStr::new(OWN),
            Program::Own | Program::OnDisk => &self.program,
        };
        let mut command = Command::new(program);
        command.arg0(&self.program).args(&self.arguments).stdin(theirs);
        let score = self.oom_score.as_deref().unwrap_or_default();
        let stores = if self.manager.stores() { MANAGED } else { "" };
        command.env(KEEPER, format!("{}:{score}:{stores}", std::process::id()));
        self.manager.hide(&mut command);
        Ok(Server {
            process: command.spawn()?,
            link,
            state: State::Starting,
            deadline: None,
            serving_since: None,
        })
    }
}

/// The program that this process runs.
const OWN: &str = "/proc/self/exe";

fn is_same_file(one: &str, other: &OsStr) -> bool {
    let [one, other] = [Path::new(one), Path::new(other)].map(std::fs::metadata);
    matches!((one, other), (Ok(one), Ok(other)) if (one.dev(), one.ino()) == (other.dev(), other.ino()))
}

/// Asks that others are killed first when memory is short. Gives what was usual, for the servers, if that was
/// permitted.
fn spare_this_process() -> Option<String> {
    let usual = std::fs::read_to_string(OOM_SCORE).ok()?.trim().to_owned();
    std::fs::write(OOM_SCORE, SPARED).ok()?;
    Some(usual)
}

/// In a server: undoes what its keeper did for itself, and dies with it. Says whether a service manager would
/// start the keeper again, with all that it keeps.
pub(super) fn become_server() -> io::Result<bool> {
    let keeper = std::env::var(KEEPER).map_err(io::Error::other)?;
    let mut fields = keeper.split(':');
    let [pid, score, managed] = [(); 3].map(|()| fields.next().unwrap_or_default());
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().to_string());
    if parent.as_deref() != Some(pid) {
        return Err(io::Error::new(io::ErrorKind::NotConnected, "the keeper is gone"));
    }
    if !score.is_empty() {
        // To be killed earlier is permitted to all.
        std::fs::write(OOM_SCORE, score)?;
    }
    Ok(managed == MANAGED)
}

fn signal(process: &Child, signal: Signal) {
    let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
    // It is our child, and not waited for: so the number is its own.
    let _ = pid.map(|pid| kill_process(pid, signal));
}

fn drain(mut pipe: &UnixStream) {
    let mut bytes = [0; 64];
    while io::Read::read(&mut pipe, &mut bytes).is_ok_and(|len| len > 0) {}
}
