//! What OpenTelemetry collectors are sent: what a command did and how long it took, when it ends, and the numbers
//! of what goes on for longer, now and then.
//!
//! A trace is the command, and a span for each of its phases. Nothing is sent, nor is any thread started, until
//! [`Trace::export`], or [`Push::send`] for [`metrics`].

mod endpoint;
pub mod metrics;
mod otlp;
mod protobuf;
mod push;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

pub use endpoint::{Endpoint, EndpointError, ExportError};
pub use push::{Push, PushError};

use crate::transport::TransportOptions;

/// Most spans of a trace; a command has a dozen.
const MAX_SPANS: usize = 1000;

/// One trace: a command that is under way, and those of its phases that have ended.
#[derive(Debug)]
pub struct Trace {
    service: &'static str,
    id: u128,
    /// The span of whoever started the command.
    parent: Option<u64>,
    root: u64,
    began: SystemTime,
    ended: Mutex<Ended>,
}

#[derive(Debug, Default)]
struct Ended {
    spans: Vec<Span>,
    notes: Vec<(&'static str, u64)>,
}

/// A phase that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    name: String,
    end: SystemTime,
    took: Duration,
    notes: Vec<(&'static str, u64)>,
}

impl Trace {
    /// Begins a trace of `service` now. `parent` is who started it, in the form of W3C's `traceparent`; one
    /// that is malformed is none.
    pub fn begin(service: &'static str, parent: Option<&str>) -> Self {
        let parent = parent.and_then(read_parent);
        Self {
            service,
            id: parent.map_or_else(|| fastrand::u128(1..), |(id, _)| id),
            parent: parent.map(|(_, span)| span),
            root: fastrand::u64(1..),
            began: SystemTime::now(),
            ended: Mutex::default(),
        }
    }

    /// Notes a phase that took `took` and ended just now, with numbers about it.
    pub fn phase(&self, name: &str, took: Duration, notes: &[(&'static str, u64)]) {
        let span = Span { name: span_name(name), end: SystemTime::now(), took, notes: notes.to_vec() };
        self.add([span]);
    }

    /// Notes phases that followed one another without a pause, the last of which ended just now.
    pub fn sequence<'a>(
        &self,
        phases: impl IntoIterator<Item = (&'a str, Duration), IntoIter: DoubleEndedIterator>,
    ) {
        let mut end = SystemTime::now();
        let spans = phases.into_iter().rev().map(|(name, took)| {
            let span = Span { name: span_name(name), end, took, notes: Vec::new() };
            end = end.checked_sub(took).unwrap_or(SystemTime::UNIX_EPOCH);
            span
        });
        let spans: Vec<Span> = spans.collect();
        self.add(spans.into_iter().rev());
    }

    /// Notes a number about the command as a whole.
    pub fn note(&self, name: &'static str, number: u64) {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).notes.push((name, number));
    }

    fn add(&self, spans: impl IntoIterator<Item = Span>) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_SPANS.saturating_sub(ended.spans.len());
        ended.spans.extend(spans.into_iter().take(room));
    }

    /// Ends the trace of the command `name` and sends it, within two seconds. `failure` is why the command
    /// failed, if it did.
    pub fn export(
        &self,
        endpoint: &Endpoint,
        options: &TransportOptions,
        name: &str,
        failure: Option<&str>,
    ) -> Result<(), ExportError> {
        endpoint.send(&self.request(name, SystemTime::now(), failure), options)
    }
}

/// The name of a phase's span: `seed.resolve`, `build.eval`, …
fn span_name(phase: &str) -> String {
    match phase {
        "evaluation" => "build.eval".to_owned(),
        "build" => "build.run".to_owned(),
        // Making the sandbox is the mount.
        "sandbox" => "seed.mount".to_owned(),
        other => format!("seed.{}", other.to_ascii_lowercase().replace(' ', "-")),
    }
}

/// Trace and span of a `traceparent`: `00-<32 digits>-<16 digits>-<flags>` (W3C Trace Context, 3.2).
fn read_parent(text: &str) -> Option<(u128, u64)> {
    let mut parts = text.trim().split('-');
    let version = parts.next()?;
    let (trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?);
    let digits = |text: &str, len| {
        text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    if version != "00"
        || !digits(trace, 32)
        || !digits(span, 16)
        || !digits(flags, 2)
        || parts.next().is_some()
    {
        return None;
    }
    let (trace, span) = (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(span, 16).ok()?);
    (trace != 0 && span != 0).then_some((trace, span))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parents() {
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let read = read_parent(&format!("00-{trace}-{span}-01")).unwrap();
        assert_eq!((format!("{:032x}", read.0), format!("{:016x}", read.1)), (trace.into(), span.into()));
        let zero = "0".repeat(32);
        for text in [
            String::new(),
            format!("00-{trace}-{span}"),
            format!("01-{trace}-{span}-01"),
            format!("00-{trace}-{span}-01-x"),
            format!("00-{zero}-{span}-01"),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{trace}-{}-01", &span[1..]),
        ] {
            assert_eq!(read_parent(&text), None, "{text}");
        }
    }

    #[test]
    fn phases_follow_one_another_and_end_within_the_command() {
        let trace = Trace::begin("seed", None);
        let [one, two] = [3, 5].map(Duration::from_secs);
        trace.sequence([("evaluation", one), ("build", two)]);
        trace.phase("seed index", one, &[("bytes", 7)]);
        let spans = trace.ended.lock().unwrap().spans.clone();
        let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["build.eval", "build.run", "seed.seed-index"]);
        assert_eq!(spans[0].end, spans[1].end - two);
        assert!(spans[2].end <= SystemTime::now());

        let request = trace.request("seed build", SystemTime::now(), Some("no"));
        let spans = &request["resourceSpans"][0]["scopeSpans"][0]["spans"];
        assert_eq!(spans[0]["status"], json!({"code": 2, "message": "no"}));
        assert_eq!(spans[3]["parentSpanId"], spans[0]["spanId"]);
        assert_eq!(spans[3]["attributes"], json!([{"key": "bytes", "value": {"intValue": "7"}}]));
    }

    #[test]
    fn a_trace_has_a_bound() {
        let trace = Trace::begin("seed", None);
        (0..MAX_SPANS + 5).for_each(|_| trace.phase("x", Duration::ZERO, &[]));
        assert_eq!(trace.ended.lock().unwrap().spans.len(), MAX_SPANS);
    }
}
