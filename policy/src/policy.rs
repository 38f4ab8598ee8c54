//! The operator's policy: what evidence a seed must have before it is mounted or run.

use std::fmt;

use serde::Deserialize;

use crate::keys::{self, UnknownKey};
use crate::source::SourceUri;

/// Longest policy file, in bytes.
pub const MAX_LEN: usize = 1024 * 1024;

/// Every key of a policy file.
pub const KEYS: &[&str] = &["level", "sources", "statement", "unknown-ancestry"];

/// Keys that only the levels Credulous and Zero have.
const KEYS_OF_OTHER_LEVELS: &[&str] = &["builders", "contract", "deadline", "logs", "quorum"];

/// How much must be proved. None of them turns a check off: a level says which proofs are asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// One builder: the digest is the expected one and its core statement, if any, fits the project.
    #[default]
    Innocent,
    /// N of M independent builders, signed and logged.
    Credulous,
    /// N of M independent builders, anchored by a contract.
    Zero,
}

impl Level {
    /// The level as a policy file spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Innocent => "innocent",
            Self::Credulous => "credulous",
            Self::Zero => "zero",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a seed needs a core statement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StatementRule {
    /// Statements that are there must fit; a seed without any is accepted.
    #[default]
    WhenPresent,
    /// A seed without a statement is refused.
    Required,
}

/// What to do when the clone is too shallow to show that the attested commit is an ancestor of HEAD.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownAncestry {
    /// Refuse: what is not known is not proved.
    #[default]
    Refuse,
    /// Accept, and say so in the verdict.
    Accept,
}

/// A policy. The default is [`Level::Innocent`] with the defaults of each rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Policy {
    /// How much must be proved.
    pub level: Level,
    /// Sources that seeds may come from. Where empty, the source of the project at hand.
    pub sources: Vec<SourceUri>,
    /// Whether a seed needs a core statement. A list of `sources` needs one too: nothing else names
    /// the source of a seed.
    pub statement: StatementRule,
    /// What to do when it cannot be known whether the attested commit is an ancestor of HEAD.
    pub unknown_ancestry: UnknownAncestry,
}

/// Why a text is not a [`Policy`].
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file is too long.
    #[error("the policy has {len} bytes, more than the {MAX_LEN} allowed")]
    TooLong {
        /// Bytes of the file.
        len: usize,
    },
    /// Not TOML, or a value of the wrong kind.
    #[error("the policy is not valid")]
    Syntax(#[from] toml::de::Error),
    /// A key that no policy has.
    #[error("{0}")]
    UnknownKey(UnknownKey),
    /// A key that a level has which this version cannot judge.
    #[error("the key `{key}` belongs to the levels credulous and zero, which this version cannot judge")]
    OtherLevel {
        /// The key.
        key: String,
    },
}

impl Policy {
    /// Reads a policy file. A key that is not in [`KEYS`] is an error.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_LEN {
            return Err(PolicyError::TooLong { len: text.len() });
        }
        let table: toml::Table = text.parse()?;
        if let Some(key) = table.keys().find(|key| KEYS_OF_OTHER_LEVELS.contains(&key.as_str())) {
            return Err(PolicyError::OtherLevel { key: key.clone() });
        }
        if let Some(unknown) = keys::unknown(&table, KEYS) {
            return Err(PolicyError::UnknownKey(unknown));
        }
        // From the text, not the table: so that errors show the line.
        Ok(toml::from_str(text)?)
    }

    /// Whether a seed without a core statement is refused.
    pub(crate) fn needs_statement(&self) -> bool {
        self.statement == StatementRule::Required || !self.sources.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_policy_is_the_default() {
        let policy = Policy::parse("").unwrap();
        assert_eq!(policy, Policy::default());
        assert_eq!(policy.level, Level::Innocent);
        assert!(!policy.needs_statement());
    }

    #[test]
    fn reads_every_key() {
        let policy = Policy::parse(
            "level = \"zero\"\nsources = [\"git+https://github.com/acme/app\"]\n\
             statement = \"required\"\nunknown-ancestry = \"accept\"\n",
        )
        .unwrap();
        let expected = Policy {
            level: Level::Zero,
            sources: vec![SourceUri::normalise("github:acme/app").unwrap()],
            statement: StatementRule::Required,
            unknown_ancestry: UnknownAncestry::Accept,
        };
        assert_eq!(policy, expected);
    }

    #[test]
    fn every_listed_key_is_one_of_the_struct() {
        for key in KEYS {
            let error = toml::from_str::<Policy>(&format!("{key} = 1979-05-27")).unwrap_err();
            assert!(!error.to_string().contains("unknown field"), "{key}: {error}");
        }
    }

    #[test]
    fn refuses_other_files() {
        let cases = [
            ("levle = \"zero\"", "did you mean `level`"),
            ("statements = \"required\"", "did you mean `statement`"),
            ("[quorum]\nn = 2", "credulous and zero"),
            ("level = \"none\"", "not valid"),
            ("level = 1", "not valid"),
            ("level", "not valid"),
            ("level = \"zero\"\nlevel = \"innocent\"", "not valid"),
            ("sources = [\"https://github.com/acme/app\"]", "not valid"),
        ];
        for (text, word) in cases {
            let error = Policy::parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        assert!(matches!(Policy::parse(&" ".repeat(MAX_LEN + 1)), Err(PolicyError::TooLong { .. })));
    }
}
