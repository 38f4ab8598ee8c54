//! A layer blob: a tar stream in zstd frames that can be read one by one.
//!
//! ```text
//! blob   = *( headers *frame ) end toc tar-split footer
//! ```
//!
//! * `headers`: one or more frames of header blocks, and of the zeros that follow the contents of the file
//!   before. A run of members without contents shares them.
//! * `frame`: the contents of a regular file: one frame, or one for each [`Options::chunk_size`] bytes of a
//!   larger file. So every chunk of every file can be fetched, decompressed and checked by itself.
//! * `end`: a frame with the last padding and the archive's end blocks.
//! * The rest is in skippable frames, see [`crate::toc`]. A layer in which a name or link target is not UTF-8 has none
//!   of them and no annotations, because JSON cannot hold such names; readers then take the whole layer.
//!
//! Frames state their content's size and have no checksum: digests stand for it. The bytes depend on the
//! entries, the options and the version of the zstd library, and on nothing else.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};
use zstd::bulk::Compressor;

use crate::entry::EntryError;
use crate::toc::tar_split::Checksum;
use crate::{Chunk, Digest, DigestWriter, Entry, Kind, LayerEntry, tar};

mod tables;

use tables::Tables;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Options {
    /// zstd's compression level, 1 to 19.
    pub level: i32,
    /// Bytes of a file in one frame: a power of two from 4 KiB to 16 MiB.
    pub chunk_size: u32,
}

impl Default for Options {
    /// What `docs/format-measurements.md` found best.
    fn default() -> Self {
        Self { level: 3, chunk_size: 256 << 10 }
    }
}

/// A finished layer blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Digest of the tar stream.
    pub diff_id: Digest,
    /// Bytes of the tar stream.
    pub uncompressed_size: u64,
    /// The annotations that its descriptor must have.
    pub annotations: BTreeMap<String, String>,
    /// What is in it, in blob order.
    pub entries: Vec<LayerEntry>,
}

