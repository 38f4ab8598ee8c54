//! One pair of files of the chunk cache: bytes of chunks, and where each lies.
//!
//! `<name>.data` holds uncompressed chunks, one after another. `<name>.index` holds records of 48 bytes,
//! little-endian: the chunk's SHA-256 (32), its offset in the data file (8), its length (4) and
//! [`RECORD_TAG`] (4). Both files only grow, and only the process that made them writes to them; it holds
//! an exclusive `flock` on the data file for as long as it may.
//!
//! Nothing here is trusted: a record says where a chunk *may* lie, and its bytes are hashed on every load.
//! So no order of writes has to be forced: after a crash, records of bytes that never reached the disk, and
//! bytes without a record, are both harmless.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::buffer::spare_capacity;
use rustix::fs::{FlockOperation, Timespec, Timestamps, flock, futimens};
use seed_format::Digest;

/// Bytes of one record.
pub(super) const RECORD_LEN: usize = 48;
/// Last four bytes of each record, so that a hole in the file is not taken for one.
pub(super) const RECORD_TAG: u32 = u32::from_le_bytes(*b"chk1");
/// A chunk in the cache is not longer than this.
pub(super) const MAX_CHUNK: u32 = 16 << 20;

/// Most parts of one write (`IOV_MAX`).
const MAX_PARTS: usize = 1024;

const DATA: &str = "data";
const INDEX: &str = "index";
/// Seconds between two notes that a segment is in use.
const TOUCH_EVERY: u64 = 60;

/// Where a chunk may lie in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) digest: Digest,
    pub(super) offset: u64,
    pub(super) len: u32,
}

impl Record {
    pub(super) fn encode(&self) -> [u8; RECORD_LEN] {
        let mut bytes = [0; RECORD_LEN];
        bytes[..32].copy_from_slice(self.digest.as_bytes());
        bytes[32..40].copy_from_slice(&self.offset.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.len.to_le_bytes());
        bytes[44..].copy_from_slice(&RECORD_TAG.to_le_bytes());
        bytes
    }

    /// `None` for what no writer wrote.
    pub(super) fn decode(bytes: &[u8; RECORD_LEN]) -> Option<Self> {
        let (digest, rest) = bytes.split_first_chunk::<32>()?;
        let (offset, rest) = rest.split_first_chunk::<8>()?;
        let (len, tag) = rest.split_first_chunk::<4>()?;
        let record = Self {
            digest: Digest::from_bytes(*digest),
            offset: u64::from_le_bytes(*offset),
            len: u32::from_le_bytes(*len),
        };
        let known = tag == RECORD_TAG.to_le_bytes();
        (known && record.len <= MAX_CHUNK && record.offset < 1 << 62).then_some(record)
    }
}

/// A segment that chunks are read from.
#[derive(Debug)]
pub(super) struct Segment {
    data: File,
    touched: AtomicU64,
}

impl Segment {
    pub(super) fn open(directory: &Path, name: &OsStr) -> io::Result<Self> {
        let data = File::open(path(directory, name, DATA))?;
        Ok(Self { data, touched: AtomicU64::new(0) })
    }

