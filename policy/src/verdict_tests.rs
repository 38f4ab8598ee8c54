use proptest::prelude::*;

use super::*;
use crate::core::{NixConfig, Subject};
use crate::evidence::SeedFacts;
use crate::policy::StatementRule;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn seed() -> Digest {
    Digest::of(b"seed")
}

fn other() -> Digest {
    Digest::of(b"other")
}

fn lock() -> Digest {
    Digest::of(b"lock")
}

fn source() -> SourceUri {
    SourceUri::normalise("github:acme/app").unwrap()
}

fn core() -> CoreStatement {
    CoreStatement {
        subject: Subject { name: "app.seed".into(), digest: seed() },
        kind: Kind::Seed,
        system: System::current(),
        output: "packages.x86_64-linux.seed".into(),
        source: source(),
        commit: "a".repeat(40).parse().unwrap(),
        flake_lock: lock(),
        nix_config: NixConfig::normalise("true", "", ""),
        sbom: None,
    }
}

fn found(core: &CoreStatement, ancestry: Ancestry) -> Found {
    Found::read(&core.to_bytes().unwrap(), |_| ancestry)
}

/// Everything that can be known, and all of it good.
fn evidence() -> Evidence {
    Evidence {
        pin: Pin::Lock(seed()),
        resolved: seed(),
        system: System::current(),
        seed: SeedFacts { system: Some(System::current()), flake_lock: Some(lock()) },
        project: Some(Project {
            source: Some(source()),
            head: "b".repeat(40).parse().ok(),
            flake_lock: lock(),
        }),
        statements: vec![found(&core(), Ancestry::Ancestor)],
    }
}

fn codes(verdict: &Result<Approved, Refusal>) -> Vec<&'static str> {
    verdict
        .as_ref()
        .err()
        .map(|refusal| refusal.reasons().iter().map(Reason::code).collect())
        .unwrap_or_default()
}

#[test]
fn good_evidence_is_approved() {
    let approved = decide(&Policy::default(), &evidence(), NOW).unwrap();
    assert_eq!(approved.digest(), seed());
    assert_eq!(approved.level(), Level::Innocent);
    assert_eq!(approved.at(), NOW);
    assert_eq!(approved.statement(), Some(core().digest().unwrap()));
    assert_eq!(approved.notes(), []);
}

#[test]
fn a_digest_alone_is_enough_for_the_default_policy() {
    for pin in [Pin::Lock(seed()), Pin::Reference(seed()), Pin::Packed(seed())] {
        let approved = decide(&Policy::default(), &Evidence::new(pin, seed()), NOW).unwrap();
        assert_eq!((approved.digest(), approved.statement()), (seed(), None));
    }
    let tag = Pin::Tag { tag: "main".into(), allowed: true };
    assert_eq!(decide(&Policy::default(), &Evidence::new(tag, seed()), NOW).unwrap().digest(), seed());
}

#[test]
fn each_fault_of_the_evidence_is_named() {
    type Change = fn(&mut Evidence);
    let statement = |change: fn(&mut CoreStatement)| {
        let mut core = core();
        change(&mut core);
        found(&core, Ancestry::Ancestor)
    };
    let cases: Vec<(&str, Change)> = vec![
        ("tag-not-pinned", |e| e.pin = Pin::Tag { tag: "main".into(), allowed: false }),
        ("digest-mismatch", |e| e.pin = Pin::Lock(other())),
        ("digest-mismatch", |e| e.pin = Pin::Reference(other())),
        ("digest-mismatch", |e| e.pin = Pin::Packed(other())),
        ("system-mismatch", |e| e.seed.system = "riscv64-darwin".parse().ok()),
        ("flake-lock-mismatch", |e| e.seed.flake_lock = Some(other())),
        ("statement-malformed", |e| e.statements = vec![Found::read(b"{}", |_| Ancestry::Ancestor)]),
        ("commit-not-ancestor", |e| e.statements = vec![found(&core(), Ancestry::NotAncestor)]),
        ("commit-ancestry-unknown", |e| {
            e.statements = vec![found(&core(), Ancestry::Unknown { why: "the clone is shallow".into() })];
        }),
        ("statement-source", |e| e.project.as_mut().unwrap().source = None),
        ("statement-source", |e| {
            e.project.as_mut().unwrap().source = SourceUri::normalise("github:acme/fork").ok();
        }),
    ];
    for (code, change) in cases {
        let mut evidence = evidence();
        change(&mut evidence);
        assert_eq!(codes(&decide(&Policy::default(), &evidence, NOW)), [code]);
    }
    let cases = [
        ("statement-kind", statement(|core| core.kind = Kind::Build)),
        ("statement-subject", statement(|core| core.subject.digest = other())),
        ("statement-system", statement(|core| core.system = "riscv64-darwin".parse().unwrap())),
        (
            "statement-source",
            statement(|core| core.source = SourceUri::normalise("github:acme/fork").unwrap()),
        ),
        ("statement-flake-lock", statement(|core| core.flake_lock = other())),
    ];
    for (code, statement) in cases {
        let evidence = Evidence { statements: vec![statement], ..evidence() };
        assert_eq!(codes(&decide(&Policy::default(), &evidence, NOW)), [code]);
    }
}

