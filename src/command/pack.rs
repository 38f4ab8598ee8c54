//! `seed pack`.

use std::path::PathBuf;

use seed_image::reference::Reference;
use seed_policy::System;

use crate::error::{Result, failed};
use crate::session::Session;

/// Pack a project's closure, or plain store paths, into a seed
///
/// Prints the seed's reference with its digest, alone, on standard output.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed pack --to oci:./seeds:main --lock
  seed pack --attr packages.x86_64-linux.default --to ghcr.io/acme/app.seed:main
  seed pack --paths /nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60 --to oci:./tools")]
pub(crate) struct Args {
    /// The directory of the flake
    #[arg(default_value = ".", value_name = "FLAKE")]
    pub(crate) flake: String,
    /// An output that the seed must be able to build; again for more. All of the flake's, if none is named
    #[arg(long, value_name = "ATTR")]
    pub(crate) attr: Vec<String>,
    /// The system that the seed is for; this machine's, if none is named
    #[arg(long, value_name = "SYSTEM")]
    pub(crate) system: Option<System>,
    /// Where the seed goes: oci:DIR[:TAG] or HOST/REPOSITORY[:TAG]
    #[arg(long, value_name = "DEST")]
    pub(crate) to: Option<Reference>,
    /// Record the digest in the project's .seed.lock
    #[arg(long)]
    pub(crate) lock: bool,
    /// Do not prove that the seed can build the outputs
    #[arg(long)]
    pub(crate) no_check: bool,
    /// Also write the seed's core statement to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) statement: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) what: Paths,
    #[command(flatten)]
    pub(crate) layers: Layers,
    #[command(flatten)]
    pub(crate) image: Image,
}

/// Plain store paths instead of a flake.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Plain store paths")]
pub(crate) struct Paths {
    /// Pack these store paths and what they refer to, not a flake
    #[arg(long, num_args = 1.., value_name = "PATH", conflicts_with_all = ["flake", "attr", "lock", "statement"])]
    pub(crate) paths: Vec<PathBuf>,
    /// Pack the store paths that this file lists, one a line; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["flake", "attr", "lock", "statement"])]
    pub(crate) paths_from: Option<PathBuf>,
    /// Read the store below this directory: ROOT/nix/store
    #[arg(long, value_name = "ROOT")]
    pub(crate) store: Option<PathBuf>,
}

/// How the layers are made.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Layers")]
pub(crate) struct Layers {
    /// The zstd level, 1 to 19
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(i32).range(1..=19))]
    pub(crate) level: Option<i32>,
    /// The most layers that the image may have
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(4..=1000))]
    pub(crate) max_layers: Option<u16>,
}

/// What the image runs when it is run as any other.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Image configuration")]
pub(crate) struct Image {
    /// A word of the entry point; again for each word
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub(crate) entrypoint: Vec<String>,
    /// A word of the default command; again for each word
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub(crate) cmd: Vec<String>,
    /// A variable of the environment; again for more
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// The working directory
    #[arg(long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// The user, by name or number
    #[arg(long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// A label; again for more
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<String>,
    /// A port that it listens on; again for more
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    pub(crate) port: Vec<String>,
    /// A directory for data that outlives the container; again for more
    #[arg(long, value_name = "DIR")]
    pub(crate) volume: Vec<String>,
}

pub(crate) fn run(_session: &Session<'_>, args: &Args) -> Result<()> {
    Err(failed(format!("{args:?}")))
}
