//! `seed develop`.

use std::ffi::OsString;
use std::process::ExitCode;

use seed_image::reference::Reference;

use crate::error::{Result, failed};
use crate::session::{Judge, Session};

/// Open a flake's development shell, or run a command in it, in the project's seed
///
/// The source is at hand and can be written to; the network is not. Ends with the command's exit code.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed develop
  seed develop .#ci --command make test")]
pub(crate) struct Args {
    /// The shell; the default one of the flake here, if none is named
    #[arg(value_name = "FLAKE#ATTR", default_value = ".")]
    pub(crate) shell: String,
    /// Run this and its arguments, not an interactive shell
    #[arg(short, long, num_args = 1.., allow_hyphen_values = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
    /// Where the seed is; with a digest, that one is used whatever .seed.lock says
    #[arg(long, value_name = "REF")]
    pub(crate) seed: Option<Reference>,
    /// Commit .seed.lock where a seed had to be packed
    #[arg(long)]
    pub(crate) commit: bool,
    /// Let the shell only read the source
    #[arg(long)]
    pub(crate) read_only: bool,
    #[command(flatten)]
    pub(crate) judge: Judge,
}

pub(crate) fn run(_session: &Session<'_>, args: &Args) -> Result<ExitCode> {
    Err(failed(format!("{args:?}")))
}
