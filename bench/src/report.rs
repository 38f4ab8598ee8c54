//! The figures of a run, as a table for readers and as JSON for programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::link::Kind;
use crate::session::{Figure, Run};
use crate::targets;
use crate::workload::{Size, Workload};

/// Whose times are subtracted from everybody's: what remains is the price of getting the store there.
pub(crate) const LOCAL: &str = "native";
/// Whom the others are compared with.
pub(crate) const OURS: &str = "seed";

/// All that was measured in one run of the benchmark.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    workload: Size,
    /// Whether the client's disk was in memory.
    tmpfs: bool,
    sections: Vec<Section>,
    figures: Vec<Figure>,
}

/// The runs on one link.
#[derive(Debug, Serialize)]
pub(crate) struct Section {
    link: Kind,
    runs: Vec<Entry>,
    /// Requests to the failing registry, and how many of them failed.
    failing_requests: (u64, u64),
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

impl Section {
    pub(crate) fn new(link: Kind) -> Self {
        Self { link, runs: Vec::new(), failing_requests: (0, 0) }
    }

    pub(crate) fn add(&mut self, peer: &str, round: u32, run: Run) {
        self.runs.push(Entry { peer: peer.to_owned(), round, run });
    }

    pub(crate) fn set_failed(&mut self, requests_and_failed: (u64, u64)) {
        self.failing_requests = requests_and_failed;
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

    /// Seconds to `develop` of a peer, less those of the local limit.
    fn net(&self, peer: &str) -> Option<f64> {
        let medians = self.medians();
        let of =
            |name: &str| medians.iter().find(|(peer, _)| *peer == name).map(|(_, run)| run.develop.seconds);
        Some(of(peer)? - of(LOCAL)?)
    }

    fn write(&self, text: &mut String) -> fmt::Result {
        let medians = self.medians();
        let rounds = self.runs.iter().map(|entry| entry.round + 1).max().unwrap_or(0);
        let pressure = self.runs.iter().map(|entry| entry.run.cpu_pressure).fold(0.0, f64::max);
        writeln!(
            text,
            "\n## {}\n\nMedians of {rounds}; some process waited for a processor in up to {:.0} % of a run's time.\n",
            self.link.title(),
            pressure * 100.0
        )?;

        let commands: BTreeSet<&String> = medians.iter().flat_map(|(_, run)| run.commands.keys()).collect();
        write!(
            text,
            "| peer | ready s | `develop` s | net s | × {OURS}, gross | × {OURS}, net | + `build` s | MB fetched | CPU-s |"
        )?;
        for name in &commands {
            write!(text, " {name} s |")?;
        }
        writeln!(text, "\n|{}", " --- |".repeat(9 + commands.len()))?;
        let ours = medians.iter().find(|(name, _)| *name == OURS).map(|(_, run)| run.develop.seconds);
        for (name, run) in &medians {
            let ratio = |value: Option<f64>, of: Option<f64>| match (value, of) {
                (Some(value), Some(of)) if of > 0.0 && *name != LOCAL => format!("{:.1}", value / of),
                _ => "–".to_owned(),
            };
            write!(
                text,
                "| {name} | {:.2} | {:.2} | {} | {} | {} | {:.2} | {:.1} | {:.1} |",
                run.ready.seconds,
                run.develop.seconds,
                number(self.net(name)),
                ratio(Some(run.develop.seconds), ours),
                ratio(self.net(name), self.net(OURS)),
                run.build.seconds,
                run.build.megabytes(),
                run.cpu_seconds,
            )?;
            for command in &commands {
                write!(text, " {} |", number(run.commands.get(*command).copied()))?;
            }
            writeln!(text)?;
        }
        if let (requests @ 1.., failed) = self.failing_requests {
            writeln!(text, "\nOf {requests} requests to the failing registry {failed} failed.")?;
        }
        Ok(())
    }
}

/// Two digits behind the point, or a dash for what was not measured.
fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"))
}

impl Report {
    pub(crate) fn new(machine: Machine, workload: &Workload, tmpfs: bool) -> Self {
        Self { machine, workload: workload.size.clone(), tmpfs, sections: Vec::new(), figures: Vec::new() }
    }

