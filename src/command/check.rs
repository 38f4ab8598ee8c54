//! `seed check`.

use seed_image::reference::Reference;

use crate::error::{Result, failed};
use crate::session::{Judge, Session};

/// Prove that a seed can build and develop its project's outputs after a change of the source
///
/// Replays `nix build` and `nix develop` of each output with a changed source and no network, and names
/// each missing path and why the seed should have it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed check oci:./seeds:main --allow-tag
  seed check ghcr.io/acme/app.seed@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 ./app")]
pub(crate) struct Args {
    /// The seed
    #[arg(value_name = "REF")]
    pub(crate) seed: Reference,
    /// The directory of the flake
    #[arg(value_name = "FLAKE", default_value = ".")]
    pub(crate) flake: String,
    #[command(flatten)]
    pub(crate) judge: Judge,
}

pub(crate) fn run(_session: &Session<'_>, args: &Args) -> Result<()> {
    Err(failed(format!("{args:?}")))
}
