//! `seed trace push`.

use std::path::PathBuf;

use seed_image::reference::Reference;
use seed_image::traces;

use super::{Told, show};
use crate::checking;
use crate::error::{Result, ResultExt, failed};
use crate::session::Session;

/// Put traces beside their seed
///
/// They count from then on for whoever uses the seed there, before older ones of the same target.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed trace push ghcr.io/acme/app.seed:main make.trace
  seed trace push oci:./seeds:main traces/build-packages.x86_64-linux.default.trace")]
pub(super) struct Args {
    /// The seed
    #[arg(value_name = "REF")]
    seed: Reference,
    /// Files that `seed trace record` wrote
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

pub(super) fn run(session: &Session<'_>, args: &Args) -> Result<()> {
    let transport = session.open(&args.seed.location)?;
    let reference = session.resolve(transport.as_ref(), &args.seed)?;
    let digest = reference.digest.ok_or_else(|| failed(format!("{reference} names no digest")))?;
    // None is published if one is wrong.
    let read = |file: &PathBuf| {
        let context = || format!("cannot use {}", file.display());
        traces::of_seed(&show::read_file(file)?, &digest).context(context)
    };
    let all = args.files.iter().map(read).collect::<Result<Vec<_>>>()?;
    checking::put_beside(session, transport.as_ref(), &digest, &all)?;
    for (trace, file) in all.iter().zip(&args.files) {
        session.printer.data(&Told { pushed: Some(true), file: Some(file.clone()), ..Told::of(trace)? })?;
    }
    Ok(())
}