    pub(crate) fn add(&mut self, section: Section) {
        self.sections.push(section);
    }

    pub(crate) fn set_figures(&mut self, figures: Vec<Figure>) {
        self.figures = figures;
    }

    /// How many times longer than ours a peer took to `develop`, net, on the first link.
    pub(crate) fn times_ours(&self, peer: &str) -> Option<f64> {
        let section = self.sections.first()?;
        let ours = section.net(OURS).filter(|ours| *ours > 0.0)?;
        Some(section.net(peer)? / ours)
    }

    /// A figure beside time-to-build.
    pub(crate) fn figure(&self, id: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.id == id)
    }

    pub(crate) fn json(&self) -> Result<String> {
        #[derive(Serialize)]
        struct Document<'a> {
            #[serde(flatten)]
            report: &'a Report,
            /// Of each section, in the same order.
            medians: Vec<BTreeMap<&'a str, Run>>,
            targets: Vec<targets::Outcome>,
        }
        let document = Document {
            report: self,
            medians: self.sections.iter().map(|section| section.medians().into_iter().collect()).collect(),
            targets: targets::outcomes(self),
        };
        let mut text = serde_json::to_string_pretty(&document).context("cannot write the report as JSON")?;
        text.push('\n');
        Ok(text)
    }

    /// The document for readers, which ends with the notes as they are.
    pub(crate) fn markdown(&self, notes: &str) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        if !notes.is_empty() {
            text.push('\n');
            text.push_str(notes);
        }
        text
    }

    fn write(&self, text: &mut String) -> fmt::Result {
        let Machine { date, command, processor, cores, memory_bytes, kernel, congestion_control } =
            &self.machine;
        let Size { name, store_paths, files, bytes } = &self.workload;
        let disk = if self.tmpfs { "tmpfs" } else { "on disk" };
        writeln!(
            text,
            "# Benchmarks\n\n\
             From an empty client to a shell (`nix develop --offline --command true`) and to the built project \
             (`nix build --offline`, its source changed). Same servers, machine and order for all.\n\n\
             - `{command}`, {date}\n\
             - workload `{name}`: {store_paths} store paths, {files} files, {:.2} GB\n\
             - TCP: {congestion_control}; client's disk: {disk}\n\
             - machine: {cores} × {processor}, {:.0} GiB, Linux {kernel}",
            *bytes as f64 / 1e9,
            *memory_bytes as f64 / f64::from(1 << 30),
        )?;
        for section in &self.sections {
            section.write(text)?;
        }
        text.push_str(LEGEND);
        if !self.figures.is_empty() {
            text.push_str(
                "\n## Other figures\n\n\
                 | figure | seed | compared with | unit | ratio |\n| --- | --- | --- | --- | --- |\n",
            );
        }
        for figure in &self.figures {
            let Figure { name, ours, other, unit, .. } = figure;
            writeln!(
                text,
                "| {name} | {ours:.2} | {} | {unit} | {} |",
                number(*other),
                number(figure.ratio())
            )?;
        }
        // Small closures are ready in no time, whoever brings them: the targets say nothing of them.
        if self.workload.name == targets::WORKLOAD { targets::write(self, text) } else { Ok(()) }
    }
}

/// What the columns mean.
const LEGEND: &str = "
- **ready**: from the start of the job until the store can be used, that is, until any of its files can be read at \
its place. A peer that pulls is ready with the last file; one that mounts, when its mount answers; podman, when the \
first process of the container runs; the seed, when it is verified, mounted, and the sandbox around it is made.
- **net**: less the time of `native`, the same commands on a store that is on the client's disk and in its page cache.
- **× seed**: the peer's time divided by the seed's. Ratios under 1.3 are equal.
- **+ `build`**: from the start of the job until the project is built too. **MB fetched** and **CPU-s**: until then, \
and in the whole run.
- **compile**, **java**: seconds that a further command took, behind the build: a C++ file that uses the standard \
library and Boost, compiled (in `small`: a C file); `java -version`.
- **‰ failing**: the same, while so many of 1,000 requests to the registry fail, by turns with a 503, a reset instead \
of an answer and a reset in its midst.
";

#[cfg(test)]
mod tests;
