//! The offline build: commands in a seed, with nothing of the host but what was named.
//!
//! [`run`] runs one command in a [`Spec`]'s sandbox, [`Sandbox`] several. Both take an
//! [`Approved`], so no seed runs that no policy judged. A program that uses them calls [`main_if_init`]
//! first thing in its `main`: the sandbox's first process is the program itself, started once more.

mod channel;
pub mod environment;
mod error;
mod init;
mod protocol;
mod record;
pub mod scratch;
mod session;
mod signals;
mod spec;
mod terminal;

use seed_policy::Approved;

pub use error::{SandboxError, Step};
pub use init::main_if_init;
pub use protocol::Note;
pub use record::{Outcome, Phase};
pub use session::{Controller, Sandbox};
pub use signals::Forwarding;
pub use spec::{Bind, Command, Exit, HOME, Lower, Scratch, Spec, Stdio, USER, WORKSPACE, Workspace};

/// Runs one command in a sandbox, and passes this process's `SIGHUP`, `SIGINT`, `SIGQUIT` and `SIGTERM`
/// on to it meanwhile.
///
/// That the command fails is an [`Outcome`]; an error means that it did not run, or not to its end.
pub fn run(approved: &Approved, spec: &Spec, command: Command) -> Result<Outcome, SandboxError> {
    let mut sandbox = Sandbox::start(approved, spec)?;
    let _forwarding = Forwarding::start(sandbox.controller()).map_err(SandboxError::Start)?;
    let (phase, exit) = Phase::time("command", || sandbox.execute(command));
    let exit = exit?;
    Ok(Outcome { exit, phases: vec![sandbox.phase().clone(), phase], notes: sandbox.notes().to_vec() })
}
