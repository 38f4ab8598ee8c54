//! The supervisor's side: a sandbox that was started, and the commands that run in it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Stdio as ProcessStdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use seed_policy::Approved;

use crate::channel::Channel;
use crate::error::SandboxError;
use crate::protocol::{
    Execution, INIT_ARGUMENT, Network, Note, Plan, PlanBind, PlanLower, PlanScratch, Reply, Request,
};
use crate::record::Phase;
use crate::scratch;
use crate::spec::{self, Command, Exit, Lower, Scratch, Spec, Stdio, WORKSPACE};
use crate::terminal::{self, Relay};

/// The part of a seed that a sandbox shows: all of it.
const SUBTREE: &[u8] = b"";

/// A sandbox in which commands can run, one after the other. Dropping it ends all that runs inside, and
/// nothing of it is left.
#[derive(Debug)]
pub struct Sandbox {
    link: Arc<Link>,
    outer: Child,
    environment: std::collections::BTreeMap<String, String>,
    notes: Vec<Note>,
    phase: Phase,
    // Dropped after the processes ended, in this order.
    server: Option<seed_fuse::mount::Server>,
    _scratch: Option<scratch::Scratch>,
}

/// The channel to the sandbox's process 1. Requests of two threads must not mix.
#[derive(Debug)]
struct Link {
    channel: Channel,
    sending: Mutex<()>,
    /// Whether a command runs that signals can be passed on to.
    running: AtomicBool,
}

impl Link {
    fn send(&self, request: &Request, descriptors: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<()> {
        let _sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        self.channel.send(request, descriptors)
    }
}

/// Sends signals to the command that runs in a sandbox, from any thread.
#[derive(Debug, Clone)]
pub struct Controller {
    link: Arc<Link>,
}

impl Controller {
    /// Sends `signal` to the process group of the command that runs, if one does.
    pub fn signal(&self, signal: i32) -> Result<(), SandboxError> {
        self.link.send(&Request::Signal(signal), &[]).map_err(SandboxError::Channel)
    }

    /// Whether a command runs.
    pub(crate) fn is_running(&self) -> bool {
        self.link.running.load(Ordering::SeqCst)
    }

    /// Ends the sandbox and all that runs in it, at once. Whoever waits for it is told that it died.
    pub(crate) fn stop(&self) {
        // One that is gone already needs no end.
        let _ = rustix::net::shutdown(self.link.channel.as_fd(), rustix::net::Shutdown::Both);
    }
}

impl Sandbox {
    /// Makes a sandbox.
    ///
    /// The program must call [`crate::main_if_init`] first thing in its `main`. The sandbox lives no longer
    /// than the thread that calls this.
    pub fn start(approved: &Approved, spec: &Spec) -> Result<Self, SandboxError> {
        Self::start_controlled(approved, spec, Network::None, drop)
    }

    /// The same, with a network, and with a controller for `watch` as soon as there is something to control.
    pub(crate) fn start_controlled(
        approved: &Approved,
        spec: &Spec,
        network: Network,
        watch: impl FnOnce(Controller),
    ) -> Result<Self, SandboxError> {
        if let Lower::Seed(seed) = &spec.lower {
            let (approved, opened) = (approved.digest(), *seed.digest());
            if approved != opened {
                return Err(SandboxError::NotApproved { approved, opened });
            }
        }
        let started = Instant::now();
        let scratch = match &spec.scratch {
            Scratch::Directory(parent) => Some(scratch::Scratch::create(parent)?),
            Scratch::Memory { .. } => None,
        };
        let plan = plan(spec, network, scratch.as_ref())?;
        let (outer, channel) = spawn_init()?;
        let mut sandbox = Self {
            link: Arc::new(Link { channel, sending: Mutex::new(()), running: AtomicBool::new(false) }),
            outer,
            environment: spec.environment.clone(),
            notes: Vec::new(),
            phase: Phase::new("sandbox"),
            server: None,
            _scratch: scratch,
        };
        watch(sandbox.controller());
        sandbox.request(&Request::Start(Box::new(plan)))?;
        if let Err(error) = sandbox.make(&spec.lower) {
            return sandbox.blame_index(Err(error));
        }
        sandbox.phase.seconds = started.elapsed().as_secs_f64();
        tracing::info!(seconds = sandbox.phase.seconds, "the sandbox is ready");
        Ok(sandbox)
    }

