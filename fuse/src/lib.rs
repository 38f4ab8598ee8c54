//! The lazy, verified mount of a seed.
//!
//! - [`source`]: where ranges of layer blobs come from.
//! - [`store`]: the chunk cache, and the only maker of bytes that may be served.
//! - [`fetch`]: which ranges are fetched, and when.
//! - [`activity`]: what happened when, for those who look.
//! - [`tree`]: the file system, without a kernel.
//! - [`blobs`]: the same as few large files, over which the kernel itself mounts the tree.
//! - `kernel`: both as the FUSE protocol wants them.
//! - [`mount`]: from a seed's digest to a mounted directory, and back.

pub mod activity;
mod allocator;
pub mod blobs;
mod data;
pub mod fetch;
pub mod index;
mod kernel;
pub mod mount;
pub mod source;
pub mod stats;
pub mod store;
mod sync;
pub mod tree;
