//! What a build or a shell cost: how long each phase took, and how much of the seed was fetched.

use std::fmt;
use std::time::Duration;

use seed_fuse::mount::SeedFs;
use seed_image::telemetry::Trace;
use seed_image::transport::Transport;
use seed_sandbox::Phase;
use serde::Serialize;

use crate::printer::{bytes, seconds};

/// One table, at the end of a command.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    phases: Vec<Phase>,
    /// Bytes of the seed that came from its place.
    bytes_fetched: u64,
    /// Bytes of all layers of the seed.
    seed_size: u64,
    /// Requests to the seed's place.
    requests: u64,
}

impl Report {
    /// Begins with the phases of finding and judging the seed.
    pub(crate) fn new(resolve: Duration, verify: Duration) -> Self {
        let mut report = Self { phases: Vec::new(), bytes_fetched: 0, seed_size: 0, requests: 0 };
        report.add("resolve", resolve);
        report.add("verify", verify);
        report
    }

    /// Adds a phase.
    pub(crate) fn add(&mut self, name: &str, took: Duration) {
        self.phases.push(Phase { name: name.to_owned(), seconds: took.as_secs_f64() });
    }

    /// Adds the phases of a sandbox, in its words: making it is the mount.
    pub(crate) fn extend<'a>(&mut self, phases: impl IntoIterator<Item = &'a Phase>) {
        for phase in phases {
            let name = if phase.name == "sandbox" { "mount" } else { &phase.name };
            self.phases.push(Phase { name: name.to_owned(), seconds: phase.seconds });
        }
    }

    /// Tells a trace of what was found and done: of the phases that have just ended, and of all that was
    /// counted.
    pub(crate) fn tell<'a>(&self, trace: &Trace, ended: impl IntoIterator<Item = &'a Phase>) {
        let durations = ended.into_iter().map(|phase| (&*phase.name, duration(phase.seconds)));
        trace.sequence(durations.collect::<Vec<_>>());
        trace.note("seed.bytes_fetched", self.bytes_fetched);
        trace.note("seed.size", self.seed_size);
        trace.note("seed.requests", self.requests);
    }

    /// Reads the counters, at the end.
    pub(crate) fn count(&mut self, fs: &SeedFs, transport: &dyn Transport) {
        let (stats, counters) = (fs.stats(), transport.counters());
        self.bytes_fetched = counters.received.max(stats.bytes_fetched);
        self.requests = counters.requests.max(stats.requests);
        self.seed_size =
            fs.seed().manifest.layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add);
    }
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut total = 0.0;
        for phase in &self.phases {
            total += phase.seconds;
            writeln!(f, "{:<12} {:>8}", phase.name, seconds(duration(phase.seconds)))?;
        }
        writeln!(f, "{:<12} {:>8}", "together", seconds(duration(total)))?;
        let Self { bytes_fetched, seed_size, requests, .. } = self;
        write!(f, "fetched {} of {} in {requests} requests", bytes(*bytes_fetched), bytes(*seed_size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lists_phases_in_their_order() {
        let mut report = Report::new(Duration::from_millis(4), Duration::from_millis(56));
        report.extend(&[
            Phase { name: "sandbox".into(), seconds: 0.02 },
            Phase { name: "build".into(), seconds: 12.34 },
        ]);
        report.seed_size = 3 << 30;
        let text = report.to_string();
        let first: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(first, ["resolve", "verify", "mount", "build", "together", "fetched"]);
        assert!(
            text.contains("build          12.3 s") && text.ends_with("fetched 0 B of 3.0 GiB in 0 requests"),
            "{text}"
        );
    }
}
