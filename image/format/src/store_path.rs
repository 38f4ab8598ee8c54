//! Nix store paths and the base-32 alphabet that they are written in.
//!
//! Source of the rules: the Nix manual, "Store Path Specification", and `libstore/path.cc`.

use std::fmt;
use std::str::FromStr;

/// The only store directory that a seed can hold: paths in it are not relocatable.
pub const STORE_DIR: &str = "/nix/store";

/// Longest name (the part after the hash and the dash), in bytes.
pub const MAX_NAME_LEN: usize = 211;

const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// Whether `c` is in [`ALPHABET`]: all digits and lower-case letters but four.
const fn is_digit(c: u8) -> bool {
    matches!(c, b'0'..=b'9' | b'a'..=b'z') && !matches!(c, b'e' | b'o' | b't' | b'u')
}

/// A path directly in [`STORE_DIR`]: a 20-byte hash and a name.
///
/// Ordered as its text is: by hash part, then by name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath {
    /// `<hash part>-<name>`.
    base: String,
}

/// Why a text is not a [`StorePath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorePathError {
    /// The path is not directly in `/nix/store`.
    #[error("{0:?} is not a store path: it must lie directly in {STORE_DIR}")]
    Directory(String),
    /// The base name does not begin with a hash part and a dash.
    #[error("{0:?} is not a store path: its name must begin with 32 base-32 digits and a dash")]
    Hash(String),
    /// The name is empty, too long, or has a character that Nix does not allow.
    #[error(
        "{0:?} is not a store path: its name must have 1 to {MAX_NAME_LEN} of the characters A-Z a-z 0-9 + - . _ ? ="
    )]
    Name(String),
}

impl StorePath {
    /// Parses `<hash part>-<name>`, without a directory.
    pub fn from_base_name(base: &str) -> Result<Self, StorePathError> {
        Self::check_base_name(base)?;
        Ok(Self { base: base.to_owned() })
    }

    /// Whether [`Self::from_base_name`] takes `base`.
    pub fn check_base_name(base: &str) -> Result<(), StorePathError> {
        let shown = || base.chars().take(256).collect::<String>();
        let (hash, rest) = base.split_at_checked(32).ok_or_else(|| StorePathError::Hash(shown()))?;
        if !hash.bytes().all(is_digit) {
            return Err(StorePathError::Hash(shown()));
        }
        let name = rest.strip_prefix('-').ok_or_else(|| StorePathError::Hash(shown()))?;
        let allowed =
            |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.' | b'_' | b'?' | b'=');
        if name.is_empty() || name.len() > MAX_NAME_LEN || !name.bytes().all(allowed) {
            return Err(StorePathError::Name(shown()));
        }
        Ok(())
    }

    /// `<hash part>-<name>`: the name of the path's entry in `/nix/store`.
    pub fn base_name(&self) -> &str {
        &self.base
    }

    /// The 32 base-32 digits.
    pub fn hash_part(&self) -> &str {
        &self.base[..32]
    }

    /// What follows the hash part and the dash.
    pub fn name(&self) -> &str {
        &self.base[33..]
    }

    /// Whether this is a derivation file.
    pub fn is_derivation(&self) -> bool {
        self.base.ends_with(".drv")
    }
}

/// The full path, `/nix/store/<hash part>-<name>`.
impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{STORE_DIR}/{}", self.base)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Parses the full path.
impl FromStr for StorePath {
    type Err = StorePathError;

    fn from_str(text: &str) -> Result<Self, StorePathError> {
        let base = text
            .strip_prefix(STORE_DIR)
            .and_then(|rest| rest.strip_prefix('/'))
            .filter(|base| !base.contains('/'))
            .ok_or_else(|| StorePathError::Directory(text.chars().take(256).collect()))?;
        Self::from_base_name(base)
    }
}

impl serde::Serialize for StorePath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for StorePath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Writes `bytes` in Nix's base-32: the last digit holds the lowest bits of the first byte.
pub fn encode_base32(bytes: &[u8]) -> String {
    let digits = (bytes.len() * 8).div_ceil(5);
    (0..digits)
        .rev()
        .map(|n| {
            let (byte, bit) = (n * 5 / 8, n * 5 % 8);
            let low = u16::from(bytes[byte]);
            let high = u16::from(bytes.get(byte + 1).copied().unwrap_or(0));
            char::from(ALPHABET[usize::from(((high << 8 | low) >> bit) & 0x1f)])
        })
        .collect()
}

/// Reads `len` bytes from Nix's base-32; `None` where `text` is not the encoding of that many bytes.
pub fn decode_base32(text: &str, len: usize) -> Option<Vec<u8>> {
    if text.len() != (len * 8).div_ceil(5) {
        return None;
    }
    let mut bytes = vec![0u8; len];
    for (n, c) in text.bytes().rev().enumerate() {
        let digit = u16::try_from(ALPHABET.iter().position(|a| *a == c)?).ok()?;
        let (byte, bit) = (n * 5 / 8, n * 5 % 8);
        let [low, high] = (digit << bit).to_le_bytes();
        bytes[byte] |= low;
        match bytes.get_mut(byte + 1) {
            Some(next) => *next |= high,
            None if high != 0 => return None,
            None => {}
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASE: &str = "00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60";

    #[test]
    fn takes_a_full_path_apart() {
        let path: StorePath = format!("/nix/store/{BASE}").parse().unwrap();
        assert_eq!(path.hash_part(), "00bgd045z0d4icpbc2yyz4gx48ak44la");
        assert_eq!(path.name(), "net-tools-1.60");
        assert_eq!(path.to_string(), format!("/nix/store/{BASE}"));
    }

    #[test]
    fn refuses_what_nix_refuses() {
        let long = format!("{}-{}", &BASE[..32], "a".repeat(MAX_NAME_LEN + 1));
        for base in ["", "abc", &BASE[..32], &BASE[..33], "00bgd045z0d4icpbc2yyz4gx48ak44le-x", &long] {
            assert!(StorePath::from_base_name(base).is_err(), "{base:?}");
        }
        for text in [
            BASE,
            "/nix/store",
            "/nix/store/",
            "/nix/storex/",
            &format!("/nix/store/{BASE}/bin"),
            "/gnu/store/x",
        ] {
            assert!(text.parse::<StorePath>().is_err(), "{text:?}");
        }
        for name in ["a b", "a/b", "ä", "a\n"] {
            assert!(StorePath::from_base_name(&format!("{}-{name}", &BASE[..32])).is_err(), "{name:?}");
        }
    }

    #[test]
    fn digits_are_those_of_the_alphabet() {
        assert!((0..=u8::MAX).all(|c| is_digit(c) == ALPHABET.contains(&c)));
    }

    #[test]
    fn base32_is_that_of_nix() {
        // `nix-hash --type sha256 --to-base32` of the digest of the empty text.
        let empty = crate::Digest::of(b"");
        let text = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
        assert_eq!(encode_base32(empty.as_bytes()), text);
        assert_eq!(decode_base32(text, 32).as_deref(), Some(empty.as_bytes().as_slice()));
        assert_eq!(decode_base32(&format!("z{}", &text[1..]), 32), None, "bits past the end");
    }

    proptest! {
        #[test]
        fn base32_round_trips(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let text = encode_base32(&bytes);
            prop_assert_eq!(decode_base32(&text, bytes.len()), Some(bytes));
        }
    }
}
