//! `seed trace`: what commands read of a seed, recorded and put beside it.

mod push;
mod record;
mod show;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use clap::Subcommand;
use seed_format::Digest;
use seed_format::trace::Trace;
use serde::Serialize;

use crate::error::{Exit, Result};
use crate::printer::{bytes, seconds};
use crate::session::Session;

/// Record what a command reads of a seed, look at it, and put it beside the seed
///
/// A trace names the chunks that were read, in order. Whoever does the same with the seed next fetches them ahead,
/// in few large requests. `seed pack` records one for each output as it proves the seed. A trace is a hint: a
/// wrong one costs bytes, and changes none.
#[derive(Debug, clap::Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  seed trace record oci:./seeds:main --allow-tag --output make.trace -- make --version
  seed trace record ghcr.io/acme/app.seed:main --allow-tag --push
  seed trace show ghcr.io/acme/app.seed:main
  seed trace push ghcr.io/acme/app.seed:main make.trace"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Record(record::Args),
    Show(show::Args),
    Push(push::Args),
}

pub(crate) fn run(session: &Session<'_>, args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Record(args) => return record::run(session, args),
        Command::Show(args) => show::run(session, args),
        Command::Push(args) => push::run(session, args),
    }?;
    Ok(Exit::Done.into())
}

/// A trace, as it is told of.
#[derive(Debug, Serialize)]
struct Told {
    target: String,
    seed: Digest,
    chunks: u64,
    runs: usize,
    /// Compressed bytes of the chunks, as the recorder counted them.
    bytes: u64,
    /// From the beginning of the recording to the last chunk that was read first.
    seconds: f64,
    /// Bytes of the trace.
    size: usize,
    /// Bytes of its bundle, where it lies beside the seed and has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle: Option<u64>,
    /// When it was recorded, in seconds since 1970, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    recorded: Option<u64>,
    /// The file that it was written to.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    /// Whether it was put beside the seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pushed: Option<bool>,
    /// What was read, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    read: Option<Vec<show::Read>>,
}

impl Told {
    fn of(trace: &Trace) -> Result<Self> {
        let last = trace.runs.last().map_or(0, |run| run.at_ms);
        Ok(Self {
            target: trace.target.clone(),
            seed: trace.seed,
            chunks: trace.chunk_count(),
            runs: trace.runs.len(),
            bytes: trace.bytes,
            seconds: f64::from(last) / 1000.0,
            size: trace.to_bytes()?.len(),
            bundle: None,
            recorded: None,
            file: None,
            pushed: None,
            read: None,
        })
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, chunks, runs, bytes: read, seconds: took, size, .. } = self;
        let took = Duration::try_from_secs_f64(*took).unwrap_or_default();
        write!(
            f,
            "{target}\n  reads     {} in {chunks} chunks, {runs} runs, within {}\n  trace     {}",
            bytes(*read),
            seconds(took),
            bytes(*size as u64)
        )?;
        if let Some(bundle) = self.bundle {
            write!(f, ", with a bundle of {}", bytes(bundle))?;
        }
        if let Some(file) = &self.file {
            write!(f, ", in {}", file.display())?;
        }
        if self.pushed == Some(true) {
            f.write_str(", beside the seed")?;
        }
        if let Some(at) = self.recorded.filter(|at| *at > 0) {
            let at = jiff::Timestamp::try_from(UNIX_EPOCH + Duration::from_secs(at));
            if let Ok(at) = at {
                write!(f, ", recorded {at}")?;
            }
        }
        for read in self.read.iter().flatten() {
            write!(f, "\n{read}")?;
        }
        Ok(())
    }
}
