//! `seed verify`.

use std::fmt;

use seed_format::Digest;
use seed_image::reference::Reference;
use seed_image::verify;
use serde::Serialize;

use crate::error::{Result, ResultExt};
use crate::gate::{self, Origin};
use crate::printer::{Phases, bytes};
use crate::session::{Judge, Session};

/// Verify a seed: its bytes by their digests, and what its policy asks for
///
/// Every blob is read and must have its digest. With --deep it is looked into: the files of the layers,
/// their tables of contents, the index and Nix's database must all say the same.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed verify oci:./seeds:main --allow-tag
  seed verify ghcr.io/acme/app.seed:main --deep --allow-tag")]
pub(crate) struct Args {
    /// The seed
    #[arg(value_name = "REF")]
    seed: Reference,
    /// Look into every layer: its files, its table of contents and the index must agree
    #[arg(long)]
    deep: bool,
    #[command(flatten)]
    judge: Judge,
}

#[derive(Debug, Serialize)]
struct Verdict {
    reference: String,
    digest: Digest,
    /// The level that the policy asked for, and that was judged.
    level: &'static str,
    /// The core statement that fits, where there is one.
    statement: Option<Digest>,
    /// What was found wanting and the policy accepts.
    notes: Vec<&'static str>,
    /// Whether every layer was looked into.
    deep: bool,
    paths: usize,
    files: u64,
    /// Bytes of all files.
    bytes: u64,
}

pub(crate) fn run(session: &Session<'_>, args: &Args) -> Result<()> {
    // What its place has now is verified, not what the cache remembers of it.
    let place = session.open(&args.seed.location)?;
    let open = gate::manifest_only;
    let admitted = gate::admit(session, &args.judge, place, &args.seed, Origin::Written, None, open)?;
    let (located, approved) = admitted.into_located();
    let index = located.index()?;
    let summary = index.check().context(|| format!("the index of {} is malformed", located.reference))?;
    let phases = Phases::new(session.printer);
    let context = || format!("{} does not hold together", located.reference);
    let (transport, seed) = (located.transport.as_ref(), &located.seed);
    if args.deep {
        verify::deep(transport, seed, &phases).context(context)?;
    } else {
        verify::blobs(transport, seed, &phases).context(context)?;
    }
    phases.end();
    session.printer.data(&Verdict {
        reference: located.reference.to_string(),
        digest: approved.digest(),
        level: approved.level().name(),
        statement: approved.statement(),
        notes: approved.notes().iter().map(seed_policy::Reason::code).collect(),
        deep: args.deep,
        paths: index.paths().len(),
        files: summary.files,
        bytes: summary.bytes,
    })
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reference, level, paths, files, bytes: size, .. } = self;
        writeln!(f, "{reference}\n  approved at the level {level}")?;
        match self.statement {
            Some(statement) => writeln!(f, "  statement {statement}")?,
            None => writeln!(f, "  no core statement lies beside it")?,
        }
        for note in &self.notes {
            writeln!(f, "  accepted: {note}")?;
        }
        let what =
            if self.deep { "files, tables, index and database agree" } else { "every blob has its digest" };
        write!(f, "  {paths} paths, {files} files, {}; {what}", bytes(*size))
    }
}
