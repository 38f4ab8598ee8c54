//! The verdict: one function, one type that it alone can make, and every reason against.

use std::fmt;
use std::time::SystemTime;

use seed_format::{Chain, Digest};

use crate::core::{CoreStatement, Kind};
use crate::evidence::{Ancestry, Evidence, Found, Pin, Project};
use crate::policy::{Level, Policy, UnknownAncestry};
use crate::{Commit, SourceUri, System};

/// A seed that a policy accepted. Only [`decide`] makes one.
#[derive(Debug, Clone)]
pub struct Approved {
    digest: Digest,
    level: Level,
    at: SystemTime,
    statement: Option<Digest>,
    notes: Vec<Reason>,
}

impl Approved {
    /// The digest of the seed's manifest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The level that was judged.
    pub fn level(&self) -> Level {
        self.level
    }

    /// When it was judged, as the caller said.
    pub fn at(&self) -> SystemTime {
        self.at
    }

    /// The core statement that fits, where there is one.
    pub fn statement(&self) -> Option<Digest> {
        self.statement
    }

    /// What was found wanting and did not prevent the approval: statements that do not fit beside one
    /// that does, and what the policy accepts as not known.
    pub fn notes(&self) -> &[Reason] {
        &self.notes
    }
}

/// Every reason why a seed was refused; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    reasons: Vec<Reason>,
}

impl Refusal {
    /// The reasons, in the order in which the checks are made.
    pub fn reasons(&self) -> &[Reason] {
        &self.reasons
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the policy refuses this seed")?;
        self.reasons.iter().try_for_each(|reason| write!(f, "\n  - {reason}"))
    }
}

impl std::error::Error for Refusal {}

/// One reason against a seed: what is wrong, where, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The policy asks for a level whose evidence cannot be gathered.
    #[error(
        "the policy asks for the level {level}, whose evidence ({}) this version can neither gather nor judge: \
         use a version that can, or have the operator set level = \"innocent\"", evidence_of(*level)
    )]
    Level {
        /// The level.
        level: Level,
    },
    /// Only a tag names the seed.
    #[error(
        "the tag {tag:?} may name another seed tomorrow; it names {resolved} now: write that digest, or allow \
         the tag with --allow-tag"
    )]
    Tag {
        /// The tag.
        tag: String,
        /// What it names now.
        resolved: Digest,
    },
    /// What was given is not what was asked for.
    #[error(
        "{} names {expected} and the registry gave {resolved}: do not use it; find out who changed it",
        origin(pin)
    )]
    Digest {
        /// What named the seed.
        pin: Pin,
        /// The digest it named.
        expected: Digest,
        /// The digest of what was given.
        resolved: Digest,
    },
    /// The seed is for another system.
    #[error(
        "the seed is for {seed} and this machine is {machine}: pack one with `seed pack --system {machine}`"
    )]
    System {
        /// The seed's.
        seed: System,
        /// The machine's.
        machine: System,
    },
    /// The project's `flake.lock` is not the one that the seed was made from.
    #[error(
        "the seed was made from another flake.lock ({seed}) than the project's ({project}): pack a new seed with \
         `seed pack --lock`"
    )]
    FlakeLock {
        /// Digest of the one the seed was made from.
        seed: Digest,
        /// Digest of the project's.
        project: Digest,
    },
    /// There is no statement and the policy wants one.
    #[error(
        "no core statement was found for the seed and the policy requires one: publish it with `seed pack --to`"
    )]
    StatementMissing,
    /// A statement's bytes are not a core statement.
    #[error("the statement {statement} is malformed ({why}): have its builder make it again")]
    StatementMalformed {
        /// Digest of its bytes.
        statement: Digest,
        /// What is wrong.
        why: String,
    },
    /// A statement that is about something else than a seed.
    #[error(
        "the statement {statement} is about a {kind}, not about a seed: publish the seed's own statement"
    )]
    StatementKind {
        /// Digest of its bytes.
        statement: Digest,
        /// What it is about.
        kind: Kind,
    },
    /// A statement about another seed.
    #[error(
        "the statement {statement} is about {subject}, not about this seed: publish this seed's own statement"
    )]
    StatementSubject {
        /// Digest of its bytes.
        statement: Digest,
        /// What it is about.
        subject: Digest,
    },
    /// The seed was made for another system than the one it will run on.
    #[error(
        "the statement {statement} attests a seed for {attested}, and this machine is {machine}: pack one for it"
    )]
    StatementSystem {
        /// Digest of its bytes.
        statement: Digest,
        /// The system that it attests.
        attested: System,
        /// The machine's.
        machine: System,
    },
    /// The seed was made from another repository.
    #[error(
        "the statement {statement} attests a seed of {attested}, which is not the source of this project ({}): use \
         this project's seed, or have the operator list that source in the policy", expected.as_ref().map_or("unknown", SourceUri::as_str)
    )]
    StatementSource {
        /// Digest of its bytes.
        statement: Digest,
        /// The source that it attests.
        attested: SourceUri,
        /// The project's source, where it is known.
        expected: Option<SourceUri>,
    },
    /// The seed was made from a repository that the policy does not list.
    #[error(
        "the statement {statement} attests a seed of {attested}, which the policy's `sources` does not list"
    )]
    StatementSourceNotListed {
        /// Digest of its bytes.
        statement: Digest,
        /// The source that it attests.
        attested: SourceUri,
    },
    /// The seed was made from another `flake.lock`.
    #[error(
        "the statement {statement} attests the flake.lock {attested}, and the project's is {project}: pack a new seed \
         with `seed pack --lock`"
    )]
    StatementFlakeLock {
        /// Digest of its bytes.
        statement: Digest,
        /// The digest that it attests.
        attested: Digest,
        /// Digest of the project's.
        project: Digest,
    },
    /// The seed was made from a commit that is not in the project's history.
    #[error(
        "the statement {statement} attests the commit {commit}, which is not an ancestor of HEAD{}: pack a seed from \
         this branch with `seed pack --lock`", head.as_ref().map(|head| format!(" ({head})")).unwrap_or_default()
    )]
    NotAncestor {
        /// Digest of its bytes.
        statement: Digest,
        /// The commit that it attests.
        commit: Commit,
        /// The project's HEAD, where it is known.
        head: Option<Commit>,
    },
    /// It cannot be known whether the seed was made from a commit in the project's history.
    #[error(
        "it is not known whether the commit {commit}, attested by the statement {statement}, is an ancestor of HEAD \
         ({why}): fetch the history with `git fetch --unshallow --filter=tree:0`"
    )]
    AncestryUnknown {
        /// Digest of its bytes.
        statement: Digest,
        /// The commit that it attests.
        commit: Commit,
        /// Why it is not known.
        why: String,
    },
}

