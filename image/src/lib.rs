//! From a Nix closure to an OCI image, and the places where that image is kept.

#![forbid(unsafe_code)]

pub mod manifest;
pub mod reference;
pub mod transport;
