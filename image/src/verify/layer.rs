//! Reads one layer as a whole, from its blob to what the index should say of it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use seed_format::index::STORE;
use seed_format::tar::{self, Member, MemberKind, TarError};
use seed_format::toc::{Located, Position, Toc, tar_split};
use seed_format::{Chunk, Digest, DigestReader, DigestWriter, Entry, Kind, LayerEntry, nar};
use sha2::{Digest as _, Sha256};

use super::frames::{FrameLog, FrameReader};
use super::{Contents, VerifyError};
use crate::manifest::Descriptor;
use crate::transport::Transport;

/// Path of Nix's database in the image.
const DATABASE: &[u8] = b"nix/var/nix/db/db.sqlite";

/// Largest database that is read, in bytes.
pub const MAX_DATABASE: u64 = 1 << 30;

/// How long fetching a table may take.
const TABLE_DEADLINE: Duration = Duration::from_secs(300);

/// Reads the layer, and checks what can be checked without the index.
pub(super) fn read(
    transport: &dyn Transport,
    descriptor: &Descriptor,
    diff_id: &Digest,
) -> Result<Contents, VerifyError> {
    let layer = descriptor.digest;
    let blob_failed = |source| VerifyError::Blob { layer, source };
    let (frames, log) = FrameReader::new(transport.blob(descriptor)?).map_err(blob_failed)?;
    let mut reading = Reading::new(layer, log);
    let mut tar = tar::Reader::new(DigestReader::new(frames), tar::Limits::default());
    while let Some(member) = tar.next_member().map_err(|error| tar_failed(layer, error))? {
        reading.member(member, &mut tar)?;
    }
    let mut stream = tar.into_inner();
    // The skippable frames hold nothing of the stream, but they are part of the blob.
    if io::copy(&mut stream, &mut io::sink()).map_err(blob_failed)? > 0 {
        return Err(tar_failed(layer, TarError::Field("end")));
    }
    let (_, actual, _) = stream.finish();
    if actual != *diff_id {
        return Err(VerifyError::DiffId { layer, expected: *diff_id, actual });
    }
    let (contents, canonical) = reading.finish()?;
    if canonical.diff_id != actual {
        return Err(VerifyError::Table { layer, table: "canonical form" });
    }
    check_tables(transport, descriptor, &contents, &canonical)?;
    Ok(contents)
}

/// Checks the table of contents and the tar-split data against the tar stream.
fn check_tables(
    transport: &dyn Transport,
    descriptor: &Descriptor,
    contents: &Contents,
    canonical: &Canonical,
) -> Result<(), VerifyError> {
    let layer = descriptor.digest;
    let located = Located::from_annotations(&descriptor.annotations);
    let located = located.map_err(|source| VerifyError::Located { layer, source })?;
    let Some(located) = located else {
        let table = "table of contents, which is missing,";
        return if canonical.utf8 { Err(VerifyError::Table { layer, table }) } else { Ok(()) };
    };
    let fetch = |position: &Position| {
        let range = position.offset..position.offset + position.len;
        transport.read_range(&layer, range, Instant::now() + TABLE_DEADLINE)
    };
    let toc =
        Toc::read(&fetch(&located.toc)?, &located).map_err(|source| VerifyError::Toc { layer, source })?;
    let entries = toc.layer_entries(descriptor.size).map_err(|source| VerifyError::Toc { layer, source })?;
    if entries != contents.entries {
        return Err(VerifyError::Table { layer, table: "table of contents" });
    }
    let table = "tar-split data";
    let contradicts = || VerifyError::Table { layer, table };
    let position = located.tar_split.ok_or_else(contradicts)?;
    let compressed = fetch(&position)?;
    if toc.tar_split_digest != Some(Digest::of(&compressed)) {
        return Err(contradicts());
    }
    let decoder =
        zstd::Decoder::new(compressed.as_slice()).map_err(|source| VerifyError::Blob { layer, source })?;
    let mut hashed = DigestReader::new(decoder.take(position.uncompressed_len + 1));
    io::copy(&mut hashed, &mut io::sink()).map_err(|source| VerifyError::Blob { layer, source })?;
    let (_, digest, len) = hashed.finish();
    let same = digest == canonical.tar_split && len == position.uncompressed_len;
    if same { Ok(()) } else { Err(contradicts()) }
}

