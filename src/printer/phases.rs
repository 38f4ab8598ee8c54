//! The phases of work that a library does, and how long each took.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use seed_image::progress::Progress;

use super::{Phase, Printer};

/// Shows the phases that a library tells of, one after another.
#[derive(Debug)]
pub(crate) struct Phases<'a> {
    printer: &'a Printer,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    current: Option<(&'static str, Phase)>,
    ended: Vec<(&'static str, Duration)>,
}

impl<'a> Phases<'a> {
    pub(crate) fn new(printer: &'a Printer) -> Self {
        Self { printer, state: Mutex::default() }
    }

    /// Ends the last phase. Gives all of them in their order.
    pub(crate) fn end(self) -> Vec<(&'static str, Duration)> {
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.end_current();
        state.ended
    }
}

impl State {
    fn end_current(&mut self) {
        if let Some((name, phase)) = self.current.take() {
            self.ended.push((name, phase.end()));
        }
    }
}

impl Progress for Phases<'_> {
    fn begin(&self, name: &'static str, total: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.end_current();
        let phase = self.printer.phase(name);
        if total > 0 {
            phase.set_total(total);
        }
        state.current = Some((name, phase));
    }

    fn advance(&self, bytes: u64) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, phase)) = &state.current {
            phase.advance(bytes);
        }
    }
}
