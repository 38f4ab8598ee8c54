//! The chunk cache: verified chunks by digest, shared by all seeds, mounts and processes of a node.
//!
//! Whatever is read from it is hashed first. A crash, a full disk, a flipped bit or a file that somebody
//! else wrote can therefore cost a fetch, but never yield a wrong byte; there is no switch for it.

mod memory;
mod segment;
mod space;
mod verified;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use seed_format::Digest;
use serde::{Deserialize, Serialize};

use crate::stats::{Counters, add};
use memory::Memory;
use segment::{Appender, Listed, Segment};
pub use verified::{Chunk, Mismatch, Verified};

/// Largest uncompressed chunk that a mount accepts, in bytes. Writers of seeds cut files far below it.
pub const MAX_CHUNK: u32 = segment::MAX_CHUNK;

/// A segment is closed, and so may be evicted, when it has this many bytes.
const SEGMENT_BYTES: u64 = 256 << 20;
/// Records that one process keeps of a cache, 48 bytes each.
const MAX_RECORDS: usize = 8 << 20;
/// How long chunks are not written after the disk refused one.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(10);
/// Shortest time between two looks for what other processes have cached.
const REFRESH_EVERY: Duration = Duration::from_millis(250);

/// Number of the directory that is written to, among those that are read.
const OWN: usize = 0;

/// Where the cache is and how much it may hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreConfig {
    /// The directory; made with mode 0700 if it is missing. `None` keeps chunks in memory only.
    pub directory: Option<PathBuf>,
    /// Bytes on disk for all processes that share the directory. The least recently used segments go first.
    pub limit: u64,
    /// Bytes that stay free on the disk of the directory; `None` for one in twenty, but one GiB at least
    /// and four at most, and never more than a quarter.
    pub keep_free: Option<u64>,
    /// Further cache directories, which are read as they are and never written to. What is found in them is hashed
    /// like everything.
    pub read_also: Vec<PathBuf>,
    /// Bytes of uncompressed chunks kept in this process.
    pub memory: usize,
}

impl Default for StoreConfig {
    /// No directory, 20 GiB, the usual reserve, nothing else to read, 16 MiB.
    fn default() -> Self {
        Self { directory: None, limit: 20 << 30, keep_free: None, read_also: Vec::new(), memory: 16 << 20 }
    }
}

/// Why a cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory cannot be made or read.
    #[error("the chunk cache {} cannot be used", directory.display())]
    Directory {
        /// The cache directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What [`collect_garbage`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// Segments removed.
    pub removed: u64,
    /// Bytes freed on disk.
    pub freed: u64,
    /// Bytes that are left.
    pub left: u64,
}

/// The chunk cache of one process.
#[derive(Debug)]
pub struct ChunkStore {
    config: StoreConfig,
    counters: Arc<Counters>,
    memory: Mutex<Memory>,
    catalog: RwLock<Catalog>,
    writer: Mutex<Writer>,
    opened: Instant,
    /// Until when nothing is written, in milliseconds after `opened`; 0 if the disk did not refuse.
    paused_until: AtomicU64,
}

/// What is known of the segments on disk. The first 16 bytes of a digest are enough to find a chunk: the
/// whole digest is compared with the hash of what is found.
#[derive(Debug, Default)]
struct Catalog {
    chunks: HashMap<u128, Location>,
    segments: HashMap<u32, Arc<Segment>>,
    /// Segments by their directory (0 is the one that is written to, the others those that are only read) and name.
    names: HashMap<(usize, OsString), Known>,
    next_id: u32,
    refreshed: Option<Instant>,
    /// Halves of the keys of the chunks that matter, sorted; `None`: all do.
    only: Option<Vec<u64>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Location {
    segment: u32,
    len: u32,
    offset: u64,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    id: u32,
    /// Bytes of the index that were read.
    seen: u64,
}

#[derive(Debug, Default)]
struct Writer {
    appender: Option<(u32, Appender)>,
    warned: bool,
    /// Bytes written since the size of the whole directory was last looked at.
    since_listing: u64,
    made: u64,
}

impl ChunkStore {
    /// Opens the cache and reads what is in it.
    ///
    /// A directory that may be read but not written to is used as it is.
    pub fn open(config: StoreConfig, counters: Arc<Counters>) -> Result<Self, StoreError> {
        let store = Self {
            memory: Mutex::new(Memory::new(config.memory)),
            counters,
            catalog: RwLock::default(),
            writer: Mutex::default(),
            opened: Instant::now(),
            paused_until: AtomicU64::new(0),
            config,
        };
        if let Some(directory) = &store.config.directory {
            let failed = |source| StoreError::Directory { directory: directory.clone(), source };
            if !directory.is_dir() {
                DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
            }
            write(&store.catalog).refresh(OWN, directory).map_err(failed)?;
        }
        for (number, directory) in store.config.read_also.iter().enumerate() {
            if let Err(error) = write(&store.catalog).refresh(number + 1, directory) {
                let directory = directory.display();
                tracing::warn!(%directory, %error, "a cache that is to be read from cannot be");
            }
        }
        Ok(store)
    }

