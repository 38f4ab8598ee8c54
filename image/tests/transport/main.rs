//! Transports against real registries, and against one that lies.

mod auth;
mod copying;
mod hostile;
mod mirrors;
mod real;
mod support;
