//! An OCI image layout: a directory with `oci-layout`, `index.json` and `blobs/sha256/HEX`.
//!
//! Source: OCI image specification 1.1, "Image Layout". Writers may work at the same time, in several
//! processes: a blob appears under its name only when it is complete and on disk, and `index.json` is
//! replaced as a whole under a lock on the directory.

mod files;
mod index;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use seed_format::{Digest, DigestWriter};

use self::files::Workshop;
use super::error::LayoutProblem;
use super::verified::Verified;
use super::{BlobContent, BytesContent, Counters, Transport, TransportError, describe};
use crate::manifest::{Descriptor, MAX_MANIFEST, ManifestKind, media_type};
use crate::reference::{Location, is_tag};

/// Files of blobs that are kept open for ranges.
const MAX_OPEN: usize = 256;
/// Longest range that is read at once, in bytes.
const MAX_RANGE: u64 = 1 << 30;

/// An OCI image layout on disk.
#[derive(Debug)]
pub struct Layout {
    location: Location,
    directory: PathBuf,
    /// Set once `oci-layout` was seen to be right.
    checked: OnceLock<()>,
    /// Set when something is written; to `None` when nothing is to be written any more.
    workshop: OnceLock<Option<Workshop>>,
    /// Held by the thread that sets it.
    setting: Mutex<()>,
    open: Mutex<HashMap<Digest, Arc<File>>>,
    reads: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

impl Layout {
    /// The layout in `directory`, which the first write makes if it is missing.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        let directory = directory.into();
        Self {
            location: Location::Layout(directory.clone()),
            directory,
            checked: OnceLock::new(),
            workshop: OnceLock::new(),
            setting: Mutex::new(()),
            open: Mutex::default(),
            reads: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        }
    }

    /// The manifests that `index.json` lists, in its order.
    pub fn list(&self) -> Result<Vec<Descriptor>, TransportError> {
        self.check()?;
        Ok(index::read(&self.directory)?.manifests)
    }

    fn place(&self) -> String {
        self.location.to_string()
    }

    /// Checks once that this is a layout.
    fn check(&self) -> Result<(), TransportError> {
        if self.checked.get().is_none() {
            files::check_marker(&self.directory)?;
            self.checked.get_or_init(|| ());
        }
        Ok(())
    }

    /// Makes the layout where there is none yet, and the place for what is not finished.
    fn create(&self) -> Result<&Workshop, TransportError> {
        let setting = self.setting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.workshop.get().is_none() {
            let workshop = files::create(&self.directory)?;
            self.checked.get_or_init(|| ());
            self.workshop.get_or_init(|| Some(workshop));
        }
        drop(setting);
        self.workshop.get().and_then(Option::as_ref).ok_or_else(|| TransportError::File {
            action: "write to",
            path: self.directory.clone(),
            source: io::ErrorKind::Interrupted.into(),
        })
    }

    fn blob_file(&self, digest: &Digest) -> PathBuf {
        self.directory.join("blobs").join("sha256").join(digest.hex())
    }

    fn not_found(&self, what: String) -> TransportError {
        TransportError::NotFound { place: self.place(), what }
    }

    /// Opens a blob and says how many bytes its file has.
    fn open_blob(&self, digest: &Digest) -> Result<(File, u64), TransportError> {
        self.check()?;
        let path = self.blob_file(digest);
        match files::open_regular(&path)? {
            Some(opened) => Ok(opened),
            None => Err(self.not_found(format!("blob {digest}"))),
        }
    }

    /// The same, for ranges: the file stays open.
    fn kept_open(&self, digest: &Digest) -> Result<Arc<File>, TransportError> {
        if let Some(file) = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(digest) {
            return Ok(file.clone());
        }
        let file = Arc::new(self.open_blob(digest)?.0);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MAX_OPEN {
            open.clear();
        }
        Ok(open.entry(*digest).or_insert(file).clone())
    }

