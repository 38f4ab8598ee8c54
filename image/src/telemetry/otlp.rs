//! A trace, and a snapshot of metrics, as OpenTelemetry's collectors take them in JSON.
//!
//! Source of the format: OTLP 1.x over HTTP with JSON ("Binary Protobuf over HTTP" and "JSON Protobuf
//! Encoding" of its specification; `trace.proto`, `metrics.proto`). One request holds one of them.

use std::sync::PoisonError;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::Trace;
use super::metrics::{Metric, Snapshot, Value as Amount};

/// Who made what is sent.
pub(super) const SCOPE: &str = "nix-seed";
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// `AGGREGATION_TEMPORALITY_CUMULATIVE`: totals are those since the beginning.
pub(super) const CUMULATIVE: u64 = 2;

impl Trace {
    /// An `ExportTraceServiceRequest`.
    pub(super) fn request(&self, name: &str, end: SystemTime, failure: Option<&str>) -> Value {
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
        let resource = [("service.name", self.service), ("service.version", VERSION)];
        json!({"resourceSpans": [{
            "resource": {"attributes": attributes(resource)},
            "scopeSpans": [{"scope": {"name": SCOPE, "version": VERSION}, "spans": spans}],
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
            "startTimeUnixNano": nanoseconds(start).to_string(),
            "endTimeUnixNano": nanoseconds(end).to_string(),
            "attributes": notes.collect::<Vec<_>>(),
        })
    }
}

/// An `ExportMetricsServiceRequest`.
pub(super) fn metrics(resource: &[(String, String)], snapshot: &Snapshot) -> Value {
    let resource = resource.iter().map(|(key, text)| (key.as_str(), text.as_str()));
    let metrics: Vec<Value> = snapshot.metrics.iter().map(|metric| metric_of(metric, snapshot)).collect();
    json!({"resourceMetrics": [{
        "resource": {"attributes": attributes(resource)},
        "scopeMetrics": [{"scope": {"name": SCOPE, "version": VERSION}, "metrics": metrics}],
    }]})
}

fn metric_of(metric: &Metric, snapshot: &Snapshot) -> Value {
    let point = |more: Value| {
        let mut point = more;
        point["startTimeUnixNano"] = nanoseconds(snapshot.since).to_string().into();
        point["timeUnixNano"] = nanoseconds(snapshot.at).to_string().into();
        let pairs = snapshot.attributes.iter().map(|(key, text)| (*key, text.as_str()));
        point["attributes"] = attributes(pairs).into();
        [point]
    };
    let total = |number: Value| json!({"dataPoints": point(number), "aggregationTemporality": CUMULATIVE, "isMonotonic": true});
    let (kind, data) = match &metric.value {
        Amount::Count(count) => ("sum", total(json!({"asInt": count.to_string()}))),
        Amount::Amount(amount) => ("sum", total(json!({"asDouble": amount}))),
        Amount::Gauge(value) => ("gauge", json!({"dataPoints": point(json!({"asDouble": value}))})),
        Amount::Histogram { bounds, counts, sum } => {
            let point = point(json!({
                "count": counts.iter().sum::<u64>().to_string(),
                "sum": sum,
                "bucketCounts": counts.iter().map(u64::to_string).collect::<Vec<_>>(),
                "explicitBounds": bounds,
            }));
            ("histogram", json!({"dataPoints": point, "aggregationTemporality": CUMULATIVE}))
        }
    };
    json!({"name": metric.name, "description": metric.description, "unit": metric.unit, kind: data})
}

fn attributes<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<Value> {
    pairs.into_iter().map(|(key, text)| json!({"key": key, "value": {"stringValue": text}})).collect()
}

/// Nanoseconds since 1970, up to the year 2554.
pub(super) fn nanoseconds(time: SystemTime) -> u64 {
    let time = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
