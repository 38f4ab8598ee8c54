//! The bytes of a seed, written and read: digests, store paths, NAR archives, layers and the index.
//!
//! This crate is pure: it works on byte slices and on [`std::io::Read`]/[`std::io::Write`], holds no
//! policy and opens no file or socket. Everything that it reads may come from an adversary, so every
//! reader has explicit limits and answers malformed input with an error.

#![forbid(unsafe_code)]

pub mod assign;
pub mod bytes;
mod chain;
pub mod digest;
pub mod entry;
pub mod erofs;
pub mod index;
pub mod json;
pub mod layer;
pub mod nar;
mod padded;
pub mod store_path;
pub mod tar;
pub mod toc;
pub mod trace;

pub use chain::Chain;
pub use digest::{Digest, DigestReader, DigestWriter};
pub use entry::{Chunk, Entry, Kind, LayerEntry};
pub use store_path::StorePath;
