//! A seed in a transport: from its digest to the bytes of its index.
//!
//! manifest → configuration, and table of contents of the index layer → frames of the index: each is named by
//! a digest in the one before, so the seed's digest vouches for all of it.

mod arrival;
mod frames;

use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use seed_format::{Chunk, Digest};

use crate::manifest::{Config, Descriptor, MAX_MANIFEST, Manifest, ManifestError, annotation};
use crate::transport::{Transport, TransportError};
pub use arrival::Receiver;
pub use frames::Frame;

/// Labels of the image configuration.
pub mod label {
    /// Version of the format: [`super::FORMAT_VERSION`].
    pub const VERSION: &str = "dev.nix-seed.version";
    /// The Nix system: `x86_64-linux`.
    pub const SYSTEM: &str = "dev.nix-seed.system";
    /// Store path of the Nix that the seed brings.
    pub const NIX: &str = "dev.nix-seed.nix";
    /// Version of that Nix.
    pub const NIX_VERSION: &str = "dev.nix-seed.nix-version";
    /// Experimental features of Nix that the outputs need besides flakes, separated by blanks.
    pub const NIX_FEATURES: &str = "dev.nix-seed.nix-features";
    /// Store path of Nix's cache of fetched things, which belongs to `$XDG_CACHE_HOME/nix`, where evaluation
    /// fetches more than the inputs.
    pub const FETCHER_CACHE: &str = "dev.nix-seed.fetcher-cache";
    /// Store path of the shell that `/bin/sh` leads to.
    pub const SHELL: &str = "dev.nix-seed.shell";
    /// The outputs that the seed was made for, JSON.
    pub const TARGETS: &str = "dev.nix-seed.targets";
    /// Digest of the project's `flake.lock`.
    pub const FLAKE_LOCK: &str = "dev.nix-seed.flake-lock";
    /// What compressed the layers: library, version, level and chunk size.
    pub const COMPRESSOR: &str = "dev.nix-seed.compressor";
}

/// The version of the format that is written; a reader refuses a larger one.
pub const FORMAT_VERSION: u32 = 1;

/// Path of the index in its layer. Other runtimes unpack it there, and nobody reads it.
pub const INDEX_PATH: &str = "nix/var/nix-seed/index.erofs";

/// Largest index layer that is read, in bytes.
pub const MAX_INDEX_LAYER: u64 = 1 << 30;

/// Where the index lies in its layer blob, in bytes: in whole zstd frames, one after another. Written
/// `offset:length:uncompressed` in the annotation `dev.nix-seed.index`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IndexPosition {
    /// Where the first frame begins.
    pub offset: u64,
    /// Bytes of the frames.
    pub len: u64,
    /// Bytes of the index.
    pub uncompressed_len: u64,
}

impl IndexPosition {
    /// Where the file with these chunks lies; `None` for a file without bytes.
    pub fn of(chunks: &[Chunk]) -> Option<Self> {
        let (first, last) = (chunks.first()?, chunks.last()?);
        Some(Self {
            offset: first.blob_offset,
            len: last.blob_offset + u64::from(last.blob_len) - first.blob_offset,
            uncompressed_len: last.offset_in_file + u64::from(last.len),
        })
    }
}

/// The text is not three numbers that lie within their limits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no place of an index: offset:length:uncompressed is expected")]
pub struct IndexPositionError(String);

impl fmt::Display for IndexPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.offset, self.len, self.uncompressed_len)
    }
}

impl FromStr for IndexPosition {
    type Err = IndexPositionError;

    fn from_str(text: &str) -> Result<Self, IndexPositionError> {
        let error = || IndexPositionError(text.chars().take(100).collect());
        let numbers: Vec<u64> = text
            .split(':')
            .take(4)
            .map(|number| {
                let digits = number.bytes().all(|byte| byte.is_ascii_digit());
                number.parse().ok().filter(|_| digits).ok_or_else(error)
            })
            .collect::<Result<_, _>>()?;
        let [offset, len, uncompressed_len] = numbers[..] else { return Err(error()) };
        let end = offset.checked_add(len).ok_or_else(error)?;
        if end > MAX_INDEX_LAYER || uncompressed_len > seed_format::index::MAX_INDEX_LEN {
            return Err(error());
        }
        Ok(Self { offset, len, uncompressed_len })
    }
}

