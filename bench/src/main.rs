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
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::faults::Faults;
use crate::link::{Kind, Link};
use crate::peer::Peer;
use crate::report::{Machine, Report};
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

    /// The network between the client and the servers
    #[arg(long, value_enum, default_value_t = Kind::Gigabit20)]
    link: Kind,

    /// Who is measured, in this order and then in the reverse
    #[arg(long, value_delimiter = ',', default_value = "native,seed,tar,nix-copy,podman")]
    peers: Vec<String>,

    /// How often each is measured; the medians are reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,

    /// The client's disk: a directory on it. Without it, memory (tmpfs), so that no peer waits for a disk
    #[arg(long)]
    disk: Option<PathBuf>,

    /// Also measure packing, mounting, reading and memory
    #[arg(long)]
    figures: bool,

    /// Of 1,000 requests to the registry, how many fail with a 503 or a reset connection
    #[arg(long, default_value_t = 0, value_name = "PER-MILLE")]
    faults: u64,

    /// Where the figures go as JSON
    #[arg(long, default_value = "docs/benchmarks.json")]
    json: PathBuf,

    /// Where the table goes
    #[arg(long, default_value = "docs/benchmarks.md")]
    markdown: PathBuf,
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
    let workload = Workload::build(&arguments.repository, &arguments.workload)?;
    let link = Link::new(arguments.link)?;
    let servers = Servers::start(
        link.server(),
        &workload.servers_state()?,
        &workload.prepared()?,
        arguments.faults > 0,
    )?;

    let mut peers = Vec::new();
    for name in &arguments.peers {
        let peer = Peer::new(name, &arguments.repository, &workload)?;
        say(&format!("preparing {name}"));
        peer.prepare(&link)?;
        peers.push(peer);
    }
    workload.warm()?;
    if let Some(faults) = servers.faults() {
        faults.set(arguments.faults);
    }

    let mut report =
        Report::new(Machine::of_this_run()?, &workload, arguments.link, arguments.disk.is_none());
    for round in 0..arguments.repeat {
        let mut order: Vec<&Peer> = peers.iter().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for peer in order {
            let run = peer.run(&link, arguments.disk.as_deref(), round)?;
            say(&format!(
                "{:<10} ready {:6.2} s, develop {:6.2} s, build {:6.2} s; {:6.1} MB; {:5.1} CPU-s; pressure {:2.0} %",
                peer.name(),
                run.ready.unwrap_or_default().seconds,
                run.develop.seconds,
                run.build.seconds,
                run.build.megabytes(),
                run.cpu_seconds,
                run.cpu_pressure * 100.0
            ));
            report.add(peer.name(), round, run);
        }
    }

    if let Some(ours) = peers.iter().find(|peer| arguments.figures && peer.name() == report::OURS) {
        say("measuring the other figures");
        report.set_figures(ours.figures(&link, arguments.disk.as_deref())?);
    }
    if let Some((requests, failed)) = servers.faults().map(Faults::counts) {
        say(&format!("{failed} of {requests} requests to the registry failed"));
    }

    for (path, text) in [(&arguments.json, report.json()?), (&arguments.markdown, report.markdown())] {
        let path = arguments.repository.join(path);
        let directory = path.parent().context("a file to write needs a directory")?;
        std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        say(&format!("wrote {}", path.display()));
    }
    if peers.is_empty() {
        bail!("no peers were named");
    }
    Ok(())
}

/// Progress, on stderr.
#[allow(clippy::print_stderr)]
pub(crate) fn say(line: &str) {
    eprintln!("bench: {line}");
}