/// Why a layer cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The options are outside their limits.
    #[error("a layer cannot have {0:?}: levels are 1 to 19, chunks a power of two from 4 KiB to 16 MiB")]
    Options(Options),
    /// An entry cannot be in an image.
    #[error("{} cannot be in a layer", path.escape_ascii())]
    Entry {
        /// The entry's path.
        path: Vec<u8>,
        /// What is wrong with it.
        source: EntryError,
    },
    /// Entries did not come in order, or one came twice.
    #[error("{} is out of order in its layer", path.escape_ascii())]
    Order {
        /// The entry's path.
        path: Vec<u8>,
    },
    /// A file's contents could not be read.
    #[error("cannot read {}", path.escape_ascii())]
    Source {
        /// The entry's path.
        path: Vec<u8>,
        /// The source's error.
        source: io::Error,
    },
    /// A file had more or fewer bytes than its entry says.
    #[error("{} has another size than the {size} bytes that were announced", path.escape_ascii())]
    Size {
        /// The entry's path.
        path: Vec<u8>,
        /// Bytes announced.
        size: u64,
    },
    /// The blob could not be written.
    #[error("cannot write the layer")]
    Write(#[source] io::Error),
    /// zstd failed.
    #[error("cannot compress the layer")]
    Compress(#[source] io::Error),
}

/// Writes one layer blob, entry by entry.
///
/// Entries come in tree order: ascending, compared component by component, bytewise. Memory is bounded by
/// the chunk size, the compressor's state and what [`Layer::entries`] holds.
pub struct LayerWriter<W> {
    blob: DigestWriter<W>,
    tar: DigestWriter<io::Sink>,
    compressor: Compressor<'static>,
    options: Options,
    /// Bytes of the tar stream that no frame holds yet: headers and padding.
    headers: Vec<u8>,
    /// Zeros that follow the contents of the last file. They are in `headers` already.
    padding: usize,
    chunk: Vec<u8>,
    frame: Vec<u8>,
    /// The TOC and the tar-split data; `None` once a name was not UTF-8.
    tables: Option<Tables>,
    entries: Vec<LayerEntry>,
}

impl<W: Write> LayerWriter<W> {
    /// Begins a layer that is written to `out`.
    pub fn new(out: W, options: Options) -> Result<Self, LayerError> {
        let chunk_size = options.chunk_size;
        let sized = chunk_size.is_power_of_two() && (1 << 12..=1 << 24).contains(&chunk_size);
        if !sized || !(1..=19).contains(&options.level) {
            return Err(LayerError::Options(options));
        }
        Ok(Self {
            blob: DigestWriter::new(out),
            tar: DigestWriter::new(io::sink()),
            compressor: Compressor::new(options.level).map_err(LayerError::Compress)?,
            options,
            headers: Vec::new(),
            padding: 0,
            chunk: Vec::new(),
            frame: Vec::new(),
            tables: Some(Tables::new().map_err(LayerError::Compress)?),
            entries: Vec::new(),
        })
    }

    /// Writes an entry without contents: a directory, a symbolic link or an empty file.
    pub fn entry(&mut self, entry: Entry) -> Result<(), LayerError> {
        self.file(entry, io::empty())
    }

    /// Writes an entry and, if it is a regular file, its contents: all that `source` gives.
    pub fn file(&mut self, entry: Entry, mut source: impl Read) -> Result<(), LayerError> {
        self.header(&entry)?;
        let size = if let Kind::Regular { size } = entry.kind { size } else { 0 };
        let mut written = LayerEntry::empty(entry);
        let contents = if size > 0 {
            self.flush_headers()?;
            Some(self.contents(&mut written, size, &mut source)?)
        } else {
            None
        };
        let mut beyond = [0];
        match read_full(&mut source, &mut beyond) {
            Ok(0) => {}
            Ok(_) => return Err(LayerError::Size { path: written.entry.path, size }),
            Err(source) => return Err(source_error(written.entry.path, source)),
        }
        self.padding = tar::padding(size);
        self.headers_push(&[0; tar::BLOCK][..self.padding])?;
        if let Some(tables) = &mut self.tables
            && !tables.member(&written, contents).map_err(LayerError::Compress)?
        {
            self.tables = None;
        }
        self.entries.push(written);
        Ok(())
    }

    /// Ends the layer.
    pub fn finish(mut self) -> Result<(W, Layer), LayerError> {
        self.headers_push(&tar::END)?;
        self.flush_headers()?;
        let mut annotations = BTreeMap::new();
        if let Some(tables) = self.tables {
            let end = [&[0; tar::BLOCK][..self.padding], &tar::END].concat();
            let (located, frames) = tables.finish(&end, self.blob.written()).map_err(LayerError::Compress)?;
            self.blob.write_all(&frames).map_err(LayerError::Write)?;
            annotations = located.to_annotations();
        }
        self.blob.flush().map_err(LayerError::Write)?;
        let (out, digest, size) = self.blob.finish();
        let (_, diff_id, uncompressed_size) = self.tar.finish();
        let layer = Layer { digest, size, diff_id, uncompressed_size, annotations, entries: self.entries };
        Ok((out, layer))
    }

    fn header(&mut self, entry: &Entry) -> Result<(), LayerError> {
        let path = || entry.path.clone();
        entry.check().map_err(|source| LayerError::Entry { path: path(), source })?;
        let after = self.entries.last().is_none_or(|last| tree_order(&last.entry.path, &entry.path).is_lt());
        if !after || entry.path.is_empty() {
            return Err(LayerError::Order { path: path() });
        }
        let mut header = Vec::new();
        tar::header(entry, &mut header);
        if let Some(tables) = &mut self.tables {
            tables
                .segment(&[&[0; tar::BLOCK][..self.padding], &header].concat())
                .map_err(LayerError::Compress)?;
        }
        self.headers_push(&header)
    }

    /// Appends bytes to the headers' frame, which ends before it is larger than a chunk may be.
    fn headers_push(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        if self.headers.len() + bytes.len() > self.chunk_size() {
            self.flush_headers()?;
        }
        self.tar.write_all(bytes).map_err(LayerError::Write)?;
        self.headers.extend_from_slice(bytes);
        Ok(())
    }

    fn flush_headers(&mut self) -> Result<(), LayerError> {
        if !self.headers.is_empty() {
            write_frame(&mut self.compressor, &self.headers, &mut self.frame, &mut self.blob)?;
            self.headers.clear();
        }
        Ok(())
    }

    /// Writes the frames of a file of `size` bytes. The answer is its digest and its checksum.
    fn contents(
        &mut self,
        written: &mut LayerEntry,
        size: u64,
        source: &mut impl Read,
    ) -> Result<(Digest, [u8; 8]), LayerError> {
        let mut checksum = Checksum::new();
        let mut whole = Sha256::new();
        let mut offset = 0;
        while offset < size {
            let len = usize::try_from(size - offset).unwrap_or(usize::MAX).min(self.chunk_size());
            self.chunk.resize(len, 0);
            let path = || written.entry.path.clone();
            let n = read_full(source, &mut self.chunk).map_err(|error| source_error(path(), error))?;
            if n < len {
                return Err(LayerError::Size { path: path(), size });
            }
            self.tar.write_all(&self.chunk).map_err(LayerError::Write)?;
            checksum.update(&self.chunk);
            if size > len as u64 {
                whole.update(&self.chunk);
            }
            let blob_offset = self.blob.written();
            let blob_len = write_frame(&mut self.compressor, &self.chunk, &mut self.frame, &mut self.blob)?;
            written.chunks.push(Chunk {
                offset_in_file: offset,
                len: u32::try_from(len).expect("at most the chunk size"),
                blob_offset,
                blob_len,
                digest: Digest::of(&self.chunk),
            });
            offset += len as u64;
        }
        let digest = match written.chunks.as_slice() {
            [only] => only.digest,
            _ => Digest::from_bytes(whole.finalize().into()),
        };
        Ok((digest, checksum.finish()))
    }

    fn chunk_size(&self) -> usize {
        usize::try_from(self.options.chunk_size).expect("at most 16 MiB")
    }
}

/// Compresses `content` into one frame and writes it; the answer is the frame's length.
fn write_frame<W: Write>(
    compressor: &mut Compressor<'static>,
    content: &[u8],
    frame: &mut Vec<u8>,
    blob: &mut DigestWriter<W>,
) -> Result<u32, LayerError> {
    frame.clear();
    frame.reserve(zstd::zstd_safe::compress_bound(content.len()));
    compressor.compress_to_buffer(content, frame).map_err(LayerError::Compress)?;
    blob.write_all(frame).map_err(LayerError::Write)?;
    Ok(u32::try_from(frame.len()).expect("a chunk has at most 16 MiB"))
}

/// Reads until `buf` is full or the source ends; the answer is the number of bytes.
fn read_full(source: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match source.read(&mut buf[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn source_error(path: Vec<u8>, source: io::Error) -> LayerError {
    LayerError::Source { path, source }
}

/// The order of a depth-first walk that visits names ascending: `a`, `a/b`, `a-b`.
pub fn tree_order(a: &[u8], b: &[u8]) -> Ordering {
    match a.iter().zip(b).position(|(a, b)| a != b) {
        None => a.len().cmp(&b.len()),
        // A slash ends a component, so it sorts before every byte that goes on with one.
        Some(at) if a[at] == b'/' => Ordering::Less,
        Some(at) if b[at] == b'/' => Ordering::Greater,
        Some(at) => a[at].cmp(&b[at]),
    }
}

#[cfg(test)]
mod tests;
