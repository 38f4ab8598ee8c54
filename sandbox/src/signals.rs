//! What becomes of this process's signals while a sandbox is there.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::{self, Handle};

use crate::error::SandboxError;
use crate::session::Controller;

/// What a signal does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// It goes to the command, which decides. Where none runs, it ends the sandbox.
    PassOn,
    /// The same, at a terminal of the sandbox's own: its shell takes no `SIGTERM`, but goes, with all its
    /// jobs, when the terminal hangs up.
    HangUp,
    /// It ends the sandbox: nothing inside is worth a word of farewell, since all of it is thrown away.
    Stop,
}

/// While it lives, `SIGHUP`, `SIGINT`, `SIGQUIT` and `SIGTERM` are the sandbox's.
#[derive(Debug)]
pub(crate) struct Signals {
    state: Arc<State>,
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    reaction: Reaction,
    /// The first signal that came; 0 for none.
    received: AtomicI32,
    controller: Mutex<Option<Controller>>,
}

impl Signals {
    /// Begins to wait for signals.
    pub(crate) fn watch(reaction: Reaction) -> io::Result<Self> {
        let state = Arc::new(State { reaction, received: AtomicI32::new(0), controller: Mutex::default() });
        let mut signals = iterator::Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM])?;
        let (handle, theirs) = (signals.handle(), Arc::clone(&state));
        let thread = std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in &mut signals {
                theirs.react(signal);
            }
        })?;
        Ok(Self { state, handle, thread: Some(thread) })
    }

    /// Says which sandbox it is about from now on. A signal that came before ends it.
    pub(crate) fn control(&self, controller: Controller) {
        let mut current = self.state.controller();
        if self.received().is_some() {
            controller.stop();
        }
        *current = Some(controller);
    }

    /// The first signal that came.
    pub(crate) fn received(&self) -> Option<i32> {
        Some(self.state.received.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }

    /// An error if a signal came.
    pub(crate) fn check(&self) -> Result<(), SandboxError> {
        self.received().map_or(Ok(()), |signal| Err(SandboxError::Interrupted { signal }))
    }

    /// Does something, and names the signal as the cause if it fails after one.
    pub(crate) fn or_interrupted<T>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, SandboxError>,
    ) -> Result<T, SandboxError> {
        self.check()?;
        work(self).map_err(|error| self.check().err().unwrap_or(error))
    }
}

impl State {
    fn controller(&self) -> std::sync::MutexGuard<'_, Option<Controller>> {
        self.controller.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn react(&self, signal: i32) {
        let controller = self.controller();
        let _ = self.received.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
        let Some(controller) = &*controller else { return };
        let passed_on = match self.reaction {
            Reaction::Stop => None,
            _ if !controller.is_running() => None,
            Reaction::PassOn => Some(signal),
            Reaction::HangUp if signal == SIGTERM => Some(SIGHUP),
            Reaction::HangUp => Some(signal),
        };
        match passed_on {
            // A sandbox that is gone needs no signals.
            Some(signal) => drop(controller.signal(signal)),
            None => controller.stop(),
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
