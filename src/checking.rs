//! The proof that a seed is complete: its outputs are built in it from a changed source, offline.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use seed_format::index::Index;
use seed_format::trace::Trace;
use seed_format::{Digest, StorePath};
use seed_fuse::mount::{SeedFs, TraceChoice, selects};
use seed_fuse::tree::ROOT;
use seed_image::capture::{
    self, CaptureInputs, Captured, FlakeRequest, KeptRecords, Missing, Nix as HostNix, Present, Record, Rule,
    changed_source, diagnose, source_hash,
};
use seed_image::reference::Reference;
use seed_image::transport::Transport;
use seed_image::verify::{MAX_DATABASE, realised, registered};
use seed_image::{seed, traces};
use seed_policy::System;
use seed_sandbox::{Nix, Replay, SandboxError, Use, Workspace, flake_of_workspace};
use serde::Serialize;

use crate::error::{Result, ResultExt, failed};
use crate::gate::Origin;
use crate::printer::{Phases, bytes, seconds};
use crate::project::Project;
use crate::session::{Judge, Session};
use crate::signals;
use crate::temporary::Temporary;
use crate::{sandboxes, targets};

/// How the outputs of a seed did.
struct Replayed {
    outcomes: Vec<Outcome>,
    /// What was read for each that went well.
    traces: Vec<Trace>,
    /// The seed's place.
    transport: Arc<dyn Transport>,
}

/// How one output did.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(flatten)]
    replay: Replay,
    /// What the seed lacks, and by which rules it should have it.
    missing: Vec<String>,
}

/// Proves a seed that was just packed, in the words of progress: only what fails is printed.
pub(crate) fn prove(
    session: &Session<'_>,
    project: &Project,
    reference: &Reference,
    record: Option<&Record>,
    contents: bool,
) -> Result<()> {
    let phase = session.printer.phase("check");
    let judge = Judge { policy: None, allow_tag: false };
    let wanted = Wanted { origin: Origin::Packed, contents, ..Wanted::written(reference, &judge) };
    let Replayed { outcomes, traces, transport } = replay(session, project, &wanted, record)?;
    phase.end();
    for outcome in outcomes.iter().filter(|outcome| !outcome.replay.complete) {
        session.printer.warn(outcome);
    }
    verdict(reference, &outcomes)?;
    // A seed without them is whole, and only slower.
    if let Err(error) = publish(session, transport.as_ref(), &traces) {
        session.printer.warn(format_args!("no trace lies beside the seed: {}", error.causes().join(": ")));
    }
    Ok(())
}

/// What was read of a seed by what was done with it, and the place that the seed is in.
pub(crate) struct Recorded {
    pub(crate) traces: Vec<Trace>,
    pub(crate) transport: Arc<dyn Transport>,
}

/// Does with a seed what it was made for, or of that what one of the selectors in `only` means, and gives a trace
/// of each.
pub(crate) fn record(
    session: &Session<'_>,
    project: &Project,
    reference: &Reference,
    judge: &Judge,
    only: &[String],
) -> Result<Recorded> {
    let wanted = Wanted { only, ..Wanted::written(reference, judge) };
    let Replayed { outcomes, traces, transport } = replay(session, project, &wanted, None)?;
    for outcome in outcomes.iter().filter(|outcome| !outcome.replay.complete) {
        session.printer.warn(outcome);
    }
    verdict(reference, &outcomes)?;
    Ok(Recorded { traces, transport })
}

/// Checks a seed and prints how each output did.
pub(crate) fn check(
    session: &Session<'_>,
    project: &Project,
    reference: &Reference,
    judge: &Judge,
) -> Result<()> {
    let Replayed { outcomes, .. } = replay(session, project, &Wanted::written(reference, judge), None)?;
    for outcome in &outcomes {
        session.printer.data(outcome)?;
    }
    verdict(reference, &outcomes)
}

/// Puts the traces beside their seed, but those of targets that it has traces of: a seed that is packed once more
/// is read as before.
fn publish(session: &Session<'_>, transport: &dyn Transport, traces: &[Trace]) -> Result<()> {
    let Some(seed) = traces.first().map(|trace| trace.seed) else { return Ok(()) };
    let there = traces::list(transport, &seed).context(|| format!("cannot ask for the traces of {seed}"))?;
    let is_new = |trace: &&Trace| there.iter().all(|there| there.target != trace.target);
    let fresh: Vec<_> = traces.iter().filter(is_new).cloned().collect();
    put_beside(session, transport, &seed, &fresh)?;
    for trace in &fresh {
        session.printer.note(format_args!(
            "{}: {} in {} chunks are read",
            trace.target,
            bytes(trace.bytes),
            trace.chunk_count()
        ));
    }
    Ok(())
}

