//! `seed copy`.

use std::fmt;

use seed_image::reference::Reference;
use seed_image::transport::{CopyOptions, CopyReport, copy};
use serde::Serialize;

use crate::error::{Result, ResultExt, failed, usage};
use crate::printer::bytes;
use crate::session::Session;

/// Copy a seed, by its digest, with its referrers
///
/// Prints the copy's reference with its digest, alone, on standard output.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed copy oci:./seeds:main ghcr.io/acme/app.seed:main
  seed copy ghcr.io/acme/app.seed:main oci:./seeds:main --no-referrers")]
pub(crate) struct Args {
    /// The seed
    #[arg(value_name = "SRC")]
    from: Reference,
    /// Where it goes
    #[arg(value_name = "DST")]
    to: Reference,
    /// Leave statements and other referrers behind
    #[arg(long)]
    no_referrers: bool,
}

#[derive(Debug, Serialize)]
struct Copied {
    reference: String,
    manifests: usize,
    /// Blobs that were sent.
    copied: usize,
    /// Blobs that were there, or that the registry took over from another repository.
    present: usize,
    /// Bytes of the blobs that were sent.
    bytes: u64,
}

pub(crate) fn run(session: &Session<'_>, args: &Args) -> Result<()> {
    if let Some(digest) = args.to.digest {
        return Err(usage(format!(
            "{digest} names what is copied, not where it goes: leave it away from {}",
            args.to
        )));
    }
    let from = session.open(&args.from.location)?;
    let to = session.open(&args.to.location)?;
    let resolved = session.resolve(from.as_ref(), &args.from)?;
    let digest = resolved.digest.ok_or_else(|| failed(format!("{resolved} names no digest")))?;
    let options =
        CopyOptions { tag: args.to.tag.clone(), referrers: !args.no_referrers, ..CopyOptions::default() };
    let phase = session.printer.phase("copy");
    let report = copy(from.as_ref(), to.as_ref(), &digest, &options)
        .context(|| format!("cannot copy {resolved} to {}", args.to))?;
    phase.set_done(report.bytes);
    phase.end();
    let CopyReport { manifests, copied, mounted, present, bytes } = report;
    let reference = args.to.with_digest(digest).to_string();
    let copied = Copied { reference, manifests, copied, present: present + mounted, bytes };
    session.printer.note(format_args!("{}", Summary(&copied)));
    session.printer.data(&copied)
}

impl fmt::Display for Copied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reference)
    }
}

/// The report in words.
struct Summary<'a>(&'a Copied);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Copied { manifests, copied, present, bytes: sent, .. } = self.0;
        write!(f, "{manifests} manifests; {copied} blobs sent ({}), {present} there already", bytes(*sent))
    }
}
