//! What has come and is not decoded yet: what reads wait for first, and the rest bounded, so that a source that is
//! faster than the processors is made to wait.

use std::collections::VecDeque;

use super::map::ChunkId;
use super::worker::Fetched;
use crate::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Parts of ranges that may lie here of each kind but demand: half a megabyte each.
const WAITING: usize = 8;

/// Which decoder asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decoder {
    /// One that decodes what reads wait for, and what is fetched ahead.
    Urgent,
    /// One of low priority, which decodes the fill.
    Fill,
}

/// The queues between connections and decoders.
#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    came: Condvar,
    fill_came: Condvar,
    taken: Condvar,
}

#[derive(Default)]
struct State {
    demand: VecDeque<Fetched>,
    ahead: VecDeque<Fetched>,
    fill: VecDeque<Fetched>,
    closed: bool,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over what has come. What no read waits for waits for its turn: says whether it had to.
    pub(super) fn put(&self, fetched: Fetched) -> bool {
        let mut state = self.lock();
        if fetched.job.class.is_demand() {
            state.demand.push_back(fetched);
            drop(state);
            self.came.notify_one();
            return false;
        }
        let fill = fetched.job.class.is_fill();
        let mut waited = false;
        while !state.closed && state.of(fill).len() >= WAITING {
            waited = true;
            state = self.taken.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.of(fill).push_back(fetched);
        drop(state);
        if fill {
            self.fill_came.notify_one()
        } else {
            self.came.notify_one()
        }
        waited
    }

    /// The next answer to decode; waits for it. `None` when the inbox is closed.
    pub(super) fn take(&self, decoder: Decoder) -> Option<Fetched> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let (found, bounded) = match decoder {
                Decoder::Fill => (state.fill.pop_front(), true),
                Decoder::Urgent => match state.demand.pop_front() {
                    Some(urgent) => (Some(urgent), false),
                    None => (state.ahead.pop_front(), true),
                },
            };
            if let Some(fetched) = found {
                drop(state);
                if bounded {
                    self.taken.notify_all();
                }
                return Some(fetched);
            }
            let came = if decoder == Decoder::Fill { &self.fill_came } else { &self.came };
            state = came.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// An answer that a read waits for, if there is one.
    pub(super) fn take_urgent(&self) -> Option<Fetched> {
        self.lock().demand.pop_front()
    }

    /// A read has begun to wait for `id`: what has come of it is decoded first.
    pub(super) fn hurry(&self, id: ChunkId) {
        let mut state = self.lock();
        let has = |fetched: &Fetched| fetched.job.span.ids.contains(&id);
        for fill in [false, true] {
            let queue = state.of(fill);
            if let Some(fetched) = queue.iter().position(has).and_then(|at| queue.remove(at)) {
                state.demand.push_back(fetched);
                drop(state);
                self.came.notify_one();
                self.taken.notify_all();
                return;
            }
        }
    }

    /// Ends who waits here.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.came.notify_all();
        self.fill_came.notify_all();
        self.taken.notify_all();
    }
}

impl State {
    fn of(&mut self, fill: bool) -> &mut VecDeque<Fetched> {
        if fill { &mut self.fill } else { &mut self.ahead }
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Span;
    use super::super::queue::{Class, Job};
    use super::*;

    #[test]
    fn what_a_read_begins_to_wait_for_does_not_stay_with_the_fill() {
        let inbox = Inbox::default();
        for id in 0..3 {
            let span = Span { layer: 0, blob: 0..1, ids: vec![id] };
            inbox.put(Fetched::of(Job::new(Class::Fill, span), vec![0]));
        }
        inbox.hurry(1);
        inbox.hurry(7);
        let ids = |decoder| inbox.take(decoder).unwrap().job.span.ids;
        assert_eq!(ids(Decoder::Urgent), [1]);
        assert_eq!(ids(Decoder::Fill), [0]);
        assert_eq!(ids(Decoder::Fill), [2]);
        assert!(inbox.take_urgent().is_none());
    }
}
