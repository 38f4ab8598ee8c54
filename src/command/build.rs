//! `seed build`.

use std::path::PathBuf;
use std::process::ExitCode;

use seed_image::reference::Reference;

use crate::error::{Result, failed};
use crate::project::Installable;
use crate::session::{Judge, Session};

/// Build outputs of a flake, offline, in the project's seed
///
/// The seed's digest is read from .seed.lock. Where none is recorded for this system, the seed is packed
/// and recorded first. Prints the store path of each output.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed build
  seed build .#hello .#docs --seed oci:./seeds --out-link result
  seed build --to file:///srv/cache --record build.json")]
pub(crate) struct Args {
    /// The outputs; the default package of the flake here, if none is named
    #[arg(value_name = "FLAKE#ATTR")]
    pub(crate) outputs: Vec<String>,
    /// Where the seed is; with a digest, that one is used whatever .seed.lock says
    #[arg(long, value_name = "REF")]
    pub(crate) seed: Option<Reference>,
    /// Make symbolic links to the results, with this name
    #[arg(short, long, value_name = "PATH", default_value = "result")]
    pub(crate) out_link: PathBuf,
    /// Make no symbolic links
    #[arg(long, conflicts_with = "out_link")]
    pub(crate) no_link: bool,
    /// Copy the results to this store or binary cache as well
    #[arg(long, value_name = "STORE")]
    pub(crate) to: Option<String>,
    /// Commit .seed.lock where a seed had to be packed
    #[arg(long)]
    pub(crate) commit: bool,
    /// Write the build's record, as JSON, to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) judge: Judge,
}

pub(crate) fn run(_session: &Session<'_>, args: &Args) -> Result<ExitCode> {
    let outputs = args.outputs.iter().map(|text| Installable::parse(text)).collect::<Result<Vec<_>>>()?;
    Err(failed(format!("{outputs:?} {args:?}")))
}
