//! A registry whose small documents are kept on disk, so that a seed that is here needs it no more.
//!
//! Manifests, and blobs that are no larger than one (configurations, statements), are kept by their digest and
//! hashed on every load: what the disk did to them, or who else wrote there, costs a request and nothing else.
//! They are not synced to disk for the same reason. What a tag names is never kept.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use seed_format::Digest;

use super::{BlobContent, Counters, Transport, TransportError};
use crate::manifest::{Descriptor, Index, MAX_MANIFEST};
use crate::reference::Location;
use crate::{kept, whole_file};

/// Largest document, in bytes.
const MAX_DOCUMENT: u64 = MAX_MANIFEST as u64;

/// How long a registry may take to list referrers, where a list of before is kept.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where documents are kept in a cache: files that are named by their digest.
pub fn documents(cache: &Path) -> PathBuf {
    cache.join("documents")
}

/// Where lists of referrers are kept in a cache: files that are named by the digest of the subject.
pub fn lists(cache: &Path) -> PathBuf {
    cache.join("referrers")
}

/// A list of referrers, and when it came.
#[derive(Debug)]
struct Answer {
    came: Instant,
    list: Vec<Descriptor>,
}

/// A place, and what of it is kept in a cache.
#[derive(Debug)]
pub struct Remembered {
    place: Arc<dyn Transport>,
    documents: PathBuf,
    /// Documents of caches that are only read.
    further: Vec<PathBuf>,
    lists: PathBuf,
    /// For each subject, the last answer and when it came. Held while the registry is asked, so that who asks
    /// meanwhile (for statements and for traces, at the same time) shares the answer.
    answers: Mutex<HashMap<Digest, Arc<Mutex<Option<Answer>>>>>,
    /// Threads that write: nobody waits for the disk.
    writers: Mutex<Vec<JoinHandle<()>>>,
}

impl Remembered {
    /// Keeps what comes from `place` in `cache`, a directory, which is made when it is needed.
    pub fn new(place: Arc<dyn Transport>, cache: &Path) -> Self {
        let (answers, writers) = (Mutex::default(), Mutex::default());
        let further = Vec::new();
        Self { place, documents: documents(cache), further, lists: lists(cache), answers, writers }
    }

    /// Looks for documents in these caches as well, and writes nothing to them.
    pub fn reading_also(mut self, caches: &[PathBuf]) -> Self {
        self.further = caches.iter().map(|cache| documents(cache)).collect();
        self
    }

    fn document(&self, digest: &Digest) -> Option<Vec<u8>> {
        let mut directories = std::iter::once(&self.documents).chain(&self.further);
        directories.find_map(|directory| Self::document_in(directory, digest))
    }

    fn document_in(directory: &Path, digest: &Digest) -> Option<Vec<u8>> {
        let file = directory.join(digest.hex());
        let bytes = load(&file)?;
        if Digest::of(&bytes) == *digest {
            kept::used(&file);
            return Some(bytes);
        }
        tracing::warn!(file = %file.display(), "a cached document is wrong: it is fetched again");
        None
    }

    fn keep(&self, file: PathBuf, bytes: Vec<u8>) {
        let write = move || {
            if let Err(error) = whole_file::write(&file, &bytes) {
                tracing::warn!(file = %file.display(), %error, "a document cannot be cached");
            }
        };
        match thread::Builder::new().name("remember".into()).spawn(write) {
            Ok(writer) => self.writers().push(writer),
            Err(error) => tracing::warn!(%error, "a document cannot be cached"),
        }
    }

