//! The two sides of `/dev/fuse`: what the kernel asks, and what errors it is told.

mod errno;
mod fuse;

pub(crate) use fuse::{Filesystem, session_config};
