//! Passing the caller's signals on to the command that runs inside.

use std::io;
use std::thread::JoinHandle;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use crate::session::Controller;

/// While it lives, `SIGHUP`, `SIGINT`, `SIGQUIT` and `SIGTERM` of this process go to the sandbox's command.
#[derive(Debug)]
pub struct Forwarding {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Forwarding {
    /// Starts passing on.
    pub fn start(controller: Controller) -> io::Result<Self> {
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM])?;
        let handle = signals.handle();
        let thread = std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in &mut signals {
                // A sandbox that is gone needs no signals.
                if controller.signal(signal).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { handle, thread: Some(thread) })
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
