//! Transports against real registries, and against one that lies.

mod hostile;
mod real;
mod support;
