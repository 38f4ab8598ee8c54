//! What waits to be fetched, and which of it is next.
//!
//! In this order: what a read waits for; the chunks of a trace; what lies around a missed chunk; what its
//! store path refers to; everything else. Only the first kind may use all connections, so that a read
//! always finds one free and does not queue behind many megabytes that nobody waits for.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Config;
use super::map::{ChunkId, ChunkMap};
use super::order::Ordered;
use super::plan::{self, Span, Sweep};
use super::waiter::Waiter;
use crate::store::ChunkStore;

/// Compressed bytes of neighbours that a read's own range takes along: about a millisecond of the link.
const DEMAND_SPAN: u64 = 128 << 10;
/// Compressed size up to which a store path is fetched whole when a read misses in it.
const WHOLE_PATH: u64 = 64 << 20;
/// First budget around a miss in a larger store path; it doubles with each further miss there.
const FIRST_WINDOW: u64 = 4 << 20;
/// Compressed size up to which a store path is fetched whole when a path in use refers to it.
const WHOLE_REFERENCE: u64 = 8 << 20;
/// Neighbourhoods that are kept; the one used longest ago is dropped for a new one.
const MAX_SWEEPS: usize = 64;
/// A background fill waits until no read has missed for this long.
const FILL_QUIET: Duration = Duration::from_millis(100);
/// Compressed bytes that may be asked for and not yet decompressed, other than for waiting reads.
const AHEAD_BYTES: u64 = 12 << 20;
/// Bounds of one range that is fetched ahead of need.
const SPAN_BYTES: std::ops::RangeInclusive<u64> = 256 << 10..=2 << 20;
/// How long one range that is fetched ahead should take. Ranges of this length keep a link of 20 ms round
/// trips full on several connections, and let a read's answer through soon enough.
const SPAN_TIME: Duration = Duration::from_millis(45);

/// Why a span is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// A read waits.
    Demand,
    /// A read waits, and the last answer had wrong bytes.
    Again,
    /// It will probably be read soon.
    Ahead,
    /// It may be read.
    Fill,
}

impl Class {
    pub(super) fn is_demand(self) -> bool {
        matches!(self, Self::Demand | Self::Again)
    }
}

/// One request to the source.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) class: Class,
    pub(super) span: Span,
}

/// What the scheduler knows; guarded by one lock.
pub(super) struct Queue {
    pub(super) waiting: HashMap<ChunkId, Vec<Arc<Waiter>>>,
    /// Failures of chunks that reads wait for.
    pub(super) failures: HashMap<ChunkId, u32>,
    demand: VecDeque<(ChunkId, Class)>,
    trace: VecDeque<ChunkId>,
    /// Bytes that a range of the trace may run over to reach its next chunk.
    trace_gap: u64,
    /// The last one is the newest.
    sweeps: Vec<Sweep>,
    references: VecDeque<Sweep>,
    known_paths: HashSet<ChunkId>,
    fill: Option<ChunkId>,
    in_flight: HashSet<ChunkId>,
    active_ahead: usize,
    active_fill: usize,
    ahead_bytes: u64,
    span_bytes: u64,
    last_miss: Option<Instant>,
    fill_not_before: Option<Instant>,
    ahead_not_before: Option<Instant>,
    ahead_failures: u32,
    pub(super) stopped: bool,
}

/// The answer to "what is next?".
pub(super) enum Next {
    Job(Job),
    /// Nothing now; look again at this time, or when something changes.
    Wait(Option<Instant>),
    Stop,
}