    /// The bytes at a record's place; an error if the file is shorter.
    pub(super) fn read(&self, offset: u64, len: u32) -> io::Result<Vec<u8>> {
        // Not filled with zeros first.
        let mut bytes = Vec::with_capacity(len as usize);
        while bytes.len() < len as usize {
            let at = offset + bytes.len() as u64;
            let left = len as usize - bytes.len();
            match rustix::io::pread(&self.data, spare_capacity(&mut bytes), at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                // The allocator may have given more than was asked for.
                Ok(got) if got > left => bytes.truncate(len as usize),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.touch();
        Ok(bytes)
    }

    /// Notes the use as the modification time of the data file. It only guides eviction, so a cache that
    /// may not be written to is as good.
    fn touch(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let before = self.touched.load(Ordering::Relaxed);
        if now >= before + TOUCH_EVERY
            && self.touched.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            let now = Timespec { tv_sec: i64::try_from(now).unwrap_or(0), tv_nsec: 0 };
            let _ = futimens(&self.data, &Timestamps { last_access: now, last_modification: now });
        }
    }
}

/// The segment that this process appends to.
#[derive(Debug)]
pub(super) struct Appender {
    pub(super) name: OsString,
    data: File,
    index: File,
    data_len: u64,
    index_len: u64,
}

impl Appender {
    /// Makes a new, empty segment and locks it.
    pub(super) fn create(directory: &Path, name: OsString) -> io::Result<Self> {
        // Who may read the directory may read what is in it.
        let mode = 0o600 | std::fs::metadata(directory)?.mode() & 0o044;
        let create = |extension| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(path(directory, &name, extension))
        };
        let data = create(DATA)?;
        flock(&data, FlockOperation::NonBlockingLockExclusive)?;
        let index = create(INDEX)?;
        Ok(Self { name, data, index, data_len: 0, index_len: 0 })
    }

    pub(super) fn len(&self) -> u64 {
        self.data_len
    }

    /// Whether somebody has deleted one of the files.
    pub(super) fn is_deleted(&self) -> bool {
        [&self.data, &self.index].iter().any(|file| file.metadata().is_ok_and(|meta| meta.nlink() == 0))
    }

    /// Appends chunks and their records; gives where they lie. After an error nothing of it counts: the
    /// next append overwrites it.
    pub(super) fn append(&mut self, chunks: &[(Digest, &[u8])]) -> io::Result<Vec<Record>> {
        let mut index = Vec::with_capacity(chunks.len() * RECORD_LEN);
        let mut records = Vec::with_capacity(chunks.len());
        let mut end = self.data_len;
        for (digest, bytes) in chunks {
            let len = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
            let record = Record { digest: *digest, offset: end, len };
            end += u64::from(len);
            index.extend_from_slice(&record.encode());
            records.push(record);
        }
        let mut parts: Vec<_> = chunks.iter().map(|(_, bytes)| IoSlice::new(bytes)).collect();
        write_all_parts_at(&self.data, &mut parts, self.data_len)?;
        self.index.write_all_at(&index, self.index_len)?;
        self.data_len = end;
        self.index_len += index.len() as u64;
        Ok(records)
    }
}

/// Writes all parts, one behind another, without bringing them together first.
fn write_all_parts_at(file: &File, parts: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    let mut parts = parts;
    while !parts.is_empty() {
        let some = &parts[..parts.len().min(MAX_PARTS)];
        match rustix::io::pwritev(file, some, offset) {
            Ok(0) if some.iter().any(|part| !part.is_empty()) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut parts, written);
                // Parts without bytes are not advanced over where nothing was written.
                let empty = parts.iter().take_while(|part| part.is_empty()).count();
                parts = &mut parts[empty..];
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Reads the records that were added to a segment's index after its first `seen` bytes. Gives them and how
/// many bytes have now been seen; a record that is still being written is left for the next time.
pub(super) fn read_records(directory: &Path, name: &OsStr, seen: u64) -> io::Result<(Vec<Record>, u64)> {
    let index = File::open(path(directory, name, INDEX))?;
    let whole = index.metadata()?.len() / RECORD_LEN as u64 * RECORD_LEN as u64;
    let mut records = Vec::new();
    let mut at = seen;
    let mut block = vec![0; RECORD_LEN * 1024];
    while at < whole {
        let len = usize::try_from(whole - at).map_or(block.len(), |left| left.min(block.len()));
        index.read_exact_at(&mut block[..len], at)?;
        let (found, _) = block[..len].as_chunks::<RECORD_LEN>();
        records.extend(found.iter().filter_map(Record::decode));
        at += len as u64;
    }
    Ok((records, at.max(seen)))
}

/// What a listing of the cache directory says of a segment.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub(super) name: OsString,
    /// Bytes that it takes on disk, both files.
    pub(super) size: u64,
    /// When a chunk of it was last used, in seconds since 1970.
    pub(super) used: i64,
}

/// Lists the segments in a cache directory; of one that is not there, none.
pub(super) fn list(directory: &Path) -> io::Result<Vec<Listed>> {
    let mut segments = Vec::new();
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(segments),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let file = PathBuf::from(entry.file_name());
        if file.extension() != Some(OsStr::new(DATA)) {
            continue;
        }
        let (Some(name), Ok(data)) = (file.file_stem(), entry.metadata()) else { continue };
        let index = std::fs::symlink_metadata(path(directory, name, INDEX)).map_or(0, |meta| meta.blocks());
        segments.push(Listed {
            name: name.to_owned(),
            size: (data.blocks() + index) * 512,
            used: data.mtime(),
        });
    }
    Ok(segments)
}