    /// Answers the init until it says that the sandbox is made.
    fn make(&mut self, lower: &Lower) -> Result<(), SandboxError> {
        loop {
            match (self.reply()?, lower) {
                ((Reply::Seed, descriptors), Lower::Seed(seed)) => {
                    let server = seed_fuse::mount::serve(Arc::clone(seed), SUBTREE, single(descriptors)?)
                        .map_err(|error| SandboxError::Serve(Box::new(error)))?;
                    self.server = Some(server);
                    self.request(&Request::SeedServed)?;
                }
                ((Reply::Ready(notes), _), _) => {
                    self.notes = notes;
                    return Ok(());
                }
                ((Reply::Failed { step, errno, about }, _), _) => {
                    let source = io::Error::from_raw_os_error(errno);
                    let source = if about.is_empty() {
                        source
                    } else {
                        io::Error::new(source.kind(), format!("{about}: {source}"))
                    };
                    return Err(SandboxError::Setup { step, source });
                }
                _ => return Err(unexpected()),
            }
        }
    }

    /// What the user should know about how this sandbox was made.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// How long it took to make.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// A handle for sending signals, for other threads.
    pub fn controller(&self) -> Controller {
        Controller { link: Arc::clone(&self.link) }
    }

    /// Runs a command and waits for its end, and for the end of all that it left running.
    ///
    /// If the seed's index turned out to be unusable meanwhile, that is the error: nothing that the command
    /// saw fail tells more.
    pub fn execute(&mut self, command: Command) -> Result<Exit, SandboxError> {
        let exit = self.execute_command(command);
        self.link.running.store(false, Ordering::SeqCst);
        self.blame_index(exit)
    }

    /// What came of something that read the seed, unless its index is to blame.
    fn blame_index<T>(&self, result: Result<T, SandboxError>) -> Result<T, SandboxError> {
        match self.server.as_ref().map(|server| server.fs().index().whole()) {
            Some(Err(fault)) => Err(SandboxError::Index(fault)),
            Some(Ok(_)) | None => result,
        }
    }

    fn execute_command(&mut self, command: Command) -> Result<Exit, SandboxError> {
        let Command { argv, directory, environment, stdio } = command;
        let program = argv.first().map(|program| program.to_string_lossy().into_owned()).unwrap_or_default();
        let (descriptors, terminal) = match stdio {
            Stdio::Null => (Vec::new(), None),
            Stdio::Files(files) => (files.into(), None),
            Stdio::Terminal => (Vec::new(), Some(terminal::size().map_err(SandboxError::Terminal)?)),
        };
        let mut variables = self.environment.clone();
        variables.extend(environment);
        let execution = Execution { argv, directory: directory.into(), environment: variables, terminal };
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        self.link.send(&Request::Execute(execution), &borrowed).map_err(SandboxError::Channel)?;
        // From here on a signal reaches the command: it may act before its start is reported.
        self.link.running.store(true, Ordering::SeqCst);
        // What reads the other ends must see their end when the command closes them.
        drop(descriptors);

        let relay = match self.reply()? {
            (Reply::Started, descriptors) if terminal.is_some() => {
                Some(Relay::start(single(descriptors)?).map_err(SandboxError::Terminal)?)
            }
            (Reply::Started, _) => None,
            (Reply::NotStarted { errno }, _) => {
                return Err(SandboxError::Exec { program, source: io::Error::from_raw_os_error(errno) });
            }
            _ => return Err(unexpected()),
        };
        let ended = self.reply();
        if let Some(relay) = relay {
            relay.finish().map_err(SandboxError::Terminal)?;
        }
        match ended? {
            (Reply::Exited(exit), _) => Ok(exit),
            _ => Err(unexpected()),
        }
    }

