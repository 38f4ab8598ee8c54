//! Copying images between places, by digest.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use seed_format::Digest;

use super::{BlobContent, Transport, TransportError};
use crate::manifest::{Descriptor, ManifestKind};

/// Deepest nesting of indexes and referrers of referrers that is followed.
const MAX_DEPTH: usize = 4;
/// Most manifests that are copied at once.
const MAX_MANIFESTS: usize = 10_000;

/// How an image is copied.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// The tag to give it at the destination.
    pub tag: Option<String>,
    /// Whether what refers to it is copied too: signatures, statements, traces.
    pub referrers: bool,
    /// Blobs that are copied at the same time.
    pub parallel: usize,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self { tag: None, referrers: true, parallel: 8 }
    }
}

/// What a copy did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyReport {
    /// Manifests and indexes, referrers included.
    pub manifests: usize,
    /// Blobs that were sent.
    pub copied: usize,
    /// Blobs that the destination took over from another of its repositories.
    pub mounted: usize,
    /// Blobs that were there already.
    pub present: usize,
    /// Bytes of the blobs that were sent.
    pub bytes: u64,
}

/// A manifest to be copied, after all that it needs.
struct Planned {
    bytes: Vec<u8>,
    media_type: String,
    digest: Digest,
}

/// Copies the image `digest`, its blobs and what refers to it. Every byte is checked against its digest.
///
/// A manifest is written after everything that it names, so that an interrupted copy leaves none that is
/// incomplete.
pub fn copy(
    source: &dyn Transport,
    destination: &dyn Transport,
    digest: &Digest,
    options: &CopyOptions,
) -> Result<CopyReport, TransportError> {
    let mut plan =
        Plan { source, options, manifests: Vec::new(), blobs: BTreeMap::new(), seen: BTreeSet::new() };
    plan.add(digest, None, 0)?;
    let mut report = copy_blobs(source, destination, plan.blobs.into_values().collect(), options.parallel)?;
    for Planned { bytes, media_type, digest: planned } in &plan.manifests {
        let tag = options.tag.as_deref().filter(|_| planned == digest);
        destination.put_manifest(bytes, media_type, tag)?;
        report.manifests += 1;
    }
    Ok(report)
}

struct Plan<'a> {
    source: &'a dyn Transport,
    options: &'a CopyOptions,
    /// In the order in which they are to be written.
    manifests: Vec<Planned>,
    blobs: BTreeMap<Digest, Descriptor>,
    seen: BTreeSet<Digest>,
}

impl Plan<'_> {
    fn add(&mut self, digest: &Digest, media_type: Option<&str>, depth: usize) -> Result<(), TransportError> {
        if depth > MAX_DEPTH || self.seen.len() >= MAX_MANIFESTS || !self.seen.insert(*digest) {
            return Ok(());
        }
        let bytes = self.source.manifest(digest)?;
        let kind = ManifestKind::parse(&bytes, media_type).map_err(|source| TransportError::Manifest {
            place: self.source.location().to_string(),
            what: format!("manifest {digest}"),
            source,
        })?;
        let media_type = kind.media_type().to_owned();
        match kind {
            ManifestKind::Manifest(manifest) => {
                self.blobs.extend(manifest.blobs().map(|blob| (blob.digest, blob.clone())));
            }
            ManifestKind::Index(index) => {
                for member in &index.manifests {
                    self.add(&member.digest, Some(&member.media_type), depth + 1)?;
                }
            }
        }
        self.manifests.push(Planned { bytes, media_type, digest: *digest });
        if self.options.referrers {
            for referrer in self.source.referrers(digest)? {
                self.add(&referrer.digest, Some(&referrer.media_type), depth + 1)?;
            }
        }
        Ok(())
    }
}

/// Copies blobs that are not there yet.
pub(crate) fn copy_blobs(
    source: &dyn Transport,
    destination: &dyn Transport,
    mut blobs: Vec<Descriptor>,
    parallel: usize,
) -> Result<CopyReport, TransportError> {
    // The largest first: none is left alone at the end.
    blobs.sort_by_key(|blob| std::cmp::Reverse(blob.size));
    let workers = parallel.clamp(1, 64).min(blobs.len().max(1));
    let queue = Mutex::new(blobs.into_iter());
    let failure: Mutex<Option<TransportError>> = Mutex::default();
    let failed = AtomicBool::new(false);
    let [copied, mounted, present, bytes] = [(); 4].map(|()| AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(blob) = next else { return };
                    let result = copy_blob(source, destination, &blob);
                    match result {
                        Ok(Done::Present) => drop(present.fetch_add(1, Ordering::Relaxed)),
                        Ok(Done::Mounted) => drop(mounted.fetch_add(1, Ordering::Relaxed)),
                        Ok(Done::Copied) => {
                            copied.fetch_add(1, Ordering::Relaxed);
                            bytes.fetch_add(blob.size, Ordering::Relaxed);
                        }
                        Err(error) => {
                            failed.store(true, Ordering::Relaxed);
                            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let count =
        |number: AtomicU64| usize::try_from(number.into_inner()).expect("fewer than the blobs in memory");
    let bytes = bytes.into_inner();
    Ok(CopyReport {
        manifests: 0,
        copied: count(copied),
        mounted: count(mounted),
        present: count(present),
        bytes,
    })
}

enum Done {
    Present,
    Mounted,
    Copied,
}

fn copy_blob(
    source: &dyn Transport,
    destination: &dyn Transport,
    blob: &Descriptor,
) -> Result<Done, TransportError> {
    if destination.has_blob(blob)? {
        return Ok(Done::Present);
    }
    if destination.mount_blob(blob, source.location())? {
        return Ok(Done::Mounted);
    }
    let mut content = Remote { source, blob, current: None, position: 0, failure: None };
    let result = destination.put_blob(blob, &mut content);
    // What went wrong at the source explains more than that the content could not be read.
    match (result, content.failure) {
        (Ok(()), _) => Ok(Done::Copied),
        (Err(_), Some(failure)) => Err(failure),
        (Err(error), None) => Err(error),
    }
}

/// A blob of another place as content.
///
/// The reader is kept between parts of an upload: only who reads from the beginning can check the digest.
struct Remote<'a> {
    source: &'a dyn Transport,
    blob: &'a Descriptor,
    current: Option<Box<dyn Read + Send + 'a>>,
    position: u64,
    /// The source's error, which would else be lost on its way through the destination.
    failure: Option<TransportError>,
}

impl Remote<'_> {
    fn note(&mut self, error: io::Error) -> io::Error {
        self.current = None;
        match TransportError::from_io(error) {
            Ok(error) => {
                let text = error.to_string();
                self.failure = Some(error);
                io::Error::other(text)
            }
            Err(error) => error,
        }
    }
}

impl BlobContent for Remote<'_> {
    fn open(&mut self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        if self.current.is_none() || self.position != offset {
            let reader = self.source.blob(self.blob).map_err(|error| self.note(error.into()))?;
            self.current = Some(reader);
            self.position = 0;
            let skipped = io::copy(&mut (&mut *self).take(offset), &mut io::sink())?;
            if skipped < offset {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(Box::new(self))
    }
}

impl Read for Remote<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(reader) = &mut self.current else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        match reader.read(buffer) {
            Ok(got) => {
                self.position += got as u64;
                Ok(got)
            }
            Err(error) => Err(self.note(error)),
        }
    }
}
