//! The two sides of `/dev/fuse`: what the kernel asks, and what it is told.
//!
//! Nothing in a seed ever changes, so the kernel may cache all that it is told for ever: attributes, entries,
//! names that do not exist, links, listings and pages.
//!
//! - `service`: what a file system has to answer.
//! - `seed_tree`: a seed, as such a file system.
//! - `session`: the FUSE protocol, from the first request to the last.
//! - `pending`: answers to reads that wait for their bytes.
//! - `device`: requests and answers as bytes of `/dev/fuse`.
//! - `wire`: the layout of these bytes.

mod device;
mod errno;
mod pending;
mod seed_tree;
mod service;
mod session;
mod wire;

pub(crate) use seed_tree::SeedTree;
pub(crate) use session::{Serving, Session};
