//! A mount with a process of its own, which outlives the command that made it.
//!
//! The command runs its own program again, as the [keeper](super::keeper) of the mount, which runs it once
//! more, as the server. The server reads a [`Request`] from what was the keeper's standard input, mounts,
//! writes one line of JSON to its standard output, and from then on has no more to do with what it inherited:
//! standard input and output are `/dev/null`, standard error is its log.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use seed_format::{Chain, Digest, json};
use seed_image::reference::Reference;
use seed_image::seed::Seed;
use seed_image::transport::{self, Transport, TransportOptions};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::kept::{self, Inheritance, Link, Record, Task};
use super::open::open_again;
use super::pushing::Pushing;
use super::runtime::{
    self, MountState, answer_status, namespace, prepare, shown_at, start_time, write_state,
};
use super::server::{self, mount_as};
use super::traces::TraceChoice;
use super::{
    Failure, Mode, MountError, Mounted, OpenError, OpenOptions as SeedOptions, SeedFs, Shown, keeper,
    open_seed, overlay,
};
use crate::fetch;
use crate::index::IndexFault;
use crate::tree::{ROOT, TreeError};

/// Largest request and answer, in bytes.
const MAX_JSON: usize = 1 << 20;
/// Where Nix's database is in an image, and how it is called where it is installed.
const DATABASE: [&[u8]; 5] = [b"nix", b"var", b"nix", b"db", b"db.sqlite"];

/// What a server process shall mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Which seed: a [`Reference`]. Where it has no digest, its tag is resolved once.
    pub reference: String,
    /// The directory to mount at.
    pub directory: PathBuf,
    /// What of the image to mount: `nix/store`, `nix`, or nothing for all.
    pub subtree: String,
    /// How to show it.
    #[serde(default)]
    pub mode: Mode,
    /// A directory for changes, on a file system that overlayfs can write to: then the mount is writable.
    pub writable: Option<PathBuf>,
    /// Whether a mount that an ordinary user makes shows to other users as well.
    pub others: bool,
    /// A directory that Nix's database of the seed is copied to, unless there is one.
    pub database: Option<PathBuf>,
    /// Where the state of mounts is kept.
    pub runtime: PathBuf,
    /// The cache; `None` to keep chunks in memory only.
    pub cache: Option<PathBuf>,
    /// Bytes that the cache may take on disk.
    pub cache_limit: u64,
    /// Bytes that stay free on its disk; `None` for the usual reserve.
    #[serde(default)]
    pub keep_free: Option<u64>,
    /// Further caches, which are only read.
    #[serde(default)]
    pub read_also: Vec<PathBuf>,
    /// Until when the command waits.
    #[serde(default)]
    pub wait: Wait,
    /// Connections to the registry.
    pub connections: usize,
    /// Longest time that a read may take.
    pub read_deadline: Duration,
    /// Whether what is around a missed chunk is fetched ahead.
    pub neighbours: bool,
    /// Whether all is fetched when the link is idle.
    pub fill: bool,
    /// Most bytes per second that this takes.
    pub fill_rate: Option<NonZeroU64>,
    /// Most bytes per second that everything takes that no read waits for.
    #[serde(default)]
    pub rate: Option<NonZeroU64>,
    /// Nothing is fetched ahead: each byte costs.
    #[serde(default)]
    pub metered: bool,
    /// Which traces say what is fetched ahead.
    #[serde(default)]
    pub trace: TraceChoice,
    /// A port of this machine at which Prometheus finds the counters.
    #[serde(default)]
    pub metrics: Option<SocketAddr>,
    /// Registries that are spoken to in plain HTTP.
    pub insecure_hosts: Vec<String>,
    /// Directories of `HOST/hosts.toml`; `None` for the usual ones.
    pub hosts_dirs: Option<Vec<PathBuf>>,
    /// A PEM file with the roots of trust for TLS; `None` for the usual ones.
    pub ca_file: Option<PathBuf>,
}