/// Where an index is.
#[derive(Debug, Clone, Copy)]
struct IndexPlace<'a> {
    layer: &'a Descriptor,
    position: &'a IndexPosition,
}

impl IndexPlace<'_> {
    fn malformed(&self, what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> SeedError {
        let source = io::Error::new(io::ErrorKind::InvalidData, what);
        SeedError::IndexLayer { digest: self.layer.digest, source }
    }
}

/// An opened seed.
#[derive(Debug, Clone)]
pub struct Seed {
    /// Digest of the manifest.
    pub digest: Digest,
    /// The manifest.
    pub manifest: Manifest,
    /// The image configuration.
    pub config: Config,
    /// The layer that holds the index.
    pub index_layer: Descriptor,
    /// Where in that layer it lies.
    pub index_position: IndexPosition,
}

/// Why an image is not a seed that can be opened.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The place that holds it failed.
    #[error("cannot fetch the seed")]
    Transport(#[from] TransportError),
    /// Its manifest or configuration is malformed.
    #[error("{digest} is not a usable image")]
    Manifest {
        /// The seed.
        digest: Digest,
        /// What is wrong.
        source: ManifestError,
    },
    /// The configuration could not be read to its end.
    #[error("cannot read the blob {digest}")]
    Blob {
        /// The blob.
        digest: Digest,
        /// The failure.
        source: io::Error,
    },
    /// The image has no index: some other tool made it.
    #[error("{0} is an image without a seed index")]
    NoIndex(Digest),
    /// The annotation that locates the index is malformed.
    #[error("{digest} does not say where its index is")]
    Position {
        /// The seed.
        digest: Digest,
        /// What is wrong.
        source: IndexPositionError,
    },
    /// The seed is of a later format than this program knows.
    #[error("{digest} has the format version {version:?}; this program knows {FORMAT_VERSION}")]
    Version {
        /// The seed.
        digest: Digest,
        /// Its version, shortened.
        version: String,
    },
    /// A blob is too large to be what it should be.
    #[error("the blob {digest} has {size} bytes, more than the {limit} that are read")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its bytes.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The index layer does not hold an index where it says.
    #[error("the index layer {digest} is malformed")]
    IndexLayer {
        /// The layer.
        digest: Digest,
        /// What is wrong.
        source: io::Error,
    },
}

impl SeedError {
    /// Whether bytes came that are not those of the seed.
    pub fn is_integrity(&self) -> bool {
        match self {
            Self::Transport(error) => error.is_integrity(),
            Self::Blob { source, .. } => {
                TransportError::in_io(source).is_some_and(TransportError::is_integrity)
            }
            Self::Manifest { .. } | Self::Position { .. } | Self::IndexLayer { .. } => true,
            Self::NoIndex(_) | Self::Version { .. } | Self::TooLarge { .. } => false,
        }
    }
}

/// Opens the seed whose manifest has the digest `digest`: two round trips, for manifest and configuration.
pub fn open(transport: &dyn Transport, digest: &Digest) -> Result<Seed, SeedError> {
    Outline::read(transport, digest)?.complete(transport)
}

/// A seed of which only the manifest is known: enough to fetch configuration and index at the same time.
#[derive(Debug, Clone)]
pub struct Outline {
    digest: Digest,
    manifest: Manifest,
    index_layer: Descriptor,
    index_position: IndexPosition,
}

impl Outline {
    /// Reads the manifest: one round trip.
    pub fn read(transport: &dyn Transport, digest: &Digest) -> Result<Self, SeedError> {
        Self::of_manifest(digest, &transport.manifest(digest)?)
    }

    fn of_manifest(digest: &Digest, manifest: &[u8]) -> Result<Self, SeedError> {
        let manifest =
            Manifest::parse(manifest).map_err(|source| SeedError::Manifest { digest: *digest, source })?;
        let index_layer =
            manifest.layers.last().filter(|layer| layer.annotations.contains_key(annotation::SEED_INDEX));
        let index_layer = index_layer.ok_or(SeedError::NoIndex(*digest))?.clone();
        let position = index_layer.annotations[annotation::SEED_INDEX].parse();
        let index_position = position.map_err(|source| SeedError::Position { digest: *digest, source })?;
        Ok(Self { digest: *digest, manifest, index_layer, index_position })
    }

