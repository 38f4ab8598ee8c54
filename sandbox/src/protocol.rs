//! What the supervisor and the sandbox's first process say to each other.
//!
//! The first request is [`Request::Start`]; the init answers with [`Reply::Seed`] where there is a seed
//! to serve, then with [`Reply::Ready`] or [`Reply::Failed`]. After that each request but
//! [`Request::Signal`] has one answer, and an execution two: [`Reply::Started`] and [`Reply::Exited`].

use std::collections::BTreeMap;
use std::ffi::OsString;

use serde::{Deserialize, Serialize};

use crate::error::Step;
use crate::spec::Exit;

/// The hidden first argument that turns a program into the sandbox's first process.
pub(crate) const INIT_ARGUMENT: &str = "__seed-sandbox-init";

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Make the sandbox.
    Start(Box<Plan>),
    /// The seed is being served: go on.
    SeedServed,
    /// Run a command; its three streams come with the message unless it gets a terminal.
    Execute(Execution),
    /// Send a signal to the process group of the command that runs.
    Signal(i32),
    /// Open a file or directory inside, for reading.
    Open(OsString),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The seed is mounted; its `/dev/fuse` descriptor comes with the message.
    Seed,
    /// The sandbox is made.
    Ready(Vec<Note>),
    /// The sandbox was not made.
    Failed { step: Step, errno: i32, about: String },
    /// The command runs; the terminal's other end comes with the message where one was asked for.
    Started,
    /// The command could not be started.
    NotStarted { errno: i32 },
    /// The command ended, and so did all that it left running.
    Exited(Exit),
    /// The file comes with the message.
    Opened,
    /// The file could not be opened.
    NotOpened { errno: i32 },
}

/// Something about a sandbox that its user should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Note {
    /// What is written inside is kept in memory.
    #[error(
        "the scratch directory lies on a file system that overlayfs cannot write to: \
         what the build writes is kept in memory, up to {limit} bytes"
    )]
    ScratchInMemory {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The workspace of root is shown with its own owner.
    #[error(
        "the file system of the workspace has no mapped mounts: files in it that only root may read \
         cannot be read inside"
    )]
    WorkspaceNotMapped,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) lower: PlanLower,
    pub(crate) workspace: Option<PlanBind>,
    pub(crate) binds: Vec<PlanBind>,
    pub(crate) scratch: PlanScratch,
    pub(crate) etc: BTreeMap<String, String>,
    /// The directory inside that Nix's cache begins with.
    pub(crate) fetcher_cache: Option<String>,
    pub(crate) network: Network,
}

/// Which network there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Network {
    /// The loopback device of a namespace of its own: what everything has that a project has a say in.
    None,
    /// The machine's: what only a copy of results has, which runs nothing of a project's.
    Host,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum PlanLower {
    /// A seed that the supervisor will serve; the mount table shows `source` for it.
    Seed {
        source: String,
        /// Whether the kernel may read far ahead in it.
        far_ahead: bool,
    },
    Directory(OsString),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PlanBind {
    pub(crate) source: OsString,
    pub(crate) target: OsString,
    pub(crate) writable: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PlanScratch {
    /// The directory; none for memory from the start.
    pub(crate) directory: Option<OsString>,
    /// The limit of what is kept in memory, in bytes.
    pub(crate) memory: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Execution {
    pub(crate) argv: Vec<OsString>,
    pub(crate) directory: OsString,
    pub(crate) environment: BTreeMap<String, String>,
    /// Whether it gets a terminal, and of which size: lines and columns.
    pub(crate) terminal: Option<(u16, u16)>,
}
