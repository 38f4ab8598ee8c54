//! Where the bytes of layer blobs come from.

use std::error::Error;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use seed_format::Digest;
use seed_image::transport::Transport;

/// Gives ranges of layer blobs. What it gives is not trusted: each chunk is verified afterwards.
pub trait BlobSource: Send + Sync {
    /// Reads `range` of the blob `layer`: exactly as many bytes, or an error.
    ///
    /// Returns an error rather than wait past `deadline`. May be called from many threads at once.
    fn read(&self, layer: &Digest, range: Range<u64>, deadline: Instant) -> Result<Vec<u8>, SourceError>;

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

/// The blobs of one image, wherever it is kept. Retries and mirrors are the transport's.
#[derive(Debug, Clone)]
pub struct TransportSource(pub Arc<dyn Transport>);

impl BlobSource for TransportSource {
    fn read(&self, layer: &Digest, range: Range<u64>, deadline: Instant) -> Result<Vec<u8>, SourceError> {
        self.0.read_range(layer, range, deadline).map_err(|error| SourceError::Transport(Box::new(error)))
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
