//! `seed pull`.

use seed_image::reference::Reference;

use crate::error::{Result, failed};
use crate::session::Session;

/// Fetch all of a seed into the cache, so that it can be used without its registry
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed pull ghcr.io/acme/app.seed:main
  seed pull oci:./seeds:main")]
pub(crate) struct Args {
    /// The seed
    #[arg(value_name = "REF")]
    pub(crate) seed: Reference,
}

pub(crate) fn run(_session: &Session<'_>, args: &Args) -> Result<()> {
    Err(failed(format!("{args:?}")))
}