fn tar_failed(layer: Digest, error: TarError) -> VerifyError {
    match error {
        TarError::Io(source) => VerifyError::Blob { layer, source },
        source => VerifyError::Tar { layer, source },
    }
}

/// What the layer's tables and stream should be.
struct Canonical {
    diff_id: Digest,
    /// Digest of the uncompressed tar-split data.
    tar_split: Digest,
    /// Whether all names are UTF-8, so that there can be tables.
    utf8: bool,
}

/// A layer while it is read.
struct Reading {
    layer: Digest,
    log: FrameLog,
    entries: Vec<LayerEntry>,
    /// Of each chunk, its frame's place in the log.
    frames: Vec<Vec<usize>>,
    nar: Option<OpenNar>,
    nar_hashes: BTreeMap<Vec<u8>, (Digest, u64)>,
    database: Option<Vec<u8>>,
    /// The stream that the entries should have.
    canonical: DigestWriter<io::Sink>,
    tar_split: tar_split::Writer<DigestWriter<io::Sink>>,
    utf8: bool,
}

/// The NAR of the store path that is being read.
struct OpenNar {
    writer: nar::Writer<DigestWriter<io::Sink>>,
    /// The path's base name, and the directories below it that are open.
    open: Vec<Vec<u8>>,
    root_is_directory: bool,
}

impl Reading {
    fn new(layer: Digest, log: FrameLog) -> Self {
        Self {
            layer,
            log,
            entries: Vec::new(),
            frames: Vec::new(),
            nar: None,
            nar_hashes: BTreeMap::new(),
            database: None,
            canonical: DigestWriter::new(io::sink()),
            tar_split: tar_split::Writer::new(DigestWriter::new(io::sink())),
            utf8: true,
        }
    }

    fn member(&mut self, member: Member, contents: &mut impl Read) -> Result<(), VerifyError> {
        let entry = self.entry(member)?;
        let header = self.header(&entry);
        let size = if let Kind::Regular { size } = entry.kind { size } else { 0 };
        let nar_failed = |layer, path: &[u8]| VerifyError::Entry {
            layer,
            path: path.to_vec(),
            fault: "is out of order or has a name that no store path has",
        };
        let (layer, path) = (self.layer, entry.path.clone());
        self.nar_place(&entry).map_err(|_| nar_failed(layer, &path))?;
        let keep = entry.path == DATABASE && size <= MAX_DATABASE;
        let mut body = Body::new(&self.log, &mut self.canonical, keep);
        let mut tee = Tee { contents, body: &mut body };
        match (&mut self.nar, &entry.kind) {
            (Some(nar), Kind::Regular { size }) => {
                let executable = entry.mode & 0o100 != 0;
                let copied = nar.writer.regular(*size, executable, &mut tee).and_then(nar::Contents::finish);
                copied.map_err(|source| VerifyError::Blob { layer, source })?;
            }
            (Some(nar), Kind::Symlink { target }) => {
                nar.writer.symlink(target).map_err(|_| nar_failed(layer, &path))?;
            }
            (Some(nar), Kind::Directory) => {
                nar.writer.directory().map_err(|_| nar_failed(layer, &path))?;
            }
            (None, _) => {
                io::copy(&mut tee, &mut io::sink()).map_err(|source| VerifyError::Blob { layer, source })?;
            }
        }
        let Body { chunks, frames, checksum, kept, read, .. } = body.finish();
        let checksum = (read > 0).then(|| checksum.finish());
        self.database = kept.or(self.database.take());
        self.write_canonical(&[0; tar::BLOCK][..tar::padding(size)]);
        self.tar_split_member(&entry, &header, size, checksum);
        self.frames.push(frames);
        self.entries.push(LayerEntry { entry, chunks });
        Ok(())
    }