    /// Runs a command with nothing to read and returns how it ended and what it wrote to standard output.
    /// `stderr` takes the other stream.
    ///
    /// The output is untrusted; more than `limit` bytes of it are an error.
    pub fn capture(
        &mut self,
        command: Command,
        stderr: OwnedFd,
        limit: usize,
    ) -> Result<(Exit, Vec<u8>), SandboxError> {
        let (reader, writer) = io::pipe().map_err(SandboxError::Channel)?;
        let null = File::open("/dev/null").map_err(SandboxError::Channel)?;
        let command = command.stdio(Stdio::Files([null.into(), writer.into(), stderr]));
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| read_at_most(reader, limit));
            let exit = self.execute(command)?;
            let output = reading.join().map_err(|_| SandboxError::Channel(io::ErrorKind::Other.into()))?;
            Ok((exit, output.map_err(SandboxError::Channel)?))
        })
    }

    /// Opens a file or directory inside, for reading, following no link in the last component.
    ///
    /// What is opened is untrusted: it may be of any kind and change at any time.
    pub fn open(&mut self, path: &Path) -> Result<OwnedFd, SandboxError> {
        self.request(&Request::Open(path.as_os_str().to_owned()))?;
        match self.reply()? {
            (Reply::Opened, descriptors) => single(descriptors),
            (Reply::NotOpened { errno }, _) => {
                Err(SandboxError::Open { path: path.to_owned(), source: io::Error::from_raw_os_error(errno) })
            }
            _ => Err(unexpected()),
        }
    }

    fn request(&mut self, request: &Request) -> Result<(), SandboxError> {
        match self.link.send(request, &[]) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(self.died()),
            other => other.map_err(SandboxError::Channel),
        }
    }

    fn reply(&mut self) -> Result<(Reply, Vec<OwnedFd>), SandboxError> {
        match self.link.channel.receive() {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(self.died()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.died()),
            Err(error) => Err(SandboxError::Channel(error)),
        }
    }

    fn died(&mut self) -> SandboxError {
        match self.outer.wait() {
            Ok(status) => SandboxError::Died { how: status.to_string() },
            Err(error) => SandboxError::Channel(error),
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Process 1 ends when its channel does, and all inside with it; the outer process ends after it.
        self.controller().stop();
        let _ = self.outer.wait();
    }
}

fn spawn_init() -> Result<(Child, Channel), SandboxError> {
    let (here, there) = Channel::pair().map_err(SandboxError::Start)?;
    let child = std::process::Command::new("/proc/self/exe")
        .arg(INIT_ARGUMENT)
        .env_clear()
        .stdin(there.into_socket())
        .stdout(ProcessStdio::null())
        .spawn()
        .map_err(SandboxError::Start)?;
    Ok((child, here))
}

fn plan(spec: &Spec, network: Network, scratch: Option<&scratch::Scratch>) -> Result<Plan, SandboxError> {
    let lower = match &spec.lower {
        Lower::Seed(seed) => {
            PlanLower::Seed { source: seed.digest().to_string(), far_ahead: !seed.is_recorded() }
        }
        Lower::Directory(path) => PlanLower::Directory(host_path("the seed's tree", path)?),
    };
    let workspace = match &spec.workspace {
        Some(workspace) => Some(PlanBind {
            source: host_path("the workspace", &workspace.directory)?,
            target: OsString::from(WORKSPACE),
            writable: workspace.writable,
        }),
        None => None,
    };
    let binds = spec.binds.iter().map(plan_bind).collect::<Result<_, _>>()?;
    let scratch = PlanScratch {
        directory: scratch.map(|scratch| host_path("the scratch directory", scratch.path())).transpose()?,
        memory: match spec.scratch {
            Scratch::Memory { limit } => limit,
            Scratch::Directory(_) => half_of_memory(),
        },
    };
    Ok(Plan {
        lower,
        workspace,
        binds,
        scratch,
        etc: spec.etc.clone(),
        fetcher_cache: spec.fetcher_cache.as_ref().map(ToString::to_string),
        network,
    })
}

fn plan_bind(bind: &spec::Bind) -> Result<PlanBind, SandboxError> {
    if !bind.target.is_absolute() || bind.target.components().any(|c| c == std::path::Component::ParentDir) {
        return Err(SandboxError::Path {
            role: "a place inside must be absolute and without \"..\":",
            path: bind.target.clone(),
            source: io::ErrorKind::InvalidInput.into(),
        });
    }
    Ok(PlanBind {
        source: host_path("a path to show inside", &bind.source)?,
        target: bind.target.clone().into(),
        writable: bind.writable,
    })
}

/// A path as the init can use it: it is there, and no link is left in it.
fn host_path(role: &'static str, path: &Path) -> Result<OsString, SandboxError> {
    std::fs::canonicalize(path).map(Into::into).map_err(|source| SandboxError::Path {
        role,
        path: path.to_owned(),
        source,
    })
}

fn half_of_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(info.mem_unit.into()) / 2
}

fn single(mut descriptors: Vec<OwnedFd>) -> Result<OwnedFd, SandboxError> {
    descriptors.pop().filter(|_| descriptors.is_empty()).ok_or_else(unexpected)
}

fn unexpected() -> SandboxError {
    SandboxError::Channel(io::Error::new(io::ErrorKind::InvalidData, "an answer out of turn"))
}

fn read_at_most(reader: io::PipeReader, limit: usize) -> io::Result<Vec<u8>> {
    use io::Read;

    let mut output = Vec::new();
    reader.take(limit as u64 + 1).read_to_end(&mut output)?;
    if output.len() > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {limit} bytes of output")));
    }
    Ok(output)
}