    /// Copies `content` to a file of its own and checks it on the way.
    fn write_blob(
        &self,
        path: &Path,
        descriptor: &Descriptor,
        content: &mut dyn BlobContent,
    ) -> Result<(), TransportError> {
        let read_error = |source| TransportError::Content { digest: descriptor.digest, source };
        let write_error = |source| TransportError::File { action: "write", path: path.to_owned(), source };
        let mut source = content.open(0).map_err(read_error)?.take(descriptor.size.saturating_add(1));
        let mut target = DigestWriter::new(files::create_new(path)?);
        let mut buffer = vec![0; 256 << 10];
        loop {
            let got = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(read_error(error)),
            };
            io::Write::write_all(&mut target, &buffer[..got]).map_err(write_error)?;
        }
        let (file, actual, written) = target.finish();
        if actual != descriptor.digest || written != descriptor.size {
            let Descriptor { digest: expected, size, .. } = *descriptor;
            return Err(TransportError::WrongContent { expected, size, actual, written });
        }
        self.sent.fetch_add(written, Ordering::Relaxed);
        file.sync_all().map_err(write_error)
    }

    /// Moves a complete file of the caller's to its place. `false` if it lies on another file system.
    fn adopt(&self, owned: &Path, descriptor: &Descriptor) -> Result<bool, TransportError> {
        let file_error = |action, source| TransportError::File { action, path: owned.to_owned(), source };
        let (file, len) = files::open_regular(owned)?
            .ok_or_else(|| file_error("open", io::Error::from(io::ErrorKind::NotFound)))?;
        if len != descriptor.size {
            let Descriptor { digest, size, .. } = *descriptor;
            return Err(TransportError::WrongContent {
                expected: digest,
                size,
                actual: digest,
                written: len,
            });
        }
        file.sync_all().map_err(|source| file_error("write", source))?;
        match files::publish(owned, &self.blob_file(&descriptor.digest)) {
            Err(TransportError::File { source, .. }) if source.kind() == io::ErrorKind::CrossesDevices => {
                Ok(false)
            }
            result => result.map(|()| true),
        }
    }

    /// Whether an entry is about another manifest, or a list of such. What cannot be read is not.
    fn is_referrer(&self, entry: &Descriptor) -> bool {
        let is_list = index::tag_of(entry).is_some_and(|tag| tag.starts_with("sha256-"));
        let subject = || match ManifestKind::parse(
            &self.manifest(&entry.digest).ok()?,
            Some(&entry.media_type),
        )
        .ok()?
        {
            ManifestKind::Manifest(manifest) => manifest.subject,
            ManifestKind::Index(index) => index.subject,
        };
        is_list || subject().is_some()
    }

    /// The referrers that one entry of `index.json` stands for.
    fn referrers_in(&self, entry: &Descriptor, subject: &Digest) -> Result<Vec<Descriptor>, TransportError> {
        let bytes = self.manifest(&entry.digest)?;
        let kind = ManifestKind::parse(&bytes, Some(&entry.media_type)).map_err(|source| {
            TransportError::Manifest {
                place: self.place(),
                what: format!("manifest {}", entry.digest),
                source,
            }
        })?;
        let (named, artifact_type, annotations) = match kind {
            ManifestKind::Index(index) if index::tag_of(entry) == Some(&index::fallback_tag(subject)) => {
                return Ok(index.manifests);
            }
            ManifestKind::Index(index) => (index.subject, index.artifact_type, index.annotations),
            ManifestKind::Manifest(manifest) => {
                let artifact_type = manifest.artifact_type.unwrap_or(manifest.config.media_type);
                (manifest.subject, Some(artifact_type), manifest.annotations)
            }
        };
        if named.is_none_or(|named| named.digest != *subject) {
            return Ok(Vec::new());
        }
        let found = Descriptor::new(entry.media_type.clone(), entry.digest, bytes.len() as u64);
        Ok(vec![Descriptor { artifact_type, annotations, ..found }])
    }
}

impl Transport for Layout {
    fn location(&self) -> &Location {
        &self.location
    }

    fn resolve(&self, tag: &str) -> Result<Descriptor, TransportError> {
        let named = self.list()?.into_iter().rfind(|entry| index::tag_of(entry) == Some(tag));
        let entry = named.ok_or_else(|| self.not_found(format!("tag {tag:?}")))?;
        describe(&self.manifest(&entry.digest)?, Some(&entry.media_type), &|| self.place())
    }

