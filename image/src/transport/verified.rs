//! A stream of a blob that gives its last bytes only when all of them were right.

use std::io::{self, Read};

use seed_format::{Digest, DigestReader};

use super::TransportError;

/// Reads a blob and checks its digest and size.
///
/// The read that would complete the blob fails instead when digest or size are wrong, so a reader that
/// reached the end has the right bytes; one that did not must not use what it has.
pub(super) struct Verified<R> {
    place: String,
    digest: Digest,
    size: u64,
    state: State<R>,
}

enum State<R> {
    Reading { inner: DigestReader<R>, left: u64 },
    Done,
    Failed,
}

impl<R: Read> Verified<R> {
    /// `inner` must give the `size` bytes of `digest`, and then end.
    pub(super) fn new(inner: R, place: String, digest: Digest, size: u64) -> Self {
        Self { place, digest, size, state: State::Reading { inner: DigestReader::new(inner), left: size } }
    }

    fn wrong_size(&self, actual: u64) -> io::Error {
        let Self { place, digest, size, .. } = self;
        TransportError::WrongSize { place: place.clone(), digest: *digest, expected: *size, actual }.into()
    }

    /// All bytes are read: checks that no more follow, and the digest.
    fn complete(&self, inner: DigestReader<R>) -> io::Result<()> {
        let (mut inner, actual, _) = inner.finish();
        let more = loop {
            match inner.read(&mut [0]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        if more > 0 {
            return Err(self.wrong_size(self.size + 1));
        }
        if actual != self.digest {
            let Self { place, digest, .. } = self;
            return Err(
                TransportError::WrongDigest { place: place.clone(), expected: *digest, actual }.into()
            );
        }
        Ok(())
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let (mut inner, left) = match std::mem::replace(&mut self.state, State::Failed) {
            State::Reading { inner, left } => (inner, left),
            State::Done => {
                self.state = State::Done;
                return Ok(0);
            }
            State::Failed => return Err(io::Error::other("the blob failed before")),
        };
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let got = if want == 0 {
            0
        } else {
            match inner.read(&mut buffer[..want]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    self.state = State::Reading { inner, left };
                    return Err(error);
                }
                result => result?,
            }
        };
        if want > 0 && got == 0 {
            return Err(self.wrong_size(self.size - left));
        }
        let left = left - got as u64;
        if left == 0 {
            self.complete(inner)?;
            self.state = State::Done;
        } else {
            self.state = State::Reading { inner, left };
        }
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], digest: Digest, size: u64, step: usize) -> (Vec<u8>, io::Result<()>) {
        let mut reader = Verified::new(bytes, "here".into(), digest, size);
        let mut out = Vec::new();
        let mut buffer = vec![0; step];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return (out, Ok(())),
                Ok(n) => out.extend_from_slice(&buffer[..n]),
                Err(error) => {
                    assert!(reader.read(&mut buffer).is_err(), "an error stays one");
                    return (out, Err(error));
                }
            }
        }
    }

    #[test]
    fn gives_right_bytes_whole_and_wrong_ones_never_whole() {
        let right: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let mut flipped = right.clone();
        flipped[999] ^= 1;
        let digest = Digest::of(&right);
        for step in [1, 7, 999, 1000, 4096] {
            let (out, result) = read(&right, digest, 1000, step);
            assert!(result.is_ok() && out == right);

            for (bytes, size) in
                [(&flipped[..], 1000), (&right[..999], 1000), (&right[..], 999), (&right[..], 1001)]
            {
                let (out, result) = read(bytes, digest, size, step);
                let error = result.unwrap_err();
                assert!(TransportError::in_io(&error).unwrap().is_integrity(), "{error}");
                assert!((out.len() as u64) < size.min(1001), "the last bytes are held back");
            }
        }
        assert!(read(b"", Digest::of(b""), 0, 8).1.is_ok());
        assert!(read(b"x", Digest::of(b""), 0, 8).1.is_err());
        assert!(read(b"", Digest::of(b"x"), 0, 8).1.is_err());
    }
}
