//! `seed mount`.

use std::path::PathBuf;

use clap::ValueEnum;
use seed_image::reference::Reference;

use crate::error::{Result, failed};
use crate::session::{Judge, Session};

/// Mount a seed lazily: files are fetched, and verified, when they are read
///
/// Returns when the mount can be used; `seed unmount` takes it away.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed mount oci:./seeds:main /mnt/store --allow-tag
  seed mount ghcr.io/acme/app.seed@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 /nix/store")]
pub(crate) struct Args {
    /// The seed
    #[arg(value_name = "REF")]
    pub(crate) seed: Reference,
    /// An existing directory
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Which part of the seed shows there
    #[arg(long, value_enum, default_value_t = Part::Store)]
    pub(crate) part: Part,
    /// Serve in the foreground, until a signal or until it is unmounted
    #[arg(long)]
    pub(crate) foreground: bool,
    #[command(flatten)]
    pub(crate) judge: Judge,
}

/// A part of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// What is in /nix/store
    Store,
    /// What is in /nix: the store and its database
    Nix,
    /// The whole image
    Root,
}

pub(crate) fn run(_session: &Session<'_>, args: &Args) -> Result<()> {
    Err(failed(format!("{args:?}")))
}
