//! What a sandbox is made of, said by the caller.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use seed_format::StorePath;
use seed_fuse::mount::SeedFs;
use serde::{Deserialize, Serialize};

/// Where the workspace appears inside.
///
/// The place is the same for everyone, so that nothing of the host's directories can reach a result.
pub const WORKSPACE: &str = "/workspace";

/// `HOME` inside: writable, gone afterwards; empty but for what Nix needs to know.
pub const HOME: &str = "/home/seed";

/// The user and group that everything inside runs as, by number and name.
pub const USER: (u32, &str) = (1000, "seed");

/// One sandbox: what it shows and what is kept of it.
#[derive(Debug)]
pub struct Spec {
    /// The tree that becomes `/`, below the throw-away layer.
    pub lower: Lower,
    /// The project's source, at [`WORKSPACE`].
    pub workspace: Option<Workspace>,
    /// Further directories and files of the host, each named one by one.
    pub binds: Vec<Bind>,
    /// Where what is written inside goes.
    pub scratch: Scratch,
    /// Files below `/etc` that this sandbox has instead of the seed's: name (`nix/nix.conf`) to content.
    pub etc: BTreeMap<String, String>,
    /// The store path that has Nix's cache of fetched things, which [`HOME`] begins with.
    pub fetcher_cache: Option<StorePath>,
    /// The environment of every command, and nothing else: see [`crate::environment`].
    pub environment: BTreeMap<String, String>,
}

/// Where the tree comes from.
#[derive(Clone)]
pub enum Lower {
    /// A seed that is mounted inside the sandbox alone, and served by this process.
    Seed(Arc<SeedFs>),
    /// A tree on this machine that holds `nix/store` already: a seed that `seed mount` shows, or an
    /// unpacked image. It must belong to the caller or to root.
    Directory(PathBuf),
}

impl fmt::Debug for Lower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seed(seed) => f.debug_tuple("Seed").field(seed.digest()).finish(),
            Self::Directory(path) => f.debug_tuple("Directory").field(path).finish(),
        }
    }
}

/// The directory that a command works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    /// The directory on the host.
    pub directory: PathBuf,
    /// Whether commands may write to it.
    pub writable: bool,
}

/// A file or directory of the host that shows inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// The path on the host.
    pub source: PathBuf,
    /// The absolute path inside.
    pub target: PathBuf,
    /// Whether commands may write to it.
    pub writable: bool,
}

/// Where what is written inside goes: new store paths, `/tmp`, `HOME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scratch {
    /// A new directory below this one, removed afterwards. After `kill -9` the next sandbox that uses the
    /// same directory removes it: see [`crate::scratch::sweep`].
    ///
    /// Falls back to [`Scratch::Memory`] with half of the machine's memory where the directory lies on a
    /// file system that overlayfs cannot write to; [`crate::Outcome::notes`] says so.
    Directory(PathBuf),
    /// Memory, up to this many bytes.
    Memory {
        /// The limit, in bytes.
        limit: u64,
    },
}

/// A command to run inside.
#[derive(Debug)]
pub struct Command {
    /// The program, looked up in the `PATH` of the sandbox where it holds no slash, and its arguments.
    pub argv: Vec<OsString>,
    /// The working directory inside.
    pub directory: PathBuf,
    /// Variables in addition to [`Spec::environment`].
    pub environment: BTreeMap<String, String>,
    /// What standard input, output and error are.
    pub stdio: Stdio,
}

impl Command {
    /// A command with its arguments, in `/`, with nothing to read, whose output goes to `/dev/null`.
    pub fn new<S: Into<OsString>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            directory: PathBuf::from("/"),
            environment: BTreeMap::new(),
            stdio: Stdio::Null,
        }
    }

    /// The same command with other streams.
    #[must_use]
    pub fn stdio(self, stdio: Stdio) -> Self {
        Self { stdio, ..self }
    }

    /// The same command in another directory.
    #[must_use]
    pub fn directory(self, directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), ..self }
    }
}

/// The standard streams of a command.
#[derive(Debug)]
pub enum Stdio {
    /// All three are `/dev/null`.
    Null,
    /// These three files, in the order of their numbers. A terminal may be among them; it never becomes
    /// the command's controlling terminal.
    Files([OwnedFd; 3]),
    /// A terminal of the sandbox's own, relayed to the terminal that is this process's standard input:
    /// what an interactive shell needs.
    Terminal,
}

impl Stdio {
    /// The caller's own streams: through a terminal of the sandbox's own where standard input and output
    /// are both a terminal, as they are otherwise.
    pub fn inherit() -> std::io::Result<Self> {
        use std::io::IsTerminal;
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        if stdin.is_terminal() && stdout.is_terminal() {
            return Ok(Self::Terminal);
        }
        let copy = |fd| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(std::io::Error::from);
        use std::os::fd::AsFd;
        Ok(Self::Files([copy(stdin.as_fd())?, copy(stdout.as_fd())?, copy(stderr.as_fd())?]))
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It returned this code.
    Code(u8),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// Whether the code was 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// What a shell would report: the code, or 128 and the signal.
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}