impl Request {
    /// A request with everything else as it is by default.
    pub fn new(reference: &Reference, directory: &Path, subtree: &str) -> Self {
        let fetch::Config { connections, read_deadline, neighbours, fill, fill_rate, .. } =
            Default::default();
        Self {
            reference: reference.to_string(),
            directory: directory.to_owned(),
            subtree: subtree.to_owned(),
            mode: Mode::Auto,
            writable: None,
            others: false,
            database: None,
            runtime: runtime::runtime_directory(),
            cache: None,
            cache_limit: SeedOptions::default().cache_limit,
            keep_free: None,
            read_also: Vec::new(),
            wait: Wait::Ready,
            connections,
            read_deadline,
            neighbours,
            fill,
            fill_rate,
            rate: None,
            metered: false,
            trace: TraceChoice::All,
            metrics: None,
            insecure_hosts: Vec::new(),
            hosts_dirs: None,
            ca_file: None,
        }
    }
}

/// Until when whoever asks for a mount waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// Until it can be used.
    #[default]
    Ready,
    /// Until all of the seed is in the cache, so that the registry is needed no more.
    Full,
}

impl FromStr for Wait {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ready" => Ok(Self::Ready),
            "full" => Ok(Self::Full),
            _ => Err("expected ready or full".into()),
        }
    }
}

/// How much of a seed is in the cache, while it is waited for. Compressed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Fetched so far.
    pub fetched: u64,
    /// Of all layers; what was in the cache is not fetched.
    pub total: u64,
}

/// A mount that is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Its state.
    pub state: MountState,
    /// Time that the server took from its start.
    pub took: Duration,
    /// Bytes fetched until then.
    pub bytes_fetched: u64,
}

/// What the server process says on its standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Progress(Progress),
    Ready(Box<Ready>),
    Failed { message: String, failure: Failure },
}

/// Why a seed may not be mounted, in words for the user.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// Says whether an opened seed may be mounted: the verdict of a policy, which this crate knows nothing of.
/// Called when the seed's manifest and configuration were verified and before anything is mounted.
pub type Judge<'a> = &'a dyn Fn(&Request, &Seed) -> Result<(), Refused>;

/// Runs `program` with `arguments`, which must lead to [`run_detached`], and waits until its mount is ready.
///
/// A directory at which the same is mounted already stays as it is: `mount --all` asks for every line of
/// fstab(5), again and again.
/// `progress` is called while all of a seed is waited for.
pub fn start_detached(
    program: &Path,
    arguments: &[&OsStr],
    request: &Request,
    progress: &mut dyn FnMut(Progress),
) -> Result<Ready, MountError> {
    prepare(&request.runtime)?;
    if let Some(state) = standing(request)? {
        return Ok(Ready { state, took: Duration::ZERO, bytes_fetched: 0 });
    }
    let log = request.runtime.join(format!("{}.log", new_id()));
    let mut open = OpenOptions::new();
    let log_file = open.create(true).append(true).mode(0o600).open(&log);
    let log_file = log_file.map_err(|source| MountError::Runtime { path: log.clone(), source })?;
    let mut child = keeper::command(program, arguments)
        .env("NIX_SEED_LOG_FILE", &log)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log_file)
        .spawn()
        .map_err(MountError::Spawn)?;
    let text = serde_json::to_vec(request).map_err(|error| MountError::Spawn(error.into()))?;
    let sent = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(&text));
    let answer =
        sent.ok().and_then(|()| child.stdout.take()).and_then(|stdout| wait_for_answer(stdout, progress));
    match answer {
        Some(Answer::Ready(ready)) => Ok(*ready),
        Some(Answer::Failed { message, failure }) => {
            let _ = child.wait();
            let _ = fs::remove_file(&log);
            Err(MountError::Remote { message, failure })
        }
        Some(Answer::Progress(_)) | None => {
            let _ = child.kill();
            let _ = child.wait();
            Err(MountError::Died { log })
        }
    }
}

