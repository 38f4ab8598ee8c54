//! Notes of layers that were made, so that a layer of the same paths is not made again.
//!
//! A record is found by a hash of all that the layer's bytes depend on, and holds what [`Layer`] holds. It
//! is a cache: one that is missing, cut or changed is the same as none. All numbers are little-endian:
//!
//! ```text
//! record     = "SEEDREC1" digest size:u64 diff_id uncompressed_size:u64
//!              count:u32 *( bytes bytes )          annotations
//!              count:u32 *entry
//!              sha256 of all that
//! entry      = bytes mode:u16 kind:u8 ( / size:u64 / bytes ) count:u32 *chunk
//! chunk      = offset_in_file:u64 len:u32 blob_offset:u64 blob_len:u32 digest
//! bytes      = len:u32 *byte
//! ```

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use seed_format::layer::{self, Layer};
use seed_format::{Chunk, Digest, DigestWriter, Entry, Kind, LayerEntry, StorePath};

use crate::rootfs::RootEntry;
use crate::{kept, whole_file};

const MAGIC: &[u8; 8] = b"SEEDREC1";

/// Changes whenever layers of the same content get other bytes for a reason that the other inputs of a
/// key do not show.
const GENERATION: u32 = 1;

/// What a layer's bytes depend on, hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key(Digest);

impl Key {
    /// The key of a layer of store paths, given with their NAR hashes, in the order of the layer.
    pub(super) fn of_paths<'a>(
        compression: layer::Options,
        paths: impl Iterator<Item = (&'a StorePath, &'a Digest)>,
    ) -> Self {
        Self::of(compression, "store paths", |out| {
            for (path, nar_hash) in paths {
                writeln!(out, "{path} {nar_hash}")?;
            }
            Ok(())
        })
    }

    /// The key of a layer of other files.
    pub(super) fn of_entries(compression: layer::Options, entries: &[RootEntry]) -> Self {
        Self::of(compression, "entries", |out| {
            for RootEntry { entry, contents } in entries {
                writeln!(out, "{entry:?} {}", Digest::of(contents))?;
            }
            Ok(())
        })
    }

    fn of(
        compression: layer::Options,
        what: &str,
        content: impl FnOnce(&mut DigestWriter<io::Sink>) -> io::Result<()>,
    ) -> Self {
        let layer::Options { level, chunk_size } = compression;
        let zstd = zstd::zstd_safe::version_number();
        let mut out = DigestWriter::new(io::sink());
        writeln!(out, "{GENERATION} {zstd} {level} {chunk_size} {what}")
            .and_then(|()| content(&mut out))
            .expect("a sink takes everything");
        Self(out.finish().1)
    }
}

/// The directory of the records.
#[derive(Debug, Clone, Copy)]
pub(super) struct Records<'a>(&'a Path);

impl<'a> Records<'a> {
    pub(super) fn at(directory: &'a Path) -> Self {
        Self(directory)
    }

    fn file(self, key: &Key) -> PathBuf {
        self.0.join(key.0.hex())
    }

    /// The layer that was made for `key`, if that is known.
    pub(super) fn load(self, key: &Key) -> Option<Layer> {
        let file = self.file(key);
        let layer = decode(&fs::read(&file).ok()?);
        match layer {
            Some(_) => kept::used(&file),
            None => {
                tracing::warn!(record = %file.display(), "a record of a layer is damaged; the layer is made again");
            }
        }
        layer
    }

    /// Notes that `layer` was made for `key`. Failing to is no reason to stop.
    pub(super) fn store(self, key: &Key, layer: &Layer) {
        if let Err(error) = whole_file::write(&self.file(key), &encode(layer)) {
            tracing::warn!(directory = %self.0.display(), %error, "cannot note that a layer was made");
        }
    }
}

fn encode(layer: &Layer) -> Vec<u8> {
    let mut out = Encoder(MAGIC.to_vec());
    out.raw(layer.digest.as_bytes());
    out.number(layer.size);
    out.raw(layer.diff_id.as_bytes());
    out.number(layer.uncompressed_size);
    out.count(layer.annotations.len());
    for (key, value) in &layer.annotations {
        out.bytes(key.as_bytes());
        out.bytes(value.as_bytes());
    }
    out.count(layer.entries.len());
    for LayerEntry { entry, chunks } in &layer.entries {
        out.bytes(&entry.path);
        out.raw(&entry.mode.to_le_bytes());
        match &entry.kind {
            Kind::Directory => out.raw(&[0]),
            Kind::Regular { size } => {
                out.raw(&[1]);
                out.number(*size);
            }
            Kind::Symlink { target } => {
                out.raw(&[2]);
                out.bytes(target);
            }
        }
        out.count(chunks.len());
        for chunk in chunks {
            out.number(chunk.offset_in_file);
            out.raw(&chunk.len.to_le_bytes());
            out.number(chunk.blob_offset);
            out.raw(&chunk.blob_len.to_le_bytes());
            out.raw(chunk.digest.as_bytes());
        }
    }
    let digest = Digest::of(&out.0);
    out.raw(digest.as_bytes());
    out.0
}