    /// Hashes the bytes in `range` of `buffer`, which should be those of `expected`.
    ///
    /// This is how bytes from a source become servable. They are not cached by it: see
    /// [`keep`](Self::keep).
    pub fn admit(
        &self,
        expected: &Digest,
        buffer: &Arc<Vec<u8>>,
        range: Range<usize>,
    ) -> Result<Verified<Chunk>, Mismatch> {
        verified::verify(expected, buffer, range)
    }

    /// Finds a chunk of `len` bytes, in memory or on disk. What is on disk is hashed; if it is wrong it is
    /// forgotten, and the answer is `None`.
    pub fn get(&self, digest: &Digest, len: u32) -> Option<Verified<Chunk>> {
        if let Some(chunk) = self.recall(digest, len) {
            return Some(chunk);
        }
        let (location, segment) = {
            let catalog = read(&self.catalog);
            let location = *catalog.chunks.get(&key(digest))?;
            (location, Arc::clone(catalog.segments.get(&location.segment)?))
        };
        let loaded = if location.len == len { segment.read(location.offset, len).ok() } else { None };
        let chunk = loaded.and_then(|bytes| {
            let range = 0..bytes.len();
            verified::verify(digest, &Arc::new(bytes), range).ok()
        });
        match chunk {
            Some(chunk) => {
                add(&self.counters.cache_hits, 1);
                lock(&self.memory).insert(&chunk);
                Some(chunk)
            }
            None => {
                self.forget(digest, location);
                None
            }
        }
    }

    /// Finds a chunk in memory.
    pub fn recall(&self, digest: &Digest, len: u32) -> Option<Verified<Chunk>> {
        let chunk = lock(&self.memory).get(digest).filter(|chunk| chunk.bytes().len() == len as usize)?;
        add(&self.counters.memory_hits, 1);
        Some(chunk)
    }

    /// Whether a chunk seems to be on disk. Only [`get`](Self::get) knows.
    pub fn contains(&self, digest: &Digest) -> bool {
        read(&self.catalog).chunks.contains_key(&key(digest))
    }

    /// Whether chunks that are kept now go to disk, so that fetching them ahead of need is worth it.
    pub fn keeps(&self) -> bool {
        self.config.directory.is_some() && !self.paused()
    }

    fn paused(&self) -> bool {
        let until = self.paused_until.load(Ordering::Relaxed);
        until != 0 && self.opened.elapsed() < Duration::from_millis(until)
    }

    /// Keeps one chunk in memory for the reads that will follow.
    pub fn remember(&self, chunk: &Verified<Chunk>) {
        lock(&self.memory).insert(chunk);
    }

    /// From now on no chunks are looked for but these. The cache may hold those of many seeds, and a process that
    /// serves one of them needs not know of the others.
    pub fn confine(&self, digests: impl Iterator<Item = Digest>) {
        let mut only: Vec<_> = digests.map(|digest| half(key(&digest))).collect();
        only.sort_unstable();
        write(&self.catalog).confine(only);
    }

    /// Forgets what is in memory, if the disk has it.
    pub fn rest(&self) {
        if self.keeps() {
            lock(&self.memory).clear();
        }
    }

