//! `seed gc`.

use crate::config::ByteSize;
use crate::error::{Result, failed};
use crate::session::Session;

/// Bound the cache, and take away what dead mounts have left
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed gc
  seed gc --size 5GiB --dry-run")]
pub(crate) struct Args {
    /// Bound the cache to this size, not to the configured one
    #[arg(long, value_name = "SIZE")]
    pub(crate) size: Option<ByteSize>,
    /// Only say what would be removed
    #[arg(long)]
    pub(crate) dry_run: bool,
}

pub(crate) fn run(_session: &Session<'_>, args: &Args) -> Result<()> {
    Err(failed(format!("{args:?}")))
}
