//! SIGINT, SIGTERM and SIGHUP: what was begun is undone, then the signal has its usual effect.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::error::Result;

/// How many commands run that signals are passed on to: while there is one, they are meant for it.
static FORWARDED: AtomicUsize = AtomicUsize::new(0);

/// Whether a signal is ending the program.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How long the programs that this one runs have to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often what was begun is undone: other threads go on until the end, and may begin more.
const ROUNDS: u32 = 3;

type Undo = Box<dyn Fn() + Send>;

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
            INTERRUPTED.store(true, Ordering::SeqCst);
            end_children();
            undo_all();
            let name = low_level::signal_name(signal).unwrap_or("a signal");
            // Standard error may be closed; there is nowhere else to say it.
            let _ = writeln!(std::io::stderr(), "interrupted by {name}");
            die_of(signal);
        }
    })?;
    Ok(())
}

/// Ends this process as `signal` does by default, which its parent is to see: a shell shows it as 128 and the
/// number.
pub(crate) fn die_of(signal: i32) {
    let _ = low_level::emulate_default_handler(signal);
}

/// Waits for the end if a signal is ending the program. Otherwise its exit code would be that of what fails
/// because of the signal.
pub(crate) fn wait_if_interrupted() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        thread::park();
    }
}

/// Tells the programs that this one runs, such as Nix, to end, and waits for that a while. A signal that is
/// sent to this process alone would leave them behind. Says whether there were any.
fn end_children() -> bool {
    let deadline = Instant::now() + PATIENCE;
    let mut told = HashSet::new();
    // Where one failed, the next may have been started.
    loop {
        let news: Vec<_> = children().into_iter().filter(|pid| told.insert(*pid)).collect();
        if news.is_empty() {
            return !told.is_empty();
        }
        let open = |pid: Pid| pidfd_open(pid, PidfdFlags::empty()).ok();
        let children: Vec<OwnedFd> = news.into_iter().filter_map(open).collect();
        for child in &children {
            // It may have ended in this moment.
            let _ = pidfd_send_signal(child, Signal::TERM);
        }
        for child in &children {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).unwrap_or_default();
            let ended = poll(&mut [PollFd::new(child, PollFlags::IN)], Some(&left));
            if !ended.is_ok_and(|count| count > 0) {
                let _ = pidfd_send_signal(child, Signal::KILL);
            }
        }
    }
}

/// The children of each thread of this process.
fn children() -> Vec<Pid> {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    let lists =
        threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("children")).ok());
    let numbers = |list: String| {
        list.split_ascii_whitespace()
            .filter_map(|number| Pid::from_raw(number.parse().ok()?))
            .collect::<Vec<_>>()
    };
    lists.flat_map(numbers).collect()
}

/// Takes last things first. The lock is held, so that nothing new is listed after it.
fn undo_all() {
    let pending = pending();
    for _ in 0..ROUNDS {
        pending.undo.values().rev().for_each(|undo| undo());
        if !end_children() {
            break;
        }
    }
    std::mem::forget(pending);
}

/// Has `undo` run, perhaps more than once, if a signal ends the program before the guard is dropped. It does
/// not run otherwise.
pub(crate) fn undo_on_signal(undo: impl Fn() + Send + 'static) -> UndoGuard {
    let mut pending = pending();
    let key = pending.next;
    pending.next += 1;
    pending.undo.insert(key, Box::new(undo));
    UndoGuard(key)
}

/// Keeps something on the list of what a signal undoes.
pub(crate) struct UndoGuard(u64);

impl UndoGuard {
    /// Keeps it there for as long as the program runs.
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

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
