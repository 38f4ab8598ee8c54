use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::MAX_TOC_LEN;
use crate::Digest;

/// The prefixes of the annotations' keys: the one of today, and the one that containers/storage had up to
/// 1.43 (podman 4.3, skopeo 1.9) and that stargz-snapshotter has. Both are written and read.
pub const PREFIXES: [&str; 2] = ["io.github.containers.zstd-chunked.", "io.containers.zstd-chunked."];

const CHECKSUM: &str = "manifest-checksum";
const POSITION: &str = "manifest-position";
const TAR_SPLIT: &str = "tarsplit-position";

/// The kind of TOC in the position annotation and in the footer; no other is known.
pub(super) const TYPE_CRFS: u64 = 1;

/// Where the content of a skippable frame lies in a blob, in bytes. Written `offset:length:uncompressed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Where the compressed bytes begin: behind the skippable frame's eight bytes of header.
    pub offset: u64,
    /// Compressed bytes.
    pub len: u64,
    /// Uncompressed bytes.
    pub uncompressed_len: u64,
}

/// What the annotations of a layer's descriptor say of its TOC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// Digest of the compressed TOC.
    pub digest: Digest,
    /// Where the TOC lies.
    pub toc: Position,
    /// Where the tar-split data lies, if the layer has any.
    pub tar_split: Option<Position>,
}

/// An annotation that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the annotation {key} = {value:?} does not locate a TOC")]
pub struct LocatedError {
    /// The annotation's key.
    pub key: String,
    /// Its value, shortened.
    pub value: String,
}

impl Located {
    /// Reads the annotations of a layer's descriptor. `None` where they speak of no zstd:chunked TOC.
    pub fn from_annotations(annotations: &BTreeMap<String, String>) -> Result<Option<Self>, LocatedError> {
        let prefix = PREFIXES.iter().find(|prefix| annotations.contains_key(&format!("{prefix}{CHECKSUM}")));
        let Some(prefix) = prefix else { return Ok(None) };
        let get = |name: &str| {
            let key = format!("{prefix}{name}");
            let value = annotations.get(&key).cloned().unwrap_or_default();
            let bad = LocatedError { value: value.chars().take(200).collect(), key };
            (value, bad)
        };
        let (checksum, bad) = get(CHECKSUM);
        let digest = checksum.parse().map_err(|_| bad)?;
        let (position, bad) = get(POSITION);
        let toc = position
            .rsplit_once(':')
            .filter(|(_, kind)| *kind == "1")
            .and_then(|(position, _)| position.parse().ok())
            .ok_or(bad)?;
        let (position, bad) = get(TAR_SPLIT);
        let tar_split =
            if position.is_empty() { None } else { Some(position.parse().map_err(|PositionError| bad)?) };
        Ok(Some(Self { digest, toc, tar_split }))
    }

    /// The annotations, with the keys of both prefixes.
    ///
    /// Those who know the older one alone know no tar-split data, and a mount waits for the manifest: it has
    /// nothing that nobody reads.
    pub fn to_annotations(&self) -> BTreeMap<String, String> {
        let mut annotations = BTreeMap::new();
        for prefix in PREFIXES {
            annotations.insert(format!("{prefix}{CHECKSUM}"), self.digest.to_string());
            annotations.insert(format!("{prefix}{POSITION}"), format!("{}:{TYPE_CRFS}", self.toc));
        }
        if let Some(tar_split) = self.tar_split {
            annotations.insert(format!("{}{TAR_SPLIT}", PREFIXES[0]), tar_split.to_string());
        }
        annotations
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.offset, self.len, self.uncompressed_len)
    }
}

/// Not three numbers, or lengths beyond [`MAX_TOC_LEN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositionError;

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let mut numbers = text.split(':').map(|number| {
            let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            number.parse::<u64>().ok().filter(|_| digits)
        });
        let mut next = || numbers.next().flatten().ok_or(PositionError);
        let position = Self { offset: next()?, len: next()?, uncompressed_len: next()? };
        let within = position.len <= MAX_TOC_LEN
            && position.uncompressed_len <= MAX_TOC_LEN
            && position.offset.checked_add(position.len).is_some();
        if numbers.next().is_some() || !within {
            return Err(PositionError);
        }
        Ok(position)
    }
}
