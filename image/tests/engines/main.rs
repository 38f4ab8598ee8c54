//! Other programs take a seed for what it is: an ordinary image.

// All of this crate is tests, helpers included.
#![allow(clippy::unwrap_used)]

mod containerd;
mod podman;
mod support;

#[allow(dead_code)] // Shared with the tests of transports, which use all of it.
#[path = "../transport/support/servers.rs"]
mod servers;
