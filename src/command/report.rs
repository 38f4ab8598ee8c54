//! `seed report`.

use std::fs;
use std::path::PathBuf;

use seed_fuse::mount;

use crate::error::{Result, ResultExt, failed};
use crate::page;
use crate::session::Session;

/// Write a page about the live mounts: what was fetched when and why, and what reads waited for
///
/// The page is one file of HTML that needs nothing else. With --json, prints what it is made of, a line for each
/// mount.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed report --output report.html
  seed report /nix/store > report.html")]
pub(crate) struct Args {
    /// Only the mount at this directory
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write the page to this file, not to standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(session: &Session<'_>, args: &Args) -> Result<()> {
    session.sweep();
    let runtime = session.runtime();
    let mut states = mount::mounts(&runtime)?;
    if let Some(dir) = &args.dir {
        let wanted = dir.canonicalize().context(|| format!("cannot find {}", dir.display()))?;
        states.retain(|state| state.directory == wanted);
        if states.is_empty() {
            return Err(failed(format!("no seed is mounted at {}", dir.display())))
                .hint("`seed status` lists the mounts");
        }
    }
    let mut reports = Vec::new();
    for state in &states {
        match mount::report(&runtime, state) {
            Ok(report) => reports.push(report),
            Err(error) => session.printer.warn(format_args!(
                "the server of {} does not answer: {}",
                state.directory.display(),
                seed_format::Chain(&error)
            )),
        }
    }
    if session.printer.is_json() {
        return reports.iter().try_for_each(|report| session.printer.json(report));
    }
    let text = page::page(&reports);
    match &args.output {
        Some(file) => fs::write(file, text).context(|| format!("cannot write {}", file.display())),
        None => session.printer.text(text.as_bytes()),
    }
}
