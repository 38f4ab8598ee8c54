//! What the project wants to reach, beside what a run reached.

use std::fmt::{self, Write};

use serde::Serialize;

use crate::report::Report;

/// A figure with two thresholds.
struct Target {
    name: &'static str,
    unit: &'static str,
    must: Bound,
    goal: Bound,
    value: fn(&Report) -> Option<f64>,
}

/// A threshold, in the figure's unit.
#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

use Bound::{AtLeast, AtMost};

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            AtLeast(bound) => value >= bound,
            AtMost(bound) => value <= bound,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AtLeast(bound) => write!(f, "≥ {bound}"),
            AtMost(bound) => write!(f, "≤ {bound}"),
        }
    }
}

/// The workload that the targets are meant for, on the link `1g20`.
pub(crate) const WORKLOAD: &str = "medium";

const TARGETS: [Target; 12] = [
    Target {
        name: "`develop`, net, faster than nydus",
        unit: "×",
        must: AtLeast(1.0),
        goal: AtLeast(5.0),
        value: |report| report.times_ours("nydus"),
    },
    Target {
        name: "`develop`, net, faster than tar",
        unit: "×",
        must: AtLeast(2.0),
        goal: AtLeast(12.0),
        value: |report| report.times_ours("tar"),
    },
    Target {
        name: "`develop`, net, faster than nix-copy",
        unit: "×",
        must: AtLeast(4.0),
        goal: AtLeast(25.0),
        value: |report| report.times_ours("nix-copy"),
    },
    Target {
        name: "`develop`, net, faster than podman",
        unit: "×",
        must: AtLeast(10.0),
        goal: AtLeast(60.0),
        value: |report| report.times_ours("podman"),
    },
    Target {
        name: "mount ready, against a seed of Nix alone",
        unit: "×",
        must: AtMost(1.5),
        goal: AtMost(1.2),
        value: |report| report.figure("ready")?.ratio(),
    },
    Target {
        name: "mount ready, five times as large, against a seed of Nix alone",
        unit: "×",
        must: AtMost(1.5),
        goal: AtMost(1.2),
        value: |report| report.figure("ready-large")?.ratio(),
    },
    Target {
        name: "read everything from an empty client, against the archive unpacked",
        unit: "×",
        must: AtMost(1.5),
        goal: AtMost(1.0),
        value: |report| report.figure("read-cold")?.ratio(),
    },
    Target {
        name: "pack, faster than podman push",
        unit: "×",
        must: AtLeast(1.0),
        goal: AtLeast(2.0),
        value: |report| Some(1.0 / report.figure("pack")?.ratio()?),
    },
    Target {
        name: "pack again after one small path changed",
        unit: "s",
        must: AtMost(10.0),
        goal: AtMost(1.0),
        value: |report| Some(report.figure("pack-again")?.ours),
    },
    Target {
        name: "stat and read everything, warm, against the disk",
        unit: "×",
        must: AtMost(3.0),
        goal: AtMost(1.1),
        value: |report| report.figure("read-warm")?.ratio(),
    },
    Target {
        name: "most memory of the mount's server",
        unit: "MB",
        must: AtMost(100.0),
        goal: AtMost(60.0),
        value: |report| Some(report.figure("server-memory")?.ours),
    },
    Target {
        name: "peak memory of pack",
        unit: "MB",
        must: AtMost(500.0),
        goal: AtMost(250.0),
        value: |report| Some(report.figure("pack-memory")?.ours),
    },
];

/// A target and what became of it.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Outcome {
    name: &'static str,
    unit: &'static str,
    must: String,
    goal: String,
    /// Nothing where the run did not measure it.
    reached: Option<f64>,
    verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Goal,
    Must,
    Missed,
    NotMeasured,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Goal => "goal reached",
            Self::Must => "reached, the goal is not",
            Self::Missed => "**missed**",
            Self::NotMeasured => "not measured",
        })
    }
}

/// Every target, in the order of the table.
pub(crate) fn outcomes(report: &Report) -> Vec<Outcome> {
    TARGETS
        .iter()
        .map(|Target { name, unit, must, goal, value }| {
            let reached = value(report);
            let verdict = match reached {
                None => Verdict::NotMeasured,
                Some(value) if goal.holds(value) => Verdict::Goal,
                Some(value) if must.holds(value) => Verdict::Must,
                Some(_) => Verdict::Missed,
            };
            Outcome { name, unit, must: must.to_string(), goal: goal.to_string(), reached, verdict }
        })
        .collect()
}

/// Writes the targets as a table.
pub(crate) fn write(report: &Report, text: &mut String) -> fmt::Result {
    text.push_str(
        "\n## Targets\n\n\
         They are meant for the workload `medium` on the link of 1 Gbps and 20 ms.\n\n\
         | figure | reached | must reach | goal | |\n| --- | --- | --- | --- | --- |\n",
    );
    for Outcome { name, unit, must, goal, reached, verdict } in outcomes(report) {
        let reached = reached.map_or_else(|| "–".to_owned(), |value| format!("{value:.2} {unit}"));
        writeln!(text, "| {name} | {reached} | {must} {unit} | {goal} {unit} | {verdict} |")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_reached_from_its_own_side() {
        for (bound, value, expected) in [
            (AtLeast(2.0), 2.0, true),
            (AtLeast(2.0), 1.9, false),
            (AtMost(2.0), 2.0, true),
            (AtMost(2.0), 2.1, false),
        ] {
            assert_eq!(bound.holds(value), expected, "{bound} {value}");
        }
    }

    /// Else one that reaches its goal could be said to have missed.
    #[test]
    fn every_goal_is_harder_than_what_must_be_reached() {
        for Target { name, must, goal, .. } in &TARGETS {
            match (*must, *goal) {
                (AtLeast(must), AtLeast(goal)) => assert!(goal > must, "{name}"),
                (AtMost(must), AtMost(goal)) => assert!(goal < must, "{name}"),
                _ => panic!("{name}: two bounds of different kinds"),
            }
        }
    }
}
