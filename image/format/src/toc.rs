//! The table of contents of a layer, as zstd:chunked has it.
//!
//! Source of the format: `pkg/chunked` of containers/storage (`internal/minimal`, `compressor`,
//! `storage_linux.go`) and the TOC of stargz-snapshotter. Behind the last frame of the tar stream a layer
//! blob has three skippable zstd frames:
//!
//! 1. the TOC: JSON, compressed as one zstd frame;
//! 2. the tar-split data, compressed as one zstd frame: see [`tar_split`];
//! 3. the [`Footer`].
//!
//! Annotations of the layer's descriptor tell where the first two lie and what the TOC hashes to, so a
//! reader needs no request for the footer. Two prefixes of their keys are in use: see [`PREFIXES`].

use std::collections::BTreeMap;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use crate::json::{self, JsonError};
use crate::{Chunk, Digest, Entry, Kind, LayerEntry};

pub mod tar_split;

mod footer;
mod position;

pub use footer::{FOOTER_LEN, Footer, FooterError};
pub use position::{Located, LocatedError, PREFIXES, Position};

/// Largest TOC or tar-split data that is read, in bytes, compressed and uncompressed; containers/storage
/// has the same limit.
pub const MAX_TOC_LEN: u64 = 150 << 20;

/// Most entries of one TOC, chunks counted.
pub const MAX_ENTRIES: usize = 1 << 22;

/// The first four bytes of the skippable frames that are written here.
pub const SKIPPABLE_MAGIC: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];

/// A table of contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Toc {
    /// Always 1.
    pub version: u32,
    /// The members of the tar archive, in its order; the further chunks of a file follow it.
    pub entries: Vec<TocEntry>,
    /// Digest of the compressed tar-split data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tar_split_digest: Option<Digest>,
}

/// One member of the archive, or one further chunk of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TocEntry {
    /// `reg`, `dir`, `symlink`, `hardlink`, `char`, `block`, `fifo`, or `chunk`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The name in the tar header; of a directory with a slash at its end.
    pub name: String,
    /// Target of a link.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub link_name: String,
    /// Permission bits.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: u32,
    /// Bytes of the whole file.
    #[serde(skip_serializing_if = "is_default")]
    pub size: u64,
    /// Owner.
    #[serde(skip_serializing_if = "is_default")]
    pub uid: u64,
    /// Group.
    #[serde(skip_serializing_if = "is_default")]
    pub gid: u64,
    /// Modification time in RFC 3339.
    #[serde(rename = "modtime", skip_serializing_if = "String::is_empty")]
    pub modification_time: String,
    /// Extended attributes, their values in base64.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
    /// Digest of the whole file; empty for an empty file.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// Where the chunk's frame begins in the blob.
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// Where the frames of the file end in the blob; in a `chunk`, where its frame ends.
    #[serde(skip_serializing_if = "is_default")]
    pub end_offset: u64,
    /// Uncompressed bytes of the chunk; 0 where the file has one chunk and its size says it.
    #[serde(skip_serializing_if = "is_default")]
    pub chunk_size: u64,
    /// Where the chunk begins in the file.
    #[serde(skip_serializing_if = "is_default")]
    pub chunk_offset: u64,
    /// Digest of the chunk's uncompressed bytes; empty where the file has one chunk and `digest` says it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub chunk_digest: String,
    /// Empty, or `zeros` for a chunk of zeros.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub chunk_type: String,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The modification time of everything in a layer that is written here.
const MODIFICATION_TIME: &str = "1970-01-01T00:00:01Z";

