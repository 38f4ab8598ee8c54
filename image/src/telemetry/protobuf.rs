//! A snapshot of metrics as Protocol Buffers.
//!
//! Source of the format: `opentelemetry/proto/metrics/v1/metrics.proto` and those that it imports (OTLP 1.x), in
//! the wire format of Protocol Buffers: a field is a varint of its number and wire type, then its value.
//! OpenTelemetry's crates do this too, and bring 34 more into a program that has 27 for HTTP and JSON, an
//! executor for asynchronous code among them, for ten messages that can no longer change.

use super::metrics::{Metric, Snapshot, Value};
use super::otlp::{CUMULATIVE, SCOPE, VERSION, nanoseconds};

/// Value that is eight bytes long.
const FIXED64: u64 = 1;
/// Value that says how long it is.
const LENGTH: u64 = 2;

/// A message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

/// An `ExportMetricsServiceRequest`.
pub(super) fn request(resource: &[(String, String)], snapshot: &Snapshot) -> Vec<u8> {
    let mut request = Message::default();
    request.message(1, |resource_metrics| {
        resource_metrics.message(1, |message| {
            resource.iter().for_each(|(key, text)| message.attribute(1, key, text));
        });
        resource_metrics.message(2, |scope_metrics| {
            scope_metrics.message(1, |scope| {
                scope.bytes(1, SCOPE.as_bytes());
                scope.bytes(2, VERSION.as_bytes());
            });
            for metric in &snapshot.metrics {
                scope_metrics.message(2, |message| message.metric(metric, snapshot));
            }
        });
    });
    request.0
}

impl Message {
    fn varint(&mut self, mut number: u64) {
        loop {
            let [low, ..] = number.to_le_bytes();
            number >>= 7;
            if number == 0 {
                return self.0.push(low & 0x7f);
            }
            self.0.push(low | 0x80);
        }
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | LENGTH);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u64, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }

    /// A `fixed64`, `sfixed64`, or the bits of a `double`.
    fn eight(&mut self, field: u64, bits: u64) {
        self.varint(field << 3 | FIXED64);
        self.0.extend_from_slice(&bits.to_le_bytes());
    }

    /// A `KeyValue` with text.
    fn attribute(&mut self, field: u64, key: &str, text: &str) {
        self.message(field, |pair| {
            pair.bytes(1, key.as_bytes());
            pair.message(2, |value| value.bytes(1, text.as_bytes()));
        });
    }

    fn metric(&mut self, metric: &Metric, snapshot: &Snapshot) {
        self.bytes(1, metric.name.as_bytes());
        self.bytes(2, metric.description.as_bytes());
        self.bytes(3, metric.unit.as_bytes());
        match &metric.value {
            Value::Gauge(value) => self.message(5, |gauge| gauge.number(4, value.to_bits(), snapshot)),
            Value::Count(count) => self.sum(6, *count, snapshot),
            Value::Amount(amount) => self.sum(4, amount.to_bits(), snapshot),
            Value::Histogram { bounds, counts, sum } => self.message(9, |histogram| {
                histogram.message(1, |point| {
                    point.times(snapshot);
                    point.eight(4, counts.iter().sum());
                    point.eight(5, sum.to_bits());
                    point.packed(6, counts.iter().copied());
                    point.packed(7, bounds.iter().map(|bound| bound.to_bits()));
                    snapshot.attributes.iter().for_each(|(key, text)| point.attribute(9, key, text));
                });
                histogram.enumeration(2, CUMULATIVE);
            }),
        }
    }

    /// A `Sum` that never falls, of a point whose number is the field `kind`: `as_double` or `as_int`.
    fn sum(&mut self, kind: u64, bits: u64, snapshot: &Snapshot) {
        self.message(7, |sum| {
            sum.number(kind, bits, snapshot);
            sum.enumeration(2, CUMULATIVE);
            sum.enumeration(3, 1);
        });
    }

    /// A `NumberDataPoint`.
    fn number(&mut self, kind: u64, bits: u64, snapshot: &Snapshot) {
        self.message(1, |point| {
            point.times(snapshot);
            point.eight(kind, bits);
            snapshot.attributes.iter().for_each(|(key, text)| point.attribute(7, key, text));
        });
    }

    fn times(&mut self, snapshot: &Snapshot) {
        self.eight(2, nanoseconds(snapshot.since));
        self.eight(3, nanoseconds(snapshot.at));
    }

    fn packed(&mut self, field: u64, numbers: impl Iterator<Item = u64>) {
        let bytes: Vec<u8> = numbers.flat_map(u64::to_le_bytes).collect();
        self.bytes(field, &bytes);
    }

    /// An `enum`, or a `bool`.
    fn enumeration(&mut self, field: u64, number: u64) {
        self.varint(field << 3);
        self.varint(number);
    }
}
