//! `seed verify`.

use seed_image::reference::Reference;

use crate::error::{Result, failed};
use crate::session::{Judge, Session};

/// Verify a seed: its bytes by their digests, and what its policy asks for
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed verify oci:./seeds:main --allow-tag
  seed verify ghcr.io/acme/app.seed:main --deep --allow-tag")]
pub(crate) struct Args {
    /// The seed
    #[arg(value_name = "REF")]
    pub(crate) seed: Reference,
    /// Read every layer: show that its files, its table of contents and the index agree
    #[arg(long)]
    pub(crate) deep: bool,
    #[command(flatten)]
    pub(crate) judge: Judge,
}

pub(crate) fn run(_session: &Session<'_>, args: &Args) -> Result<()> {
    Err(failed(format!("{args:?}")))
}
