use std::io::{self, Write};

use zstd::stream::write::Encoder;

use crate::toc::{Footer, Located, Position, SKIPPABLE_MAGIC, TocEntry, tar_split};
use crate::{Digest, Kind, LayerEntry};

/// Compression level of the tables. They are small; readers wait for them.
const LEVEL: i32 = 12;

/// What stands behind the tar stream in a blob: TOC, tar-split data and footer.
///
/// Both tables are compressed while they grow, so a layer of many small files needs little memory.
pub(super) struct Tables {
    toc: Counted,
    toc_entries: usize,
    tar_split: tar_split::Writer<Counted>,
}

/// Counts what goes into a compressor.
struct Counted {
    encoder: Encoder<'static, Vec<u8>>,
    written: u64,
}

impl Counted {
    fn new() -> io::Result<Self> {
        Ok(Self { encoder: Encoder::new(Vec::new(), LEVEL)?, written: 0 })
    }

    fn finish(self) -> io::Result<(Vec<u8>, u64)> {
        Ok((self.encoder.finish()?, self.written))
    }
}

impl Write for Counted {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.encoder.write(buf)?;
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.encoder.flush()
    }
}

impl Tables {
    pub(super) fn new() -> io::Result<Self> {
        let mut toc = Counted::new()?;
        toc.write_all(br#"{"version":1,"entries":["#)?;
        Ok(Self { toc, toc_entries: 0, tar_split: tar_split::Writer::new(Counted::new()?) })
    }

    /// Takes in bytes of the tar stream that are no file's: what precedes one member, or the end.
    pub(super) fn segment(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tar_split.segment(bytes)
    }

    /// Takes in a member, with its digest and checksum if it has contents. False where its name or target
    /// is not UTF-8: the tables cannot hold it.
    pub(super) fn member(
        &mut self,
        written: &LayerEntry,
        contents: Option<(Digest, [u8; 8])>,
    ) -> io::Result<bool> {
        let Some(entries) = TocEntry::of(written, contents.map(|(digest, _)| digest)) else {
            return Ok(false);
        };
        let size = if let Kind::Regular { size } = written.entry.kind { size } else { 0 };
        self.tar_split.file(&entries[0].name, size, contents.map(|(_, checksum)| checksum))?;
        for entry in entries {
            if self.toc_entries > 0 {
                self.toc.write_all(b",")?;
            }
            serde_json::to_writer(&mut self.toc, &entry)?;
            self.toc_entries += 1;
        }
        Ok(true)
    }

    /// The three skippable frames, which begin at `offset` of the blob, and what to say of them.
    pub(super) fn finish(mut self, end: &[u8], offset: u64) -> io::Result<(Located, Vec<u8>)> {
        self.tar_split.segment(end)?;
        let (tar_split, tar_split_len) = self.tar_split.finish().finish()?;
        write!(self.toc, r#"],"tarSplitDigest":"{}"}}"#, Digest::of(&tar_split))?;
        let (toc, toc_len) = self.toc.finish()?;

        let mut frames = Vec::with_capacity(toc.len() + tar_split.len() + 128);
        let toc_at = skippable(&toc, toc_len, offset, &mut frames)?;
        let tar_split_at = skippable(&tar_split, tar_split_len, offset, &mut frames)?;
        frames.extend_from_slice(&Footer { toc: toc_at, tar_split: tar_split_at }.to_bytes());
        let located = Located { digest: Digest::of(&toc), toc: toc_at, tar_split: Some(tar_split_at) };
        Ok((located, frames))
    }
}

/// Appends a skippable frame to `frames`, which begin at `offset` of the blob.
fn skippable(
    content: &[u8],
    uncompressed_len: u64,
    offset: u64,
    frames: &mut Vec<u8>,
) -> io::Result<Position> {
    let len = u32::try_from(content.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    frames.extend_from_slice(&SKIPPABLE_MAGIC);
    frames.extend_from_slice(&len.to_le_bytes());
    let position = Position { offset: offset + frames.len() as u64, len: u64::from(len), uncompressed_len };
    frames.extend_from_slice(content);
    Ok(position)
}
