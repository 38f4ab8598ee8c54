//! Transports against real registries, and against one that lies.

// All of this crate is tests, helpers included.
#![allow(clippy::unwrap_used)]

mod auth;
mod copying;
mod hostile;
mod index;
mod mirrors;
mod real;
mod support;
