//! Transports against real registries, and against one that lies.

mod real;
mod support;
