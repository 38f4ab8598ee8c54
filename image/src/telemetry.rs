//! What a command did and how long it took, sent to an OpenTelemetry collector when it ends.
//!
//! Source of the format: OTLP 1.x over HTTP with JSON ("Binary Protobuf over HTTP" and "JSON Protobuf
//! Encoding" of its specification; `trace.proto`). One request holds one trace: the command, and a span
//! for each of its phases. Nothing is sent, nor is any thread started, until [`Trace::export`].

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use ureq::{Agent, Proxy};
use url::Url;

use crate::reference::is_loopback;
use crate::transport::TransportOptions;
use crate::transport::registry::http::{HttpError, PemError, Trust};

/// Longest time that sending a trace may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most spans of a trace; a command has a dozen.
const MAX_SPANS: usize = 1000;

/// Where traces are sent: the root of a collector's API, below which `/v1/traces` lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint(Url);

/// The text is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the URL of a collector, such as http://127.0.0.1:4318")]
pub struct EndpointError(String);

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let malformed = || EndpointError(text.chars().take(200).collect());
        let mut url = Url::parse(text).map_err(|_| malformed())?;
        let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() || !plain {
            return Err(malformed());
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Ok(Self(url))
    }
}

impl TryFrom<String> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: String) -> Result<Self, EndpointError> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

/// Why a trace was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The roots of trust for TLS cannot be read.
    #[error("the roots of trust cannot be read")]
    Trust(#[from] PemError),
    /// The collector could not be asked.
    #[error("the collector cannot be reached")]
    Http(#[from] HttpError),
    /// The collector refused.
    #[error("the collector answers {0}")]
    Status(u16),
}

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
        let body = self.request(name, SystemTime::now(), failure).to_string();
        let host = endpoint.0.host_str().unwrap_or_default();
        let proxy = if is_loopback(host) || !options.proxy_from_env { None } else { Proxy::try_from_env() };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(proxy)
            .tls_config(Trust::default().config(options.ca_file.as_deref())?)
            .timeout_global(Some(PATIENCE))
            .build();
        let request = Agent::new_with_config(config)
            .post(format!("{endpoint}/v1/traces"))
            .header("Content-Type", "application/json");
        let status = request.send(body).map_err(HttpError::from)?.status().as_u16();
        if (200..300).contains(&status) { Ok(()) } else { Err(ExportError::Status(status)) }
    }

    /// An `ExportTraceServiceRequest`.
    fn request(&self, name: &str, end: SystemTime, failure: Option<&str>) -> Value {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let status = match failure {
            None => json!({"code": 1}),
            Some(why) => json!({"code": 2, "message": why.chars().take(1000).collect::<String>()}),
        };
        let mut root = self.span(self.root, name, self.began, end, &ended.notes);
        root["status"] = status;
        if let Some(parent) = self.parent {
            root["parentSpanId"] = format!("{parent:016x}").into();
        }
        let phases = ended.spans.iter().map(|span| {
            let start = span.end.checked_sub(span.took).unwrap_or(SystemTime::UNIX_EPOCH);
            let mut value = self.span(fastrand::u64(1..), &span.name, start, span.end, &span.notes);
            value["parentSpanId"] = format!("{:016x}", self.root).into();
            value
        });
        let spans: Vec<Value> = std::iter::once(root).chain(phases).collect();
        let version = env!("CARGO_PKG_VERSION");
        let resource = [("service.name", self.service), ("service.version", version)];
        let resource = resource.map(|(key, text)| json!({"key": key, "value": {"stringValue": text}}));
        json!({"resourceSpans": [{
            "resource": {"attributes": resource},
            "scopeSpans": [{"scope": {"name": "nix-seed", "version": version}, "spans": spans}],
        }]})
    }

    /// A span. Numbers of 64 bits are text in JSON, identifiers hexadecimal (not base64, as JSON's usual
    /// mapping has it).
    fn span(
        &self,
        id: u64,
        name: &str,
        start: SystemTime,
        end: SystemTime,
        notes: &[(&'static str, u64)],
    ) -> Value {
        let notes = notes.iter().map(|(key, n)| json!({"key": key, "value": {"intValue": n.to_string()}}));
        json!({
            "traceId": format!("{:032x}", self.id),
            "spanId": format!("{id:016x}"),
            "name": name,
            "kind": 1,
            "startTimeUnixNano": nanoseconds(start),
            "endTimeUnixNano": nanoseconds(end),
            "attributes": notes.collect::<Vec<_>>(),
        })
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

fn nanoseconds(time: SystemTime) -> String {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
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
    use super::*;

    #[test]
    fn endpoints() {
        for (text, shown) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318"),
            ("https://otel.example/", "https://otel.example"),
            ("https://otel.example/api/otlp/", "https://otel.example/api/otlp"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown);
        }
        for text in ["", "127.0.0.1:4318", "grpc://a:4317", "http://a?b", "http://user@a", "http://"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

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
