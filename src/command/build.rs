//! `seed build`.

use std::fmt;
use std::io::stderr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use seed_image::reference::Reference;
use seed_policy::System;
use seed_sandbox::{BuildRecord, BuildRequest, Destination, Nix, Source};
use serde::Serialize;

use crate::destinations::{Destinations, Flags};
use crate::error::{Exit, Result, ResultExt, failed, usage};
use crate::project::{Installable, Project};
use crate::report::Report;
use crate::session::{Ahead, Judge, Session};
use crate::{packing, sandboxes, signals, targets};

/// Build outputs of a flake, offline, in the project's seed
///
/// The seed's digest is read from .seed.lock. Where none is recorded for this system, the seed is packed
/// and recorded first. Prints the store path of each output.
///
/// A seed's Nix before 2.20 gets the files that git tracks, and `self.rev` where none of them is changed;
/// `self.lastModified` is then the time of the newest file.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed build
  seed build .#hello .#docs --seed oci:./seeds --out-link result
  seed build --to file:///srv/cache --sign-key cache.secret --record build.json
  seed build .#image --to ghcr.io/acme/app:main")]
pub(crate) struct Args {
    /// The outputs; the default package of the flake here, if none is named
    #[arg(value_name = "FLAKE#ATTR")]
    outputs: Vec<String>,
    /// Where the seed is; with a digest, that one is used whatever .seed.lock says
    #[arg(long, value_name = "REF")]
    seed: Option<Reference>,
    /// Make symbolic links to copies of the results, with this name
    #[arg(short, long, value_name = "PATH", default_value = "result")]
    out_link: PathBuf,
    /// Make no symbolic links, and no copies
    #[arg(long, conflicts_with = "out_link")]
    no_link: bool,
    /// Go on with the other outputs when one fails; what was built goes where it should
    #[arg(short, long)]
    keep_going: bool,
    /// Commit .seed.lock where a seed had to be packed
    #[arg(long)]
    commit: bool,
    /// Write the build's record, as JSON, to this file
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    #[command(flatten)]
    results: Flags,
    #[command(flatten)]
    ahead: Ahead,
    #[command(flatten)]
    judge: Judge,
}

/// What was built; with `--json` the whole record.
#[derive(Serialize)]
#[serde(transparent)]
struct Built(BuildRecord);

pub(crate) fn run(session: &Session<'_>, args: &Args) -> Result<ExitCode> {
    let (dir, attrs) = outputs(&args.outputs)?;
    session.sweep();
    let destinations = Destinations::new(session, &args.results)?;
    let system = System::current();
    let project = Project::open(&dir)?;
    let (reference, origin) =
        packing::find_or_pack(session, &project, &system, args.seed.as_ref(), &args.judge, args.commit)?;
    let trace = attrs.iter().map(|attr| targets::traces_to_build(attr.as_deref(), &system)).collect();
    let trace = args.ahead.choice(trace);
    let admitted = sandboxes::admit(session, &args.judge, &reference, origin, Some(&project), trace)?;
    let made_for = targets::of_seed(admitted.opened.seed())?;
    let attributes =
        attrs.iter().map(|attr| targets::to_build(attr.as_deref(), &made_for, &system)).collect();

    let workspace = super::run::workspace(project.root(), false)?;
    let flake = sandboxes::flake(session, &project, admitted.opened.seed())?;
    let nix = Nix::of_seed(&admitted.opened)?;
    let request = BuildRequest {
        nix: &nix,
        flake: flake.reference.clone(),
        attributes,
        source: source(&project)?,
        keep_going: args.keep_going,
        exports: links(session, args)?.into_iter().chain(destinations.exports()).collect(),
        log: stderr().as_fd().try_clone_to_owned()?,
    };
    let mut spec = sandboxes::spec(session, &admitted.opened, Some(workspace), &Default::default());
    spec.binds.extend(flake.binds.iter().cloned());
    let forwarded = signals::forwarded();
    let built = seed_sandbox::build(&admitted.approved, spec, &request);
    drop(forwarded);
    let record = built.context(|| format!("the build in {} failed", admitted.reference))?;

    if let Some(file) = &args.record {
        let mut text = serde_json::to_vec_pretty(&record)?;
        text.push(b'\n');
        std::fs::write(file, text).context(|| format!("cannot write {}", file.display()))?;
    }
    let delivered = destinations.deliver(session, &admitted, &nix, &record)?;
    let mut report = Report::new(admitted.resolve, admitted.verify);
    report.extend(record.phases.iter().chain(&delivered));
    report.count(&admitted.opened, admitted.transport.as_ref());
    report.tell(session.printer.trace(), record.phases.iter().chain(&delivered));
    let failures = record.failed.iter().map(|failed| format!("{} ({})", failed.attribute, failed.phase));
    let failures: Vec<String> = failures.collect();
    session.printer.data(&Built(record))?;
    session.printer.summary(&report);
    if failures.is_empty() {
        return Ok(Exit::Done.into());
    }
    Err(failed(format!("not everything could be built: {} failed", failures.join(", "))))
}

/// The one directory of all outputs, and the attribute of each.
fn outputs(texts: &[String]) -> Result<(PathBuf, Vec<Option<String>>)> {
    let mut all = texts.iter().map(|text| Installable::parse(text)).collect::<Result<Vec<_>>>()?;
    if all.is_empty() {
        all.push(Installable::parse(".")?);
    }
    let dir = all[0].dir.clone();
    match all.iter().find(|other| other.dir != dir) {
        Some(other) => Err(usage(format!(
            "{} and {} are two flakes: one build is of one source",
            dir.display(),
            other.dir.display()
        ))),
        None => Ok((dir, all.into_iter().map(|installable| installable.attr).collect())),
    }
}

fn links(session: &Session<'_>, args: &Args) -> Result<Option<Destination>> {
    if args.no_link {
        return Ok(None);
    }
    let link = std::path::absolute(&args.out_link)?;
    Ok(Some(Destination::Links { link, copies: session.config.results() }))
}

fn source(project: &Project) -> Result<Source> {
    Ok(Source {
        uri: project.source()?.map(|source| source.to_string()),
        commit: project.head()?.map(|commit| commit.to_string()),
        dirty: project.is_dirty()?,
        flake_lock: Some(project.flake_lock()?),
    })
}

impl fmt::Display for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outputs = self.0.targets.iter().flat_map(|target| &target.outputs);
        for (n, output) in outputs.enumerate() {
            let separator = if n == 0 { "" } else { "\n" };
            write!(f, "{separator}{}", output.path)?;
        }
        Ok(())
    }
}
