//! `seed status`.

use std::fmt;

use seed_fuse::mount::{self, MountState, Shown, Status};
use seed_fuse::stats::Stats;
use serde::Serialize;

use crate::error::Result;
use crate::printer::bytes;
use crate::session::Session;

/// Show the live mounts and what they have fetched
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed status
  seed status --json")]
pub(crate) struct Args {}

/// A mount, and what its server says of itself, if it answers.
#[derive(Debug, Serialize)]
struct Mount {
    #[serde(flatten)]
    state: MountState,
    stats: Option<Stats>,
    /// Resident memory of the server, in bytes.
    resident: Option<u64>,
}

pub(crate) fn run(session: &Session<'_>, _args: &Args) -> Result<()> {
    session.sweep();
    let runtime = session.runtime();
    let states = mount::mounts(&runtime)?;
    if states.is_empty() {
        session.printer.note("no seed is mounted");
    }
    for state in states {
        let mount = match mount::status(&runtime, &state) {
            Ok(Status { state, stats, resident }) => {
                Mount { state, stats: Some(stats), resident: Some(resident) }
            }
            Err(error) => {
                session.printer.warn(format_args!(
                    "the server of {} does not answer: {error}",
                    state.directory.display()
                ));
                Mount { state, stats: None, resident: None }
            }
        };
        session.printer.data(&mount)?;
    }
    Ok(())
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MountState { reference, directory, shown: Shown { mode, reason }, pid, server, .. } = &self.state;
        write!(f, "{}\n  seed      {reference}\n  shown by  {mode}: {reason}", directory.display())?;
        write!(f, "\n  server    process {server}")?;
        if let Some(resident) = self.resident {
            write!(f, ", {}", bytes(resident))?;
        }
        match (self.state.outlives_server, self.state.takeovers) {
            (true, 0) => write!(f, "\n  keeper    process {pid}: the mount outlives its server")?,
            (true, takeovers) => {
                write!(f, "\n  keeper    process {pid}: the mount has outlived {takeovers} servers")?
            }
            (false, _) => {
                write!(f, "\n  keeper    process {pid}: the mount ends with its server before Linux 6.9")?
            }
        }
        let Some(stats) = &self.stats else { return Ok(()) };
        write!(
            f,
            "\n  fetched   {} in {} requests, {} chunks",
            bytes(stats.bytes_fetched),
            stats.requests,
            stats.chunks_fetched
        )?;
        write!(f, "\n  from cache {} chunks, from memory {}", stats.cache_hits, stats.memory_hits)?;
        if stats.retries + stats.mismatches + stats.failed_reads > 0 {
            let Stats { retries, mismatches, failed_reads, .. } = stats;
            write!(
                f,
                "\n  trouble   {retries} retries, {mismatches} wrong chunks, {failed_reads} failed reads"
            )?;
        }
        Ok(())
    }
}