    /// Writes chunks to the cache. If the disk refuses, they are simply not kept: reading goes on.
    pub fn keep(&self, chunks: &[Verified<Chunk>]) {
        let Some(directory) = &self.config.directory else { return };
        let missing: Vec<_> = {
            let catalog = read(&self.catalog);
            let missing = chunks.iter().filter(|chunk| !catalog.chunks.contains_key(&key(chunk.digest())));
            missing.map(|chunk| (*chunk.digest(), chunk.bytes())).collect()
        };
        if missing.is_empty() {
            return;
        }
        if self.paused() {
            return;
        }
        let mut writer = lock(&self.writer);
        match self.append(&mut writer, directory, &missing) {
            Ok(()) => self.paused_until.store(0, Ordering::Relaxed),
            Err(error) => {
                if !writer.warned {
                    let directory = directory.display();
                    tracing::warn!(%directory, %error, "chunks cannot be cached: reading goes on without");
                }
                writer.warned = true;
                let until = (self.opened.elapsed() + PAUSE_AFTER_FAILURE).as_millis();
                self.paused_until.store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        }
    }

    fn append(&self, writer: &mut Writer, directory: &Path, chunks: &[(Digest, &[u8])]) -> io::Result<()> {
        let size: u64 = chunks.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let roll = SEGMENT_BYTES.min(self.config.limit / 8);
        // A cache may be deleted at any time: what would be written to a deleted file helps nobody.
        let over = |appender: &Appender| appender.len() >= roll || appender.is_deleted();
        if writer.appender.as_ref().is_some_and(|(_, appender)| over(appender)) {
            writer.appender = None;
        }
        writer.since_listing += size;
        if writer.appender.is_none() && !directory.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let lacking = space::lacking(directory, self.config.keep_free, size)?;
        if writer.appender.is_none() || writer.since_listing >= roll || lacking > 0 {
            writer.since_listing = 0;
            self.make_room(directory, size, lacking)?;
        }
        if writer.appender.is_none() {
            let appender = Appender::create(directory, writer.next_name())?;
            let segment = Segment::open(directory, &appender.name)?;
            let id = write(&self.catalog).add_segment((OWN, appender.name.clone()), segment, u64::MAX);
            writer.appender = Some((id, appender));
        }
        let Some((id, appender)) = &mut writer.appender else { return Ok(()) };
        let records = appender.append(chunks)?;
        let mut catalog = write(&self.catalog);
        for record in records {
            catalog.insert(*id, record);
        }
        Ok(())
    }

    /// Evicts old segments until `size` more bytes are within the limit, and `lacking` bytes have become free.
    fn make_room(&self, directory: &Path, size: u64, lacking: u64) -> io::Result<()> {
        let limit = self.config.limit.saturating_sub(size);
        let mut report = collect_garbage(directory, limit)?;
        let still = lacking.saturating_sub(report.freed);
        if still > 0 {
            let more = collect_garbage(directory, report.left.saturating_sub(still))?;
            report = GcReport {
                removed: report.removed + more.removed,
                freed: report.freed + more.freed,
                left: more.left,
            };
        }
        if report.removed > 0 {
            write(&self.catalog).refresh(OWN, directory)?;
        }
        if report.left + size > self.config.limit {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "the cache holds all that it may"));
        }
        if lacking > 0 && space::lacking(directory, self.config.keep_free, size)? > 0 {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the disk has no more to spare"));
        }
        Ok(())
    }

    /// Looks for chunks that other processes have cached since the last look. Cheap enough to do before
    /// each fetch: it does nothing if the last look is less than a quarter of a second ago.
    pub fn look_around(&self) {
        let Some(directory) = &self.config.directory else { return };
        let due = |catalog: &Catalog| catalog.refreshed.is_none_or(|last| last.elapsed() >= REFRESH_EVERY);
        if due(&read(&self.catalog)) {
            let mut catalog = write(&self.catalog);
            if due(&catalog)
                && let Err(error) = catalog.refresh(OWN, directory)
            {
                tracing::debug!(directory = %directory.display(), %error, "the cache cannot be listed");
            }
        }
    }