#[test]
fn every_fault_is_listed_at_once() {
    let mut core = core();
    core.subject.digest = other();
    core.flake_lock = other();
    let evidence = Evidence {
        pin: Pin::Lock(other()),
        seed: SeedFacts { system: "riscv64-darwin".parse().ok(), flake_lock: Some(other()) },
        statements: vec![found(&core, Ancestry::NotAncestor), Found::read(b"[]", |_| Ancestry::Ancestor)],
        ..evidence()
    };
    let policy = Policy { level: Level::Credulous, ..Policy::default() };
    let refusal = decide(&policy, &evidence, NOW).unwrap_err();
    let found: Vec<_> = refusal.reasons().iter().map(Reason::code).collect();
    let expected = [
        "level-unsupported",
        "digest-mismatch",
        "system-mismatch",
        "flake-lock-mismatch",
        "statement-subject",
        "statement-flake-lock",
        "commit-not-ancestor",
        "statement-malformed",
    ];
    assert_eq!(found, expected);
    assert_eq!(refusal.to_string().lines().count(), 1 + expected.len());
}

#[test]
fn levels_that_cannot_be_judged_are_refused_whatever_the_evidence() {
    for level in [Level::Credulous, Level::Zero] {
        let verdict = decide(&Policy { level, ..Policy::default() }, &evidence(), NOW);
        assert_eq!(codes(&verdict), ["level-unsupported"]);
        assert!(verdict.unwrap_err().to_string().contains(level.name()));
    }
}

#[test]
fn a_policy_can_demand_a_statement() {
    let required = Policy { statement: StatementRule::Required, ..Policy::default() };
    let listed = Policy { sources: vec![source()], ..Policy::default() };
    for policy in [required, listed] {
        assert!(decide(&policy, &evidence(), NOW).is_ok());
        let without = Evidence { statements: Vec::new(), ..evidence() };
        assert_eq!(codes(&decide(&policy, &without, NOW)), ["statement-missing"]);
    }
}

#[test]
fn listed_sources_win_over_the_project() {
    let policy =
        Policy { sources: vec![SourceUri::normalise("github:acme/infra").unwrap()], ..Policy::default() };
    assert_eq!(codes(&decide(&policy, &evidence(), NOW)), ["statement-source-not-listed"]);
    let policy = Policy { sources: vec![source()], ..Policy::default() };
    let mut fork = evidence();
    fork.project.as_mut().unwrap().source = None;
    assert!(decide(&policy, &fork, NOW).is_ok());
}

#[test]
fn a_policy_can_accept_unknown_ancestry_and_the_verdict_says_so() {
    let policy = Policy { unknown_ancestry: UnknownAncestry::Accept, ..Policy::default() };
    let why = "the clone is shallow".to_owned();
    let statements = vec![found(&core(), Ancestry::Unknown { why })];
    let approved = decide(&policy, &Evidence { statements, ..evidence() }, NOW).unwrap();
    assert_eq!(approved.notes().iter().map(Reason::code).collect::<Vec<_>>(), ["commit-ancestry-unknown"]);
    let statements = vec![found(&core(), Ancestry::NotAncestor)];
    let verdict = decide(&policy, &Evidence { statements, ..evidence() }, NOW);
    assert_eq!(codes(&verdict), ["commit-not-ancestor"]);
}

#[test]
fn a_stray_statement_cannot_stop_a_build() {
    let mut stray = core();
    stray.subject.digest = other();
    for position in [0, 1] {
        let mut evidence = evidence();
        evidence.statements.insert(position, found(&stray, Ancestry::Ancestor));
        let approved = decide(&Policy::default(), &evidence, NOW).unwrap();
        assert_eq!(approved.statement(), Some(core().digest().unwrap()));
        assert_eq!(approved.notes().iter().map(Reason::code).collect::<Vec<_>>(), ["statement-subject"]);
    }
}

#[test]
fn reasons_say_what_to_do() {
    let mut evidence = evidence();
    evidence.pin = Pin::Lock(other());
    let message = decide(&Policy::default(), &evidence, NOW).unwrap_err().to_string();
    for word in [".seed.lock", &other().to_string(), &seed().to_string(), "do not use it"] {
        assert!(message.contains(word), "{message}");
    }
}

proptest! {
    /// Whatever else is true, an approval is for the digest that was named.
    #[test]
    fn only_the_named_digest_is_approved(
        named in any::<bool>(),
        listed in any::<bool>(),
        required in any::<bool>(),
        project in any::<bool>(),
        statements in 0usize..3,
    ) {
        let policy = Policy {
            sources: if listed { vec![source()] } else { Vec::new() },
            statement: if required { StatementRule::Required } else { StatementRule::WhenPresent },
            ..Policy::default()
        };
        let mut evidence = evidence();
        evidence.pin = Pin::Lock(if named { seed() } else { other() });
        if !project {
            evidence.project = None;
        }
        evidence.statements = (0..statements).map(|_| found(&core(), Ancestry::Ancestor)).collect();
        let verdict = decide(&policy, &evidence, NOW);
        prop_assert_eq!(verdict.is_ok(), named && (statements > 0 || !(listed || required)));
        if let Ok(approved) = verdict {
            prop_assert_eq!(approved.digest(), seed());
        }
    }
}