impl Reason {
    /// A name for machines, which does not change with the wording.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Level { .. } => "level-unsupported",
            Self::Tag { .. } => "tag-not-pinned",
            Self::Digest { .. } => "digest-mismatch",
            Self::System { .. } => "system-mismatch",
            Self::FlakeLock { .. } => "flake-lock-mismatch",
            Self::StatementMissing => "statement-missing",
            Self::StatementMalformed { .. } => "statement-malformed",
            Self::StatementKind { .. } => "statement-kind",
            Self::StatementSubject { .. } => "statement-subject",
            Self::StatementSystem { .. } => "statement-system",
            Self::StatementSource { .. } => "statement-source",
            Self::StatementSourceNotListed { .. } => "statement-source-not-listed",
            Self::StatementFlakeLock { .. } => "statement-flake-lock",
            Self::NotAncestor { .. } => "commit-not-ancestor",
            Self::AncestryUnknown { .. } => "commit-ancestry-unknown",
        }
    }
}

fn evidence_of(level: Level) -> &'static str {
    match level {
        Level::Innocent => "a digest",
        Level::Credulous => "signed statements of a quorum of builders and their log proofs",
        Level::Zero => "attestations anchored by a contract",
    }
}

fn origin(pin: &Pin) -> &'static str {
    match pin {
        Pin::Lock(_) => ".seed.lock",
        Pin::Reference(_) => "the reference",
        Pin::Packed(_) => "the seed that was just packed",
        Pin::Tag { .. } => "the tag",
    }
}

/// Judges `evidence` by `policy`, at the time `now`.
///
/// All checks are made, whatever the first of them says, so that a refusal names everything that has to
/// be put right.
pub fn decide(policy: &Policy, evidence: &Evidence, now: SystemTime) -> Result<Approved, Refusal> {
    let mut reasons = Vec::new();
    if policy.level != Level::Innocent {
        reasons.push(Reason::Level { level: policy.level });
    }
    judge_pin(evidence, &mut reasons);
    judge_facts(evidence, &mut reasons);
    let (statement, notes) = judge_statements(policy, evidence, &mut reasons);
    if reasons.is_empty() {
        Ok(Approved { digest: evidence.resolved, level: policy.level, at: now, statement, notes })
    } else {
        Err(Refusal { reasons })
    }
}

