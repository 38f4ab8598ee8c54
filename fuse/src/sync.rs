//! Locks and threads of what a model checker looks at.
//!
//! With the feature `shuttle`, which only its tests set, they are those of the checker, which decides at each of
//! them which thread goes on.

#[cfg(not(feature = "shuttle"))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
#[cfg(not(feature = "shuttle"))]
pub(crate) use std::{sync::mpsc, thread};

#[cfg(feature = "shuttle")]
pub(crate) use shuttle::{
    sync::mpsc,
    sync::{Condvar, Mutex, MutexGuard},
    thread,
};
#[cfg(feature = "shuttle")]
pub(crate) use std::sync::PoisonError;
