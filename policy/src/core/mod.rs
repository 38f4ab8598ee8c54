//! The core statement: what every honest builder says of one output, in the same bytes.
//!
//! An [in-toto Statement v1](https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md) with
//! a [SLSA Provenance v1](https://slsa.dev/spec/v1.0/provenance) predicate, as canonical JSON
//! ([RFC 8785](https://www.rfc-editor.org/rfc/rfc8785)). It names neither a builder nor a time nor a run,
//! so builders that made the same output from the same inputs produce equal bytes and can be counted by
//! its SHA-256. What differs between builders belongs to a statement of the run, which names this one's
//! digest.
//!
//! SLSA demands a builder id. Here it is [`ANY_BUILDER`], which is nobody's.
//!
//! Source and `flake.lock` stand in it twice, as parameters and as resolved dependencies, because SLSA
//! verifiers look in either place. The copies must agree.

mod wire;

use std::fmt;

use seed_format::Digest;
use seed_format::json::{self, JsonError};
use serde::{Deserialize, Serialize};

use crate::{Commit, SourceUri, System};

/// `_type` of every statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";

/// `predicateType` of a core statement.
pub const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";

/// Media type of the statement's bytes, and `artifactType` of the referrer that carries it.
pub const MEDIA_TYPE: &str = "application/vnd.in-toto+json";

/// The builder id of a statement that is no single builder's.
pub const ANY_BUILDER: &str = "https://nix-seed.dev/builders/any/v1";

/// What every `buildType` of ours begins with.
const BUILD_TYPES: &str = "https://nix-seed.dev/buildtypes/";

/// Longest statement, in bytes.
pub const MAX_LEN: usize = 64 * 1024;

/// Longest text in one of the free fields, in bytes.
const MAX_TEXT: usize = 1024;

/// What a statement is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A seed; the subject's digest is that of its manifest.
    Seed,
    /// What a project's build made; the subject's digest is the NAR hash of the store path.
    Build,
}

impl Kind {
    /// `buildType` of a statement of this kind.
    pub const fn build_type(self) -> &'static str {
        match self {
            Self::Seed => "https://nix-seed.dev/buildtypes/seed/v1",
            Self::Build => "https://nix-seed.dev/buildtypes/build/v1",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Seed => "seed",
            Self::Build => "build",
        })
    }
}

/// The thing that a statement is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// A name for people; nothing is decided by it, but it is part of the bytes that builders agree on,
    /// so it must follow from the inputs alone.
    pub name: String,
    /// What is meant.
    pub digest: Digest,
}

/// The settings of Nix that decide where the closure came from, as `nix show-config` prints them, with
/// lists sorted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NixConfig {
    /// `sandbox`: `true`, `false` or `relaxed`.
    pub sandbox: String,
    /// `substituters`, sorted, separated by single spaces; empty where none are used.
    pub substituters: String,
    /// `trusted-substituters`, likewise.
    pub trusted_substituters: String,
}

/// The bill of materials that goes with the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sbom {
    /// `application/spdx+json` or `application/vnd.cyclonedx+json`.
    pub media_type: String,
    /// Digest of its bytes.
    pub digest: Digest,
}

/// A core statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreStatement {
    /// What was made.
    pub subject: Subject,
    /// What kind of thing that is.
    pub kind: Kind,
    /// The system that it is for.
    pub system: System,
    /// The flake output's attribute path, for instance `packages.x86_64-linux.default`.
    pub output: String,
    /// The repository that it was made from.
    pub source: SourceUri,
    /// The commit of that repository.
    pub commit: Commit,
    /// Digest of the bytes of `flake.lock`; of no bytes where there is no such file.
    pub flake_lock: Digest,
    /// Where Nix took the closure from.
    pub nix_config: NixConfig,
    /// The bill of materials, where there is one.
    pub sbom: Option<Sbom>,
}

