//! `seed status`.

use std::collections::HashMap;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use seed_fuse::mount::{self, MountState, Shown, Status};
use seed_fuse::stats::Stats;
use serde::Serialize;

use crate::error::Result;
use crate::printer::{bytes, seconds};
use crate::session::Session;

/// Show the live mounts and what they have fetched
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed status
  seed status --watch --json")]
pub(crate) struct Args {
    /// Look again every so many seconds, until no seed is mounted any more
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1",
        value_parser = clap::value_parser!(u32).range(1..))]
    watch: Option<u32>,
}

/// A mount, and what its server says of itself, if it answers.
#[derive(Debug, Serialize)]
struct Mount {
    #[serde(flatten)]
    state: MountState,
    stats: Option<Stats>,
    /// Resident memory of the server, in bytes.
    resident: Option<u64>,
    /// Bytes a second that came since the last look.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
}

pub(crate) fn run(session: &Session<'_>, args: &Args) -> Result<()> {
    let Some(seconds) = args.watch else { return look(session, &mut HashMap::new()).map(drop) };
    let mut before = HashMap::new();
    loop {
        if session.printer.is_screen() {
            // To the first line, and away with what was there.
            session.printer.text(b"\x1b[H\x1b[2J")?;
        }
        let began = Instant::now();
        if look(session, &mut before)? == 0 {
            return Ok(());
        }
        thread::sleep(Duration::from_secs(seconds.into()).saturating_sub(began.elapsed()));
    }
}

/// Prints each mount, with what came since the last look. Gives how many mounts there are.
fn look(session: &Session<'_>, before: &mut HashMap<String, (u64, Instant)>) -> Result<usize> {
    session.sweep();
    let runtime = session.runtime();
    let states = mount::mounts(&runtime)?;
    if states.is_empty() {
        session.printer.note("no seed is mounted");
    }
    let count = states.len();
    for state in states {
        let mount = match mount::status(&runtime, &state) {
            Ok(Status { state, stats, resident }) => {
                let now = (stats.bytes_fetched, Instant::now());
                let last = before.insert(state.id.clone(), now);
                let rate = last.map(|(bytes, at)| {
                    now.0.saturating_sub(bytes) as f64 / now.1.duration_since(at).as_secs_f64().max(1e-3)
                });
                Mount { state, stats: Some(stats), resident: Some(resident), rate }
            }
            Err(error) => {
                session.printer.warn(format_args!(
                    "the server of {} does not answer: {error}",
                    state.directory.display()
                ));
                Mount { state, stats: None, resident: None, rate: None }
            }
        };
        session.printer.data(&mount)?;
    }
    Ok(count)
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
        if let Some(rate) = self.rate {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate of bytes")]
            write!(f, ", {}/s now", bytes(rate as u64))?;
        }
        let wait = Duration::from_micros(stats.demand_wait_us);
        write!(f, "\n  waited    {} reads, {} together", stats.demand_misses, seconds(wait))?;
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
