//! Plain store paths, with no flake.

use std::collections::BTreeSet;
use std::path::Path;

use seed_format::StorePath;

use super::{CaptureError, real_path};
use crate::closure::{Closure, Programs};
use crate::store::Store;

/// Captures plain store paths, with all that they refer to, from the store below `root` (`/` is the
/// machine's own).
pub fn paths(paths: &[StorePath], root: &Path) -> Result<Closure, CaptureError> {
    let store = Store::open(root)?;
    closure_of(&store, paths.iter().cloned(), Programs::default())
}

/// Captures plain store paths as [`paths`] does, and the Nix `nix` with them, so that there is one to build
/// with. The shell and what else an image starts with are the first of the paths that have them.
pub fn paths_with_nix(paths: &[StorePath], root: &Path, nix: &StorePath) -> Result<Closure, CaptureError> {
    let store = Store::open(root)?;
    let has = |path: &StorePath, files: &[&str]| {
        files.iter().any(|file| real_path(root, path).join(file).symlink_metadata().is_ok())
    };
    if !has(nix, &["bin/nix"]) {
        return Err(CaptureError::NotNix(nix.clone()));
    }
    let first = |files: &[&str]| paths.iter().find(|path| has(path, files)).cloned();
    let programs = Programs {
        nix: Some(nix.clone()),
        shell: first(&["bin/sh", "bin/bash"]),
        env: first(&["bin/env"]),
        certificates: first(&["etc/ssl/certs/ca-bundle.crt"]),
    };
    closure_of(&store, paths.iter().chain([nix]).cloned(), programs)
}

/// The closure of `roots` in `store`, that an image can be made of.
fn closure_of(
    store: &Store,
    roots: impl IntoIterator<Item = StorePath>,
    programs: Programs,
) -> Result<Closure, CaptureError> {
    let paths = store.closure(roots)?;
    let realisations = store.realisations(&paths, &BTreeSet::new())?;
    let closure =
        Closure { real_store: store.directory(), paths, realisations, programs, ..Closure::default() };
    closure.check()?;
    Ok(closure)
}
