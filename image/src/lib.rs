//! From a Nix closure to an OCI image, and the places where that image is kept.

#![forbid(unsafe_code)]

pub mod artifact;
pub mod binary_cache;
pub mod capture;
pub mod closure;
pub mod database;
pub mod derivation;
#[cfg(test)]
mod fixture;
pub mod image_file;
pub mod kept;
pub mod manifest;
pub mod pack;
pub mod progress;
pub mod reference;
pub mod rootfs;
pub mod seed;
pub mod store;
pub mod telemetry;
pub mod traces;
pub mod transport;
pub mod tree;
pub mod verify;
pub mod whole_file;
