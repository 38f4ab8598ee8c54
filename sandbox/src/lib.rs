//! The offline build: commands in a seed, with nothing of the host but what was named.
//!
//! [`run`] runs one command in a [`Spec`]'s sandbox, [`Sandbox`] several. Both take an
//! [`Approved`], so no seed runs that no policy judged. A program that uses them calls [`main_if_init`]
//! first thing in its `main`: the sandbox's first process is the program itself, started once more.

mod app;
mod build;
mod channel;
mod check;
mod deliver;
mod develop;
pub mod environment;
mod error;
mod evaluate;
mod export;
mod init;
mod nix;
mod protocol;
mod record;
mod registration;
pub mod scratch;
mod session;
mod signals;
mod spec;
mod terminal;

use protocol::Network;
use seed_policy::Approved;
use signals::{Reaction, Signals};

pub use build::{BuildRequest, build, flake_of_workspace};
pub use check::{Replay, Use, check};
pub use deliver::{Delivery, Online, Secrets, copy_to, sign};
pub use develop::{DevelopRequest, develop};
pub use error::{SandboxError, Step};
pub use export::{CopyError, Destination, merge_cache};
pub use init::main_if_init;
pub use nix::{Nix, search_path};
pub use protocol::Note;
pub use record::{BuildRecord, FailedTarget, NixRecord, Outcome, OutputRecord, Phase, Source, TargetRecord};
pub use session::{Controller, Sandbox};
pub use spec::{Bind, Command, Exit, HOME, Lower, Scratch, Spec, Stdio, USER, WORKSPACE, Workspace};

/// Runs one command in a sandbox, and passes this process's `SIGHUP`, `SIGINT`, `SIGQUIT` and `SIGTERM`
/// on to it meanwhile. Before and after the command they end the sandbox.
///
/// That the command fails is an [`Outcome`]; an error means that it did not run, or not to its end.
pub fn run(approved: &Approved, spec: &Spec, command: Command) -> Result<Outcome, SandboxError> {
    let reaction = match command.stdio {
        Stdio::Terminal => Reaction::HangUp,
        _ => Reaction::PassOn,
    };
    let signals = Signals::watch(reaction).map_err(SandboxError::Start)?;
    let ran = signals.or_interrupted(|signals| {
        let mut sandbox = Sandbox::start_controlled(approved, spec, Network::None, |it| signals.control(it))?;
        let (phase, exit) = Phase::time("command", || sandbox.execute(command));
        let exit = exit?;
        let (phases, notes) = (vec![sandbox.phase().clone(), phase], sandbox.notes().to_vec());
        Ok(Outcome { exit, phases, notes, signal: None })
    })?;
    Ok(Outcome { signal: signals.received(), ..ran })
}