impl TocEntry {
    /// The TOC's entries for one entry of a layer: itself, and its chunks after the first.
    ///
    /// `digest` is that of the whole file, and `None` for what has no bytes. The answer is `None` where a
    /// name is not UTF-8: JSON cannot hold it.
    pub fn of(layer_entry: &LayerEntry, digest: Option<Digest>) -> Option<Vec<Self>> {
        let Entry { path, kind, mode } = &layer_entry.entry;
        let name = String::from_utf8(path.clone()).ok()?;
        let mut first = Self {
            name,
            mode: u32::from(*mode),
            modification_time: MODIFICATION_TIME.to_owned(),
            digest: digest.map(|digest| digest.to_string()).unwrap_or_default(),
            ..Self::default()
        };
        match kind {
            Kind::Directory => {
                first.kind = "dir".to_owned();
                first.name.push('/');
            }
            Kind::Symlink { target } => {
                first.kind = "symlink".to_owned();
                first.link_name = String::from_utf8(target.clone()).ok()?;
            }
            Kind::Regular { size } => {
                first.kind = "reg".to_owned();
                first.size = *size;
            }
        }
        let mut entries = vec![first];
        for (n, chunk) in layer_entry.chunks.iter().enumerate() {
            if n > 0 {
                let name = entries[0].name.clone();
                entries.push(Self { kind: "chunk".to_owned(), name, ..Self::default() });
            }
            let end = chunk.blob_offset + u64::from(chunk.blob_len);
            entries[0].end_offset = end;
            let entry = &mut entries[n];
            entry.offset = chunk.blob_offset;
            entry.end_offset = end;
            entry.chunk_offset = chunk.offset_in_file;
            entry.chunk_size = u64::from(chunk.len);
            entry.chunk_digest = chunk.digest.to_string();
        }
        Some(entries)
    }
}