    /// The member as an entry, if it is one that a seed has.
    fn entry(&self, member: Member) -> Result<Entry, VerifyError> {
        let path = member.path.strip_suffix(b"/").unwrap_or(&member.path).to_vec();
        let fault = |fault| VerifyError::Entry { layer: self.layer, path: path.clone(), fault };
        if (member.uid, member.gid, member.mtime) != (0, 0, 1) || !member.xattrs.is_empty() {
            return Err(fault("has an owner, a time or attributes that no seed has"));
        }
        let kind = match member.kind {
            MemberKind::Directory => Kind::Directory,
            MemberKind::Regular { size } => Kind::Regular { size },
            MemberKind::Symlink { target } => Kind::Symlink { target },
            MemberKind::HardLink { .. } | MemberKind::Other(_) => {
                return Err(fault("is neither a directory nor a file nor a symbolic link"));
            }
        };
        let entry = Entry { path: path.clone(), kind, mode: member.mode };
        entry.check().map_err(|_| fault("has a path or target that no seed has"))?;
        Ok(entry)
    }

    fn header(&mut self, entry: &Entry) -> Vec<u8> {
        let mut header = Vec::new();
        tar::header(entry, &mut header);
        self.write_canonical(&header);
        header
    }

    fn write_canonical(&mut self, bytes: &[u8]) {
        self.canonical.write_all(bytes).expect("a sink takes everything");
    }

    fn tar_split_member(&mut self, entry: &Entry, header: &[u8], size: u64, checksum: Option<[u8; 8]>) {
        let target_is_utf8 = match &entry.kind {
            Kind::Symlink { target } => std::str::from_utf8(target).is_ok(),
            _ => true,
        };
        let Ok(name) = std::str::from_utf8(&entry.path) else {
            self.utf8 = false;
            return;
        };
        self.utf8 &= target_is_utf8;
        let slash = if entry.kind == Kind::Directory { "/" } else { "" };
        let before = self.last_padding();
        let segment = [&[0; tar::BLOCK][..before], header].concat();
        self.tar_split
            .segment(&segment)
            .and_then(|()| self.tar_split.file(&format!("{name}{slash}"), size, checksum))
            .expect("a sink takes everything");
    }

    /// Zeros that follow the contents of the entry that was added last.
    fn last_padding(&self) -> usize {
        match self.entries.last().map(|last| &last.entry.kind) {
            Some(Kind::Regular { size }) => tar::padding(*size),
            _ => 0,
        }
    }

    /// Brings the NARs to the place of `entry`: ends what it is not in, and begins what it is.
    fn nar_place(&mut self, entry: &Entry) -> io::Result<()> {
        let below = entry.path.strip_prefix(STORE).and_then(|rest| rest.strip_prefix(b"/"));
        let Some(below) = below else { return self.end_nar() };
        let components: Vec<&[u8]> = below.split(|byte| *byte == b'/').collect();
        let (parents, name) = (&components[..components.len() - 1], components[components.len() - 1]);
        if parents.is_empty() {
            self.end_nar()?;
            let writer = nar::Writer::new(DigestWriter::new(io::sink()))?;
            let root_is_directory = entry.kind == Kind::Directory;
            self.nar = Some(OpenNar { writer, open: vec![name.to_vec()], root_is_directory });
            return Ok(());
        }
        let nar = self.nar.as_mut().ok_or(io::ErrorKind::InvalidData)?;
        let shared = nar.open.iter().zip(parents).take_while(|(a, b)| a.as_slice() == **b).count();
        if shared < parents.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        while nar.open.len() > shared {
            nar.writer.end_directory()?;
            nar.open.pop();
        }
        nar.writer.entry(name)?;
        if entry.kind == Kind::Directory {
            nar.open.push(name.to_vec());
        }
        Ok(())
    }

    fn end_nar(&mut self) -> io::Result<()> {
        let Some(mut nar) = self.nar.take() else { return Ok(()) };
        let directories = nar.open.len() - usize::from(!nar.root_is_directory);
        for _ in 0..directories {
            nar.writer.end_directory()?;
        }
        let (_, digest, size) = nar.writer.finish()?.finish();
        self.nar_hashes.insert(nar.open.swap_remove(0), (digest, size));
        Ok(())
    }

