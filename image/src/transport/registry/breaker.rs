//! Leaves an endpoint alone that does not work, and finds out when it does again.
//!
//! After some failures in a row an endpoint *rests*: whoever has another one asks there, and who has not waits. When
//! its rest is over, one request goes through to try it; if that fails too, the next rest is twice as long. So a
//! registry that is down or overloaded is asked once now and then, however many readers there are.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row after which an endpoint rests. Each was repeated before it counted.
const FAILURES: u32 = 3;
/// The first rest.
const FIRST_REST: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// What is known of an endpoint's health.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    rest: Option<Rest>,
}

#[derive(Debug, Clone, Copy)]
struct Rest {
    /// When it failed first.
    since: Instant,
    until: Instant,
    pause: Duration,
    /// Whether somebody tries it now.
    tried: bool,
}

/// Whether an endpoint may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It works, for all that is known.
    Open,
    /// It is to be tried once.
    Try,
    /// It rests.
    Resting,
}

impl Breaker {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it rests, so that others are asked first.
    pub(super) fn rests(&self) -> bool {
        self.lock().rest.is_some()
    }

    /// For how long it has not worked; `None` if it does.
    pub(super) fn down_for(&self, now: Instant) -> Option<Duration> {
        self.lock().rest.map(|rest| now.saturating_duration_since(rest.since))
    }

    /// Asks to ask. Who is told to try it must report what came of it.
    pub(super) fn admit(&self, now: Instant) -> Admission {
        match &mut self.lock().rest {
            None => Admission::Open,
            Some(rest) if now >= rest.until && !rest.tried => {
                rest.tried = true;
                Admission::Try
            }
            Some(_) => Admission::Resting,
        }
    }

    /// Waits until it works again or may be tried, but no longer than `deadline`.
    pub(super) fn wait(&self, deadline: Instant) {
        let state = self.lock();
        let now = Instant::now();
        let Some(rest) = state.rest else { return };
        // Who tries it says when that is over.
        let until = if rest.tried { deadline } else { rest.until.min(deadline) };
        let time = until.saturating_duration_since(now);
        drop(self.changed.wait_timeout(state, time));
    }

    /// It answered.
    pub(super) fn succeeded(&self) {
        let mut state = self.lock();
        if state.failures > 0 || state.rest.is_some() {
            *state = State::default();
            self.changed.notify_all();
        }
    }

    /// It failed; `dead` if it did not answer at all.
    pub(super) fn failed(&self, now: Instant, dead: bool, tried: bool) {
        let mut state = self.lock();
        state.failures = state.failures.saturating_add(if dead { FAILURES } else { 1 });
        let many = state.failures >= FAILURES;
        match &mut state.rest {
            Some(rest) if tried => {
                rest.pause = (rest.pause * 2).min(LONGEST_REST);
                (rest.until, rest.tried) = (now + rest.pause, false);
            }
            // Somebody who asked before it rested.
            Some(_) => {}
            None if many => {
                let until = now + FIRST_REST;
                state.rest = Some(Rest { since: now, until, pause: FIRST_REST, tried: false });
            }
            None => {}
        }
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_after_failures_in_a_row_and_longer_each_time() {
        let breaker = Breaker::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        breaker.failed(at(0), false, false);
        breaker.failed(at(0), false, false);
        breaker.succeeded();
        breaker.failed(at(0), false, false);
        breaker.failed(at(0), false, false);
        assert_eq!(breaker.admit(at(0)), Admission::Open);
        breaker.failed(at(0), false, false);
        assert_eq!(breaker.admit(at(0)), Admission::Resting);
        assert_eq!(breaker.admit(at(1)), Admission::Try);
        assert_eq!(breaker.admit(at(1)), Admission::Resting, "one tries it");
        // One that was under way when the rest began changes nothing.
        breaker.failed(at(1), true, false);
        assert_eq!(breaker.admit(at(1)), Admission::Resting);
        let (mut now, mut rests) = (1, Vec::new());
        for _ in 0..7 {
            breaker.failed(at(now), true, true);
            let rest = (1..).find(|rest| breaker.admit(at(now + rest)) == Admission::Try).unwrap();
            rests.push(rest);
            now += rest;
        }
        assert_eq!(rests, [2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(breaker.down_for(at(now)), Some(Duration::from_secs(now)));
        breaker.succeeded();
        assert_eq!((breaker.admit(at(now)), breaker.down_for(at(now))), (Admission::Open, None));
    }

    #[test]
    fn who_waits_goes_on_when_it_works_again() {
        let breaker = Breaker::default();
        breaker.failed(Instant::now() - FIRST_REST, true, false);
        assert_eq!(breaker.admit(Instant::now()), Admission::Try);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                while breaker.admit(Instant::now()) == Admission::Resting {
                    breaker.wait(Instant::now() + Duration::from_secs(60));
                }
            });
            breaker.succeeded();
            waiting.join().unwrap();
        });
    }
}