    fn resolve_default(&self) -> Result<Descriptor, TransportError> {
        let mut entries = self.list()?;
        if entries.len() > 1 {
            // What refers to an image, such as a statement about it, is none that anybody means.
            entries.retain(|entry| !self.is_referrer(entry));
        }
        match entries.as_slice() {
            [] => Err(self.not_found("image".into())),
            [entry] => describe(&self.manifest(&entry.digest)?, Some(&entry.media_type), &|| self.place()),
            _ => Err(TransportError::Unnamed { place: self.place(), count: entries.len() }),
        }
    }

    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, TransportError> {
        let (file, len) = self.open_blob(digest).map_err(|error| match error {
            TransportError::NotFound { .. } => self.not_found(format!("manifest {digest}")),
            error => error,
        })?;
        if len > MAX_MANIFEST as u64 {
            let expected = MAX_MANIFEST as u64;
            return Err(TransportError::WrongSize {
                place: self.place(),
                digest: *digest,
                expected,
                actual: len,
            });
        }
        let mut bytes = Vec::new();
        let path = self.blob_file(digest);
        let read = file.take(MAX_MANIFEST as u64).read_to_end(&mut bytes);
        read.map_err(|source| TransportError::File { action: "read", path, source })?;
        let actual = Digest::of(&bytes);
        if actual != *digest {
            return Err(TransportError::WrongDigest { place: self.place(), expected: *digest, actual });
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    fn read_range(&self, blob: &Digest, range: Range<u64>, _: Instant) -> Result<Vec<u8>, TransportError> {
        let Range { start, end } = range;
        let len = end.checked_sub(start).filter(|len| *len <= MAX_RANGE);
        let len =
            len.and_then(|len| usize::try_from(len).ok()).ok_or(TransportError::BadRange { start, end })?;
        let file = self.kept_open(blob)?;
        let mut bytes = vec![0; len];
        let path = || self.blob_file(blob);
        match file.read_exact_at(&mut bytes, start) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let size = file.metadata().map(|metadata| metadata.len());
                let size =
                    size.map_err(|source| TransportError::File { action: "inspect", path: path(), source })?;
                return Err(TransportError::PastEnd { place: self.place(), digest: *blob, size, start, end });
            }
            Err(source) => return Err(TransportError::File { action: "read", path: path(), source }),
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.received.fetch_add(len as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>, TransportError> {
        let Descriptor { digest, size, .. } = *descriptor;
        let (file, len) = self.open_blob(&digest)?;
        if len != size {
            return Err(TransportError::WrongSize {
                place: self.place(),
                digest,
                expected: size,
                actual: len,
            });
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.received.fetch_add(size, Ordering::Relaxed);
        Ok(Box::new(Verified::new(file, self.place(), digest, size)))
    }

    fn has_blob(&self, descriptor: &Descriptor) -> Result<bool, TransportError> {
        match self.open_blob(&descriptor.digest) {
            Ok((_, len)) => Ok(len == descriptor.size),
            Err(TransportError::NotFound { .. }) => Ok(false),
            Err(TransportError::NotALayout {
                problem: LayoutProblem::Missing | LayoutProblem::NoMarker,
                ..
            }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn put_blob(&self, descriptor: &Descriptor, content: &mut dyn BlobContent) -> Result<(), TransportError> {
        let workshop = self.create()?;
        if self.has_blob(descriptor)? {
            return Ok(());
        }
        if let Some(owned) = content.owned_file().map(Path::to_owned)
            && self.adopt(&owned, descriptor)?
        {
            return Ok(());
        }
        let unfinished = files::Unfinished::new(workshop);
        self.write_blob(unfinished.path(), descriptor, content)?;
        files::publish(unfinished.path(), &self.blob_file(&descriptor.digest))
    }

    fn put_manifest(
        &self,
        bytes: &[u8],
        media_type: &str,
        tag: Option<&str>,
    ) -> Result<Digest, TransportError> {
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(TransportError::BadTag(tag.chars().take(200).collect()));
        }
        let digest = Digest::of(bytes);
        let what = || format!("manifest {digest}");
        let kind = ManifestKind::parse(bytes, Some(media_type))
            .map_err(|source| TransportError::Manifest { place: self.place(), what: what(), source })?;
        let entry = Descriptor::new(media_type, digest, bytes.len() as u64);
        self.put_blob(&entry, &mut BytesContent(bytes))?;
        let members = match &kind {
            ManifestKind::Index(index) if media_type::is_index(media_type) => index.manifests.as_slice(),
            _ => &[],
        };
        index::add(&self.directory, self.create()?, entry, tag, members)?;
        Ok(digest)
    }

    fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, TransportError> {
        let mut found: Vec<Descriptor> = Vec::new();
        for entry in self.list()? {
            match self.referrers_in(&entry, subject) {
                Ok(more) => found.extend(more),
                // What others put into the layout must not hide the referrers that are well.
                Err(error) => {
                    tracing::debug!(digest = %entry.digest, %error, "not a referrer that can be read")
                }
            }
        }
        found.sort_by_key(|descriptor| descriptor.digest);
        found.dedup_by_key(|descriptor| descriptor.digest);
        Ok(found)
    }

    fn blob_path(&self, digest: &Digest) -> Option<PathBuf> {
        let path = self.blob_file(digest);
        path.is_file().then_some(path)
    }

    fn staging(&self) -> Result<Option<PathBuf>, TransportError> {
        Ok(Some(self.create()?.name()))
    }

    fn abandon(&self) {
        let _setting = self.setting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(workshop) = self.workshop.get_or_init(|| None) {
            workshop.clear();
        }
    }

    fn counters(&self) -> Counters {
        Counters {
            requests: self.reads.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            retries: 0,
        }
    }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
