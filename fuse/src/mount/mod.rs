//! From a seed's digest to a mounted directory, and back.
//!
//! - [`open_seed`] gets the manifest and the index.
//! - [`mount()`] mounts here; [`mount_fd`] and [`serve`] do the same in two halves, for a mount in another
//!   mount namespace.
//! - [`start_detached`] mounts in a process of its own, which [`unmount`] ends.
//! - [`sweep`] takes away what killed processes left.

mod detached;
mod device;
mod fusermount;
mod keeper;
mod kept;
mod kernel_tree;
mod loop_device;
mod manager;
mod metrics;
mod mode;
mod open;
mod overlay;
mod pushing;
mod report;
mod runtime;
mod server;
mod telling;
mod traces;

use std::io;
use std::path::PathBuf;

pub use detached::{
    Judge, Progress, Ready, Refused, Request, Wait, run_detached, run_foreground, start_detached,
};
pub use device::{FILE_SYSTEM, mount_fd, raise_read_ahead, unmount_lazily};
pub use keeper::{ARGUMENT as KEEPER_ARGUMENT, become_keeper, is_kept, keep_if_asked};
pub use kernel_tree::{KernelTreeError, can_show_by_kernel};
pub use mode::{Mode, Shown, UnknownMode};
pub use open::{OpenError, OpenOptions, SeedFs, open_seed};
pub use report::{Report, Use};
pub use runtime::{MountState, Status, Swept, mounts, replace, runtime_directory, status, sweep, unmount};
pub use server::{Mounted, Server, mount, serve};
pub use telling::report;
pub use traces::{TraceChoice, TraceFileError, selects};

use crate::tree::TreeError;

/// Why a seed is not mounted, or not unmounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The seed cannot be opened.
    #[error("cannot open the seed")]
    Open(#[from] OpenError),
    /// The image has no such directory.
    #[error("cannot show that part of the image")]
    Tree(#[from] TreeError),
    /// The directory cannot be mounted on.
    #[error("cannot mount at {}", directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A writable overlay cannot be laid over the mount.
    #[error("cannot lay a writable layer from {} over {}", writable.display(), directory.display())]
    Overlay {
        /// The mount.
        directory: PathBuf,
        /// Where changes go.
        writable: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel does not mount the seed by itself, and was insisted upon.
    #[error("the kernel does not mount the seed by itself (--mode auto then mounts it by FUSE)")]
    KernelTree(#[from] KernelTreeError),
    /// The kernel did not begin the FUSE protocol.
    #[error("the kernel did not begin the FUSE protocol")]
    Handshake(#[source] io::Error),
    /// The FUSE protocol ended with an error.
    #[error("the FUSE session failed")]
    Session(#[source] io::Error),
    /// A thread could not be started.
    #[error("a thread cannot be started")]
    Thread(#[source] io::Error),
    /// The mount cannot be taken away.
    #[error("cannot unmount {}", directory.display())]
    Unmount {
        /// The mount.
        directory: PathBuf,
        /// What the system said: `EBUSY` while it is in use.
        source: io::Error,
    },
    /// There is no mount of ours.
    #[error("{} is not a mounted seed", .0.display())]
    NotMounted(PathBuf),
    /// The server did not end in time after its mount was taken away.
    #[error("the server of {} (process {pid}) goes on", directory.display())]
    ServerStays {
        /// The mount.
        directory: PathBuf,
        /// Its server.
        pid: i32,
    },
    /// The state of mounts cannot be read or written.
    #[error("cannot use {}", path.display())]
    Runtime {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The server process could not be started or spoken to.
    #[error("the server process cannot be started")]
    Spawn(#[source] io::Error),
    /// The keeper of the mount cannot be spoken to.
    #[error("the keeper of the mount cannot be spoken to")]
    Keeper(#[source] io::Error),
    /// The server process ended before the mount was ready.
    #[error("the server process ended before the mount was ready; its log is {}", log.display())]
    Died {
        /// The log.
        log: PathBuf,
    },
    /// The server process said why it failed.
    #[error("{message}")]
    Remote {
        /// The whole chain of causes.
        message: String,
        /// Of which kind it is.
        failure: Failure,
    },
    /// The counters cannot be told of at this port.
    #[error("metrics cannot be offered at {port}")]
    Metrics {
        /// The address.
        port: std::net::SocketAddr,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The seed may not be mounted.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// What kind of failure an error is, as exit codes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Something did not work: exit code 1.
    Failed,
    /// A policy refused the seed: exit code 3.
    Refused,
    /// Bytes came that are not those of the seed: exit code 4.
    Integrity,
}

impl MountError {
    /// What kind of failure this is.
    pub fn failure(&self) -> Failure {
        let integrity = match self {
            Self::Remote { failure, .. } => return *failure,
            Self::Refused(_) => return Failure::Refused,
            Self::Open(error) => error.is_integrity(),
            Self::Tree(TreeError::Fetch(error)) => error.is_integrity(),
            Self::Tree(TreeError::Index(fault)) => fault.is_integrity(),
            _ => false,
        };
        if integrity { Failure::Integrity } else { Failure::Failed }
    }
}
