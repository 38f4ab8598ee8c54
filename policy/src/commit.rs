//! Git commits by their full object name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The full name of a git commit: 40 (SHA-1) or 64 (SHA-256) lower-case hexadecimal digits.
///
/// An abbreviated name is not a commit: what it means depends on the repository that is asked.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Commit(String);

/// Why a text is not a [`Commit`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a full git commit: it must have 40 or 64 lower-case hexadecimal digits")]
pub struct CommitError(String);

impl Commit {
    /// The hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Commit {
    type Err = CommitError;

    fn from_str(text: &str) -> Result<Self, CommitError> {
        let digits = text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        if digits && matches!(text.len(), 40 | 64) {
            Ok(Self(text.to_owned()))
        } else {
            Err(CommitError(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Commit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Commit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_full_names_only() {
        for len in [40, 64] {
            let text = "0123456789abcdef".repeat(4)[..len].to_owned();
            assert_eq!(text.parse::<Commit>().unwrap().as_str(), text);
        }
        for text in
            ["", "HEAD", "0123456", &"a".repeat(39), &"a".repeat(41), &"A".repeat(40), &"g".repeat(40)]
        {
            assert!(text.parse::<Commit>().is_err(), "{text:?}");
        }
    }
}
