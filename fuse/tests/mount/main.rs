//! Mounts of real seeds by the real kernel, each in a mount namespace of its own. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod cache;
mod contents;
mod damage;
#[path = "../support/mod.rs"]
mod support;
mod using;
mod world;
