//! Other programs take a seed for what it is: an ordinary image.

mod podman;
mod support;

#[path = "../transport/support/servers.rs"]
#[allow(dead_code)] // shared with the tests of transports, which use all of it
mod servers;