/// Puts traces beside their seed, with their bundles.
pub(crate) fn put_beside(
    session: &Session<'_>,
    transport: &dyn Transport,
    seed: &Digest,
    traces: &[Trace],
) -> Result<()> {
    if traces.is_empty() {
        return Ok(());
    }
    let context = || format!("cannot read the index of {seed}");
    let bytes = seed::open(transport, seed).context(context)?.index_bytes(transport).context(context)?;
    let index = Index::open(bytes).context(context)?;
    let scratch = Temporary::new(session, "bundle")?;
    for trace in traces {
        traces::put_bundle(transport, &index, trace, &scratch.path().join("bundle"))
            .and_then(|bundle| traces::publish(transport, trace, bundle, SystemTime::now()))
            .context(|| format!("cannot store the trace of {}", trace.target))?;
    }
    Ok(())
}

fn verdict(reference: &Reference, outcomes: &[Outcome]) -> Result<()> {
    let incomplete = outcomes.iter().filter(|outcome| !outcome.replay.complete).count();
    match incomplete {
        0 => Ok(()),
        count => Err(failed(format!(
            "{reference} is not complete: {count} of {} outputs fail",
            outcomes.len()
        )))
        .hint("pack a new seed with `seed pack --lock`; where that fails too, the project needs what its lock does not fix"),
    }
}

/// What of which seed is replayed.
struct Wanted<'a> {
    reference: &'a Reference,
    origin: Origin,
    judge: &'a Judge,
    /// Whether the contents of files may change.
    contents: bool,
    /// Selectors of targets; all, where there are none.
    only: &'a [String],
}

impl<'a> Wanted<'a> {
    /// All of a seed that the user named.
    fn written(reference: &'a Reference, judge: &'a Judge) -> Self {
        Self { reference, origin: Origin::Written, judge, contents: true, only: &[] }
    }
}

fn replay(
    session: &Session<'_>,
    project: &Project,
    wanted: &Wanted<'_>,
    record: Option<&Record>,
) -> Result<Replayed> {
    let Wanted { reference, origin, judge, contents, only } = *wanted;
    // What is fetched ahead would be no proof of anything, and is not needed: the seed is at hand, or soon.
    let admitted = sandboxes::admit(session, judge, reference, origin, Some(project), TraceChoice::None)?;
    let transport = Arc::clone(&admitted.transport);
    let fs = &admitted.opened;
    let uses: Vec<_> = targets::of_seed(fs.seed())?
        .into_iter()
        .filter_map(|target| match target.purpose.as_str() {
            "build" => Some((target.attribute, Use::Build)),
            "develop" => Some((target.attribute, Use::Develop)),
            "run" => Some((target.attribute, Use::Run)),
            _ => None,
        })
        .filter(|(attribute, done)| {
            let target = target(*done, attribute);
            only.is_empty() || only.iter().any(|selector| selects(selector, &target))
        })
        .collect();
    if uses.is_empty() {
        session.printer.warn(format_args!("{reference} names no outputs that could be tried"));
        return Ok(Replayed { outcomes: Vec::new(), traces: Vec::new(), transport });
    }
    let temporary = Temporary::new(session, "check")?;
    let (clean, changed) = (temporary.path().join("clean"), temporary.path().join("changed"));
    project.gather_source(&clean)?;
    changed_source(&clean, &changed, contents)?;
    let flake = sandboxes::below(project, flake_of_workspace(&changed));
    let mut traces = Vec::new();
    let replays = match Nix::of_seed(fs) {
        Ok(nix) => {
            let spec = || {
                let workspace = Workspace { directory: changed.clone(), writable: true };
                sandboxes::spec(session, fs, Some(workspace), &Default::default())
            };
            let forwarded = signals::forwarded();
            let mut replays = Vec::new();
            for wanted in &uses {
                fs.restart_recording();
                let replay = seed_sandbox::check(&admitted.approved, &nix, &flake, wanted, spec());
                let replay = replay?;
                if replay.complete {
                    traces.push(fs.trace(&target(replay.done, &replay.attribute)));
                }
                replays.push(replay);
            }
            drop(forwarded);
            replays
        }
        Err(error @ SandboxError::NoNix) => uses.into_iter().map(|wanted| untried(wanted, &error)).collect(),
        Err(error) => return Err(error.into()),
    };

    let captured = match record {
        None if replays.iter().any(|replay| !replay.complete) => {
            let attributes: Vec<_> = replays.iter().map(|replay| replay.attribute.clone()).collect();
            rules(session, project, &clean, &attributes)
        }
        _ => None,
    };
    let record = record.or(captured.as_ref());
    let database = database(fs)?;
    let unusable = || "cannot use the seed's database";
    let on_disk: BTreeSet<StorePath> = fs.index().whole()?.paths().map(|path| path.store_path()).collect();
    let registered = registered(&database, &on_disk).context(unusable)?;
    let outputs = record.map(|record| record.realisations.keys().cloned().collect()).unwrap_or_default();
    let realised = realised(&database, &outputs).context(unusable)?;
    let present = Present { on_disk: &on_disk, registered: &registered, realised: &realised };
    let outcomes = replays.into_iter().map(|replay| Outcome::new(replay, record, present)).collect();
    Ok(Replayed { outcomes, traces, transport })
}

