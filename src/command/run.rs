//! `seed run`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use seed_image::reference::Reference;

use crate::error::{Result, failed};
use crate::session::{Judge, Session};

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
    pub(crate) seed: Reference,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
    /// Show this directory at /workspace, and start there
    #[arg(long, value_name = "DIR")]
    pub(crate) workspace: Option<PathBuf>,
    /// Let the command write to the workspace
    #[arg(long, requires = "workspace")]
    pub(crate) writable: bool,
    /// Set a variable of the environment; again for more
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    #[command(flatten)]
    pub(crate) judge: Judge,
}

pub(crate) fn run(_session: &Session<'_>, args: &Args) -> Result<ExitCode> {
    Err(failed(format!("{args:?}")))
}
