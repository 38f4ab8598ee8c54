//! The two sides of `/dev/fuse`: what the kernel asks, and what it is told.
//!
//! Nothing in a seed ever changes, so the kernel may cache all that it is told for ever: attributes, entries,
//! names that do not exist, links, listings and pages.
//!
//! - `service`: what a file system has to answer.
//! - `seed_tree`: a seed, as such a file system.
//! - `seed_blobs`: the few files from which the kernel mounts a seed by itself, as such a file system.
//! - `failures`: reads that have just failed.
//! - `session`: the FUSE protocol, from the first request to the last.
//! - `notice`: what the kernel is told without having asked.
//! - `pages`: pages that lie in the kernel twice.
//! - `pending`: answers to reads that wait for their bytes.
//! - `device`: requests and answers as bytes of `/dev/fuse`.
//! - `wire`: the layout of these bytes.

mod device;
mod errno;
mod failures;
mod notice;
mod pages;
mod pending;
mod seed_blobs;
mod seed_tree;
mod service;
mod session;
mod wire;

pub(crate) use notice::Notices;
pub(crate) use seed_blobs::{SeedBlobs, layer_name};
pub(crate) use seed_tree::SeedTree;
pub(crate) use service::Service;
pub(crate) use session::{Negotiated, Serving, Session};