    fn writers(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The list that is kept. It has no digest to check, as the registry's has not: it is a hint, and the
    /// manifests that it names have digests.
    fn kept_list(&self, subject: &Digest) -> Option<Vec<Descriptor>> {
        let file = self.lists.join(subject.hex());
        let list = Index::parse(&load(&file)?).ok()?;
        kept::used(&file);
        Some(list.manifests)
    }

    /// Asks the registry; where it cannot be asked, what it said the last time counts.
    fn ask_for_list(&self, subject: &Digest) -> Result<Vec<Descriptor>, TransportError> {
        let Some(before) = self.kept_list(subject) else {
            let list = self.place.referrers(subject)?;
            self.keep(self.lists.join(subject.hex()), Index::of(list.clone()).to_bytes());
            return Ok(list);
        };
        let error = match self.list_in_time(subject) {
            Some(Ok(list)) => {
                if list != before {
                    self.keep(self.lists.join(subject.hex()), Index::of(list.clone()).to_bytes());
                }
                return Ok(list);
            }
            Some(Err(error)) if !error.is_unavailable() => return Err(error),
            Some(Err(error)) => error.to_string(),
            None => format!("no answer for {} s", PATIENCE.as_secs()),
        };
        tracing::warn!(place = %self.location(), error, "the registry cannot be asked what refers to the seed: what it said before counts");
        Ok(before)
    }

    /// The registry's list, if it comes in time.
    fn list_in_time(&self, subject: &Digest) -> Option<Result<Vec<Descriptor>, TransportError>> {
        let (send, receive) = mpsc::channel();
        let (place, subject) = (Arc::clone(&self.place), *subject);
        let ask = move || drop(send.send(place.referrers(&subject)));
        thread::Builder::new().name("referrers".into()).spawn(ask).ok()?;
        receive.recv_timeout(PATIENCE).ok()
    }
}

impl Transport for Remembered {
    fn location(&self) -> &Location {
        self.place.location()
    }

    fn resolve(&self, tag: &str) -> Result<Descriptor, TransportError> {
        self.place.resolve(tag)
    }

    fn resolve_default(&self) -> Result<Descriptor, TransportError> {
        self.place.resolve_default()
    }

    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, TransportError> {
        if let Some(bytes) = self.document(digest) {
            return Ok(bytes);
        }
        let bytes = self.place.manifest(digest)?;
        self.keep(self.documents.join(digest.hex()), bytes.clone());
        Ok(bytes)
    }

    fn read_range(
        &self,
        blob: &Digest,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Vec<u8>, TransportError> {
        self.place.read_range(blob, range, deadline)
    }

    fn stream_range(
        &self,
        blob: &Digest,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Box<dyn Read + Send + '_>, TransportError> {
        self.place.stream_range(blob, range, deadline)
    }

    fn read_range_beside(
        &self,
        blob: &Digest,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Vec<u8>, TransportError> {
        self.place.read_range_beside(blob, range, deadline)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>, TransportError> {
        let Descriptor { digest, size, .. } = descriptor;
        if *size > MAX_DOCUMENT {
            return self.place.blob(descriptor);
        }
        if let Some(bytes) = self.document(digest).filter(|bytes| bytes.len() as u64 == *size) {
            return Ok(Box::new(Cursor::new(bytes)));
        }
        Ok(Box::new(Learned {
            of: self,
            digest: *digest,
            stream: Some(self.place.blob(descriptor)?),
            seen: Vec::new(),
        }))
    }

    fn has_blob(&self, descriptor: &Descriptor) -> Result<bool, TransportError> {
        self.place.has_blob(descriptor)
    }

    fn put_blob(&self, descriptor: &Descriptor, content: &mut dyn BlobContent) -> Result<(), TransportError> {
        self.place.put_blob(descriptor, content)
    }

    fn mount_blob(&self, descriptor: &Descriptor, from: &Location) -> Result<bool, TransportError> {
        self.place.mount_blob(descriptor, from)
    }

    fn put_manifest(
        &self,
        bytes: &[u8],
        media_type: &str,
        tag: Option<&str>,
    ) -> Result<Digest, TransportError> {
        self.place.put_manifest(bytes, media_type, tag)
    }

    /// What the registry says now. Only where it cannot be asked, what it said the last time.
    fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, TransportError> {
        let asked = Instant::now();
        let answer = Arc::clone(
            self.answers.lock().unwrap_or_else(PoisonError::into_inner).entry(*subject).or_default(),
        );
        let mut answer = answer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Answer { list, .. }) = answer.as_ref().filter(|answer| answer.came >= asked) {
            return Ok(list.clone());
        }
        let list = self.ask_for_list(subject)?;
        *answer = Some(Answer { came: Instant::now(), list: list.clone() });
        Ok(list)
    }

    fn distrust(&self, blob: &Digest) -> bool {
        self.place.distrust(blob)
    }

    fn blob_path(&self, digest: &Digest) -> Option<PathBuf> {
        self.place.blob_path(digest)
    }

    fn staging(&self) -> Result<Option<PathBuf>, TransportError> {
        self.place.staging()
    }

    fn abandon(&self) {
        self.place.abandon();
    }

    fn counters(&self) -> Counters {
        self.place.counters()
    }

    fn settle(&self) {
        let writers = std::mem::take(&mut *self.writers());
        writers.into_iter().for_each(|writer| drop(writer.join()));
    }
}

impl Drop for Remembered {
    fn drop(&mut self) {
        self.settle();
    }
}

/// A document on its way: kept when all of it has come.
struct Learned<'a> {
    of: &'a Remembered,
    digest: Digest,
    /// `None` when it has ended.
    stream: Option<Box<dyn Read + Send + 'a>>,
    seen: Vec<u8>,
}

impl Read for Learned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(stream) = &mut self.stream else { return Ok(0) };
        let got = stream.read(buffer)?;
        self.seen.extend_from_slice(&buffer[..got]);
        if got == 0 && !buffer.is_empty() {
            self.stream = None;
            // Whoever gave the stream has checked it. Once more costs little, and a file under a wrong name is
            // never written.
            let seen = std::mem::take(&mut self.seen);
            if Digest::of(&seen) == self.digest {
                self.of.keep(self.of.documents.join(self.digest.hex()), seen);
            }
        }
        Ok(got)
    }
}

