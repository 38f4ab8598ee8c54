//! `seed pull`.

use std::fmt;
use std::sync::Arc;

use seed_format::{Chain, Digest};
use seed_fuse::mount::{OpenOptions, TraceChoice, open_seed};
use seed_image::reference::Reference;
use seed_image::traces;
use seed_image::transport::Transport;
use serde::Serialize;

use crate::error::{Result, ResultExt, failed};
use crate::gate;
use crate::printer::bytes;
use crate::session::Session;

/// Fetch all of a seed into the cache, so that it can be used without its registry
///
/// Every chunk is verified before it is kept.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed pull ghcr.io/acme/app.seed:main
  seed pull oci:./seeds:main")]
pub(crate) struct Args {
    /// The seed
    #[arg(value_name = "REF")]
    seed: Reference,
}

#[derive(Debug, Serialize)]
struct Pulled {
    reference: String,
    digest: Digest,
    chunks: u32,
    /// Bytes that were not in the cache and came from the seed's place.
    bytes_fetched: u64,
    requests: u64,
    seconds: f64,
}

pub(crate) fn run(session: &Session<'_>, args: &Args) -> Result<()> {
    let transport = session.open_remembered(&args.seed.location)?;
    let reference = session.resolve(transport.as_ref(), &args.seed)?;
    let digest = reference.digest.ok_or_else(|| failed(format!("{reference} names no digest")))?;
    // All of it is fetched, in whatever order.
    let options = OpenOptions { trace: TraceChoice::None, ..session.open_options() };
    let fs = open_seed(Arc::clone(&transport), &digest, &options)
        .context(|| format!("cannot open the seed {reference}"))?;

    let (needed, limit) = (fs.index().virtual_size().ok(), session.config.cache.size.bytes());
    if let Some(needed) = needed.filter(|needed| *needed > limit) {
        session.printer.warn(format_args!(
            "the cache keeps {} (cache.size), the seed has {}: not all of it will be here",
            bytes(limit),
            bytes(needed)
        ));
    }
    let index = fs.index().whole().context(|| format!("cannot read the index of {reference}"))?;
    let chunks = index.chunk_count();
    let total = index.layers().iter().map(|layer| layer.size).sum();
    let phase = session.printer.phase("pull");
    phase.set_total(total);
    fs.fetcher().fetch_all();
    let all = fs.fetcher().wait_for_all(&mut || phase.set_done(fs.stats().bytes_fetched));
    all.context(|| format!("cannot fetch all of {reference}"))?;
    fs.settle();
    // Whoever uses the seed later asks for its statements, and for its traces.
    gate::keep_statements(transport.as_ref(), &digest)?;
    keep_traces(session, transport.as_ref(), &digest);
    transport.settle();
    let took = phase.end();
    let stats = fs.stats();
    session.printer.data(&Pulled {
        reference: reference.to_string(),
        digest,
        chunks,
        bytes_fetched: stats.bytes_fetched,
        requests: stats.requests,
        seconds: took.as_secs_f64(),
    })
}

/// Reads the traces, so that a transport which remembers has them the next time. They are hints: none is missed.
fn keep_traces(session: &Session<'_>, transport: &dyn Transport, seed: &Digest) {
    for listed in traces::list(transport, seed).unwrap_or_default() {
        if let Err(error) = traces::read(transport, seed, &listed) {
            session.printer.warn(format_args!(
                "the trace of {} is of no use: {}",
                listed.target,
                Chain(&error)
            ));
        }
    }
}

impl fmt::Display for Pulled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reference, chunks, bytes_fetched, requests, .. } = self;
        write!(f, "{reference}: {chunks} chunks, {} fetched in {requests} requests", bytes(*bytes_fetched))
    }
}
