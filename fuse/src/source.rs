//! Where the bytes of layer blobs come from.

use std::error::Error;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use seed_format::Digest;
use seed_image::transport::{Transport, TransportError};

/// Gives ranges of layer blobs. What it gives is not trusted: each chunk is verified afterwards.
pub trait BlobSource: Send + Sync {
    /// Reads `range` of the blob `layer`: exactly as many bytes, or an error.
    ///
    /// Returns an error rather than wait past `deadline`. May be called from many threads at once.
    fn read(&self, layer: &Digest, range: Range<u64>, deadline: Instant) -> Result<Vec<u8>, SourceError>;

    /// The same bytes as they come; there may be fewer if the source fails in the middle. For large ranges.
    fn stream(
        &self,
        layer: &Digest,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        Ok(Box::new(Cursor::new(self.read(layer, range, deadline)?)))
    }

    /// Reads the same while another read of it goes on and is late: from another mirror, where there is one. That
    /// the first is late is nothing against it.
    fn read_beside(
        &self,
        layer: &Digest,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Vec<u8>, SourceError> {
        self.read(layer, range, deadline)
    }

    /// Reads the same after the first answer had wrong bytes: from another mirror, where there is one.
    fn read_elsewhere(
        &self,
        layer: &Digest,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Vec<u8>, SourceError> {
        self.read(layer, range, deadline)
    }
}

/// Why a range could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The transport failed, with all its retries and mirrors.
    #[error("the range could not be fetched")]
    Transport(#[source] Box<dyn Error + Send + Sync>),
    /// It does not work at the moment: the same may succeed a little later.
    #[error("the range could not be fetched now")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// The time was up.
    #[error("the range was not there in time")]
    Deadline,
    /// More or fewer bytes came than were asked for.
    #[error("{got} bytes came for a range of {wanted}")]
    Length {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes that came.
        got: u64,
    },
}

impl From<TransportError> for SourceError {
    fn from(error: TransportError) -> Self {
        match error {
            // Tried for long enough.
            TransportError::LeftAlone { .. } => Self::Transport(Box::new(error)),
            error if error.is_unavailable() => Self::Unavailable(Box::new(error)),
            error => Self::Transport(Box::new(error)),
        }
    }
}

/// The blobs of one image, wherever it is kept. Retries and mirrors are the transport's.
#[derive(Debug, Clone)]
pub struct TransportSource(pub Arc<dyn Transport>);

impl BlobSource for TransportSource {
    fn read(&self, layer: &Digest, range: Range<u64>, deadline: Instant) -> Result<Vec<u8>, SourceError> {
        self.0.read_range(layer, range, deadline).map_err(SourceError::from)
    }

    fn stream(
        &self,
        layer: &Digest,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        self.0.stream_range(layer, range, deadline).map_err(SourceError::from)
    }

    fn read_beside(
        &self,
        layer: &Digest,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Vec<u8>, SourceError> {
        self.0.read_range_beside(layer, range, deadline).map_err(SourceError::from)
    }

    fn read_elsewhere(
        &self,
        layer: &Digest,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Vec<u8>, SourceError> {
        let elsewhere = self.0.distrust(layer);
        tracing::info!(%layer, elsewhere, "asking again for bytes that were wrong");
        self.read(layer, range, deadline)
    }
}