fn judge_pin(evidence: &Evidence, reasons: &mut Vec<Reason>) {
    let resolved = evidence.resolved;
    match &evidence.pin {
        Pin::Tag { allowed: true, .. } => {}
        Pin::Tag { tag, allowed: false } => reasons.push(Reason::Tag { tag: tag.clone(), resolved }),
        pin @ (Pin::Lock(expected) | Pin::Reference(expected) | Pin::Packed(expected)) => {
            if *expected != resolved {
                reasons.push(Reason::Digest { pin: pin.clone(), expected: *expected, resolved });
            }
        }
    }
}

fn judge_facts(evidence: &Evidence, reasons: &mut Vec<Reason>) {
    if let Some(system) = &evidence.seed.system
        && *system != evidence.system
    {
        reasons.push(Reason::System { seed: system.clone(), machine: evidence.system.clone() });
    }
    if let (Some(seed), Some(project)) = (evidence.seed.flake_lock, &evidence.project)
        && seed != project.flake_lock
    {
        reasons.push(Reason::FlakeLock { seed, project: project.flake_lock });
    }
}

/// One statement that fits is enough: whoever can write to a registry can add one that does not, and
/// must not be able to stop builds with it. What the others lack is noted.
fn judge_statements(
    policy: &Policy,
    evidence: &Evidence,
    reasons: &mut Vec<Reason>,
) -> (Option<Digest>, Vec<Reason>) {
    if evidence.statements.is_empty() {
        if policy.needs_statement() {
            reasons.push(Reason::StatementMissing);
        }
        return (None, Vec::new());
    }
    let mut fitting = None;
    let mut against = Vec::new();
    let mut notes = Vec::new();
    for found in &evidence.statements {
        match judge_statement(policy, evidence, found) {
            Ok(accepted) => {
                fitting = fitting.or(Some(found.digest));
                notes.extend(accepted);
            }
            Err(faults) => against.extend(faults),
        }
    }
    if fitting.is_some() {
        notes.extend(against);
    } else {
        reasons.extend(against);
    }
    (fitting, notes)
}

/// What the policy accepts without proof, or everything that is wrong with one statement.
fn judge_statement(policy: &Policy, evidence: &Evidence, found: &Found) -> Result<Vec<Reason>, Vec<Reason>> {
    let statement = found.digest;
    let core = match &found.statement {
        Ok(core) => core,
        Err(error) => {
            return Err(vec![Reason::StatementMalformed { statement, why: Chain(error).to_string() }]);
        }
    };
    let mut faults = Vec::new();
    let mut accepted = Vec::new();
    if core.kind != Kind::Seed {
        faults.push(Reason::StatementKind { statement, kind: core.kind });
    }
    if core.subject.digest != evidence.resolved {
        faults.push(Reason::StatementSubject { statement, subject: core.subject.digest });
    }
    if core.system != evidence.system {
        let (attested, machine) = (core.system.clone(), evidence.system.clone());
        faults.push(Reason::StatementSystem { statement, attested, machine });
    }
    if !policy.sources.is_empty() && !policy.sources.contains(&core.source) {
        faults.push(Reason::StatementSourceNotListed { statement, attested: core.source.clone() });
    }
    if let Some(project) = &evidence.project {
        judge_against_project(policy, found, core, project, &mut faults, &mut accepted);
    }
    if faults.is_empty() { Ok(accepted) } else { Err(faults) }
}

fn judge_against_project(
    policy: &Policy,
    found: &Found,
    core: &CoreStatement,
    project: &Project,
    faults: &mut Vec<Reason>,
    accepted: &mut Vec<Reason>,
) {
    let statement = found.digest;
    // A list of sources in the policy takes the place of the project's own word for where it comes from.
    if policy.sources.is_empty() && project.source.as_ref() != Some(&core.source) {
        let (attested, expected) = (core.source.clone(), project.source.clone());
        faults.push(Reason::StatementSource { statement, attested, expected });
    }
    if core.flake_lock != project.flake_lock {
        let (attested, project) = (core.flake_lock, project.flake_lock);
        faults.push(Reason::StatementFlakeLock { statement, attested, project });
    }
    let commit = core.commit.clone();
    match &found.ancestry {
        Ancestry::Ancestor => {}
        Ancestry::NotAncestor => {
            faults.push(Reason::NotAncestor { statement, commit, head: project.head.clone() });
        }
        Ancestry::Unknown { why } => {
            let reason = Reason::AncestryUnknown { statement, commit, why: why.clone() };
            match policy.unknown_ancestry {
                UnknownAncestry::Refuse => faults.push(reason),
                UnknownAncestry::Accept => accepted.push(reason),
            }
        }
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
