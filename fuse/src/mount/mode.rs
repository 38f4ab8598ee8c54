//! Which of the two trees a mount shows.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How a seed shall be shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// By the kernel where it can and may, else by FUSE.
    #[default]
    Auto,
    /// By the kernel, which mounts the seed's index as EROFS: for root, from Linux 6.12 on; on older ones
    /// through loop devices.
    Kernel,
    /// The same, through loop devices in any case.
    KernelLoop,
    /// By FUSE.
    Fuse,
}

/// A word that is no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not one of auto, kernel, fuse")]
pub struct UnknownMode(String);

/// Their words; the last is for tests of what older kernels need.
const WORDS: [(&str, Mode); 4] =
    [("auto", Mode::Auto), ("kernel", Mode::Kernel), ("fuse", Mode::Fuse), ("kernel-loop", Mode::KernelLoop)];

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(word: &str) -> Result<Self, UnknownMode> {
        let found = WORDS.iter().find(|(known, _)| *known == word);
        found.map(|(_, mode)| *mode).ok_or_else(|| UnknownMode(word.to_owned()))
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = WORDS.iter().find(|(_, mode)| mode == self).map_or("", |(word, _)| word);
        f.write_str(word)
    }
}

/// How a mount is shown, and why so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// `kernel` or `fuse`.
    pub mode: String,
    /// What decided, in words: for `fuse`, why it is not the kernel.
    #[serde(default, rename = "mode_reason")]
    pub reason: String,
}

impl Shown {
    pub(super) fn is_by_kernel(&self) -> bool {
        self.mode == Mode::Kernel.to_string()
    }

    pub(super) fn by_fuse(reason: impl Into<String>) -> Self {
        Self { mode: Mode::Fuse.to_string(), reason: reason.into() }
    }

    pub(super) fn by_kernel(reason: &str) -> Self {
        Self { mode: Mode::Kernel.to_string(), reason: reason.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for (word, mode) in WORDS {
            assert_eq!(word.parse(), Ok(mode));
            assert_eq!(mode.to_string(), word);
        }
        let error = Mode::from_str("Kernel").unwrap_err();
        assert_eq!(error.to_string(), "\"Kernel\" is not one of auto, kernel, fuse");
    }
}
