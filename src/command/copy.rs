//! `seed copy`.

use seed_image::reference::Reference;

use crate::error::{Result, failed};
use crate::session::Session;

/// Copy a seed, by its digest, with its referrers
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed copy oci:./seeds:main ghcr.io/acme/app.seed:main
  seed copy ghcr.io/acme/app.seed:main oci:./seeds:main --no-referrers")]
pub(crate) struct Args {
    /// The seed
    #[arg(value_name = "SRC")]
    pub(crate) from: Reference,
    /// Where it goes
    #[arg(value_name = "DST")]
    pub(crate) to: Reference,
    /// Leave statements and other referrers behind
    #[arg(long)]
    pub(crate) no_referrers: bool,
}

pub(crate) fn run(_session: &Session<'_>, args: &Args) -> Result<()> {
    Err(failed(format!("{args:?}")))
}
