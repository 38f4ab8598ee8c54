//! `seed trace show`.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use seed_format::index::Index;
use seed_format::trace::{MAX_TRACE_LEN, Trace};
use seed_image::reference::Reference;
use seed_image::traces;
use serde::Serialize;

use super::Told;
use crate::error::{Result, ResultExt};
use crate::gate;
use crate::printer::bytes;
use crate::session::Session;

/// Show the traces beside a seed, or one in a file
///
/// With --paths, also which store paths were read, in order.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed trace show ghcr.io/acme/app.seed:main
  seed trace show oci:./seeds:main make.trace --paths")]
pub(super) struct Args {
    /// The seed
    #[arg(value_name = "REF")]
    seed: Reference,
    /// A trace of it; those beside it, where none is named
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Show which store paths were read, in the order in which each was first read
    #[arg(long)]
    paths: bool,
}

/// A store path that was read.
#[derive(Debug, Serialize)]
pub(super) struct Read {
    /// The base name; nothing for files outside of the store.
    path: Option<String>,
    chunks: u64,
    /// Compressed bytes of those chunks.
    bytes: u64,
    /// When it was first read, in seconds since the recording began.
    seconds: f64,
}

pub(super) fn run(session: &Session<'_>, args: &Args) -> Result<()> {
    let located = gate::locate(session, &args.seed)?;
    let (transport, digest) = (located.transport.as_ref(), &located.seed.digest);
    let context = || format!("cannot read the traces of {}", located.reference);
    let found: Vec<(Trace, Option<traces::Listed>)> = match &args.file {
        Some(file) => {
            let trace = traces::of_seed(&read_file(file)?, digest);
            vec![(trace.context(|| format!("cannot use {}", file.display()))?, None)]
        }
        None => {
            let listed = traces::list(transport, digest).context(context)?;
            let read = |listed: &traces::Listed| {
                Ok((traces::read(transport, digest, listed).context(context)?, Some(listed.clone())))
            };
            listed.iter().map(read).collect::<Result<_>>()?
        }
    };
    if found.is_empty() {
        session.printer.note(format_args!("no trace lies beside {}", located.reference));
    }
    let index = if args.paths && !found.is_empty() { Some(located.index()?) } else { None };
    for (trace, listed) in &found {
        let read = index.as_ref().map(|index| paths(index, trace));
        let recorded = listed.as_ref().map(|listed| listed.recorded);
        let bundle = listed.as_ref().and_then(|listed| Some(listed.bundle.as_ref()?.size));
        session.printer.data(&Told { recorded, bundle, read, ..Told::of(trace)? })?;
    }
    Ok(())
}

/// Reads a file of at most as many bytes as a trace may have.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_TRACE_LEN as u64 + 1).read_to_end(&mut bytes));
    read.context(|| format!("cannot read {}", path.display()))?;
    Ok(bytes)
}

fn paths(index: &Index<Vec<u8>>, trace: &Trace) -> Vec<Read> {
    let mut read: Vec<Read> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for run in &trace.runs {
        for chunk in run.chunks() {
            let Some(record) = index.chunk(chunk) else { continue };
            let number = index.path_of_chunk(chunk);
            let at = *places.entry(number).or_insert_with(|| {
                let path =
                    number.and_then(|number| index.path(number)).map(|path| path.base_name.to_string());
                read.push(Read { path, chunks: 0, bytes: 0, seconds: f64::from(run.at_ms) / 1000.0 });
                read.len() - 1
            });
            read[at].chunks += 1;
            read[at].bytes += u64::from(record.blob_len);
        }
    }
    read
}

impl fmt::Display for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, chunks, bytes: read, seconds } = self;
        let path = path.as_deref().unwrap_or("outside of the store");
        write!(f, "  {seconds:8.3} s {:>10} {chunks:>6} chunks  {path}", bytes(*read))
    }
}
