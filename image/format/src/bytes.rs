//! Bytes that are read in place, some of which may still be on their way.

use std::ops::Range;

/// The bytes of a file whose length is known and whose content may arrive while it is read.
///
/// Bytes that were there once stay there, and stay the same.
pub trait Bytes {
    /// How many there are.
    fn total_len(&self) -> usize;

    /// Those of `range`, if it lies within the file. Waits for them if they are not there yet, and gives
    /// up, with `None`, if they will not come.
    fn get_bytes(&self, range: Range<usize>) -> Option<&[u8]>;
}

/// All of them are there.
impl<T: AsRef<[u8]>> Bytes for T {
    fn total_len(&self) -> usize {
        self.as_ref().len()
    }

    fn get_bytes(&self, range: Range<usize>) -> Option<&[u8]> {
        self.as_ref().get(range)
    }
}
