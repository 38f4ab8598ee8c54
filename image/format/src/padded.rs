//! A file's contents in an archive that pads them, as NAR and tar do.

use std::io::{self, Read};

/// Largest padding, in bytes.
const MAX_PADDING: usize = 512;

/// What has not been read yet of a file's contents, and the padding behind them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Padded {
    left: u64,
    padding: usize,
}

impl Padded {
    /// `size` bytes of contents, then `padding` bytes, at most 512.
    pub(crate) fn new(size: u64, padding: usize) -> Self {
        debug_assert!(padding <= MAX_PADDING);
        Self { left: size, padding }
    }

    /// As [`Read::read`], no further than the contents. That `source` ends before them is an error.
    pub(crate) fn read(&mut self, source: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        let n = source.read(&mut buf[..most])?;
        if n == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n as u64;
        Ok(n)
    }

    /// Skips what is left of the contents, and the padding. Says whether that is all zeros. From then on
    /// nothing is left.
    pub(crate) fn skip(&mut self, source: &mut impl Read) -> io::Result<bool> {
        let skipped = io::copy(&mut source.by_ref().take(self.left), &mut io::sink())?;
        if skipped < self.left {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = [0; MAX_PADDING];
        let padding = &mut bytes[..self.padding];
        source.read_exact(padding)?;
        *self = Self::default();
        Ok(padding.iter().all(|byte| *byte == 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_skips_no_further_than_it_may() {
        let mut source = &b"abcdef\0\0next"[..];
        let mut padded = Padded::new(6, 2);
        let mut two = [0; 2];
        assert_eq!((padded.read(&mut source, &mut two).unwrap(), &two), (2, b"ab"));
        assert!(padded.skip(&mut source).unwrap());
        assert_eq!(source, b"next");
        assert_eq!(padded.read(&mut source, &mut two).unwrap(), 0);
        assert!(padded.skip(&mut source).unwrap());
        assert_eq!(source, b"next");
    }

    #[test]
    fn tells_of_padding_and_of_ends() {
        assert!(!Padded::new(1, 2).skip(&mut &b"a\0x"[..]).unwrap());
        for (size, padding) in [(4, 0), (1, 3), (u64::MAX, 0)] {
            let error = Padded::new(size, padding).skip(&mut &b"abc"[..]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{size} {padding}");
        }
        let error = Padded::new(1, 0).read(&mut &b""[..], &mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
