//! `seed check`.

use seed_image::reference::Reference;

use crate::checking;
use crate::error::Result;
use crate::project::{Installable, Project};
use crate::session::{Judge, Session};

/// Prove that a seed can build and develop its project's outputs after a change of the source
///
/// Replays `nix build`, `nix develop` and, but for starting the program, `nix run` of each output with a
/// changed source and no network, and names each missing path and why the seed should have it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed check oci:./seeds:main --allow-tag
  seed check ghcr.io/acme/app.seed@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 ./app")]
pub(crate) struct Args {
    /// The seed
    #[arg(value_name = "REF")]
    seed: Reference,
    /// The directory of the flake
    #[arg(value_name = "FLAKE", default_value = ".")]
    flake: String,
    #[command(flatten)]
    judge: Judge,
}

pub(crate) fn run(session: &Session<'_>, args: &Args) -> Result<()> {
    let project = Project::open(&Installable::parse(&args.flake)?.dir)?;
    session.sweep();
    checking::check(session, &project, &args.seed, &args.judge)
}
