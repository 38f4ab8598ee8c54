//! An OCI registry.
pub mod credentials;
pub mod hosts;
pub mod http;