/// A small file; `None` if there is none that can be read.
fn load(file: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file).ok()?.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= MAX_DOCUMENT).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::TcpListener;

    use super::*;
    use crate::manifest::{Manifest, media_type};
    use crate::transport::{BytesContent, Layout, Registry, TransportOptions};

    /// An image and what refers to it, in a layout.
    fn image(layout: &Layout) -> (Descriptor, Digest, Vec<Descriptor>) {
        let config = Descriptor::new(media_type::CONFIG, Digest::of(b"{}"), 2);
        layout.put_blob(&config, &mut BytesContent(b"{}")).unwrap();
        let manifest = |subject| Manifest {
            schema_version: 2,
            media_type: Some(media_type::MANIFEST.into()),
            artifact_type: None,
            config: config.clone(),
            layers: vec![],
            subject,
            annotations: Default::default(),
        };
        let put = |manifest: Manifest| {
            let bytes = manifest.to_bytes();
            let digest = layout.put_manifest(&bytes, media_type::MANIFEST, None).unwrap();
            Descriptor::new(media_type::MANIFEST, digest, bytes.len() as u64)
        };
        let subject = put(manifest(None));
        put(manifest(Some(subject.clone())));
        (config, subject.digest, layout.referrers(&subject.digest).unwrap())
    }

    fn blob(place: &Remembered, descriptor: &Descriptor) -> Result<Vec<u8>, TransportError> {
        let mut bytes = Vec::new();
        place.blob(descriptor)?.read_to_end(&mut bytes).unwrap();
        Ok(bytes)
    }

    #[test]
    fn documents_are_kept_and_hashed() {
        let home = tempfile::tempdir().unwrap();
        let (directory, cache) = (home.path().join("layout"), home.path().join("cache"));
        let (config, digest, _) = image(&Layout::new(&directory));
        let first = Remembered::new(Arc::new(Layout::new(&directory)), &cache);
        let manifest = first.manifest(&digest).unwrap();
        assert_eq!(blob(&first, &config).unwrap(), b"{}");
        first.settle();

        fs::rename(&directory, home.path().join("gone")).unwrap();
        let second = Remembered::new(Arc::new(Layout::new(&directory)), &cache);
        assert_eq!(second.manifest(&digest).unwrap(), manifest);
        assert_eq!(blob(&second, &config).unwrap(), b"{}");
        for wrong in [&b""[..], b"[]", &vec![b' '; MAX_MANIFEST + 1]] {
            fs::write(documents(&cache).join(digest.hex()), wrong).unwrap();
            fs::write(documents(&cache).join(config.digest.hex()), wrong).unwrap();
            second.manifest(&digest).unwrap_err();
            blob(&second, &config).unwrap_err();
        }

        // It is replaced.
        fs::rename(home.path().join("gone"), &directory).unwrap();
        assert_eq!(second.manifest(&digest).unwrap(), manifest);
        second.settle();
        assert_eq!(fs::read(documents(&cache).join(digest.hex())).unwrap(), manifest);
        assert_eq!(fs::read_dir(documents(&cache)).unwrap().count(), 2, "nothing unfinished is left");
    }

    #[test]
    fn a_list_of_before_counts_where_the_registry_does_not_answer() {
        let home = tempfile::tempdir().unwrap();
        let (directory, cache) = (home.path().join("layout"), home.path().join("cache"));
        let (_, subject, list) = image(&Layout::new(&directory));
        assert_eq!(list.len(), 1);

        // It takes connections and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = silent.local_addr().unwrap().to_string();
        let registry = |operation_timeout| {
            let options = TransportOptions { operation_timeout, retries: 0, ..TransportOptions::default() };
            Arc::new(Registry::new(&host, "a", &options).unwrap())
        };
        let unknown = Remembered::new(registry(Duration::from_millis(100)), &cache);
        unknown.referrers(&subject).unwrap_err();

        let known = Remembered::new(Arc::new(Layout::new(&directory)), &cache);
        assert_eq!(known.referrers(&subject).unwrap(), list);
        known.settle();
        let began = Instant::now();
        assert_eq!(Remembered::new(registry(PATIENCE * 2), &cache).referrers(&subject).unwrap(), list);
        assert!(began.elapsed() >= PATIENCE, "it was not asked");

        // A place that answers decides, whatever it says.
        fs::remove_dir_all(&directory).unwrap();
        known.referrers(&subject).unwrap_err();
        image_without_referrers(&Layout::new(&directory));
        assert_eq!(known.referrers(&subject).unwrap(), []);
        known.settle();
        assert_eq!(known.kept_list(&subject).unwrap(), []);
    }

    /// A place that lists slowly, and counts how often it is asked.
    #[derive(Debug)]
    struct Slow {
        layout: Layout,
        asked: std::sync::atomic::AtomicUsize,
        go_on: Mutex<mpsc::Receiver<()>>,
    }

    impl Transport for Slow {
        fn location(&self) -> &Location {
            self.layout.location()
        }
        fn resolve(&self, tag: &str) -> Result<Descriptor, TransportError> {
            self.layout.resolve(tag)
        }
        fn resolve_default(&self) -> Result<Descriptor, TransportError> {
            self.layout.resolve_default()
        }
        fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, TransportError> {
            self.layout.manifest(digest)
        }
        fn read_range(
            &self,
            blob: &Digest,
            range: Range<u64>,
            until: Instant,
        ) -> Result<Vec<u8>, TransportError> {
            self.layout.read_range(blob, range, until)
        }
        fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>, TransportError> {
            self.layout.blob(descriptor)
        }
        fn has_blob(&self, descriptor: &Descriptor) -> Result<bool, TransportError> {
            self.layout.has_blob(descriptor)
        }
        fn put_blob(
            &self,
            descriptor: &Descriptor,
            content: &mut dyn BlobContent,
        ) -> Result<(), TransportError> {
            self.layout.put_blob(descriptor, content)
        }
        fn put_manifest(
            &self,
            bytes: &[u8],
            kind: &str,
            tag: Option<&str>,
        ) -> Result<Digest, TransportError> {
            self.layout.put_manifest(bytes, kind, tag)
        }
        fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, TransportError> {
            self.asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let _ = self.go_on.lock().unwrap().recv();
            self.layout.referrers(subject)
        }
    }

    /// Statements and traces are asked for at the same time: that is one request.
    #[test]
    fn who_asks_at_the_same_time_shares_the_answer() {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout::new(home.path().join("layout"));
        let (_, subject, list) = image(&layout);
        let (send, go_on) = mpsc::channel();
        let slow = Arc::new(Slow { layout, asked: Default::default(), go_on: Mutex::new(go_on) });
        let place: Arc<dyn Transport> = slow.clone();
        let remembered = Remembered::new(place, &home.path().join("cache"));
        thread::scope(|scope| {
            let first = scope.spawn(|| remembered.referrers(&subject).unwrap());
            while slow.asked.load(std::sync::atomic::Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            let second = scope.spawn(|| remembered.referrers(&subject).unwrap());
            // Until the second waits for the first, it has not noted when it asked.
            while Arc::strong_count(&remembered.answers.lock().unwrap()[&subject]) < 3 {
                thread::yield_now();
            }
            send.send(()).unwrap();
            assert_eq!(first.join().unwrap(), list);
            assert_eq!(second.join().unwrap(), list);
        });
        assert_eq!(slow.asked.load(std::sync::atomic::Ordering::SeqCst), 1);
        send.send(()).unwrap();
        remembered.referrers(&subject).unwrap();
        assert_eq!(slow.asked.load(std::sync::atomic::Ordering::SeqCst), 2, "later, it is asked again");
    }

    fn image_without_referrers(layout: &Layout) {
        let config = Descriptor::new(media_type::CONFIG, Digest::of(b"{}"), 2);
        layout.put_blob(&config, &mut BytesContent(b"{}")).unwrap();
    }
}
