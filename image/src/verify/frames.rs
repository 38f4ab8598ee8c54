//! Decompresses a layer blob frame by frame, and notes where each frame lies.

use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

/// A frame, and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    /// Where it begins in the blob.
    pub(super) blob_offset: u64,
    /// Its bytes in the blob; 0 until it was read to its end.
    pub(super) blob_len: u64,
    /// Where what it holds begins in the uncompressed stream.
    pub(super) start: u64,
    /// How many bytes it holds, as far as it was read.
    pub(super) len: u64,
}

/// The frames that were begun so far, in order. Those that hold nothing, skippable ones, are not in it.
pub(super) type FrameLog = Rc<RefCell<Vec<Frame>>>;

/// The uncompressed bytes of a blob. No read gives bytes of two frames: those that a read gave are of the
/// last frame in the log.
pub(super) struct FrameReader<R> {
    source: BufReader<R>,
    decoder: Decoder<'static>,
    log: FrameLog,
    /// Compressed bytes taken so far.
    taken: u64,
    /// Uncompressed bytes given so far.
    given: u64,
    /// Where the current frame began, and whether it is in the log already.
    frame: Option<(u64, bool)>,
}

/// The largest window, as a power of two, that a frame may ask for: the largest chunk.
const WINDOW_LOG_MAX: u32 = 24;

impl<R: Read> FrameReader<R> {
    pub(super) fn new(source: R) -> io::Result<(Self, FrameLog)> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
        let log = FrameLog::default();
        let source = BufReader::with_capacity(256 << 10, source);
        Ok((Self { source, decoder, log: log.clone(), taken: 0, given: 0, frame: None }, log))
    }

    /// Notes what one step of the decoder did.
    fn note(&mut self, consumed: u64, produced: u64, ended: bool) {
        if consumed > 0 && self.frame.is_none() {
            self.frame = Some((self.taken, false));
        }
        self.taken += consumed;
        let Some((blob_offset, logged)) = self.frame else { return };
        let mut log = self.log.borrow_mut();
        if produced > 0 {
            if !logged {
                log.push(Frame { blob_offset, blob_len: 0, start: self.given, len: 0 });
                self.frame = Some((blob_offset, true));
            }
            if let Some(frame) = log.last_mut() {
                frame.len += produced;
            }
            self.given += produced;
        }
        if ended {
            if self.frame.is_some_and(|(_, logged)| logged)
                && let Some(frame) = log.last_mut()
            {
                frame.blob_len = self.taken - blob_offset;
            }
            self.frame = None;
        }
    }
}

impl<R: Read> Read for FrameReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let input = self.source.fill_buf()?;
            let at_end = input.is_empty();
            let mut input = InBuffer::around(input);
            let mut output = OutBuffer::around(&mut *buf);
            let hint = self.decoder.run(&mut input, &mut output)?;
            let (consumed, produced) = (input.pos(), output.pos());
            self.source.consume(consumed);
            self.note(consumed as u64, produced as u64, hint == 0);
            if produced > 0 {
                return Ok(produced);
            }
            if at_end && consumed == 0 {
                // The end of the blob is the end of a frame, or the blob is cut.
                return if self.frame.is_none() { Ok(0) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob() -> (Vec<u8>, Vec<Frame>) {
        let contents: [&[u8]; 3] = [b"a", &[b'b'; 300_000], b"cc"];
        let mut blob = Vec::new();
        let mut frames = Vec::new();
        let mut start = 0;
        for content in contents {
            blob.extend_from_slice(&seed_format::toc::SKIPPABLE_MAGIC);
            blob.extend_from_slice(&[3, 0, 0, 0, 1, 2, 3]);
            let frame = zstd::bulk::compress(content, 3).unwrap();
            let (blob_offset, blob_len, len) = (blob.len() as u64, frame.len() as u64, content.len() as u64);
            frames.push(Frame { blob_offset, blob_len, start, len });
            start += len;
            blob.extend_from_slice(&frame);
        }
        (blob, frames)
    }

    #[test]
    fn frames_are_told_apart() {
        let (blob, frames) = blob();
        let (mut reader, log) = FrameReader::new(blob.as_slice()).unwrap();
        let mut total = 0;
        let mut buf = [0; 70_000];
        loop {
            let n = reader.read(&mut buf).unwrap();
            if n == 0 {
                break;
            }
            let frame = *log.borrow().last().unwrap();
            assert!(frame.start <= total && frame.start + frame.len == total + n as u64);
            total += n as u64;
        }
        assert_eq!(*log.borrow(), frames);
    }

    #[test]
    fn a_cut_blob_is_an_error() {
        let (blob, frames) = blob();
        // After each frame, skippable ones included.
        let ends = frames.iter().flat_map(|frame| [frame.blob_offset, frame.blob_offset + frame.blob_len]);
        let ends: Vec<u64> = ends.chain([0]).collect();
        for len in 0..blob.len() {
            let (mut reader, _) = FrameReader::new(&blob[..len]).unwrap();
            let read = io::copy(&mut reader, &mut io::sink());
            assert_eq!(read.is_ok(), ends.contains(&(len as u64)), "cut at {len}: {read:?}");
        }
    }
}
