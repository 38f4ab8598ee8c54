//! What every sandbox of ours shows: the seed, what is named, and a clean environment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use seed_fuse::mount::{OpenOptions, SeedFs, TraceChoice, open_seed};
use seed_image::seed::{Seed, label};
use seed_sandbox::{Bind, Lower, Outcome, Scratch, Spec, Workspace, environment, flake_of_workspace};

use crate::error::{Result, usage};
use crate::gate::{self, Admitted, Origin};
use crate::project::Project;
use crate::report::Report;
use crate::session::{Judge, Session};
use crate::signals;
use crate::temporary::Temporary;

/// Finds a seed, opens it to be mounted, and has the policy judge it.
pub(crate) fn admit(
    session: &Session<'_>,
    judge: &Judge,
    reference: &seed_image::reference::Reference,
    origin: Origin,
    project: Option<&Project>,
    trace: TraceChoice,
) -> Result<Admitted<Arc<SeedFs>>> {
    let options = OpenOptions { trace, ..session.open_options() };
    let transport = session.open_remembered(&reference.location)?;
    gate::admit(session, judge, transport, reference, origin, project, move |transport, digest| {
        Ok(open_seed(transport, digest, &options)?)
    })
}

/// A sandbox over a seed. `variables` are those that the user named; they win over the image's.
pub(crate) fn spec(
    session: &Session<'_>,
    fs: &Arc<SeedFs>,
    workspace: Option<Workspace>,
    variables: &BTreeMap<String, String>,
) -> Spec {
    let image = fs.seed().config.config.env.iter().filter_map(|line| line.split_once('='));
    let mut image: BTreeMap<String, String> = image.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let path = image.remove("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    image.extend(variables.clone());
    let caller = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Spec {
        lower: Lower::Seed(Arc::clone(fs)),
        workspace,
        binds: Vec::new(),
        scratch: Scratch::Directory(scratch(session)),
        etc: BTreeMap::new(),
        fetcher_cache: fs.seed().label(label::FETCHER_CACHE).and_then(|path| path.parse().ok()),
        environment: environment::clean(&path, caller, &image),
    }
}

/// Passes on what is to be known of a sandbox that a command ran in, and reports what it took.
pub(crate) fn report(session: &Session<'_>, admitted: &Admitted<Arc<SeedFs>>, outcome: &Outcome) -> Report {
    for note in &outcome.notes {
        session.printer.warn(note);
    }
    let mut report = Report::new(admitted.resolve, admitted.verify);
    report.extend(&outcome.phases);
    report.count(&admitted.opened, admitted.transport.as_ref());
    report.tell(session.printer.trace(), &outcome.phases);
    report
}

/// The command's exit code. This process ends here of the signal that ended the command.
pub(crate) fn exit(outcome: &Outcome) -> ExitCode {
    if let Some(signal) = outcome.ended_by() {
        signals::die_of(signal);
    }
    ExitCode::from(outcome.exit.code())
}

/// Where what a sandbox writes goes until it ends.
pub(crate) fn scratch(session: &Session<'_>) -> PathBuf {
    let config = &session.config;
    config.sandbox.scratch.clone().unwrap_or_else(|| config.cache.dir.join("scratch"))
}

/// Reads `NAME=VALUE`s.
pub(crate) fn variables(lines: &[String]) -> Result<BTreeMap<String, String>> {
    let pair = |line: &String| match line.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(usage(format!("{line:?} sets no variable: write NAME=VALUE"))),
    };
    lines.iter().map(pair).collect()
}

/// Where a gathered source shows inside.
const SOURCE: &str = "/source";

/// The first Nix that reads a repository itself; those before run `git`, which no seed brings.
const READS_GIT: (u32, u32) = (2, 20);

/// The project's flake, as Nix inside finds it.
pub(crate) struct Flake {
    /// The flake reference.
    pub(crate) reference: String,
    /// What must show inside for it.
    pub(crate) binds: Vec<Bind>,
    /// Removed in the end.
    _gathered: Option<Temporary>,
}

/// Finds out how the seed's Nix can read the project: from the repository, as it does outside, or from the
/// files that git tracks, gathered in a directory and named by the commit that they are of.
pub(crate) fn flake(session: &Session<'_>, project: &Project, seed: &Seed) -> Result<Flake> {
    let version = seed.label(label::NIX_VERSION).and_then(|text| {
        let mut numbers = text.split('.').map(str::parse::<u32>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    });
    let reads_git = version.is_some_and(|version| version >= READS_GIT);
    if reads_git || !project.in_git() {
        let reference = below(project, flake_of_workspace(project.root()));
        return Ok(Flake { reference, binds: Vec::new(), _gathered: None });
    }
    let gathered = Temporary::new(session, "source")?;
    let source = gathered.path().join("source");
    project.gather_source(&source)?;
    let bind = Bind { source, target: SOURCE.into(), writable: false };
    let mut reference = below(project, format!("path://{SOURCE}"));
    for (name, value) in project.nix_attributes()? {
        let separator = if reference.contains('?') { '&' } else { '?' };
        reference.push_str(&format!("{separator}{name}={value}"));
    }
    Ok(Flake { reference, binds: vec![bind], _gathered: Some(gathered) })
}

/// A flake that lies as deep in `reference` as the project's in its repository.
pub(crate) fn below(project: &Project, reference: String) -> String {
    match project.below_root().to_string_lossy() {
        directory if directory.is_empty() => reference,
        directory => format!("{reference}?dir={directory}"),
    }
}
