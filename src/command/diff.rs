//! `seed diff`.

use seed_image::reference::Reference;

use crate::error::{Result, failed};
use crate::session::Session;

/// Show which paths, layers and bytes differ between two seeds
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed diff oci:./seeds:old oci:./seeds:new
  seed diff ghcr.io/acme/app.seed:1 ghcr.io/acme/app.seed:2 --json")]
pub(crate) struct Args {
    /// The one seed
    #[arg(value_name = "A")]
    pub(crate) from: Reference,
    /// The other
    #[arg(value_name = "B")]
    pub(crate) to: Reference,
}

pub(crate) fn run(_session: &Session<'_>, args: &Args) -> Result<()> {
    Err(failed(format!("{args:?}")))
}
