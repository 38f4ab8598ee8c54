//! `seed inspect`.

use seed_image::reference::Reference;

use crate::error::{Result, failed};
use crate::session::Session;

/// Show what a seed is: its system, its layers, its paths
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed inspect oci:./seeds:main
  seed inspect ghcr.io/acme/app.seed:main --paths --json")]
pub(crate) struct Args {
    /// The seed
    #[arg(value_name = "REF")]
    pub(crate) seed: Reference,
    /// List the store paths too
    #[arg(long)]
    pub(crate) paths: bool,
}

pub(crate) fn run(_session: &Session<'_>, args: &Args) -> Result<()> {
    Err(failed(format!("{args:?}")))
}
