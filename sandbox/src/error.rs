//! What can go wrong around a sandbox.

use std::fmt;
use std::io;
use std::path::PathBuf;

use seed_format::Digest;
use seed_fuse::index::IndexFault;
use seed_fuse::mount::MountError;
use serde::{Deserialize, Serialize};

use crate::export::CopyError;
use crate::spec::Exit;

/// Why a sandbox was not made, or ended early. That a command inside fails is no such error: see
/// [`Exit`].
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The approval is for another seed than the one that was opened.
    #[error("the approval is for {approved}, the seed that was opened is {opened}")]
    NotApproved {
        /// The digest that the policy approved.
        approved: Digest,
        /// The digest that was opened.
        opened: Digest,
    },
    /// A path of the specification cannot be used.
    #[error("{role} {}", path.display())]
    Path {
        /// What the path is for.
        role: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The sandbox's first process could not be started.
    #[error("the sandbox's first process cannot be started")]
    Start(#[source] io::Error),
    /// A step of making the sandbox was refused.
    #[error("cannot make the sandbox: {step}")]
    Setup {
        /// The step.
        step: Step,
        /// What the system answered.
        source: io::Error,
    },
    /// The seed could not be served into the sandbox.
    #[error("cannot serve the seed into the sandbox")]
    Serve(#[source] Box<MountError>),
    /// The sandbox's first process ended, or was killed, while it was needed.
    #[error("the sandbox was killed ({how})")]
    Died {
        /// How its first process ended.
        how: String,
    },
    /// The channel to the sandbox's first process failed or carried nonsense.
    #[error("the channel to the sandbox failed")]
    Channel(#[source] io::Error),
    /// A command could not be started inside.
    #[error("cannot run {program:?} in the sandbox")]
    Exec {
        /// The program.
        program: String,
        /// What the system answered.
        source: io::Error,
    },
    /// The terminal of the caller could not be used.
    #[error("cannot use the terminal")]
    Terminal(#[source] io::Error),
    /// A scratch directory could not be made or removed.
    #[error("scratch directory {}", path.display())]
    Scratch {
        /// The directory.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// A file inside could not be opened.
    #[error("cannot open {} in the sandbox", path.display())]
    Open {
        /// The path inside.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The seed names no Nix in its labels.
    #[error("the seed brings no Nix: it was packed from plain store paths, or is another image")]
    NoNix,
    /// The seed's index cannot be read.
    #[error("the seed's index cannot be read")]
    Index(#[source] IndexFault),
    /// Nix failed inside. Why, it has said itself.
    #[error("`{command}` failed in the sandbox ({exit})")]
    Nix {
        /// The command, as a user would type it.
        command: String,
        /// How it ended.
        exit: Exit,
    },
    /// Nix answered with something that is not its documented format.
    #[error("`{command}` answered with something else than {expected}")]
    NixOutput {
        /// The command.
        command: String,
        /// The format that was expected.
        expected: &'static str,
    },
    /// Attributes failed, and why each did was said before.
    #[error("{step} failed for {}", attributes.join(", "))]
    Targets {
        /// What failed: `the evaluation` or `the build`.
        step: &'static str,
        /// The full attributes.
        attributes: Vec<String>,
    },
    /// This process was told to end.
    #[error("interrupted by {}", signal_name(*signal))]
    Interrupted {
        /// The signal's number.
        signal: i32,
    },
    /// An output's bytes do not have the hash that Nix registered for it.
    #[error("{path}: its content has the NAR hash {found}, and Nix registered {registered}")]
    OutputHash {
        /// The store path.
        path: String,
        /// The hash of what lies on disk.
        found: Digest,
        /// The hash in Nix's database.
        registered: Digest,
    },
    /// An output cannot be read, or is of a kind that no store path has.
    #[error("{path} cannot be read in the sandbox")]
    Output {
        /// The store path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A result could not be written to the host.
    #[error("cannot export to {}", path.display())]
    Export {
        /// The place on the host.
        path: PathBuf,
        /// Why.
        source: CopyError,
    },
}

fn signal_name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}

/// The steps of making a sandbox, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Making the user namespace in which an ordinary user may mount.
    UserNamespace,
    /// Making the other namespaces.
    Namespaces,
    /// Opening the host's files that will show inside.
    Sources,
    /// Bringing up the loopback device.
    Loopback,
    /// Making the private directory that everything is mounted below.
    Base,
    /// Mounting the seed.
    Seed,
    /// Putting the writable layer over the seed.
    Overlay,
    /// Changing to the new root.
    Root,
    /// Mounting `/proc`.
    Proc,
    /// Making `/dev`.
    Devices,
    /// Mounting the workspace and what else was named.
    Binds,
    /// Writing the files that each sandbox has of its own.
    Files,
    /// Becoming the unprivileged user.
    Identity,
    /// Dropping capabilities.
    Capabilities,
    /// Installing the system call filter.
    Filter,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UserNamespace => "no user namespace can be made",
            Self::Namespaces => "no mount, process, network, IPC, host name or cgroup namespace can be made",
            Self::Sources => "a path of the host cannot be opened",
            Self::Loopback => "the loopback device cannot be brought up",
            Self::Base => "no private root can be mounted",
            Self::Seed => "the seed cannot be mounted",
            Self::Overlay => "no writable layer can be put over the seed",
            Self::Root => "the root cannot be changed",
            Self::Proc => "/proc cannot be mounted",
            Self::Devices => "/dev cannot be made",
            Self::Binds => "a path of the host cannot be mounted",
            Self::Files => "a file of the sandbox cannot be written",
            Self::Identity => "the unprivileged user cannot be entered",
            Self::Capabilities => "capabilities cannot be dropped",
            Self::Filter => "the system call filter cannot be installed",
        })
    }
}