    /// The layer that holds the index.
    pub fn index_layer(&self) -> &Descriptor {
        &self.index_layer
    }

    /// Bytes of the index.
    pub fn index_len(&self) -> u64 {
        self.index_position.uncompressed_len
    }

    /// Brings the index to `receiver`, frame by frame, each of them verified: two round trips until the first
    /// is there. Returns when all are.
    ///
    /// They are what the seed's maker wrote; whether they are a sound index is for
    /// [`seed_format::index::Index::open`] to say. `kept` is a file in which the index is looked for first,
    /// and which keeps it for the next time.
    pub fn receive_index(
        &self,
        transport: &dyn Transport,
        kept: Option<&Path>,
        receiver: &dyn Receiver,
    ) -> Result<(), SeedError> {
        let index = IndexPlace { layer: &self.index_layer, position: &self.index_position };
        arrival::receive(transport, index, kept, receiver)
    }

    /// Reads the configuration: one round trip.
    pub fn complete(self, transport: &dyn Transport) -> Result<Seed, SeedError> {
        let config = read_blob(transport, &self.manifest.config, MAX_MANIFEST as u64)?;
        self.with_config(&config)
    }

    fn with_config(self, config: &[u8]) -> Result<Seed, SeedError> {
        let Self { digest, manifest, index_layer, index_position } = self;
        let malformed = |source| SeedError::Manifest { digest, source };
        let config = Config::parse(config).map_err(malformed)?;
        config.check_layers(&manifest).map_err(malformed)?;
        check_version(&digest, &config)?;
        Ok(Seed { digest, manifest, config, index_layer, index_position })
    }
}

fn check_version(digest: &Digest, config: &Config) -> Result<(), SeedError> {
    let version = config.config.labels.get(label::VERSION).map_or("", String::as_str);
    match version.parse::<u32>() {
        Ok(1..=FORMAT_VERSION) => Ok(()),
        _ => Err(SeedError::Version { digest: *digest, version: version.chars().take(40).collect() }),
    }
}

impl Seed {
    /// A seed whose manifest and configuration were verified before, by who passes them on
    /// ([`Manifest::to_bytes`], [`Config::to_bytes`]).
    pub fn of_documents(digest: &Digest, manifest: &[u8], config: &[u8]) -> Result<Self, SeedError> {
        Outline::of_manifest(digest, manifest)?.with_config(config)
    }

    /// What is known from the manifest alone.
    pub fn outline(&self) -> Outline {
        let Self { digest, manifest, index_layer, index_position, .. } = self.clone();
        Outline { digest, manifest, index_layer, index_position }
    }

    /// The bytes of the index, verified.
    pub fn index_bytes(&self, transport: &dyn Transport) -> Result<Vec<u8>, SeedError> {
        let index = IndexPlace { layer: &self.index_layer, position: &self.index_position };
        let whole = arrival::Whole::default();
        arrival::receive(transport, index, None, &whole)?;
        Ok(whole.into_bytes())
    }

    /// The layers that hold the image's files: all but the index layer, lowest first. The layers of the
    /// index are these, in this order.
    pub fn content_layers(&self) -> &[Descriptor] {
        &self.manifest.layers[..self.manifest.layers.len() - 1]
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.config.config.labels.get(key).map(String::as_str)
    }
}

/// Reads a whole blob of at most `limit` bytes, verified.
fn read_blob(transport: &dyn Transport, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, SeedError> {
    let Descriptor { digest, size, .. } = *descriptor;
    if size > limit {
        return Err(SeedError::TooLarge { digest, size, limit });
    }
    let mut bytes = Vec::new();
    let read = transport.blob(descriptor)?.take(limit).read_to_end(&mut bytes);
    read.map_err(|source| SeedError::Blob { digest, source })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_round_trip() {
        let position = IndexPosition { offset: 1, len: 20, uncompressed_len: 300 };
        assert_eq!(position.to_string().parse(), Ok(position));
        for text in
            ["", "1:2", "1:2:3:4", "a:2:3", "-1:2:3", "+1:2:3", "1:2:99999999999", "18446744073709551615:1:1"]
        {
            assert!(text.parse::<IndexPosition>().is_err(), "{text}");
        }
    }
}
