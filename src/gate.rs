//! From a reference to a seed, and from a seed to an approval: resolve, gather the evidence, judge.

use std::panic::resume_unwind;
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use seed_format::Digest;
use seed_format::index::Index;
use seed_fuse::mount::SeedFs;
use seed_image::reference::Reference;
use seed_image::seed::{self, Seed, label};
use seed_image::transport::Transport;
use seed_policy::{Ancestry, Approved, Evidence, Found, Pin, SeedFacts};

use crate::error::{Result, ResultExt, failed};
use crate::project::Project;
use crate::session::{Judge, Session};
use crate::statement;

/// A seed in its place. Its digest is known to be right; whether it may be used is not.
pub(crate) struct Located {
    /// The seed by its digest.
    pub(crate) reference: Reference,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) seed: Seed,
}

/// A seed that the policy approved, opened.
pub(crate) struct Admitted<S> {
    /// The seed by its digest.
    pub(crate) reference: Reference,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) opened: S,
    pub(crate) approved: Approved,
    /// How long it took to find the digest.
    pub(crate) resolve: Duration,
    /// How long it took to open the seed, to gather the evidence and to judge it.
    pub(crate) verify: Duration,
}

impl Admitted<Seed> {
    /// The seed in its place, and the approval.
    pub(crate) fn into_located(self) -> (Located, Approved) {
        let Self { reference, transport, opened: seed, approved, .. } = self;
        (Located { reference, transport, seed }, approved)
    }
}

/// Opens a seed without anything to mount: its manifest and configuration.
pub(crate) fn manifest_only(transport: Arc<dyn Transport>, digest: &Digest) -> Result<Seed> {
    Ok(seed::open(transport.as_ref(), digest)?)
}

/// Something that a seed was opened as.
pub(crate) trait Opened: Send {
    /// The seed's manifest and configuration.
    fn seed(&self) -> &Seed;
}

impl Opened for Seed {
    fn seed(&self) -> &Seed {
        self
    }
}

impl Opened for Arc<SeedFs> {
    fn seed(&self) -> &Seed {
        SeedFs::seed(self)
    }
}

/// Who wrote the digest in a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The user, on the command line.
    Written,
    /// The project's `.seed.lock`.
    Lock,
    /// This command, which has just packed the seed.
    Packed,
}

/// Finds a seed and opens it.
pub(crate) fn locate(session: &Session<'_>, reference: &Reference) -> Result<Located> {
    let transport = session.open(&reference.location)?;
    let reference = session.resolve(transport.as_ref(), reference)?;
    let digest = reference.digest.ok_or_else(|| failed(format!("{reference} names no digest")))?;
    let seed =
        seed::open(transport.as_ref(), &digest).context(|| format!("cannot open the seed {reference}"))?;
    Ok(Located { reference, transport, seed })
}

impl Located {
    /// The seed's index, from its layer.
    pub(crate) fn index(&self) -> Result<Index<Vec<u8>>> {
        let context = || format!("cannot read the index of {}", self.reference);
        let bytes = self.seed.index_bytes(self.transport.as_ref()).context(context)?;
        Index::open(bytes).context(context)
    }
}

/// Finds a seed in its place, has `open` open it, gathers what there is to know of it, and has the policy judge it.
pub(crate) fn admit<S: Opened>(
    session: &Session<'_>,
    judge: &Judge,
    transport: Arc<dyn Transport>,
    reference: &Reference,
    origin: Origin,
    project: Option<&Project>,
    open: impl FnOnce(Arc<dyn Transport>, &Digest) -> Result<S> + Send,
) -> Result<Admitted<S>> {
    let began = Instant::now();
    let resolved = session.resolve(transport.as_ref(), reference)?;
    let digest = resolved.digest.ok_or_else(|| failed(format!("{resolved} names no digest")))?;
    let resolve = began.elapsed();
    session.printer.trace().phase("resolve", resolve, &[]);

    // Statements are asked for while the seed is opened: each is a round trip at least.
    let (opened, statements) = thread::scope(|scope| {
        let opening = scope.spawn(|| open(Arc::clone(&transport), &digest));
        let statements = statements(transport.as_ref(), &digest, project);
        (opening.join().unwrap_or_else(|panic| resume_unwind(panic)), statements)
    });
    let opened = opened.context(|| format!("cannot open the seed {resolved}"))?;
    let pin = pin(reference, origin, judge);
    let evidence = evidence(pin, opened.seed(), statements?, project)?;
    let approved = session.judge(judge, &evidence)?;
    let verify = began.elapsed().saturating_sub(resolve);
    session.printer.trace().phase("verify", verify, &[]);
    Ok(Admitted { reference: resolved, transport, opened, approved, resolve, verify })
}

/// Judges a seed that is open already, named by `reference`, for a mount without a project.
pub(crate) fn judge_opened(
    session: &Session<'_>,
    judge: &Judge,
    reference: &Reference,
    seed: &Seed,
) -> Result<Approved> {
    let transport = session.open_remembered(&reference.location)?;
    let statements = statements(transport.as_ref(), &seed.digest, None)?;
    session.judge(judge, &evidence(pin(reference, Origin::Written, judge), seed, statements, None)?)
}

/// Asks for a seed's statements, so that a transport which remembers has them the next time.
pub(crate) fn keep_statements(transport: &dyn Transport, seed: &Digest) -> Result<()> {
    statements(transport, seed, None).map(drop)
}

fn statements(transport: &dyn Transport, seed: &Digest, project: Option<&Project>) -> Result<Vec<Found>> {
    statement::find(transport, seed, |commit| match project {
        Some(project) => project.ancestry(commit),
        None => Ancestry::Unknown { why: "there is no project here".into() },
    })
}

fn evidence(pin: Pin, seed: &Seed, statements: Vec<Found>, project: Option<&Project>) -> Result<Evidence> {
    Ok(Evidence {
        seed: facts(seed)?,
        project: project.map(Project::facts).transpose()?,
        statements,
        ..Evidence::new(pin, seed.digest)
    })
}

/// What the seed says of itself.
fn facts(seed: &Seed) -> Result<SeedFacts> {
    fn read<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
        seed: &Seed,
        label: &'static str,
    ) -> Result<Option<T>> {
        let text = seed.label(label).filter(|text| !text.is_empty());
        text.map(str::parse).transpose().context(|| format!("the seed's label {label} is malformed"))
    }
    Ok(SeedFacts { system: read(seed, label::SYSTEM)?, flake_lock: read(seed, label::FLAKE_LOCK)? })
}

fn pin(reference: &Reference, origin: Origin, judge: &Judge) -> Pin {
    match (reference.digest, origin) {
        (Some(digest), Origin::Written) => Pin::Reference(digest),
        (Some(digest), Origin::Lock) => Pin::Lock(digest),
        (Some(digest), Origin::Packed) => Pin::Packed(digest),
        (None, _) => {
            let tag = reference.tag.clone().unwrap_or_else(|| "latest".into());
            Pin::Tag { tag, allowed: judge.allow_tag }
        }
    }
}
