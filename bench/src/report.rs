//! The figures of a run, as a table for readers and as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::link::Kind;
use crate::session::{Figure, Run};
use crate::workload::{Size, Workload};

/// Whose times are subtracted from everybody's: what remains is the price of getting the store there.
const LOCAL: &str = "native";
/// Whom the others are compared with.
pub(crate) const OURS: &str = "seed";

/// All that was measured in one run of the benchmark.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    workload: Size,
    link: Kind,
    /// Whether the client's disk was in memory.
    tmpfs: bool,
    runs: Vec<Entry>,
    figures: Vec<Figure>,
}

/// Where and when.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub date: String,
    pub command: String,
    pub processor: String,
    pub cores: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    pub congestion_control: String,
}

#[derive(Debug, Serialize)]
struct Entry {
    peer: String,
    round: u32,
    #[serde(flatten)]
    run: Run,
}

impl Machine {
    /// Describes the machine that this runs on.
    pub(crate) fn of_this_run() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| path.to_owned());
        let field = |text: &str, name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
        };
        let memory = field(&read("/proc/meminfo")?, "MemTotal")
            .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
            .context("no MemTotal in /proc/meminfo")?;
        Ok(Self {
            date: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            command: command_line(),
            processor: field(&read("/proc/cpuinfo")?, "model name").unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().context("number of processors")?.get(),
            memory_bytes: memory * 1024,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control")?.trim().to_owned(),
        })
    }
}

/// The command that a reader types to have the same run.
fn command_line() -> String {
    let mut arguments = std::env::args().skip(1);
    let mut line = String::from("bench/run");
    while let Some(argument) = arguments.next() {
        if argument == "--repository" {
            arguments.next();
        } else {
            line.push(' ');
            line.push_str(&argument);
        }
    }
    line
}

impl Report {
    pub(crate) fn new(machine: Machine, workload: &Workload, link: Kind, tmpfs: bool) -> Self {
        Self { machine, workload: workload.size.clone(), link, tmpfs, runs: Vec::new(), figures: Vec::new() }
    }

    pub(crate) fn add(&mut self, peer: &str, round: u32, run: Run) {
        self.runs.push(Entry { peer: peer.to_owned(), round, run });
    }

    pub(crate) fn set_figures(&mut self, figures: Vec<Figure>) {
        self.figures = figures;
    }

    /// The medians of each peer, in the order in which they were first measured.
    fn medians(&self) -> Vec<(&str, Run)> {
        let mut names: Vec<&str> = Vec::new();
        let mut runs: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
        for entry in &self.runs {
            if !names.contains(&entry.peer.as_str()) {
                names.push(&entry.peer);
            }
            runs.entry(&entry.peer).or_default().push(&entry.run);
        }
        names.into_iter().filter_map(|name| Some((name, Run::median(runs.get(name)?)))).collect()
    }

    pub(crate) fn json(&self) -> Result<String> {
        #[derive(Serialize)]
        struct Document<'a> {
            #[serde(flatten)]
            report: &'a Report,
            medians: BTreeMap<&'a str, Run>,
        }
        let document = Document { report: self, medians: self.medians().into_iter().collect() };
        let mut text = serde_json::to_string_pretty(&document).context("cannot write the report as JSON")?;
        text.push('\n');
        Ok(text)
    }

    pub(crate) fn markdown(&self) -> String {
        let medians = self.medians();
        let of = |name: &str| medians.iter().find(|(peer, _)| *peer == name).map(|(_, run)| run);
        let (local, ours) = (of(LOCAL), of(OURS));
        let Machine { date, command, processor, cores, memory_bytes, kernel, congestion_control } =
            &self.machine;
        let Size { name, store_paths, files, bytes } = &self.workload;
        let rounds = self.runs.iter().map(|entry| entry.round + 1).max().unwrap_or(0);
        let pressure = self.runs.iter().map(|entry| entry.run.cpu_pressure).fold(0.0, f64::max);

        let mut text = String::new();
        let mut line = |arguments: std::fmt::Arguments<'_>| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{arguments}");
        };
        line(format_args!("# Benchmarks\n"));
        line(format_args!(
            "From an empty client to a shell (`nix develop --offline --command true`) and to the built project \
             (`nix build --offline`, its source changed). Same link, servers, machine and order for all; \
             medians of {rounds}.\n"
        ));
        line(format_args!("- `{command}`, {date}"));
        line(format_args!(
            "- workload `{name}`: {store_paths} store paths, {files} files, {:.2} GB",
            *bytes as f64 / 1e9
        ));
        line(format_args!(
            "- link: {}, {congestion_control}; client's disk: {}",
            self.link.title(),
            if self.tmpfs { "tmpfs" } else { "on disk" }
        ));
        line(format_args!(
            "- machine: {cores} × {processor}, {:.0} GiB, Linux {kernel}; some process waited for a processor \
             in up to {:.0} % of a run's time\n",
            *memory_bytes as f64 / f64::from(1 << 30),
            pressure * 100.0
        ));
        line(format_args!(
            "| peer | ready s | `develop` s | net s | × {OURS}, gross | × {OURS}, net | + `build` s | MB fetched | CPU-s |"
        ));
        line(format_args!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |"));
        for (name, run) in &medians {
            let net = |run: &Run| local.map(|local| run.develop.seconds - local.develop.seconds);
            let ratio = |value: Option<f64>, of: Option<f64>| match (value, of) {
                (Some(value), Some(of)) if of > 0.0 && *name != LOCAL => format!("{:.1}", value / of),
                _ => "–".to_owned(),
            };
            line(format_args!(
                "| {name} | {} | {:.2} | {} | {} | {} | {:.2} | {:.1} | {:.1} |",
                run.ready.map_or_else(|| "–".into(), |ready| format!("{:.2}", ready.seconds)),
                run.develop.seconds,
                net(run).map_or_else(|| "–".into(), |net| format!("{net:.2}")),
                ratio(Some(run.develop.seconds), ours.map(|ours| ours.develop.seconds)),
                ratio(net(run), ours.and_then(net)),
                run.build.seconds,
                run.build.megabytes(),
                run.cpu_seconds,
            ));
        }
        line(format_args!(
            "\nnet: less the time of `{LOCAL}`, the same commands on a store that is on the client's disk and in its \
             page cache. Ratios under 1.3 are equal."
        ));
        if !self.figures.is_empty() {
            line(format_args!(
                "\n| figure | seed | compared with | unit | ratio |\n| --- | --- | --- | --- | --- |"
            ));
        }
        for Figure { name, ours, other, unit } in &self.figures {
            let (other, ratio) = match other {
                Some(other) => (format!("{other:.2}"), format!("{:.2}", ours / other)),
                None => ("–".to_owned(), "–".to_owned()),
            };
            line(format_args!("| {name} | {ours:.2} | {other} | {unit} | {ratio} |"));
        }
        text
    }
}
