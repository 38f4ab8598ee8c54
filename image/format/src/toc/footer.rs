use super::position::TYPE_CRFS;
use super::{Position, SKIPPABLE_MAGIC};

/// Bytes of the footer's skippable frame: eight of header and eight numbers.
pub const FOOTER_LEN: usize = 8 + 64;

/// The last eight bytes of a zstd:chunked blob.
const MAGIC: [u8; 8] = *b"GNUlInUx";

/// The last frame of a blob: where the TOC and the tar-split data lie, for readers without annotations.
///
/// Nothing in it is authenticated but by the digest of the whole blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    /// Where the TOC lies.
    pub toc: Position,
    /// Where the tar-split data lies.
    pub tar_split: Position,
}

/// The bytes are not a footer of zstd:chunked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the blob does not end with a zstd:chunked footer")]
pub struct FooterError;

impl Footer {
    /// The whole skippable frame.
    pub fn to_bytes(&self) -> [u8; FOOTER_LEN] {
        let mut bytes = [0; FOOTER_LEN];
        bytes[..4].copy_from_slice(&SKIPPABLE_MAGIC);
        bytes[4] = 64;
        let numbers = [
            self.toc.offset,
            self.toc.len,
            self.toc.uncompressed_len,
            TYPE_CRFS,
            self.tar_split.offset,
            self.tar_split.len,
            self.tar_split.uncompressed_len,
            u64::from_le_bytes(MAGIC),
        ];
        for (field, number) in bytes[8..].chunks_exact_mut(8).zip(numbers) {
            field.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// Reads the last [`FOOTER_LEN`] bytes of a blob.
    pub fn from_bytes(bytes: &[u8; FOOTER_LEN]) -> Result<Self, FooterError> {
        let number = |n: usize| {
            let mut field = [0; 8];
            field.copy_from_slice(&bytes[8 + 8 * n..16 + 8 * n]);
            u64::from_le_bytes(field)
        };
        let position = |n: usize| {
            format!("{}:{}:{}", number(n), number(n + 1), number(n + 2)).parse().map_err(|_| FooterError)
        };
        if bytes[..4] != SKIPPABLE_MAGIC || bytes[4..8] != [64, 0, 0, 0] || bytes[64..] != MAGIC {
            return Err(FooterError);
        }
        if number(3) != TYPE_CRFS {
            return Err(FooterError);
        }
        Ok(Self { toc: position(0)?, tar_split: position(4)? })
    }
}
