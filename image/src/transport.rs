//! Where images are kept: one trait over an image layout on disk and a registry.
//!
//! Every byte that a transport gives out as a manifest or a whole blob has been checked against its
//! digest. A range of a blob cannot be, so [`Transport::read_range`] gives unverified bytes, and its caller
//! checks the chunks in it.

pub mod content;
pub mod copy;
pub mod error;
pub mod layout;
pub mod options;
pub mod registry;
pub mod remembered;
mod verified;

use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use seed_format::Digest;

pub use self::content::{BlobContent, BytesContent, FileContent};
pub use self::copy::{CopyOptions, CopyReport, copy};
pub use self::error::TransportError;
pub use self::layout::Layout;
pub use self::options::TransportOptions;
pub use self::registry::Registry;
pub use self::remembered::Remembered;
use crate::manifest::{Descriptor, ManifestKind};
use crate::reference::{Location, Reference};

/// A place that holds images: manifests, and the blobs that they name.
///
/// Implementations are used from many threads at once.
pub trait Transport: Send + Sync + fmt::Debug {
    /// The place.
    fn location(&self) -> &Location;

    /// What `tag` names now. A tag may name something else a moment later: use the digest from here on.
    fn resolve(&self, tag: &str) -> Result<Descriptor, TransportError>;

    /// What a reference without tag and digest means: the only image of a layout, or `latest`.
    fn resolve_default(&self) -> Result<Descriptor, TransportError>;

    /// The bytes of a manifest or index, checked against `digest`; at most
    /// [`MAX_MANIFEST`](crate::manifest::MAX_MANIFEST) of them.
    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, TransportError>;

    /// A range of a blob, exactly `range.end - range.start` bytes, **not verified**.
    ///
    /// Gives the bytes or an error by `deadline`, retries included.
    fn read_range(
        &self,
        blob: &Digest,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Vec<u8>, TransportError>;

    /// The same range as a stream that gives its bytes as they come, **not verified**. It ends with an error rather
    /// than with fewer bytes.
    fn stream_range(
        &self,
        blob: &Digest,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Box<dyn Read + Send + '_>, TransportError> {
        Ok(Box::new(std::io::Cursor::new(self.read_range(blob, range, deadline)?)))
    }

    /// As [`read_range`](Self::read_range), of which a call for the same range goes on and is late: asks another
    /// place first, where there is one.
    fn read_range_beside(
        &self,
        blob: &Digest,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Vec<u8>, TransportError> {
        self.read_range(blob, range, deadline)
    }

    /// A whole blob as a stream. The bytes that complete it are given only if digest and size are right;
    /// else that read fails, with a [`TransportError`] in the [`std::io::Error`].
    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>, TransportError>;

    /// Whether the blob is there. What it holds is not checked.
    fn has_blob(&self, descriptor: &Descriptor) -> Result<bool, TransportError>;

    /// Stores a blob, unless it is there already.
    fn put_blob(&self, descriptor: &Descriptor, content: &mut dyn BlobContent) -> Result<(), TransportError>;

    /// Takes a blob over from another place without moving its bytes, where both places can; says whether
    /// it did.
    fn mount_blob(&self, descriptor: &Descriptor, from: &Location) -> Result<bool, TransportError> {
        let _ = (descriptor, from);
        Ok(false)
    }

    /// Stores a manifest or index and gives its digest; names it `tag` as well, if there is one.
    fn put_manifest(
        &self,
        bytes: &[u8],
        media_type: &str,
        tag: Option<&str>,
    ) -> Result<Digest, TransportError>;

    /// The manifests that name `subject` as their subject, as far as the place says so. A hint: some may
    /// be missing, and what is said of them is for the reader of each manifest to check.
    fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, TransportError>;

    /// Says that bytes which [`read_range`](Self::read_range) gave for `blob` were wrong, so that the next
    /// read asks elsewhere, where there is an elsewhere; says whether there is.
    fn distrust(&self, blob: &Digest) -> bool {
        let _ = blob;
        false
    }

    /// The blob as a file, for places that keep it as one.
    fn blob_path(&self, digest: &Digest) -> Option<PathBuf> {
        let _ = digest;
        None
    }

    /// A fresh name under which a blob can be written before [`FileContent::owned`] hands it to
    /// [`put_blob`](Self::put_blob), which then renames it instead of copying. `None` where that is no gain.
    fn staging(&self) -> Result<Option<PathBuf>, TransportError> {
        Ok(None)
    }

    /// Takes away what was begun to be written and is not finished, for a program that is about to end.
    /// Nothing is written any more.
    fn abandon(&self) {}

    /// Waits until what is kept of what came is on its way to the disk.
    fn settle(&self) {}

    /// What was transferred so far.
    fn counters(&self) -> Counters {
        Counters::default()
    }
}

/// What a transport transferred since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests sent, repeated ones and redirected ones included.
    pub requests: u64,
    /// Bytes of bodies received.
    pub received: u64,
    /// Bytes of bodies sent.
    pub sent: u64,
    /// Requests that were repeated after a passing failure.
    pub retries: u64,
}

/// What a reference means: its digest, else its tag, else the place's default.
///
/// The descriptor is made from the manifest's own, verified bytes.
pub fn resolve(transport: &dyn Transport, reference: &Reference) -> Result<Descriptor, TransportError> {
    match (&reference.digest, &reference.tag) {
        (Some(digest), _) => {
            let bytes = transport.manifest(digest)?;
            describe(&bytes, None, &|| transport.location().to_string())
        }
        (None, Some(tag)) => transport.resolve(tag),
        (None, None) => transport.resolve_default(),
    }
}

/// The descriptor of a manifest's bytes; `media_type` is what their place called them.
fn describe(
    bytes: &[u8],
    media_type: Option<&str>,
    place: &dyn Fn() -> String,
) -> Result<Descriptor, TransportError> {
    let digest = Digest::of(bytes);
    let kind = ManifestKind::parse(bytes, media_type).map_err(|source| TransportError::Manifest {
        place: place(),
        what: format!("manifest {digest}"),
        source,
    })?;
    Ok(Descriptor::new(kind.media_type(), digest, bytes.len() as u64))
}

/// Opens a place. Nothing is sent or read yet, but the configuration is: its mistakes are errors here.
pub fn open(location: &Location, options: &TransportOptions) -> Result<Arc<dyn Transport>, TransportError> {
    Ok(match location {
        Location::Layout(directory) => Arc::new(Layout::new(directory)),
        Location::Registry { host, repository } => Arc::new(Registry::new(host, repository, options)?),
    })
}

/// Opens a place as [`open`] does. What is small and comes from a registry is kept in `cache`, and taken from
/// there: see [`remembered`].
pub fn open_remembered(
    location: &Location,
    options: &TransportOptions,
    cache: &Path,
) -> Result<Arc<dyn Transport>, TransportError> {
    let place = open(location, options)?;
    Ok(match location {
        Location::Layout(_) => place,
        Location::Registry { .. } => Arc::new(Remembered::new(place, cache).reading_also(&options.read_also)),
    })
}