    fn finish(mut self) -> Result<(Contents, Canonical), VerifyError> {
        let layer = self.layer;
        self.end_nar().map_err(|source| VerifyError::Blob { layer, source })?;
        let padding = self.last_padding();
        self.write_canonical(&tar::END);
        let end = [&[0; tar::BLOCK][..padding], &tar::END].concat();
        self.tar_split.segment(&end).expect("a sink takes everything");
        let log = self.log.borrow();
        for (entry, frames) in self.entries.iter_mut().zip(&self.frames) {
            for (chunk, number) in entry.chunks.iter_mut().zip(frames) {
                let frame = log[*number];
                chunk.blob_offset = frame.blob_offset;
                let blob_len = u32::try_from(frame.blob_len).ok().filter(|len| *len > 0);
                match blob_len.filter(|_| frame.len == u64::from(chunk.len)) {
                    Some(blob_len) => chunk.blob_len = blob_len,
                    None => {
                        let fault = "shares a frame with something else";
                        return Err(VerifyError::Entry { layer, path: entry.entry.path.clone(), fault });
                    }
                }
            }
        }
        let canonical = Canonical {
            diff_id: self.canonical.finish().1,
            tar_split: self.tar_split.finish().finish().1,
            utf8: self.utf8,
        };
        let Self { ref mut entries, ref mut nar_hashes, ref mut database, .. } = self;
        let contents = Contents {
            entries: std::mem::take(entries),
            nar_hashes: std::mem::take(nar_hashes),
            database: database.take(),
        };
        Ok((contents, canonical))
    }
}

/// The contents of one entry, while they are read.
struct Body<'a> {
    log: &'a FrameLog,
    canonical: &'a mut DigestWriter<io::Sink>,
    chunks: Vec<Chunk>,
    /// Of each chunk, its frame's place in the log.
    frames: Vec<usize>,
    /// Digest of the last chunk.
    chunk: Sha256,
    checksum: tar_split::Checksum,
    read: u64,
    kept: Option<Vec<u8>>,
}

impl<'a> Body<'a> {
    fn new(log: &'a FrameLog, canonical: &'a mut DigestWriter<io::Sink>, keep: bool) -> Self {
        Self {
            log,
            canonical,
            chunks: Vec::new(),
            frames: Vec::new(),
            chunk: Sha256::new(),
            checksum: tar_split::Checksum::new(),
            read: 0,
            kept: keep.then(Vec::new),
        }
    }

    /// Takes in bytes that were just read, all from the frame that is last in the log.
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        let frame = self.log.borrow().len().checked_sub(1).ok_or(io::ErrorKind::InvalidData)?;
        if self.frames.last() != Some(&frame) {
            self.end_chunk();
            self.frames.push(frame);
            // Where the frame lies is known for sure once it was read to its end.
            let digest = Digest::from_bytes([0; 32]);
            self.chunks.push(Chunk {
                offset_in_file: self.read,
                len: 0,
                blob_offset: 0,
                blob_len: 0,
                digest,
            });
        }
        let too_long = || io::Error::new(io::ErrorKind::InvalidData, "a frame is too long");
        let chunk = self.chunks.last_mut().ok_or_else(too_long)?;
        let len = u32::try_from(bytes.len()).map_err(|_| too_long())?;
        chunk.len = chunk.len.checked_add(len).ok_or_else(too_long)?;
        self.read += bytes.len() as u64;
        self.chunk.update(bytes);
        self.checksum.update(bytes);
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(bytes);
        }
        self.canonical.write_all(bytes)
    }

    fn end_chunk(&mut self) {
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.digest = Digest::from_bytes(self.chunk.finalize_reset().into());
        }
    }

    /// Ends the last chunk, and with it the contents.
    fn finish(mut self) -> Self {
        self.end_chunk();
        self
    }
}

/// Shows what is read to a [`Body`].
struct Tee<'a, 'b, R> {
    contents: &'a mut R,
    body: &'a mut Body<'b>,
}

impl<R: Read> Read for Tee<'_, '_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.contents.read(buf)?;
        if n > 0 {
            self.body.take(&buf[..n])?;
        }
        Ok(n)
    }
}