    fn forget(&self, digest: &Digest, location: Location) {
        let mut catalog = write(&self.catalog);
        if catalog.chunks.get(&key(digest)) == Some(&location) {
            catalog.chunks.remove(&key(digest));
            add(&self.counters.cache_dropped, 1);
            tracing::warn!(%digest, "a cached chunk had wrong bytes: it is dropped and fetched again");
        }
    }
}

impl Catalog {
    fn refresh(&mut self, number: usize, directory: &Path) -> io::Result<()> {
        self.refreshed = Some(Instant::now());
        let listed = segment::list(directory)?;
        for Listed { name, .. } in &listed {
            let known = match self.names.get(&(number, name.clone())) {
                Some(known) => *known,
                None => match Segment::open(directory, name) {
                    Ok(segment) => {
                        let id = self.add_segment((number, name.clone()), segment, 0);
                        Known { id, seen: 0 }
                    }
                    Err(_) => continue,
                },
            };
            if known.seen == u64::MAX {
                continue;
            }
            let Ok((records, seen)) = segment::read_records(directory, name, known.seen) else { continue };
            self.names.insert((number, name.clone()), Known { seen, ..known });
            for record in records {
                self.insert(known.id, record);
            }
        }
        self.drop_segments_not_in(number, &listed);
        Ok(())
    }

    /// `seen` is `u64::MAX` for the segment that this process writes: its records are known already.
    fn add_segment(&mut self, name: (usize, OsString), segment: Segment, seen: u64) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        self.segments.insert(id, Arc::new(segment));
        self.names.insert(name, Known { id, seen });
        id
    }

    fn insert(&mut self, segment: u32, record: segment::Record) {
        if self.chunks.len() < MAX_RECORDS && matters(self.only.as_deref(), key(&record.digest)) {
            let location = Location { segment, len: record.len, offset: record.offset };
            self.chunks.entry(key(&record.digest)).or_insert(location);
        }
    }

    fn confine(&mut self, only: Vec<u64>) {
        self.chunks.retain(|key, _| matters(Some(&only), *key));
        self.chunks.shrink_to_fit();
        self.only = Some(only);
    }

    /// Closes what was evicted, so that its space is freed.
    fn drop_segments_not_in(&mut self, number: usize, listed: &[Listed]) {
        let present: std::collections::HashSet<_> = listed.iter().map(|segment| &segment.name).collect();
        let before = self.names.len();
        let segments = &mut self.segments;
        self.names.retain(|name, known| {
            let keep = name.0 != number || present.contains(&name.1);
            if !keep {
                segments.remove(&known.id);
            }
            keep
        });
        if self.names.len() < before {
            let segments = &self.segments;
            self.chunks.retain(|_, location| segments.contains_key(&location.segment));
        }
    }
}

impl Writer {
    /// A name that no other segment has: time, process, count.
    fn next_name(&mut self) -> OsString {
        self.made += 1;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        format!("{now:024x}-{:x}-{:x}", std::process::id(), self.made).into()
    }
}

/// Removes the least recently used segments of a cache directory until at most `limit` bytes are left.
///
/// Segments that a process is writing to stay. A mount that reads from an evicted segment fetches again.
pub fn collect_garbage(directory: &Path, limit: u64) -> io::Result<GcReport> {
    let mut segments = segment::list(directory)?;
    segments.sort_by(|a, b| (a.used, &a.name).cmp(&(b.used, &b.name)));
    let mut report =
        GcReport { left: segments.iter().map(|segment| segment.size).sum(), ..Default::default() };
    for Listed { name, size, .. } in segments {
        if report.left <= limit {
            break;
        }
        if segment::remove_unless_live(directory, &name)? {
            report.removed += 1;
            report.freed += size;
            report.left -= size;
        }
    }
    Ok(report)
}

fn key(digest: &Digest) -> u128 {
    let mut prefix = [0; 16];
    prefix.copy_from_slice(&digest.as_bytes()[..16]);
    u128::from_le_bytes(prefix)
}

/// Half of a key: others that have the same half do no harm.
fn half(key: u128) -> u64 {
    u64::try_from(key >> 64).expect("64 bits are left")
}

fn matters(only: Option<&[u64]>, key: u128) -> bool {
    only.is_none_or(|only| only.binary_search(&half(key)).is_ok())
}

// No code panics between two writes to what these guard, so what a poisoned lock guards is whole.

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
