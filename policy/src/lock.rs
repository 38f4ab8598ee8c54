//! `.seed.lock`: the digest of the seed for each system.
//!
//! The file is a JSON object from system to digest, sorted by system, and nothing else:
//!
//! ```json
//! {
//!   "aarch64-linux": "sha256:…",
//!   "x86_64-linux": "sha256:…"
//! }
//! ```

use std::collections::BTreeMap;
use std::fmt;

use seed_format::Digest;
use seed_format::json::{self, JsonError};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use crate::System;

/// Name of the file, at the root of a project.
pub const FILE_NAME: &str = ".seed.lock";

/// Longest file, in bytes: room for some 600 systems.
pub const MAX_LEN: usize = 64 * 1024;

/// The content of a `.seed.lock`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    seeds: BTreeMap<System, Digest>,
}

/// Why a text is not a [`Lock`].
#[derive(Debug, thiserror::Error)]
#[error(
    "{FILE_NAME} must be one JSON object from system to \"sha256:…\", sorted by system, and nothing else"
)]
pub struct LockError(#[from] JsonError);

impl Lock {
    /// Reads a file. Its keys must be sorted and unique; white space does not matter.
    pub fn parse(text: &[u8]) -> Result<Self, LockError> {
        Ok(json::from_slice(text, MAX_LEN)?)
    }

    /// The bytes of the file: two spaces of indentation, a line for each system, a final newline.
    pub fn to_bytes(&self) -> Vec<u8> {
        let lines: Vec<_> =
            self.seeds.iter().map(|(system, digest)| format!("  \"{system}\": \"{digest}\"")).collect();
        match lines.as_slice() {
            [] => b"{}\n".to_vec(),
            lines => format!("{{\n{}\n}}\n", lines.join(",\n")).into_bytes(),
        }
    }

    /// The digest recorded for `system`.
    pub fn get(&self, system: &System) -> Option<Digest> {
        self.seeds.get(system).copied()
    }

    /// Records `digest` for `system`; gives what was recorded before.
    pub fn set(&mut self, system: System, digest: Digest) -> Option<Digest> {
        self.seeds.insert(system, digest)
    }

    /// All systems and their digests, sorted.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&System, &Digest)> {
        self.seeds.iter()
    }
}

impl<'de> Deserialize<'de> for Lock {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sorted;

        impl<'de> Visitor<'de> for Sorted {
            type Value = Lock;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from system to digest")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Lock, A::Error> {
                let mut seeds = BTreeMap::new();
                while let Some((system, digest)) = map.next_entry::<System, Digest>()? {
                    if let Some((last, _)) = seeds.last_key_value()
                        && *last >= system
                    {
                        return Err(A::Error::custom(format_args!(
                            "\"{system}\" must come before \"{last}\""
                        )));
                    }
                    seeds.insert(system, digest);
                }
                Ok(Lock { seeds })
            }
        }

        deserializer.deserialize_map(Sorted)
    }
}

#[cfg(test)]
mod tests {
    use seed_format::Chain;

    use super::*;
    use proptest::prelude::*;

    fn lock(systems: &[(&str, &[u8])]) -> Lock {
        let mut lock = Lock::default();
        for (system, data) in systems {
            lock.set(system.parse().unwrap(), Digest::of(data));
        }
        lock
    }

    #[test]
    fn bytes_are_pinned() {
        let text = concat!(
            "{\n",
            "  \"aarch64-linux\": \"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\",\n",
            "  \"x86_64-linux\": \"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"\n",
            "}\n"
        );
        let lock = lock(&[("x86_64-linux", b"abc"), ("aarch64-linux", b"")]);
        assert_eq!(String::from_utf8(lock.to_bytes()).unwrap(), text);
        assert_eq!(Lock::parse(text.as_bytes()).unwrap(), lock);
        assert_eq!(Lock::default().to_bytes(), b"{}\n");
    }

    #[test]
    fn malformed_files_are_refused() {
        let digest = Digest::of(b"");
        let other = Digest::of(b"other");
        let long = format!("{{{}}}", " ".repeat(MAX_LEN));
        let cases = [
            (String::new(), "EOF"),
            ("[]".into(), "object"),
            ("{} {}".into(), "trailing"),
            (format!("{{\"x86_64\":\"{digest}\"}}"), "not a system"),
            (format!("{{\"x86_64-linux\":\"{}\"}}", digest.hex()), "must begin with"),
            ("{\"x86_64-linux\":null}".into(), "null"),
            ("{\"x86_64-linux\":{}}".into(), "map"),
            (format!("{{\"x86_64-linux\":\"{digest}\",\"x86_64-linux\":\"{other}\"}}"), "x86_64-linux"),
            (format!("{{\"x86_64-linux\":\"{digest}\",\"aarch64-linux\":\"{digest}\"}}"), "must come before"),
            (format!("{{\"x86_64-linux\":\"{digest}\",\"version\":1}}"), "version"),
            (long, "more than"),
            ("<<<<<<< HEAD\n{}".into(), "expected value"),
        ];
        for (text, word) in cases {
            let error = Lock::parse(text.as_bytes()).unwrap_err();
            let chain = Chain(&error).to_string();
            assert!(chain.contains(word), "{text:.80}: {chain}");
        }
    }

    proptest! {
        #[test]
        fn round_trips(systems in proptest::collection::btree_map("[a-z0-9_]{1,8}-[a-z]{1,8}", any::<[u8; 32]>(), 0..6)) {
            let mut lock = Lock::default();
            for (system, digest) in &systems {
                lock.set(system.parse().unwrap(), Digest::from_bytes(*digest));
            }
            prop_assert_eq!(Lock::parse(&lock.to_bytes()).unwrap(), lock);
        }

        #[test]
        fn never_panics(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Lock::parse(&text);
        }
    }
}