/// Why bytes are not a table of contents, or not one that a layer can have.
#[derive(Debug, thiserror::Error)]
pub enum TocError {
    /// The bytes do not have the digest that the annotation states.
    #[error("the TOC hashes to {actual}, not to {expected}")]
    Digest {
        /// What the annotation states.
        expected: Digest,
        /// What the bytes hash to.
        actual: Digest,
    },
    /// The bytes are too long, or longer than stated.
    #[error("the TOC is longer than {0} bytes")]
    TooLong(u64),
    /// The bytes are not one zstd frame.
    #[error("the TOC cannot be decompressed")]
    Zstd(#[source] io::Error),
    /// The JSON is malformed.
    #[error("the TOC is malformed")]
    Json(#[from] JsonError),
    /// The TOC has another version, or too many entries.
    #[error("the TOC has version {version} and {entries} entries; 1 and at most {MAX_ENTRIES} are known")]
    Shape {
        /// Its version.
        version: u32,
        /// Its number of entries.
        entries: usize,
    },
    /// An entry says something impossible.
    #[error("the TOC's entry {name:?} has a bad {what}")]
    Entry {
        /// The entry's name.
        name: String,
        /// The field.
        what: &'static str,
    },
}

impl Toc {
    /// Reads a TOC from the compressed bytes that lie at its position in the blob.
    pub fn read(compressed: &[u8], located: &Located) -> Result<Self, TocError> {
        let actual = Digest::of(compressed);
        if actual != located.digest {
            return Err(TocError::Digest { expected: located.digest, actual });
        }
        let limit = located.toc.uncompressed_len.min(MAX_TOC_LEN);
        Self::parse(&decompress(compressed, limit)?)
    }

    /// Reads the JSON of a TOC.
    pub fn parse(text: &[u8]) -> Result<Self, TocError> {
        let limit = usize::try_from(MAX_TOC_LEN).unwrap_or(usize::MAX);
        let toc: Self = json::from_slice(text, limit)?;
        if toc.version != 1 || toc.entries.len() > MAX_ENTRIES {
            return Err(TocError::Shape { version: toc.version, entries: toc.entries.len() });
        }
        Ok(toc)
    }

    /// The entries as a layer has them: the chunks of a file with the file, complete and in order.
    ///
    /// Directories, regular files and symbolic links only; owners, times and attributes are not looked at.
    /// `blob_len` bounds the chunks' places.
    pub fn layer_entries(&self, blob_len: u64) -> Result<Vec<LayerEntry>, TocError> {
        let mut entries = Vec::new();
        let mut rest = self.entries.as_slice();
        while let Some((first, after)) = rest.split_first() {
            let chunks = after.iter().take_while(|entry| entry.kind == "chunk").count();
            entries.push(first.layer_entry(&after[..chunks], blob_len)?);
            rest = &after[chunks..];
        }
        Ok(entries)
    }
}

impl TocEntry {
    fn layer_entry(&self, further: &[Self], blob_len: u64) -> Result<LayerEntry, TocError> {
        let path = self.name.trim_start_matches("./").trim_matches('/').as_bytes();
        let kind = match self.kind.as_str() {
            "dir" => Kind::Directory,
            "symlink" => Kind::Symlink { target: self.link_name.clone().into_bytes() },
            "reg" => Kind::Regular { size: self.size },
            _ => return Err(self.bad("type")),
        };
        let has_bytes = matches!(kind, Kind::Regular { size: 1.. });
        if !has_bytes && !further.is_empty() {
            return Err(self.bad("chunk"));
        }
        let mode = u16::try_from(self.mode & 0o7777).map_err(|_| self.bad("mode"))?;
        let entry = Entry { path: path.to_vec(), kind, mode };
        entry.check().map_err(|_| self.bad("name, size or target"))?;
        let mut chunks = Vec::new();
        if has_bytes {
            let ends = further.iter().map(|next| next.offset).chain([self.last_end(further)]);
            for (part, end) in std::iter::once(self).chain(further).zip(ends) {
                let done = chunks.last().map_or(0, |last: &Chunk| last.offset_in_file + u64::from(last.len));
                chunks.push(part.chunk(done, self.size, end, blob_len)?);
            }
            let done = chunks.last().map_or(0, |last| last.offset_in_file + u64::from(last.len));
            if done != self.size {
                return Err(self.bad("chunk: the chunks do not add up to the size"));
            }
        }
        Ok(LayerEntry { entry, chunks })
    }

    fn last_end(&self, further: &[Self]) -> u64 {
        further.last().map_or(self.end_offset, |last| last.end_offset.max(self.end_offset))
    }

    /// This chunk, which must begin at `offset` of a file of `size` bytes; its frame ends at `end` or before.
    fn chunk(&self, offset: u64, size: u64, end: u64, blob_len: u64) -> Result<Chunk, TocError> {
        let len = if self.chunk_size == 0 { size - offset } else { self.chunk_size };
        if self.chunk_offset != offset || len > size - offset || len == 0 {
            return Err(self.bad("chunk offset or size"));
        }
        let end = if self.end_offset > self.offset { self.end_offset.min(end) } else { end };
        let blob_len_here = end
            .checked_sub(self.offset)
            .filter(|len| *len > 0 && end <= blob_len)
            .and_then(|len| u32::try_from(len).ok())
            .ok_or_else(|| self.bad("offset"))?;
        let digest = if self.chunk_digest.is_empty() { &self.digest } else { &self.chunk_digest };
        Ok(Chunk {
            offset_in_file: offset,
            len: u32::try_from(len).map_err(|_| self.bad("chunk size"))?,
            blob_offset: self.offset,
            blob_len: blob_len_here,
            digest: digest.parse().map_err(|_| self.bad("digest"))?,
        })
    }

    fn bad(&self, what: &'static str) -> TocError {
        TocError::Entry { name: self.name.chars().take(256).collect(), what }
    }
}

/// Decompresses at most `limit` bytes.
fn decompress(compressed: &[u8], limit: u64) -> Result<Vec<u8>, TocError> {
    if compressed.len() as u64 > MAX_TOC_LEN {
        return Err(TocError::TooLong(MAX_TOC_LEN));
    }
    let mut text = Vec::new();
    let decoder = zstd::Decoder::new(compressed).map_err(TocError::Zstd)?;
    decoder.take(limit + 1).read_to_end(&mut text).map_err(TocError::Zstd)?;
    if text.len() as u64 > limit {
        return Err(TocError::TooLong(limit));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