/// Reads what the server process says until it is ready or has failed.
fn wait_for_answer(stdout: impl Read, progress: &mut dyn FnMut(Progress)) -> Option<Answer> {
    let mut lines = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        (&mut lines).take(MAX_JSON as u64).read_until(b'\n', &mut line).ok()?;
        match json::from_slice(&line, MAX_JSON).ok()? {
            Answer::Progress(now) => progress(now),
            answer => return Some(answer),
        }
    }
}

/// The live mount that is what is asked for, if there is one.
fn standing(request: &Request) -> Result<Option<MountState>, MountError> {
    let failed = |source| MountError::Directory { directory: request.directory.clone(), source };
    let directory = request.directory.canonicalize().map_err(failed)?;
    let shown = shown_at(&request.runtime, &directory)?;
    // Insisting on a tree asks for that one.
    let wanted = |state: &MountState| match request.mode {
        Mode::Auto => true,
        Mode::Fuse => state.shown.mode == Mode::Fuse.to_string(),
        Mode::Kernel | Mode::KernelLoop => state.shown.mode == Mode::Kernel.to_string(),
    };
    Ok(shown.filter(wanted).filter(|state| {
        (&state.reference, &state.subtree, &state.writable)
            == (&request.reference, &request.subtree, &request.writable)
    }))
}

/// The server process: mounts what the command asked for, if `judge` allows it, and serves it until it is
/// unmounted; or goes on with a mount whose server is no more.
///
/// Whoever calls this has set up logging to standard error. Errors before the mount is ready are told to the
/// command, later ones to the log; the result says whether all went well.
pub fn run_detached(judge: Judge<'_>) -> Result<(), MountError> {
    // Not with the command's terminal any more. Fails only for a process that leads a session already.
    let _ = rustix::process::setsid();
    let link = Link::take().map_err(MountError::Keeper)?;
    let request = match link.task().map_err(MountError::Keeper)? {
        Task::Mount(request) => kept::read_request(request, MAX_JSON),
        Task::GoOn(inheritance) => return Mount::go_on(*inheritance, link)?.serve(),
    };
    let mounted = request
        .map_err(MountError::Spawn)
        .and_then(|request| Mount::make(&request, judge, link, &mut |now| drop(say(&Answer::Progress(now)))));
    let answer = match &mounted {
        Ok(mount) => Answer::Ready(Box::new(mount.ready())),
        Err(error) => Answer::Failed { message: Chain(error).to_string(), failure: error.failure() },
    };
    tell(&answer).map_err(MountError::Spawn)?;
    mounted?.serve()
}

/// The same for a command that waits in the foreground, as the keeper: mounts `request`, if `judge` allows it,
/// calls `on_progress` while all of a seed is waited for and `on_ready` then, or goes on with a mount; then serves it until it is unmounted.
pub fn run_foreground(
    request: &Request,
    judge: Judge<'_>,
    on_progress: &mut dyn FnMut(Progress),
    on_ready: impl FnOnce(&Ready),
) -> Result<(), MountError> {
    let link = Link::take().map_err(MountError::Keeper)?;
    match link.task().map_err(MountError::Keeper)? {
        Task::Mount(_) => {
            let mount = Mount::make(request, judge, link, on_progress)?;
            on_ready(&mount.ready());
            mount.serve()
        }
        Task::GoOn(inheritance) => Mount::go_on(*inheritance, link)?.serve(),
    }
}

/// Writes a line for the command that waits.
fn say(answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()
}

/// Writes the answer, and lets go of the command's pipe.
fn tell(answer: &Answer) -> io::Result<()> {
    say(answer)?;
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    Ok(rustix::stdio::dup2_stdout(&null)?)
}

struct Mount {
    runtime: PathBuf,
    state: MountState,
    fs: Arc<SeedFs>,
    mounted: Mounted,
    signals: Signals,
    link: Link,
    took: Duration,
}

