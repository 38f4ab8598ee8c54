//! Numbers about something that runs, in OpenTelemetry's model: what Prometheus asks for and what a collector is
//! sent are two ways to write the same.
//!
//! Source of the model: the metrics data model of OpenTelemetry 1.x; all totals are cumulative.

use std::time::SystemTime;

/// A number, or a distribution of numbers, at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// Parts joined by points: `nix_seed.requests`.
    pub name: String,
    /// What it is, in a sentence.
    pub description: String,
    /// In the case-sensitive words of UCUM: `By`, `s`, `By/s`, or nothing for plain counts.
    pub unit: &'static str,
    /// How much.
    pub value: Value,
}

/// What a metric amounts to.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// How many since the beginning; never less than before.
    Count(u64),
    /// How much since the beginning; never less than before.
    Amount(f64),
    /// How much now.
    Gauge(f64),
    /// How many were how large, since the beginning.
    Histogram {
        /// Upper bounds, rising; each belongs to what is below it.
        bounds: Vec<f64>,
        /// How many are up to each bound and above the one before; the last: how many are above all.
        counts: Vec<u64>,
        /// The sum of all.
        sum: f64,
    },
}

/// All metrics of one thing at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// When counting began.
    pub since: SystemTime,
    /// The moment.
    pub at: SystemTime,
    /// What is measured: names and values that tell it from others of its kind.
    pub attributes: Vec<(&'static str, String)>,
    /// The metrics.
    pub metrics: Vec<Metric>,
}