/// Removes a segment unless a process still writes to it. Running reads keep their open files.
pub(super) fn remove_unless_live(directory: &Path, name: &OsStr) -> io::Result<bool> {
    let data = match File::open(path(directory, name, DATA)) {
        Ok(data) => data,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if flock(&data, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(false);
    }
    // The index goes first: bytes without records are nothing, records without bytes would be read in vain.
    match std::fs::remove_file(path(directory, name, INDEX)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::remove_file(path(directory, name, DATA))?;
    Ok(true)
}

fn path(directory: &Path, name: &OsStr, extension: &str) -> PathBuf {
    let mut file = name.to_owned();
    file.push(".");
    file.push(extension);
    directory.join(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(byte: u8) -> Record {
        Record { digest: Digest::of(&[byte]), offset: u64::from(byte), len: 1 }
    }

    #[test]
    fn records_round_trip_and_others_are_refused() {
        let record = record(3);
        let bytes = record.encode();
        assert_eq!(Record::decode(&bytes), Some(record));
        assert_eq!(Record::decode(&[0; RECORD_LEN]), None, "a hole");
        let mut long = record;
        long.len = MAX_CHUNK + 1;
        assert_eq!(Record::decode(&long.encode()), None, "too long");
        long.len = 1;
        long.offset = u64::MAX;
        assert_eq!(Record::decode(&long.encode()), None, "an offset that overflows");
    }

    #[test]
    fn a_reader_sees_whole_records_only() {
        let directory = tempfile::tempdir().unwrap();
        let mut appender = Appender::create(directory.path(), "s".into()).unwrap();
        let first = appender.append(&[(Digest::of(b"a"), b"a"), (Digest::of(b"bc"), b"bc")]).unwrap();
        appender.index.write_all_at(&record(1).encode()[..20], appender.index_len).unwrap();

        let (records, seen) = read_records(directory.path(), OsStr::new("s"), 0).unwrap();
        assert_eq!((records, seen), (first, 96));
        let second = appender.append(&[(Digest::of(b"d"), b"d")]).unwrap();
        let (records, seen) = read_records(directory.path(), OsStr::new("s"), seen).unwrap();
        assert_eq!((records.as_slice(), seen), (second.as_slice(), 144));

        let segment = Segment::open(directory.path(), OsStr::new("s")).unwrap();
        assert_eq!(segment.read(second[0].offset, second[0].len).unwrap(), b"d");
        assert!(segment.read(3, 2).is_err(), "past the end");
    }

    #[test]
    fn a_live_segment_stays() {
        let directory = tempfile::tempdir().unwrap();
        let appender = Appender::create(directory.path(), "s".into()).unwrap();
        assert!(!remove_unless_live(directory.path(), OsStr::new("s")).unwrap());
        drop(appender);
        assert!(remove_unless_live(directory.path(), OsStr::new("s")).unwrap());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
