//! Nix system names, `<architecture>-<kernel>`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest name, in bytes. The longest that Nixpkgs knows has 20.
const MAX_LEN: usize = 64;

/// What Nix calls `system`: for instance `x86_64-linux`.
///
/// Only the form is checked. Which systems exist is decided by Nix, and their list grows.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct System(String);

/// Why a text is not a [`System`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a system: expected <architecture>-<kernel>, for instance \"x86_64-linux\"")]
pub struct SystemError(String);

impl System {
    /// The system that this program was compiled for.
    pub fn current() -> Self {
        let arch = match std::env::consts::ARCH {
            "x86" => "i686",
            "powerpc64" if cfg!(target_endian = "little") => "powerpc64le",
            other => other,
        };
        let kernel = match std::env::consts::OS {
            "macos" => "darwin",
            other => other,
        };
        Self(format!("{arch}-{kernel}"))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for System {
    type Err = SystemError;

    fn from_str(text: &str) -> Result<Self, SystemError> {
        let word = |part: &str| {
            !part.is_empty() && part.bytes().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'_'))
        };
        match text.split_once('-') {
            Some((arch, kernel)) if text.len() <= MAX_LEN && word(arch) && word(kernel) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(SystemError(text.chars().take(80).collect())),
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for System {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for System {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_nix_uses() {
        for text in ["x86_64-linux", "aarch64-darwin", "i686-linux", "riscv64-linux", "powerpc64le-linux"] {
            assert_eq!(text.parse::<System>().unwrap().as_str(), text);
        }
        assert_eq!(System::current().as_str().parse::<System>(), Ok(System::current()));
    }

    #[test]
    fn refuses_other_texts() {
        let long = format!("{}-linux", "a".repeat(MAX_LEN));
        for text in
            ["", "-", "x86_64", "x86_64-", "-linux", "x86-64-linux", "X86_64-linux", "x86_64-linux\n", &long]
        {
            assert!(text.parse::<System>().is_err(), "{text:?}");
        }
    }
}
