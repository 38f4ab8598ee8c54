//! Sends the metrics of a mount to an OpenTelemetry collector, where the environment names one: now and then, and when
//! the mount ends. Nothing about a mount waits for it, but the end of its process, for a second at most.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use seed_format::Chain;
use seed_image::telemetry::Push;
use seed_image::transport::TransportOptions;

use super::metrics::metrics;
use super::{MountState, SeedFs};

/// How long the end of a mount's process waits for a collector that does not answer.
const LAST: Duration = Duration::from_secs(1);

/// Who is told of a mount.
#[derive(Debug, Clone)]
pub(super) struct Pushing(Option<Arc<Pusher>>);

#[derive(Debug)]
struct Pusher {
    push: Push,
    options: TransportOptions,
    state: MountState,
    fs: Arc<SeedFs>,
    /// Whether the last attempt failed.
    fails: AtomicBool,
}

impl Pushing {
    /// Begins to send, as the environment wants it. What is wrong with that is a warning.
    pub(super) fn begin(state: &MountState, fs: &Arc<SeedFs>) -> Self {
        let push = Push::from_env("seed-mount", &format!("{}-{}", state.id, state.server));
        let push = push.unwrap_or_else(|error| {
            tracing::warn!(%error, "no metrics are sent");
            None
        });
        let Some(push) = push else { return Self(None) };
        let options = TransportOptions::from_env();
        let (state, fs, fails) = (state.clone(), Arc::clone(fs), AtomicBool::new(false));
        let pusher = Arc::new(Pusher { push, options, state, fs, fails });
        let often = Arc::clone(&pusher);
        let push = move || {
            loop {
                thread::sleep(often.push.interval());
                often.send(Duration::MAX);
            }
        };
        if let Err(error) = thread::Builder::new().name("pushing".into()).spawn(push) {
            tracing::warn!(%error, "metrics are sent at the end only");
        }
        Self(Some(pusher))
    }

    /// Sends the last numbers.
    pub(super) fn end(&self) {
        if let Some(pusher) = &self.0 {
            pusher.send(LAST);
        }
    }
}

impl Pusher {
    fn send(&self, at_most: Duration) {
        let sent = self.push.send(&metrics(&self.state, &self.fs), at_most, &self.options);
        let failed_before = self.fails.swap(sent.is_err(), Ordering::Relaxed);
        match sent {
            Err(error) if !failed_before => {
                tracing::warn!(error = %Chain(&error), "metrics were not taken; the next have all of them");
            }
            Err(error) => tracing::debug!(error = %Chain(&error), "metrics were not taken"),
            Ok(()) if failed_before => tracing::info!("metrics are taken again"),
            Ok(()) => {}
        }
    }
}
