//! Why a project cannot be captured.

use std::io;
use std::path::PathBuf;

use seed_format::StorePath;

use super::{LockError, NixError};
use crate::closure::ClosureError;
use crate::database::DatabaseError;
use crate::derivation::DerivationError;
use crate::store::StoreError;

/// Why a project cannot be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Nix failed.
    #[error(transparent)]
    Nix(#[from] NixError),
    /// The lock is missing or does not fit the flake.
    #[error("the inputs of {flake} are not all locked: run `nix flake lock` and commit flake.lock")]
    Unlocked {
        /// The flake.
        flake: String,
        /// What Nix said, if it was Nix that found out.
        source: Option<NixError>,
    },
    /// The lock cannot be used.
    #[error("cannot capture {flake}")]
    Lock {
        /// The flake.
        flake: String,
        /// What is wrong with its lock.
        source: LockError,
    },
    /// A locked tree did not come out as the lock says.
    #[error("the input {input:?} has no tree with the hash {nar_hash} of flake.lock")]
    InputTree {
        /// The input's entry in the lock.
        input: String,
        /// Its hash.
        nar_hash: String,
    },
    /// There is no such output.
    #[error("the flake has no output {0} that is a derivation or an app")]
    NoOutput(String),
    /// The flake has nothing to capture.
    #[error("the flake has no packages, development shells, checks or apps for {0}")]
    NoOutputs(String),
    /// An attribute path is not one.
    #[error("{0:?} is not an attribute path")]
    Attribute(String),
    /// A file could not be read or written.
    #[error("cannot access {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A path could not be noted in a store.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A derivation could not be read.
    #[error("{path} is not a derivation that can be used")]
    Derivation {
        /// The derivation.
        path: StorePath,
        /// What is wrong with it.
        source: DerivationError,
    },
    /// There are more derivations than are looked at.
    #[error("the outputs are made of more than {0} derivations")]
    TooManyDerivations(usize),
    /// Nix did not say where an output is.
    #[error("the output {output} of {derivation} is nowhere: Nix says {printed:?}")]
    Output {
        /// The derivation.
        derivation: StorePath,
        /// The output.
        output: String,
        /// What Nix said.
        printed: String,
    },
    /// Nix's notes on what it fetched could not be read.
    #[error("cannot read {}", path.display())]
    FetcherCache {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// What Nix fetched from Git repositories could not be read, or not written anew.
    #[error("cannot take what was fetched from {}", path.display())]
    FetchedObjects {
        /// The repository in Nix's cache.
        path: PathBuf,
        /// What libgit2 says.
        source: git2::Error,
    },
    /// Nix did not say where it put a directory.
    #[error("{} is nowhere in the store: Nix says {printed:?}", directory.display())]
    NotAdded {
        /// The directory.
        directory: PathBuf,
        /// What Nix said.
        printed: String,
    },
    /// Nix is installed in a way that it cannot be brought along.
    #[error(
        "{} is neither in /nix/store nor a program whose libraries are known: install a Nix of either kind",
        program.display()
    )]
    NotRelocatable {
        /// The program.
        program: PathBuf,
    },
    /// A store path that was named as Nix has no such program.
    #[error("{0} has no program bin/nix")]
    NotNix(StorePath),
    /// What was captured is not closed.
    #[error("the captured paths are not a closure")]
    Closure(#[from] ClosureError),
}
