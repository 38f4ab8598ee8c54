//! What is known about a run when it is over.

use std::collections::BTreeMap;

use seed_format::{Digest, StorePath};
use serde::{Deserialize, Serialize};

use crate::protocol::Note;
use crate::spec::Exit;

/// A part of a run and how long it took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// What was done: `sandbox`, `evaluation`, `build`, `command`, `export`.
    pub name: String,
    /// Wall-clock time, in seconds.
    pub seconds: f64,
}

impl Phase {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), seconds: 0.0 }
    }

    /// Times `work`.
    pub(crate) fn time<T>(name: &str, work: impl FnOnce() -> T) -> (Self, T) {
        let started = std::time::Instant::now();
        let result = work();
        (Self { name: name.to_owned(), seconds: started.elapsed().as_secs_f64() }, result)
    }
}

/// How a run of one command went.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// How the command ended.
    pub exit: Exit,
    /// How long making the sandbox and running the command took.
    pub phases: Vec<Phase>,
    /// What the user should know about how the sandbox was made.
    pub notes: Vec<Note>,
    /// The signal that this process got meanwhile, and passed on.
    pub signal: Option<i32>,
}

impl Outcome {
    /// The signal that this process got, if the command ended of it or of what it was passed on as. A command
    /// that takes a signal and returns a code of its own has decided otherwise.
    pub fn ended_by(&self) -> Option<i32> {
        self.signal.filter(|_| matches!(self.exit, Exit::Signal(_)))
    }
}

/// What was built, from what, with what and when: the input of a statement about the outputs.
///
/// As JSON, keys are in camel case and times are RFC 3339 in UTC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BuildRecord {
    /// The version of this format: 1.
    pub version: u32,
    /// The seed's manifest digest.
    pub seed: Digest,
    /// The Nix system, `x86_64-linux`.
    pub system: String,
    /// What was built from.
    pub source: Source,
    /// The Nix that built.
    pub nix: NixRecord,
    /// What was asked for and what came of it, in the order in which it was asked for.
    pub targets: Vec<TargetRecord>,
    /// What was asked for and failed, where the others were to go on; left out if there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<FailedTarget>,
    /// When the evaluation began.
    pub started: jiff::Timestamp,
    /// When the last output was there.
    pub finished: jiff::Timestamp,
    /// The parts, in their order.
    pub phases: Vec<Phase>,
}

/// What was built from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// Where the source is kept.
    pub uri: Option<String>,
    /// The commit that is checked out.
    pub commit: Option<String>,
    /// Whether the tree differs from the commit.
    pub dirty: bool,
    /// Digest of the bytes of `flake.lock`, where there is one.
    pub flake_lock: Option<Digest>,
}

/// The Nix that built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NixRecord {
    /// Its version, as it says it.
    pub version: String,
    /// Its settings, as they were written for this build.
    pub settings: BTreeMap<String, String>,
}

/// One attribute that was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRecord {
    /// The full attribute: `packages.x86_64-linux.default`.
    pub attribute: String,
    /// Its derivation.
    pub derivation: StorePath,
    /// All its outputs, in the derivation's order.
    pub outputs: Vec<OutputRecord>,
}

/// One attribute that could not be built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FailedTarget {
    /// The full attribute.
    pub attribute: String,
    /// What failed: `evaluation` or `build`.
    pub phase: String,
}

/// One output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutputRecord {
    /// Its name: `out`, `dev`.
    pub name: String,
    /// Its store path.
    pub path: StorePath,
    /// The SHA-256 of its NAR: of the bytes that were there after the build, and as Nix registered it.
    pub nar_hash: Digest,
    /// The size of its NAR, in bytes.
    pub nar_size: u64,
    /// The store paths that it refers to, itself included if it does.
    pub references: Vec<StorePath>,
}
