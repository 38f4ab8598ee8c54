//! `seed unmount`.

use std::path::PathBuf;

use crate::error::{Result, failed};
use crate::session::Session;

/// Take away a mount that `seed mount` made
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed unmount /mnt/store
  seed unmount --all")]
pub(crate) struct Args {
    /// Where the seed is mounted
    #[arg(value_name = "DIR", required_unless_present = "all")]
    pub(crate) dir: Option<PathBuf>,
    /// Take away every mount of this user, also those whose server has died
    #[arg(long, conflicts_with = "dir")]
    pub(crate) all: bool,
}

pub(crate) fn run(_session: &Session<'_>, args: &Args) -> Result<()> {
    Err(failed(format!("{args:?}")))
}
