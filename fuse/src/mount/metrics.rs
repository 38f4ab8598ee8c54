//! What a mount has counted so far, as metrics, and those in Prometheus' words. The names are chosen so that they are
//! the same by either way: Prometheus makes them of OpenTelemetry's by the same rule.

use std::fmt::{self, Write};
use std::time::{Duration, SystemTime};

use seed_image::telemetry::metrics::{Metric, Snapshot, Value};

use super::runtime::resident;
use super::{MountState, SeedFs};
use crate::activity::{Event, WAIT_BOUNDS};

/// What a mount has counted so far. Totals begin with its server.
pub(super) fn metrics(state: &MountState, fs: &SeedFs) -> Snapshot {
    let activity = &fs.counters().activity;
    let (stats, age, at) = (fs.stats(), activity.age(), SystemTime::now());
    let mut metrics: Vec<_> = stats.each().map(|(name, help, value)| counter(name, help, value)).collect();
    let metric = |name: &str, description: &str, unit, value| {
        let name = format!("nix_seed.{name}");
        Metric { name, description: description.into(), unit, value }
    };
    let gauge = |name, description, unit, value| metric(name, description, unit, Value::Gauge(value));
    metrics.push(gauge("resident", "Resident memory of the server.", "By", resident() as f64));
    metrics.push(gauge("age", "Time since the seed was opened.", "s", age as f64 / 1e6));
    metrics.push(gauge("fetch", "What came from the source in the last ten seconds.", "By/s", rate(fs)));
    let waits = Value::Histogram {
        bounds: WAIT_BOUNDS.iter().map(|bound| *bound as f64 / 1e6).collect(),
        counts: activity.waits(),
        sum: stats.demand_wait_us as f64 / 1e6,
    };
    metrics.push(metric("read_wait", "How long reads waited for the source.", "s", waits));
    let directory = state.directory.to_string_lossy().into_owned();
    Snapshot {
        since: at.checked_sub(Duration::from_micros(age)).unwrap_or(SystemTime::UNIX_EPOCH),
        at,
        attributes: vec![("directory", directory), ("digest", state.digest.to_string())],
        metrics,
    }
}

fn counter(name: &str, help: &str, value: u64) -> Metric {
    let description = help.trim().replace(", in microseconds", "");
    let (name, unit, value) = match name.strip_suffix("_us") {
        Some(name) => (name, "s", Value::Amount(value as f64 / 1e6)),
        None => (name, if name.starts_with("bytes_") { "By" } else { "" }, Value::Count(value)),
    };
    Metric { name: format!("nix_seed.{name}"), description, unit, value }
}

/// Metrics in Prometheus' text format, version 0.0.4.
pub(super) fn prometheus(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    let written = write_prometheus(&mut text, snapshot);
    written.expect("writing to memory does not fail");
    text
}

fn write_prometheus(text: &mut String, snapshot: &Snapshot) -> fmt::Result {
    let pairs = snapshot.attributes.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
    let labels = pairs.collect::<Vec<_>>().join(",");
    for metric in &snapshot.metrics {
        let name = prometheus_name(metric);
        let kind = match metric.value {
            Value::Count(_) | Value::Amount(_) => "counter",
            Value::Gauge(_) => "gauge",
            Value::Histogram { .. } => "histogram",
        };
        writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}", metric.description)?;
        match &metric.value {
            Value::Count(count) => writeln!(text, "{name}{{{labels}}} {count}")?,
            Value::Amount(number) | Value::Gauge(number) => writeln!(text, "{name}{{{labels}}} {number}")?,
            Value::Histogram { bounds, counts, sum } => {
                let mut below = 0;
                for (count, bound) in counts.iter().zip(bounds) {
                    below += count;
                    writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}")?;
                }
                let all: u64 = counts.iter().sum();
                writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {all}")?;
                writeln!(text, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {all}")?;
            }
        }
    }
    Ok(())
}

/// The name of a metric, with its unit unless that is in it, and `_total` where it only grows.
fn prometheus_name(metric: &Metric) -> String {
    let mut name = metric.name.replace('.', "_");
    let unit = match metric.unit {
        "By" => "bytes",
        "s" => "seconds",
        "By/s" => "bytes_per_second",
        other => other,
    };
    if !unit.is_empty() && name.split('_').all(|word| word != unit) {
        name = format!("{name}_{unit}");
    }
    match metric.value {
        Value::Count(_) | Value::Amount(_) => name + "_total",
        Value::Gauge(_) | Value::Histogram { .. } => name,
    }
}

/// Bytes a second over the last ten seconds, as far as events are kept.
fn rate(fs: &SeedFs) -> f64 {
    const SPAN: u64 = 10_000_000;
    let activity = &fs.counters().activity;
    let age = activity.age();
    let bytes: u64 = activity
        .events()
        .iter()
        .map(|event| match event {
            Event::Fetch { at, took, bytes, .. } if at + u64::from(*took) + SPAN > age => u64::from(*bytes),
            _ => 0,
        })
        .sum();
    bytes as f64 / (age.clamp(1, SPAN) as f64 / 1e6)
}

/// A label's value: backslash, quote and newline are written as two characters.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