impl Queue {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            waiting: HashMap::new(),
            failures: HashMap::new(),
            demand: VecDeque::new(),
            trace: VecDeque::new(),
            trace_gap: 0,
            sweeps: Vec::new(),
            references: VecDeque::new(),
            known_paths: HashSet::new(),
            fill: config.fill.then_some(0),
            in_flight: HashSet::new(),
            active_ahead: 0,
            active_fill: 0,
            ahead_bytes: 0,
            span_bytes: 512 << 10,
            last_miss: None,
            fill_not_before: None,
            ahead_not_before: None,
            ahead_failures: 0,
            stopped: false,
        }
    }

    pub(super) fn in_flight(&self, id: ChunkId) -> bool {
        self.in_flight.contains(&id)
    }

    /// Whether no request is in flight, and none of their answers is being dealt with.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// A read waits for this chunk: ask for it, unless it is asked for.
    pub(super) fn want(&mut self, id: ChunkId, class: Class) {
        if class == Class::Again || !self.in_flight(id) {
            self.demand.push_back((id, class));
        }
        self.last_miss = Some(Instant::now());
    }

    /// A read waits too long for what was asked for: ask a second time.
    pub(super) fn hedge(&mut self, id: ChunkId) {
        self.in_flight.remove(&id);
        self.demand.push_back((id, Class::Demand));
    }

    pub(super) fn add_trace(&mut self, ordered: Ordered) {
        self.trace.extend(ordered.ids);
        self.trace_gap = self.trace_gap.max(ordered.gap);
    }

    /// A read missed `id`: what lies around it will be read soon.
    pub(super) fn miss(&mut self, map: &dyn ChunkMap, config: &Config, id: ChunkId) {
        if !config.neighbours {
            return;
        }
        if let Some(at) = self.sweeps.iter().position(|sweep| sweep.covers(id)) {
            let mut sweep = self.sweeps.remove(at);
            if sweep.budget != u64::MAX {
                sweep.step = sweep.step.saturating_mul(2).min(WHOLE_PATH);
                sweep.budget = sweep.step;
                sweep.recentre(id);
            }
            self.sweeps.push(sweep);
            return;
        }
        let range = map.surroundings(id);
        let whole = compressed_size(map, &range) <= WHOLE_PATH;
        let budget = if whole { u64::MAX } else { FIRST_WINDOW };
        if self.sweeps.len() == MAX_SWEEPS {
            self.sweeps.remove(0);
        }
        let path = range.start;
        self.sweeps.push(Sweep::around(id, range, budget));
        if self.known_paths.insert(path) {
            for range in map.references(id) {
                if !range.is_empty() && compressed_size(map, &range) <= WHOLE_REFERENCE {
                    self.references.push_back(Sweep::around(range.start, range, u64::MAX));
                }
            }
        }
    }

    /// Chooses the next request and counts it as in flight.
    pub(super) fn next(&mut self, map: &dyn ChunkMap, store: &ChunkStore, config: &Config) -> Next {
        if self.stopped {
            return Next::Stop;
        }
        if let Some(job) = self.next_demand(map, store) {
            return Next::Job(self.start(job));
        }
        let now = Instant::now();
        if let Some(until) = self.ahead_not_before.filter(|until| *until > now) {
            return Next::Wait(self.has_ahead().then_some(until));
        }
        if !store.keeps() {
            // What is fetched ahead would be thrown away.
            return Next::Wait(None);
        }
        let room = self.ahead_bytes < AHEAD_BYTES;
        if room
            && self.active_ahead < (config.connections * 3 / 4).max(1)
            && let Some(span) = self.next_ahead(map, store)
        {
            return Next::Job(self.start(Job { class: Class::Ahead, span }));
        }
        if self.fill.is_none() || self.active_ahead > 0 || self.has_ahead() {
            return Next::Wait(None);
        }
        if !room || self.active_fill >= (config.connections / 4).max(1) {
            return Next::Wait(None);
        }
        let quiet = self.last_miss.map(|last| last + FILL_QUIET);
        if let Some(until) = quiet.max(self.fill_not_before).filter(|until| *until > now) {
            return Next::Wait(Some(until));
        }
        match self.next_fill(map, store) {
            Some(span) => {
                if let Some(rate) = config.fill_rate {
                    let pause = Duration::from_secs_f64(span.bytes() as f64 / rate.get() as f64);
                    self.fill_not_before = Some(now + pause);
                }
                Next::Job(self.start(Job { class: Class::Fill, span }))
            }
            None => Next::Wait(None),
        }
    }

    fn start(&mut self, job: Job) -> Job {
        self.in_flight.extend(&job.span.ids);
        match job.class {
            Class::Demand | Class::Again => {}
            Class::Ahead => self.active_ahead += 1,
            Class::Fill => self.active_fill += 1,
        }
        if !job.class.is_demand() {
            self.ahead_bytes += job.span.bytes();
        }
        job
    }

    fn next_demand(&mut self, map: &dyn ChunkMap, store: &ChunkStore) -> Option<Job> {
        while let Some((id, class)) = self.demand.pop_front() {
            let waited_for = self.waiting.contains_key(&id);
            if class == Class::Again && waited_for {
                if let Some(span) = Span::single(map, id) {
                    return Some(Job { class, span });
                }
            } else if waited_for && !self.in_flight(id) {
                // Failed before: alone, so that no neighbour can make it fail again.
                let alone = self.failures.contains_key(&id);
                let target = if alone || !store.keeps() { 0 } else { DEMAND_SPAN };
                let limit = map.surroundings(id).end;
                let wanted = |id| self.wanted(map, store, id);
                let span = plan::forward(map, id, limit, target, wanted);
                if let Some(span) = span {
                    return Some(Job { class, span });
                }
            }
        }
        None
    }

    fn has_ahead(&self) -> bool {
        !self.trace.is_empty()
            || !self.references.is_empty()
            || self.sweeps.iter().any(|sweep| sweep.budget > 0 && !sweep.is_done())
    }

    fn next_ahead(&mut self, map: &dyn ChunkMap, store: &ChunkStore) -> Option<Span> {
        let target = self.span_bytes;
        let mut trace = std::mem::take(&mut self.trace);
        let gap = self.trace_gap;
        let span = plan::from_list(map, &mut trace, target, gap, |id| self.wanted(map, store, id));
        self.trace = trace;
        if span.is_some() {
            return span;
        }
        let mut sweeps = std::mem::take(&mut self.sweeps);
        let span = sweeps
            .iter_mut()
            .rev()
            .find_map(|sweep| sweep.next(map, target, |id| self.wanted(map, store, id)));
        self.sweeps = sweeps;
        if span.is_some() {
            return span;
        }
        while let Some(mut sweep) = self.references.pop_front() {
            let span = sweep.next(map, target, |id| self.wanted(map, store, id));
            if span.is_some() {
                self.references.push_front(sweep);
                return span;
            }
        }
        None
    }

    fn next_fill(&mut self, map: &dyn ChunkMap, store: &ChunkStore) -> Option<Span> {
        // The map is empty while the index is on its way.
        let from = self.fill.filter(|_| map.count() > 0)?;
        let wanted = |id| self.wanted(map, store, id);
        let first = (from..map.count()).find(|id| wanted(*id));
        let span = first.and_then(|first| plan::forward(map, first, map.count(), self.span_bytes, wanted));
        self.fill = span.as_ref().and_then(|span| span.ids.last()).map(|last| last + 1);
        span
    }

    fn wanted(&self, map: &dyn ChunkMap, store: &ChunkStore, id: ChunkId) -> bool {
        !self.in_flight(id) && map.chunk(id).is_some_and(|place| !store.contains(&place.digest))
    }

    /// The source answered: learns from the time that it took.
    pub(super) fn answered(&mut self, class: Class, bytes: u64, took: Duration) {
        if class == Class::Ahead {
            let rate = bytes as f64 / took.as_secs_f64().max(1e-6);
            #[expect(clippy::cast_possible_truncation, reason = "a float that is out of range saturates")]
            let fitting = (rate * SPAN_TIME.as_secs_f64()) as u64;
            let smoothed = (self.span_bytes * 3 + fitting.clamp(*SPAN_BYTES.start(), *SPAN_BYTES.end())) / 4;
            self.span_bytes = smoothed;
        }
        if !class.is_demand() {
            self.ahead_failures = 0;
        }
    }

    /// The source failed for something that nobody waits for: leave it alone for a while.
    pub(super) fn back_off(&mut self) {
        self.ahead_failures = (self.ahead_failures + 1).min(6);
        let pause = Duration::from_millis(500) * 2u32.pow(self.ahead_failures);
        self.ahead_not_before = Some(Instant::now() + pause);
    }

    /// A request is done with, its chunks kept or lost. Gives the reads that still wait for one of them.
    pub(super) fn finish(&mut self, job: &Job) {
        for id in &job.span.ids {
            self.in_flight.remove(id);
        }
        match job.class {
            Class::Demand | Class::Again => {}
            Class::Ahead => self.active_ahead -= 1,
            Class::Fill => self.active_fill -= 1,
        }
        if !job.class.is_demand() {
            self.ahead_bytes -= job.span.bytes();
        }
    }
}

/// From the first byte of the first chunk to the last byte of the last, and their sum where they lie in
/// several layers.
fn compressed_size(map: &dyn ChunkMap, range: &std::ops::Range<ChunkId>) -> u64 {
    let (Some(first), Some(last)) =
        (map.chunk(range.start), range.end.checked_sub(1).and_then(|id| map.chunk(id)))
    else {
        return 0;
    };
    if first.layer == last.layer {
        return last.blob_end().saturating_sub(first.blob_offset);
    }
    range.clone().filter_map(|id| map.chunk(id)).map(|place| u64::from(place.blob_len)).sum()
}
