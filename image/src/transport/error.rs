//! What can go wrong with a place that holds images.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use seed_format::Digest;

use super::registry::credentials::CredentialError;
use super::registry::hosts::HostsError;
use super::registry::http::HttpError;
use crate::manifest::ManifestError;

/// Why a transport could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The manifest, blob or tag is not there.
    #[error("{place} has no {what}")]
    NotFound {
        /// The layout or repository.
        place: String,
        /// `tag "v1"`, `manifest sha256:…` or `blob sha256:…`.
        what: String,
    },
    /// The bytes there are not those that the digest names.
    #[error("{place} gave wrong bytes for {expected}: their digest is {actual}")]
    WrongDigest {
        /// The layout or repository.
        place: String,
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// The blob there has another size than its descriptor says.
    #[error("{place} gave {actual} bytes for {digest}, which has {expected}")]
    WrongSize {
        /// The layout or repository.
        place: String,
        /// The blob asked for.
        digest: Digest,
        /// Bytes that it must have.
        expected: u64,
        /// Bytes that came; where more came than must, the count stops just past it.
        actual: u64,
    },
    /// The bytes to be stored have another digest or size than their descriptor says.
    #[error("the bytes to be stored as {expected} ({size} bytes) are others: {actual}, {written} bytes")]
    WrongContent {
        /// The descriptor's digest.
        expected: Digest,
        /// The descriptor's size.
        size: u64,
        /// Digest of the bytes.
        actual: Digest,
        /// Number of bytes.
        written: u64,
    },
    /// A manifest, index or layout file is malformed.
    #[error("{place}: {what} is malformed")]
    Manifest {
        /// The layout or repository.
        place: String,
        /// What was read.
        what: String,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// The directory is not an image layout that can be read.
    #[error("{} is not an image layout: {problem}", path.display())]
    NotALayout {
        /// The file or directory that shows it.
        path: PathBuf,
        /// What is wrong.
        problem: LayoutProblem,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `open`, `read`, `write`, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The bytes to be stored could not be read.
    #[error("cannot read the bytes to be stored as {digest}")]
    Content {
        /// The blob.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// The blob there ends before the range that was asked for.
    #[error("{place} has only {size} bytes of {digest}: {start}..{end} is not in them")]
    PastEnd {
        /// The layout or repository.
        place: String,
        /// The blob.
        digest: Digest,
        /// Bytes that are there.
        size: u64,
        /// First byte asked for.
        start: u64,
        /// Byte after the last asked for.
        end: u64,
    },
    /// Several images are there and none was named.
    #[error("{place} has {count} images: name one by its tag or digest")]
    Unnamed {
        /// The layout.
        place: String,
        /// Images there.
        count: usize,
    },
    /// A range that no blob can have, or that is too large to be read at once.
    #[error("{start}..{end} is not a range that can be read at once")]
    BadRange {
        /// First byte.
        start: u64,
        /// Byte after the last.
        end: u64,
    },
    /// The tag cannot be one.
    #[error("{0:?} is not a tag")]
    BadTag(String),
    /// A request failed, for good or too often.
    #[error("{method} {url}")]
    Http {
        /// `GET`, `PUT`, …
        method: &'static str,
        /// Where the request went, without its query, which may hold a secret.
        url: String,
        /// Why.
        source: HttpError,
    },
    /// Credentials could not be had.
    #[error("no credentials for {host}")]
    Credentials {
        /// The registry.
        host: String,
        /// Why.
        source: CredentialError,
    },
    /// The configuration of mirrors is wrong.
    #[error("the registry hosts file {} is wrong", path.display())]
    Hosts {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: HostsError,
    },
    /// No configured endpoint can do what was asked.
    #[error("no endpoint of {host} is allowed to {capability}")]
    NoEndpoint {
        /// The registry.
        host: String,
        /// `pull`, `resolve` or `push`.
        capability: &'static str,
    },
    /// The registry and its mirrors have not worked for some time, and are only tried now and then.
    #[error("{host} and its mirrors have not answered for {} s: they are tried again now and then", down.as_secs())]
    LeftAlone {
        /// The registry.
        host: String,
        /// How long.
        down: Duration,
    },
}

/// What makes a directory no image layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutProblem {
    /// There is nothing at all.
    #[error("there is no such directory")]
    Missing,
    /// It has no `oci-layout` file.
    #[error("it has no file \"oci-layout\"")]
    NoMarker,
    /// `oci-layout` does not say version 1.
    #[error("its \"oci-layout\" does not say version 1.x")]
    Version,
    /// It has no `index.json`.
    #[error("it has no file \"index.json\"")]
    NoIndex,
    /// A file that must be a regular one is a link, a directory or something else.
    #[error("it is not a regular file")]
    NotRegular,
}

impl TransportError {
    /// Whether wrong bytes came, rather than none: an integrity violation.
    pub fn is_integrity(&self) -> bool {
        matches!(self, Self::WrongDigest { .. } | Self::WrongSize { .. } | Self::PastEnd { .. })
    }

    /// Whether the thing asked for does not exist there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the registry cannot be reached, or does not work at the moment.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Http { source, .. } => source.is_unreachable() || source.is_passing(),
            Self::LeftAlone { .. } => true,
            _ => false,
        }
    }

    /// Whether the registry refused access.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Http { source, .. } if source.is_denied())
    }

    /// The transport's error inside an error of [`std::io::Read`], if there is one.
    pub fn in_io(error: &io::Error) -> Option<&Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref())
    }

    /// Takes a transport's error out of an error of [`std::io::Read`].
    pub fn from_io(error: io::Error) -> Result<Self, io::Error> {
        error.downcast()
    }
}

impl From<TransportError> for io::Error {
    fn from(error: TransportError) -> Self {
        Self::other(error)
    }
}