/// Why bytes are not a core statement.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// Not JSON of a core statement's shape: too long, a key twice, an unknown or missing field, or a
    /// field with an impossible value.
    #[error("not a core statement")]
    Json(#[from] JsonError),
    /// A field that has only one possible value has another.
    #[error("`{field}` must be {expected:?}")]
    Constant {
        /// The field.
        field: &'static str,
        /// The value that it must have.
        expected: &'static str,
    },
    /// Two copies of one fact differ.
    #[error("`{field}` and its copy among the resolved dependencies disagree")]
    Disagree {
        /// The field.
        field: &'static str,
    },
    /// A list has too few or too many items, or items in another order.
    #[error("`{field}` must have {expected}")]
    Items {
        /// The field.
        field: &'static str,
        /// What it must have.
        expected: &'static str,
    },
    /// A text is empty, too long or has control characters.
    #[error("`{field}` must have 1 to {MAX_TEXT} bytes and no control characters")]
    Text {
        /// The field.
        field: &'static str,
    },
    /// A list in Nix's settings is not in its one spelling.
    #[error("`nixConfig.{field}` must be sorted, without repetitions and separated by single spaces")]
    NixConfig {
        /// The setting.
        field: &'static str,
    },
    /// The same statement has a canonical spelling, and these bytes are not it.
    #[error("the statement is not in canonical JSON (RFC 8785)")]
    NotCanonical,
}

impl CoreStatement {
    /// The canonical bytes.
    ///
    /// Fails where a field has a value that [`CoreStatement::parse`] would refuse.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CoreError> {
        self.check()?;
        let text =
            serde_json_canonicalizer::to_vec(&wire::Statement::from(self)).map_err(JsonError::Syntax)?;
        if text.len() > MAX_LEN {
            return Err(JsonError::TooLong { len: text.len(), limit: MAX_LEN }.into());
        }
        Ok(text)
    }

    /// The digest that builders agree on: SHA-256 of the canonical bytes.
    pub fn digest(&self) -> Result<Digest, CoreError> {
        Ok(Digest::of(&self.to_bytes()?))
    }

    /// Reads canonical bytes. Two texts that are accepted are equal exactly if their statements are.
    pub fn parse(text: &[u8]) -> Result<Self, CoreError> {
        let wire: wire::Statement = json::from_slice(text, MAX_LEN)?;
        let statement = Self::try_from(wire)?;
        if statement.to_bytes()? != text {
            return Err(CoreError::NotCanonical);
        }
        Ok(statement)
    }

    /// Whether an in-toto document claims to be of the kind that this module reads. Others, such as test
    /// results, may lie beside a seed and say nothing against it. What is no JSON claims nothing and is ours
    /// to refuse.
    pub fn is_claimed_by(text: &[u8]) -> bool {
        let Ok(document) = json::from_slice::<serde_json::Value>(text, MAX_LEN) else { return true };
        let build_type =
            document.pointer("/predicate/buildDefinition/buildType").and_then(|value| value.as_str());
        build_type.is_some_and(|build_type| build_type.starts_with(BUILD_TYPES))
    }

    fn check(&self) -> Result<(), CoreError> {
        let text = |field: &'static str, text: &str| {
            let good = !text.is_empty() && text.len() <= MAX_TEXT && !text.chars().any(char::is_control);
            if good { Ok(()) } else { Err(CoreError::Text { field }) }
        };
        text("subject.name", &self.subject.name)?;
        text("output", &self.output)?;
        if let Some(sbom) = &self.sbom {
            text("sbom.mediaType", &sbom.media_type)?;
        }
        self.nix_config.check()
    }
}

impl NixConfig {
    /// Takes the values as Nix prints them and puts the lists in their one order.
    pub fn normalise(sandbox: &str, substituters: &str, trusted_substituters: &str) -> Self {
        Self {
            sandbox: sandbox.trim().to_owned(),
            substituters: sorted_words(substituters),
            trusted_substituters: sorted_words(trusted_substituters),
        }
    }

    fn check(&self) -> Result<(), CoreError> {
        if !matches!(self.sandbox.as_str(), "true" | "false" | "relaxed") {
            return Err(CoreError::NixConfig { field: "sandbox" });
        }
        for (field, list) in
            [("substituters", &self.substituters), ("trusted-substituters", &self.trusted_substituters)]
        {
            if *list != sorted_words(list) || list.chars().any(char::is_control) {
                return Err(CoreError::NixConfig { field });
            }
        }
        Ok(())
    }
}

fn sorted_words(list: &str) -> String {
    let mut words: Vec<_> = list.split_whitespace().collect();
    words.sort_unstable();
    words.dedup();
    words.join(" ")
}

#[cfg(test)]
mod tests;
