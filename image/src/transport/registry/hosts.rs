//! Mirrors.
/// What is wrong in a hosts file.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {}