/// How an output does in a seed that has nothing to build it with.
fn untried((attribute, done): (String, Use), why: &SandboxError) -> Replay {
    Replay { attribute, done, complete: false, messages: format!("error: {why}\n"), seconds: 0.0 }
}

/// The seed's database of registered paths.
fn database(fs: &SeedFs) -> Result<Vec<u8>> {
    let tree = fs.tree(b"nix/var/nix/db")?;
    let file = tree.lookup(ROOT, b"db.sqlite")?.ok_or_else(|| failed("the seed has no database"))?;
    if file.size > MAX_DATABASE {
        return Err(failed(format!("the seed's database has {} bytes, too many to read", file.size)));
    }
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < file.size {
        tree.read_wait(file.ino, bytes.len() as u64, 1 << 20)?.with(|data| bytes.extend_from_slice(data));
    }
    Ok(bytes)
}

/// What is missing for sure, whatever the project needs: what is there and not registered.
fn unregistered(present: Present<'_>) -> Vec<Missing> {
    let paths = present.on_disk.difference(present.registered).cloned();
    paths.map(|path| Missing { path, rules: [Rule::Registered].into(), named: false }).collect()
}

/// What a capture of the project found, kept for when a seed of it fails.
pub(crate) fn remember(
    session: &Session<'_>,
    project: &Project,
    nix: &HostNix,
    captured: &Captured,
    system: &System,
) {
    let Ok(source_attributes) = project.nix_attributes() else { return };
    let inputs = CaptureInputs {
        source: &captured.source.nar_hash,
        source_attributes: &source_attributes,
        below: project.below_root(),
        attributes: captured.targets.iter().map(|target| target.attribute.as_str()).collect(),
        system: system.as_str(),
        nix,
    };
    KeptRecords::at(session.capture_records()).store(&inputs, &captured.record);
}

/// Why each path would be in a seed of `attributes` of the project, whose source was gathered in `source`. What
/// was captured before is remembered; else Nix is asked again. Without it the rules stay unknown.
fn rules(session: &Session<'_>, project: &Project, source: &Path, attributes: &[String]) -> Option<Record> {
    let record = || -> Result<Record> {
        let nix = HostNix::find()?;
        let system = System::current();
        let inputs = CaptureInputs {
            source: &source_hash(source)?,
            source_attributes: &project.nix_attributes()?,
            below: project.below_root(),
            attributes: attributes.iter().map(String::as_str).collect(),
            system: system.as_str(),
            nix: &nix,
        };
        if let Some(record) = KeptRecords::at(session.capture_records()).load(&inputs) {
            return Ok(record);
        }
        let scratch = Temporary::new(session, "capture")?;
        let phases = Phases::new(session.printer);
        let request = FlakeRequest {
            flake: ".".into(),
            directory: project.dir.clone(),
            attributes: attributes.to_vec(),
            system: system.to_string(),
            store: None,
            scratch: scratch.path().to_owned(),
            derivations: true,
        };
        let captured = capture::flake(&request, &nix, &phases);
        phases.end();
        let captured = captured?;
        remember(session, project, &nix, &captured, &system);
        Ok(captured.record)
    };
    match record() {
        Ok(record) => Some(record),
        Err(error) => {
            session.printer.note(format_args!(
                "which rules are broken is not known, for the project cannot be captured: {}",
                error.causes().join(": ")
            ));
            None
        }
    }
}

/// What a trace of it is called.
fn target(done: Use, attribute: &str) -> String {
    format!("{} {attribute}", name(done))
}

/// What is done with an attribute, in one word.
fn name(done: Use) -> &'static str {
    match done {
        Use::Build => "build",
        Use::Develop => "develop",
        Use::Run => "run",
    }
}

impl Outcome {
    fn new(replay: Replay, record: Option<&Record>, present: Present<'_>) -> Self {
        let missing = match record {
            _ if replay.complete => Vec::new(),
            Some(record) => diagnose(record, present, &replay.messages),
            None => unregistered(present),
        };
        Self { replay, missing: missing.iter().map(Missing::to_string).collect() }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Replay { attribute, done, complete, messages, seconds: took } = &self.replay;
        let state = if *complete { "ok  " } else { "FAIL" };
        let done = name(*done);
        let took = std::time::Duration::from_secs_f64(took.max(0.0));
        write!(f, "{state}  {done:<7}  {attribute}  {}", seconds(took))?;
        for missing in &self.missing {
            write!(f, "\n  {missing}")?;
        }
        if !complete {
            let lines: Vec<_> = messages.lines().collect();
            for line in lines.iter().skip(lines.len().saturating_sub(20)) {
                write!(f, "\n  | {line}")?;
            }
        }
        Ok(())
    }
}
