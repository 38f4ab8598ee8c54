//! The lazy, verified mount of a seed.
//!
//! - [`source`]: where ranges of layer blobs come from.
//! - [`store`]: the chunk cache, and the only maker of bytes that may be served.
//! - [`fetch`]: which ranges are fetched, and when.

pub mod fetch;
pub mod source;
pub mod stats;
pub mod store;
