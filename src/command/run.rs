//! `seed run`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use seed_image::reference::Reference;
use seed_sandbox::{Command, Stdio, WORKSPACE, Workspace};

use crate::error::{Result, ResultExt};
use crate::gate::Origin;
use crate::session::{Ahead, Judge, Session};
use crate::{sandboxes, signals};

/// Run a command in a seed, offline
///
/// Nothing of this machine is there unless it is named. Ends with the command's exit code.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed run oci:./seeds:main --allow-tag -- nix --version
  seed run ghcr.io/acme/app.seed@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 --workspace . -- sh")]
pub(crate) struct Args {
    /// The seed
    #[arg(value_name = "REF")]
    seed: Reference,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    /// Show this directory at /workspace, and start there
    #[arg(long, value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// Let the command write to the workspace
    #[arg(long, requires = "workspace")]
    writable: bool,
    /// Set a variable of the environment; again for more
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    #[command(flatten)]
    ahead: Ahead,
    #[command(flatten)]
    judge: Judge,
}

pub(crate) fn run(session: &Session<'_>, args: &Args) -> Result<ExitCode> {
    let variables = sandboxes::variables(&args.env)?;
    let workspace = args.workspace.as_deref().map(|dir| workspace(dir, args.writable)).transpose()?;
    session.sweep();
    let admitted = sandboxes::admit(
        session,
        &args.judge,
        &args.seed,
        Origin::Written,
        None,
        args.ahead.choice_or_all(),
    )?;
    let directory = if workspace.is_some() { WORKSPACE } else { "/" };
    let spec = sandboxes::spec(session, &admitted.opened, workspace, &variables);
    let command = Command::new(args.command.iter().cloned()).directory(directory).stdio(Stdio::inherit()?);

    let forwarded = signals::forwarded();
    let outcome = seed_sandbox::run(&admitted.approved, &spec, command);
    drop(forwarded);
    let outcome = outcome.hint("`seed doctor` shows what this machine can do")?;
    session.printer.details(&sandboxes::report(session, &admitted, &outcome));
    Ok(sandboxes::exit(&outcome))
}

/// A directory of this machine, as the workspace.
pub(crate) fn workspace(directory: &Path, writable: bool) -> Result<Workspace> {
    let directory = directory.canonicalize().context(|| format!("cannot find {}", directory.display()))?;
    Ok(Workspace { directory, writable })
}