impl Mount {
    /// Makes the mount, and gives the keeper what it needs to outlive this process.
    fn make(
        request: &Request,
        judge: Judge<'_>,
        link: Link,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, MountError> {
        let begin = Instant::now();
        let failed = |source| MountError::Directory { directory: request.directory.clone(), source };
        let directory = request.directory.canonicalize().map_err(failed)?;
        if let Some(writable) = &request.writable {
            overlay::may_be_laid(&directory, writable)?;
        }
        let (transport, digest) = place(request)?;
        let fs = open_seed(transport, &digest, &options(request))?;
        judge(request, fs.seed())?;
        if request.wait == Wait::Full {
            fs.fetch_all(&mut |fetched, total| progress(Progress { fetched, total }))?;
        }
        if let Some(database) = &request.database {
            install_database(&fs, database)?;
        }
        runtime::sweep_at(&request.runtime, &directory)?;
        let pid = keeper_process();
        let log = std::env::var_os("NIX_SEED_LOG_FILE").map(PathBuf::from).unwrap_or_default();
        let id = log.file_stem().and_then(OsStr::to_str).map_or_else(new_id, str::to_owned);
        let mut state = MountState {
            id,
            digest: *fs.digest(),
            reference: request.reference.clone(),
            directory: directory.clone(),
            subtree: request.subtree.clone(),
            writable: request.writable.clone(),
            shown: Shown { mode: request.mode.to_string(), reason: "it is not mounted yet".into() },
            pid,
            start_time: start_time(pid).unwrap_or_default(),
            server: this_process(),
            takeovers: 0,
            managed: link.managed,
            outlives_server: false,
            namespace: namespace().unwrap_or_default(),
            log,
            metrics: request.metrics,
        };
        // Before there is a mount to leave behind: a signal that comes early waits until it is served.
        let signals = Signals::new([SIGTERM, SIGINT]).map_err(MountError::Spawn)?;
        prepare(&request.runtime)?;
        write_state(&request.runtime, &state)?;
        let made = mount_with_state(request, &state, &fs).and_then(|mut mounted| {
            state.shown = mounted.shown().clone();
            let handed = mounted.hand_over(|device, negotiated| {
                state.outlives_server = negotiated.has_resend();
                let record = Record::new(request.clone(), state.clone(), negotiated, fs.seed());
                link.mounted(device, &record)
            });
            handed.map_err(MountError::Keeper)?;
            write_state(&request.runtime, &state)?;
            answer_status(&request.runtime, state.clone(), Arc::clone(&fs))?;
            Ok(mounted)
        });
        match made {
            Ok(mounted) => {
                let (runtime, took) = (request.runtime.clone(), begin.elapsed());
                Ok(Self { runtime, state, fs, mounted, signals, link, took })
            }
            Err(error) => {
                runtime::remove(&request.runtime, &state.id);
                Err(error)
            }
        }
    }

    /// Goes on with a mount that another process has made. All that may fail comes before this process says
    /// that it is prepared: until then the other may still serve.
    fn go_on(inheritance: Inheritance, link: Link) -> Result<Self, MountError> {
        let begin = Instant::now();
        let Inheritance { device, record, index, takeovers } = inheritance;
        let seed = record.seed().map_err(OpenError::Seed)?;
        let has_index = index.is_some();
        let fs = open_again(locate(&record.request)?.0, seed, index, &options(&record.request))?;
        let Record { request, mut state, negotiated, .. } = record;
        (state.pid, state.server, state.takeovers) = (keeper_process(), this_process(), takeovers);
        state.start_time = start_time(state.pid).unwrap_or_default();
        let signals = Signals::new([SIGTERM, SIGINT]).map_err(MountError::Spawn)?;
        let prepared = server::prepare(&fs, &state, device, negotiated)?;
        link.prepared().map_err(MountError::Keeper)?;
        let mounted = Mounted::go_on(prepared, &state)?;
        tracing::info!(takeovers, has_index, took = ?begin.elapsed(), "this server goes on with the mount");
        runtime::remove_socket(&request.runtime, &state.id);
        answer_status(&request.runtime, state.clone(), Arc::clone(&fs))?;
        write_state(&request.runtime, &state)?;
        Ok(Self { runtime: request.runtime, state, fs, mounted, signals, link, took: begin.elapsed() })
    }

    fn ready(&self) -> Ready {
        let bytes_fetched = self.fs.stats().bytes_fetched;
        Ready { state: self.state.clone(), took: self.took, bytes_fetched }
    }

    fn serve(self) -> Result<(), MountError> {
        let Self { runtime, state, fs, mounted, mut signals, link, .. } = self;
        let (on_signal, signal_runtime) = (state.clone(), runtime.clone());
        let pushing = Arc::new(OnceLock::<Pushing>::new());
        let last = Arc::clone(&pushing);
        let end = move || {
            if signals.forever().next().is_some() {
                if let Err(error) = runtime::take_away(&signal_runtime, &on_signal) {
                    tracing::warn!(%error, "the mount stays");
                }
                runtime::remove(&signal_runtime, &on_signal.id);
                last.get().inspect(|pushing| pushing.end());
                // Files that are still open read as broken from now on: the signal asked for it.
                std::process::exit(0);
            }
        };
        thread::Builder::new().name("signals".into()).spawn(end).map_err(MountError::Thread)?;
        link.serving().map_err(MountError::Keeper)?;
        let _ = pushing.set(Pushing::begin(&state, &fs));
        let keep_index = move || keep_index(&fs, &link);
        thread::Builder::new().name("index-keeper".into()).spawn(keep_index).map_err(MountError::Thread)?;
        let served = mounted.wait();
        runtime::remove(&runtime, &state.id);
        pushing.get().inspect(|pushing| pushing.end());
        served
    }
}

fn mount_with_state(request: &Request, state: &MountState, fs: &Arc<SeedFs>) -> Result<Mounted, MountError> {
    let mount = |at: &Path| {
        mount_as(Arc::clone(fs), at, request.subtree.as_bytes(), request.mode, &state.id, request.others)
    };
    match &request.writable {
        None => mount(&state.directory),
        Some(writable) => mount_writable(&mount, writable, &request.runtime, state),
    }
}

/// An overlay at the directory, and the seed nowhere else: so whoever unmounts the directory, by whatever
/// command, takes all of it away.
fn mount_writable(
    mount: &dyn Fn(&Path) -> Result<Mounted, MountError>,
    writable: &Path,
    runtime: &Path,
    state: &MountState,
) -> Result<Mounted, MountError> {
    let below = runtime::below(runtime, &state.id);
    fs::create_dir(&below).map_err(|source| MountError::Runtime { path: below.clone(), source })?;
    let mounted = mount(&below)?;
    overlay::lay(&state.directory, mounted.directory(), writable, &state.id)?;
    let mounted = mounted.only_below(&state.directory)?;
    let _ = fs::remove_dir(&below);
    Ok(mounted)
}

/// Gives the keeper the index once all of it is here, and then holds the link until the process ends.
fn keep_index(fs: &SeedFs, link: &Link) {
    let given = loop {
        match fs.index().whole() {
            Ok(_) => break fs.index().share().and_then(|index| link.index(&index)),
            Err(IndexFault::Late(_)) => {}
            // There is nothing to keep, and the reason is in the log.
            Err(_) => break Ok(()),
        }
    };
    if let Err(error) = given {
        tracing::warn!(%error, "a server after this one would have to fetch the index again");
    }
    loop {
        thread::park();
    }
}

/// Where the seed is, and its digest if the reference has one.
fn locate(request: &Request) -> Result<(Arc<dyn Transport>, Reference), MountError> {
    let reference: Reference =
        request.reference.parse().map_err(|error| MountError::Spawn(io::Error::other(error)))?;
    let (insecure_hosts, read_also) = (request.insecure_hosts.clone(), request.read_also.clone());
    let mut options = TransportOptions { insecure_hosts, read_also, ..TransportOptions::from_env() };
    if let Some(dirs) = &request.hosts_dirs {
        options.hosts_dirs.clone_from(dirs);
    }
    if request.ca_file.is_some() {
        options.ca_file.clone_from(&request.ca_file);
    }
    let transport = match &request.cache {
        Some(cache) => transport::open_remembered(&reference.location, &options, cache),
        None => transport::open(&reference.location, &options),
    };
    Ok((transport.map_err(OpenError::Place)?, reference))
}

/// The same, with the digest that a tag means now.
fn place(request: &Request) -> Result<(Arc<dyn Transport>, Digest), MountError> {
    let (transport, reference) = locate(request)?;
    let digest = match reference.digest {
        Some(digest) => digest,
        None => transport::resolve(&*transport, &reference).map_err(OpenError::Place)?.digest,
    };
    Ok((transport, digest))
}

fn options(request: &Request) -> SeedOptions {
    SeedOptions {
        cache: request.cache.clone(),
        cache_limit: request.cache_limit,
        keep_free: request.keep_free,
        read_also: request.read_also.clone(),
        fetch: fetch::Config {
            connections: request.connections,
            read_deadline: request.read_deadline,
            neighbours: request.neighbours,
            fill: request.fill,
            fill_rate: request.fill_rate,
            rate: request.rate,
            metered: request.metered,
            ..fetch::Config::default()
        },
        trace: request.trace.clone(),
        ..SeedOptions::default()
    }
}

fn keeper_process() -> i32 {
    rustix::process::getppid().map_or(0, |keeper| keeper.as_raw_nonzero().get())
}

fn this_process() -> i32 {
    i32::try_from(std::process::id()).unwrap_or_default()
}

/// Copies the seed's database of registered paths to `directory`, unless one is there.
fn install_database(fs: &SeedFs, directory: &Path) -> Result<(), MountError> {
    let target = directory.join("db.sqlite");
    let failed = |source| MountError::Runtime { path: target.clone(), source };
    let stays = || tracing::info!(database = %target.display(), "there is a database already: it stays");
    if target.exists() {
        stays();
        return Ok(());
    }
    fs::create_dir_all(directory).map_err(failed)?;
    let unfinished = directory.join(format!(".db.sqlite-{}", new_id()));
    let written = write_database(fs, &unfinished, &failed);
    // Unlike a rename, a link takes nobody's place who was faster.
    let linked = written.and_then(|()| match fs::hard_link(&unfinished, &target) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            stays();
            Ok(())
        }
        linked => linked.map_err(failed),
    });
    let _ = fs::remove_file(&unfinished);
    linked
}

/// Writes the seed's database to a new file.
fn write_database(
    fs: &SeedFs,
    file: &Path,
    failed: &dyn Fn(io::Error) -> MountError,
) -> Result<(), MountError> {
    let tree = fs.tree(b"")?;
    let mut attr = tree.attr(ROOT)?;
    for name in DATABASE {
        let found = tree.lookup(attr.ino, name)?;
        attr = found.ok_or_else(|| TreeError::NoSubtree("nix/var/nix/db/db.sqlite".into()))?;
    }
    let mut file = File::create_new(file).map_err(failed)?;
    let mut offset = 0;
    while offset < attr.size {
        let data = tree.read_wait(attr.ino, offset, 1 << 20)?;
        data.with(|bytes| file.write_all(bytes)).map_err(failed)?;
        offset += data.len() as u64;
    }
    Ok(())
}

/// A name that no other mount has: process and time.
fn new_id() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    format!("seed-{}-{now:x}", std::process::id())
}
