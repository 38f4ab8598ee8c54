//! The machine's own store, which lends its paths: they are packed from where they are.
//!
//! Nix would copy them into the capture's store, file by file, for them to be read there once. Packing reads
//! a lent path as it would read the copy, and refuses one that is not as the database says.

use std::collections::BTreeSet;
use std::path::Path;

use seed_format::StorePath;

use super::graft::graft;
use super::{CaptureError, FlakeRequest, Lock};
use crate::closure::{Closure, PathInfo};
use crate::store::{Store, StoreError};

/// A store that lends paths.
pub(super) struct Lender(Store);

impl Lender {
    /// The machine's store, if it can be read. Where the user names another store, that one comes first, and
    /// Nix takes from each what it should.
    pub(super) fn of(request: &FlakeRequest) -> Option<Self> {
        if request.store.is_some() {
            return None;
        }
        Store::open(Path::new("/")).ok().map(Self)
    }

    /// Those of `paths` that are there.
    pub(super) fn among(&self, paths: &BTreeSet<StorePath>) -> Result<BTreeSet<StorePath>, StoreError> {
        let mut there = BTreeSet::new();
        for path in paths {
            if self.0.has(path)? {
                there.insert(path.clone());
            }
        }
        Ok(there)
    }

    /// Puts the trees that `lock` names into the store below `root`, as far as they are here. The others are
    /// fetched.
    pub(super) fn lend_inputs(&self, lock: &Lock, root: &Path) -> Result<(), CaptureError> {
        for digest in lock.inputs().values().filter_map(|input| input.digest()) {
            for path in self.0.with_nar_hash(&digest)?.into_iter().filter(|path| path.name() == "source") {
                let info = self.0.path_info(&path)?;
                // Fetchers name trees by their content alone.
                if info.ca.is_some() {
                    graft(&self.0.directory().join(path.base_name()), &info, root)?;
                }
            }
        }
        Ok(())
    }
}

/// The paths of the closure of `roots`: from the capture's store, and of what is lent.
pub(super) fn closure(
    own: &Store,
    lender: Option<&Lender>,
    roots: impl IntoIterator<Item = StorePath>,
) -> Result<Closure, StoreError> {
    let mut closure = Closure { real_store: own.directory(), ..Closure::default() };
    let mut todo: Vec<_> = roots.into_iter().collect();
    while let Some(path) = todo.pop() {
        if closure.paths.contains_key(&path) {
            continue;
        }
        let info = match lender {
            Some(Lender(store)) if !own.has(&path)? && store.has(&path)? => {
                closure.elsewhere.insert(path.clone(), store.directory());
                store.path_info(&path)?
            }
            _ => own.path_info(&path)?,
        };
        let PathInfo { references, .. } = &info;
        todo.extend(references.iter().filter(|path| !closure.paths.contains_key(*path)).cloned());
        closure.paths.insert(path, info);
    }
    Ok(closure)
}
