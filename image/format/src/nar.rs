//! NAR, the archive that Nix hashes store paths by.
//!
//! Source of the format: the Nix manual, "Nix Archive (NAR) format", and `libutil/archive.cc`. A NAR
//! holds one node: a directory, a regular file with its executable bit, or a symbolic link; nothing else
//! of the file system. Every token is a 64-bit little-endian length, that many bytes, and zeros up to a
//! multiple of eight.
//!
//! A node's events come in this order, in the [`Writer`] and in the [`Reader`]:
//!
//! * a directory: `directory`, then for each entry, by ascending name, `entry` and the node's events,
//!   then `end_directory`;
//! * a regular file: `regular` and its contents;
//! * a symbolic link: `symlink`.

mod reader;
mod writer;

pub use reader::{Event, Limits, NarError, Reader};
pub use writer::{Contents, Writer};

/// The first token of every NAR.
const MAGIC: &[u8] = b"nix-archive-1";

/// Bytes of zeros that follow a token of `len` bytes.
fn padding(len: u64) -> usize {
    (len.wrapping_neg() % 8) as usize
}

#[cfg(test)]
mod tests;