fn decode(bytes: &[u8]) -> Option<Layer> {
    let (body, digest) = bytes.split_last_chunk::<32>()?;
    if Digest::of(body) != Digest::from_bytes(*digest) {
        return None;
    }
    let mut rest = Decoder(body.strip_prefix(MAGIC)?);
    let layer = Layer {
        digest: rest.digest()?,
        size: rest.number()?,
        diff_id: rest.digest()?,
        uncompressed_size: rest.number()?,
        annotations: (0..rest.u32()?).map(|_| Some((rest.text()?, rest.text()?))).collect::<Option<_>>()?,
        entries: (0..rest.u32()?).map(|_| rest.entry()).collect::<Option<_>>()?,
    };
    rest.0.is_empty().then_some(layer)
}

struct Encoder(Vec<u8>);

impl Encoder {
    fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn number(&mut self, number: u64) {
        self.raw(&number.to_le_bytes());
    }

    fn count(&mut self, count: usize) {
        self.raw(&u32::try_from(count).expect("a layer has less than 2^32 of anything").to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }
}

struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn digest(&mut self) -> Option<Digest> {
        self.array().map(Digest::from_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn entry(&mut self) -> Option<LayerEntry> {
        let path = self.bytes()?.to_vec();
        let mode = self.array().map(u16::from_le_bytes)?;
        let kind = match self.array()? {
            [0] => Kind::Directory,
            [1] => Kind::Regular { size: self.number()? },
            [2] => Kind::Symlink { target: self.bytes()?.to_vec() },
            _ => return None,
        };
        let chunks = (0..self.u32()?).map(|_| self.chunk()).collect::<Option<_>>()?;
        Some(LayerEntry { entry: Entry { path, kind, mode }, chunks })
    }

    fn chunk(&mut self) -> Option<Chunk> {
        Some(Chunk {
            offset_in_file: self.number()?,
            len: self.u32()?,
            blob_offset: self.number()?,
            blob_len: self.u32()?,
            digest: self.digest()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer() -> Layer {
        let chunk = |n: u64| Chunk {
            offset_in_file: n,
            len: 2,
            blob_offset: 3 + n,
            blob_len: 4,
            digest: Digest::of(&n.to_le_bytes()),
        };
        Layer {
            digest: Digest::of(b"a"),
            size: 1 << 40,
            diff_id: Digest::of(b"b"),
            uncompressed_size: 1 << 41,
            annotations: [("k".to_owned(), "v".to_owned())].into(),
            entries: vec![
                LayerEntry::empty(Entry::directory("d").with_mode(0o1777)),
                LayerEntry::empty(Entry::symlink("d/l", b"\xff".to_vec())),
                LayerEntry { entry: Entry::regular("d/r", 4, true), chunks: vec![chunk(0), chunk(2)] },
            ],
        }
    }

    #[test]
    fn round_trips() {
        assert_eq!(decode(&encode(&layer())), Some(layer()));
    }

    #[test]
    fn anything_else_is_no_record() {
        let bytes = encode(&layer());
        for len in 0..bytes.len() {
            assert_eq!(decode(&bytes[..len]), None, "cut at {len}");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(decode(&changed), None, "byte {at}");
        }
    }

    #[test]
    fn keys_tell_inputs_apart() {
        let path = |digit: &str| StorePath::from_base_name(&format!("{}-x", digit.repeat(32))).unwrap();
        let (a, b) = (path("0"), path("1"));
        let (x, y) = (Digest::of(b"x"), Digest::of(b"y"));
        let options = layer::Options::default();
        let key = |options, paths: &[(&StorePath, &Digest)]| Key::of_paths(options, paths.iter().copied());
        let keys = [
            key(options, &[(&a, &x), (&b, &y)]),
            key(options, &[(&b, &y), (&a, &x)]),
            key(options, &[(&a, &y), (&b, &y)]),
            key(options, &[(&a, &x)]),
            key(layer::Options { level: options.level + 1, ..options }, &[(&a, &x)]),
            key(layer::Options { chunk_size: 4096, ..options }, &[(&a, &x)]),
            Key::of_entries(options, &[]),
        ];
        for (n, key) in keys.iter().enumerate() {
            assert!(!keys[..n].contains(key), "{n}");
        }
    }

    #[test]
    fn a_damaged_record_is_the_same_as_none() {
        let directory = tempfile::tempdir().unwrap();
        let records = directory.path().join("records");
        let records = Records::at(&records);
        let key = Key::of_entries(layer::Options::default(), &[]);
        assert_eq!(records.load(&key), None);
        records.store(&key, &layer());
        assert_eq!(records.load(&key), Some(layer()));
        fs::write(records.file(&key), b"damaged").unwrap();
        assert_eq!(records.load(&key), None);
    }
}
