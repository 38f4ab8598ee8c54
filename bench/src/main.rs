//! Time-to-build of a seed beside its peers, on a shaped link.
//!
//! `bench/run` builds what is measured and starts this program, in namespaces of its own.

mod faults;
mod link;
mod peer;
mod process;
mod report;
mod servers;
mod session;
mod targets;
mod workload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::link::{Kind, Link};
use crate::peer::Peer;
use crate::report::{Machine, Report, Section};
use crate::servers::Servers;
use crate::workload::Workload;

/// Measures how long a job takes from an empty machine to a built project, with a seed and with its peers, side
/// by side on one link.
#[derive(Debug, Parser)]
#[command(name = "bench/run", max_term_width = 100)]
struct Arguments {
    /// The repository's directory; set by bench/run
    #[arg(long, hide = true)]
    repository: PathBuf,

    /// What is brought to the client: `small` (0.2 GB) or `medium` (3.3 GB)
    #[arg(long, default_value = "small")]
    workload: String,

    /// The networks between the client and the servers, one after another; failing requests and the other
    /// figures are measured on the first
    #[arg(long, value_enum, value_delimiter = ',', default_value = "1g20,loopback")]
    link: Vec<Kind>,

    /// Who is measured, in this order and then in the reverse
    #[arg(long, value_delimiter = ',', default_value = "native,seed,nydus,tar,nix-copy,podman")]
    peers: Vec<String>,

    /// How often each is measured; the medians are reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,

    /// The client's disk: a directory on it. Without it, memory (tmpfs), so that no peer waits for a disk
    #[arg(long)]
    disk: Option<PathBuf>,

    /// Do not measure packing, mounting, reading and memory
    #[arg(long)]
    no_figures: bool,

    /// Measure also how long a seed of five times the workload takes to be mounted; packing it takes minutes
    #[arg(long)]
    large: bool,

    /// Measure the seed a second time, with so many of 1,000 requests to the registry failing, by a 503 or a
    /// reset connection; 0 leaves it out
    #[arg(long, default_value_t = 50, value_name = "PER-MILLE", value_parser = clap::value_parser!(u64).range(..=1000))]
    faults: u64,

    /// Where the figures go as JSON
    #[arg(long, default_value = "docs/benchmarks.json")]
    json: PathBuf,

    /// Where the table goes
    #[arg(long, default_value = "docs/benchmarks.md")]
    markdown: PathBuf,

    /// What is written behind the table as it is: what people have to say of the figures
    #[arg(long, default_value = "docs/benchmarks-notes.md")]
    notes: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match measure(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<()> {
    if arguments.peers.is_empty() || arguments.link.is_empty() {
        bail!("no peers, or no links, were named");
    }
    let notes = read_notes(&arguments.repository.join(&arguments.notes))?;
    let workload = Workload::build(&arguments.repository, &arguments.workload)?;
    let mut report = Report::new(Machine::of_this_run()?, &workload, arguments.disk.is_none());
    for (position, kind) in arguments.link.iter().enumerate() {
        measure_on(arguments, *kind, position == 0, &workload, &mut report)?;
    }
    for (path, text) in [(&arguments.json, report.json()?), (&arguments.markdown, report.markdown(&notes))] {
        let path = arguments.repository.join(path);
        let directory = path.parent().context("a file to write needs a directory")?;
        std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        say(&format!("wrote {}", path.display()));
    }
    Ok(())
}

/// Adds to the report what is measured on one link: all peers, and on the first link also the rest.
fn measure_on(
    arguments: &Arguments,
    kind: Kind,
    first: bool,
    workload: &Workload,
    report: &mut Report,
) -> Result<()> {
    let link = Link::new(kind)?;
    let servers =
        Servers::start(link.server(), &workload.servers_state()?, &workload.prepared()?, arguments.faults)?;
    let prepared = |name: &str| -> Result<Peer> {
        let peer = Peer::new(name, &arguments.repository, workload)?;
        say(&format!("preparing {name}"));
        peer.prepare(&link)?;
        Ok(peer)
    };
    let mut peers = arguments.peers.iter().map(|name| prepared(name)).collect::<Result<Vec<_>>>()?;
    let ours = peers.iter().position(|peer| peer.name() == report::OURS).filter(|_| first);
    if let Some(ours) = ours {
        if arguments.faults > 0 {
            let name = format!("{}, {} ‰ failing", report::OURS, arguments.faults);
            peers.insert(ours + 1, peers[ours].behind_faults(name));
        }
        // What packing and reading are compared with is needed, measured or not.
        for name in ["podman", "tar"] {
            if !arguments.no_figures && !arguments.peers.iter().any(|peer| peer == name) {
                prepared(name)?;
            }
        }
    }
    workload.warm()?;

    let mut section = Section::new(kind);
    for round in 0..arguments.repeat {
        let mut order: Vec<&Peer> = peers.iter().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for peer in order {
            let run = peer.run(&link, arguments.disk.as_deref(), round)?;
            let commands: String =
                run.commands.iter().map(|(name, took)| format!(", {name} {took:.2} s")).collect();
            say(&format!(
                "{:<10} ready {:6.2} s, develop {:6.2} s, build {:6.2} s{commands}; {:6.1} MB; {:5.1} CPU-s; pressure {:2.0} %",
                peer.name(),
                run.ready.seconds,
                run.develop.seconds,
                run.build.seconds,
                run.build.megabytes(),
                run.cpu_seconds,
                run.cpu_pressure * 100.0
            ));
            section.add(peer.name(), round, run);
        }
    }
    section.set_failed(servers.faults());
    report.add(section);

    if let Some(ours) = ours.filter(|_| !arguments.no_figures) {
        say("measuring the other figures");
        report.set_figures(peers[ours].figures(&link, arguments.disk.as_deref(), arguments.large)?);
    }
    Ok(())
}

/// The notes; where there is no such file, none.
fn read_notes(path: &Path) -> Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        other => other.with_context(|| path.display().to_string()),
    }
}

/// Progress, on stderr.
#[allow(clippy::print_stderr)]
pub(crate) fn say(line: &str) {
    eprintln!("bench: {line}");
}
