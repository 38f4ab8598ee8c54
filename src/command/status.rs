//! `seed status`.

use crate::error::{Result, failed};
use crate::session::Session;

/// Show the live mounts and what they have fetched
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed status
  seed status --json")]
pub(crate) struct Args {}

pub(crate) fn run(_session: &Session<'_>, args: &Args) -> Result<()> {
    Err(failed(format!("{args:?}")))
}
