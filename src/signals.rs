//! SIGINT, SIGTERM and SIGHUP: what was begun is undone, then the signal has its usual effect.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::error::Result;

/// How many commands run that signals are passed on to: while there is one, they are meant for it.
static FORWARDED: AtomicUsize = AtomicUsize::new(0);

type Undo = Box<dyn FnOnce() + Send>;

/// What must be undone, by the order in which it was begun.
static PENDING: LazyLock<Mutex<Pending>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Pending {
    next: u64,
    undo: BTreeMap<u64, Undo>,
}

/// Starts the thread that waits for signals.
pub(crate) fn install() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if FORWARDED.load(Ordering::SeqCst) > 0 {
                continue;
            }
            undo_all();
            // The default of each of the three is death by that signal, which the parent is to see.
            let _ = emulate_default_handler(signal);
        }
    })?;
    Ok(())
}

/// Takes last things first. The lock is held, so that nothing new begins after it.
fn undo_all() {
    let mut pending = pending();
    while let Some((_, undo)) = pending.undo.pop_last() {
        undo();
    }
    std::mem::forget(pending);
}

/// Has `undo` run if a signal ends the program before the guard is dropped. It does not run otherwise.
pub(crate) fn undo_on_signal(undo: impl FnOnce() + Send + 'static) -> UndoGuard {
    let mut pending = pending();
    let key = pending.next;
    pending.next += 1;
    pending.undo.insert(key, Box::new(undo));
    UndoGuard(key)
}

/// Keeps something on the list of what a signal undoes.
pub(crate) struct UndoGuard(u64);

impl Drop for UndoGuard {
    fn drop(&mut self) {
        pending().undo.remove(&self.0);
    }
}

fn pending() -> MutexGuard<'static, Pending> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While it lives, signals are left to whoever passes them on to a command.
pub(crate) struct Forwarded;

/// Leaves signals to whoever passes them on to a command that runs.
pub(crate) fn forwarded() -> Forwarded {
    FORWARDED.fetch_add(1, Ordering::SeqCst);
    Forwarded
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        FORWARDED.fetch_sub(1, Ordering::SeqCst);
    }
}
