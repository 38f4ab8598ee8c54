//! A trace as OpenTelemetry's collectors take it.
//!
//! Source of the format: OTLP 1.x over HTTP with JSON ("Binary Protobuf over HTTP" and "JSON Protobuf
//! Encoding" of its specification; `trace.proto`). One request holds one trace.

use std::sync::PoisonError;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::Trace;

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

fn nanoseconds(time: SystemTime) -> String {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}
