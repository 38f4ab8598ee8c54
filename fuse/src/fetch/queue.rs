//! What waits to be fetched, and which of it is next.
//!
//! In this order: what a read waits for; the chunks of traces, from their bundles where they have some; what lies around a missed chunk; what its
//! store path refers to; everything else. Only the first kind may use all connections, so that a read
//! always finds one free.
//!
//! What is fetched ahead is asked for in large ranges and taken in as it comes. Until a part of a very large range
//! has begun to come, its chunks are only *promised*: a read that waits for one asks for it by itself. As long as
//! reads miss, ranges are not that large: a registry does work for each request, and a read that overtakes a range
//! costs one and a part of the link.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Config;
use super::bundle::Bundle;
use super::late::Lateness;
use super::map::{ChunkId, ChunkMap};
use super::node::Node;
use super::order::Ordered;
use super::pace::Pace;
use super::plan::{self, Span, Sweep};
use super::waiter::Waiter;
use crate::activity::Cause;
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
/// Largest range that a read waits for rather than overtake it, in compressed bytes; and largest range that is
/// fetched ahead within [`MISSING`] of a miss. It takes about 20 ms of a link of 1 Gbps.
const WAITED_FOR: u64 = 2 << 20;
/// Unwanted bytes of a bundle that a range of it may run over: they are those of chunks that were fetched already.
const MAX_GAP_IN_BUNDLE: u64 = 256 << 10;
/// How long a miss makes others likely.
const MISSING: Duration = Duration::from_secs(1);
/// As many compressed bytes of small ranges may be on their way at once, on all connections that are not kept for
/// reads: it is not their number that fills the link.
const SMALL_BYTES: u64 = 4 << 20;
/// A background fill waits until no read has missed for this long.
const FILL_QUIET: Duration = Duration::from_millis(100);
/// The same where a trace has told what will be read, until no read at all has come for so long: a job that is
/// busy with something else needs the processor more than what it will probably not read.
const FILL_QUIET_TRACED: Duration = Duration::from_secs(10);
/// How often chunks that were lost on their way are asked for again by a fill.
const MAX_ROUNDS: u32 = 6;

/// Why a span is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// A read waits.
    Demand,
    /// A read waits, and the last answer had wrong bytes.
    Again,
    /// A read waits, and what was asked for is late.
    Late,
    /// It will probably be read soon.
    Ahead,
    /// It may be read.
    Fill,
}

impl Class {
    /// What is told to those who look.
    pub(super) fn cause(self) -> Cause {
        match self {
            Self::Demand | Self::Again | Self::Late => Cause::Demand,
            Self::Ahead => Cause::Ahead,
            Self::Fill => Cause::Fill,
        }
    }

    pub(super) fn is_demand(self) -> bool {
        matches!(self, Self::Demand | Self::Again | Self::Late)
    }

    pub(super) fn is_fill(self) -> bool {
        self == Self::Fill
    }
}

/// One request to the source.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) class: Class,
    pub(super) span: Span,
    /// Where the span lies, if not in a layer.
    pub(super) bundle: Option<Arc<Bundle>>,
}

impl Job {
    /// A request to a layer.
    pub(super) fn new(class: Class, span: Span) -> Self {
        Self { class, span, bundle: None }
    }

    /// The same for another span.
    pub(super) fn with(&self, span: Span) -> Self {
        Self { span, ..self.clone() }
    }

    /// Where its chunks lie.
    pub(super) fn map<'a>(&'a self, layers: &'a dyn ChunkMap) -> &'a dyn ChunkMap {
        self.bundle.as_deref().map_or(layers, |bundle| bundle)
    }
}

/// What a trace with a bundle says will be read.
#[derive(Debug)]
struct Foretold {
    bundle: Arc<Bundle>,
    ids: VecDeque<ChunkId>,
}

/// What the scheduler knows; guarded by one lock.
pub(super) struct Queue {
    pub(super) waiting: HashMap<ChunkId, Vec<Arc<Waiter>>>,
    /// Failures of chunks that reads wait for.
    pub(super) failures: HashMap<ChunkId, u32>,
    demand: VecDeque<(ChunkId, Class)>,
    foretold: VecDeque<Foretold>,
    trace: VecDeque<ChunkId>,
    /// Bytes that a range of the trace may run over to reach its next chunk.
    trace_gap: u64,
    /// The last one is the newest.
    sweeps: Vec<Sweep>,
    references: VecDeque<Sweep>,
    known_paths: HashSet<ChunkId>,
    everything: Everything,
    /// Whether all of it is wanted as fast as it can be had.
    full: bool,
    /// When a trace told last what will be read.
    traced_at: Option<Instant>,
    in_flight: HashSet<ChunkId>,
    /// Asked for in a range of which the part with this chunk has not begun to come.
    promised: HashSet<ChunkId>,
    active_ahead: usize,
    active_fill: usize,
    /// Compressed bytes of the ranges that are fetched ahead now.
    ahead_bytes: u64,
    /// Whether what is fetched ahead may have to wait for a limit, which reads do not.
    limited: bool,
    pub(super) pace: Pace,
    pub(super) lateness: Lateness,
    last_miss: Option<Instant>,
    ahead_not_before: Option<Instant>,
    ahead_failures: u32,
    pub(super) stopped: bool,
}

/// A walk over all chunks.
#[derive(Debug, Default)]
struct Everything {
    next: ChunkId,
    /// Chunks of ranges that failed behind the walk.
    lost: Vec<ChunkId>,
    /// Those of them that are asked for again.
    again: VecDeque<ChunkId>,
    rounds: u32,
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
            foretold: VecDeque::new(),
            trace: VecDeque::new(),
            trace_gap: 0,
            sweeps: Vec::new(),
            references: VecDeque::new(),
            known_paths: HashSet::new(),
            everything: Everything::default(),
            full: false,
            traced_at: None,
            in_flight: HashSet::new(),
            promised: HashSet::new(),
            active_ahead: 0,
            active_fill: 0,
            ahead_bytes: 0,
            limited: config.rate.is_some() || config.fill_rate.is_some(),
            pace: Pace::new(config.connections * 3 / 4, config.rate),
            lateness: Lateness::default(),
            last_miss: None,
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
        self.in_flight.is_empty() && self.active_ahead + self.active_fill == 0
    }

    /// Whether all chunks are in the cache, or were asked for as often as they may be. Gives those that were lost.
    pub(super) fn is_complete(&self, map: &dyn ChunkMap) -> Option<Vec<ChunkId>> {
        let walked = self.everything.next >= map.count();
        let over = self.everything.lost.is_empty() || self.everything.rounds >= MAX_ROUNDS;
        (walked && over && self.everything.again.is_empty() && self.is_idle())
            .then(|| self.everything.lost.clone())
    }

    /// Whether everything is wanted as fast as it can be had.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// Everything is wanted as fast as it can be had. Says whether that is new.
    pub(super) fn want_all(&mut self) -> bool {
        let new = !self.full;
        if new {
            (self.full, self.everything) = (true, Everything::default());
        }
        new
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
        self.demand.push_back((id, Class::Late));
    }

    pub(super) fn add_trace(&mut self, ordered: Ordered) {
        if !ordered.ids.is_empty() {
            self.traced_at = Some(Instant::now());
        }
        self.trace.extend(ordered.ids);
        self.trace_gap = self.trace_gap.max(ordered.gap);
    }

    /// A trace says that these chunks will be read, all of which are in its bundle.
    pub(super) fn add_bundle(&mut self, bundle: Bundle, ids: VecDeque<ChunkId>) {
        self.traced_at = Some(Instant::now());
        self.foretold.push_back(Foretold { bundle: Arc::new(bundle), ids });
    }

    /// A bundle could not be read, or was wrong: `ids`, and all that is left to fetch of it, comes from the layers.
    pub(super) fn give_up(&mut self, bundle: &Arc<Bundle>, ids: &[ChunkId]) {
        for id in ids {
            self.in_flight.remove(id);
            self.promised.remove(id);
        }
        self.trace.extend(ids);
        self.trace_gap = self.trace_gap.max(plan::MAX_GAP);
        if let Some(at) = self.foretold.iter().position(|foretold| Arc::ptr_eq(&foretold.bundle, bundle))
            && let Some(left) = self.foretold.remove(at)
        {
            self.trace.extend(left.ids);
        }
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
    ///
    /// `last_read` is when a read last came, whether it missed or not. Other mounts of the node come first where
    /// their reads wait.
    pub(super) fn next(
        &mut self,
        map: &dyn ChunkMap,
        store: &ChunkStore,
        config: &Config,
        last_read: Option<Instant>,
        node: &Node,
    ) -> Next {
        if self.stopped {
            return Next::Stop;
        }
        if let Some(job) = self.next_demand(map, store) {
            return Next::Job(self.start(job));
        }
        let now = Instant::now();
        if let Some(until) = self.ahead_not_before.filter(|until| *until > now) {
            return Next::Wait(Some(until));
        }
        if !store.keeps() || (config.metered && !self.full) {
            // What is fetched ahead would be thrown away, or cost too much.
            return Next::Wait(None);
        }
        let others_wait = node.others_missed().filter(|ago| *ago < FILL_QUIET);
        let streams = match others_wait {
            Some(_) => 1,
            None if self.ahead_bytes < SMALL_BYTES => self.pace.most(),
            None => self.pace.streams(),
        };
        if self.active_ahead < streams
            && let Some(job) = self.next_ahead(map, store)
        {
            return Next::Job(self.start(job));
        }
        if !config.fill || self.full || self.active_ahead > 0 || self.has_ahead() {
            return Next::Wait(None);
        }
        if self.active_fill >= self.pace.streams().min(config.connections / 4).max(1) {
            return Next::Wait(None);
        }
        let quiet = if self.traced_at.is_some() {
            last_read.max(self.traced_at).map(|last| last + FILL_QUIET_TRACED)
        } else {
            self.last_miss.map(|last| last + FILL_QUIET)
        };
        let quiet = quiet.max(others_wait.map(|ago| now + FILL_QUIET.saturating_sub(ago)));
        if let Some(until) = quiet.filter(|until| *until > now) {
            return Next::Wait(Some(until));
        }
        match self.next_of_all(map, store) {
            Some(span) => Next::Job(self.start(Job::new(Class::Fill, span))),
            None => Next::Wait(None),
        }
    }

    fn start(&mut self, job: Job) -> Job {
        match job.class {
            Class::Demand | Class::Again | Class::Late => self.in_flight.extend(&job.span.ids),
            Class::Ahead => self.active_ahead += 1,
            Class::Fill => self.active_fill += 1,
        }
        if !job.class.is_demand() {
            self.ahead_bytes += job.span.bytes();
            let overtaken = self.limited || job.span.bytes() > WAITED_FOR;
            let asked = if overtaken { &mut self.promised } else { &mut self.in_flight };
            asked.extend(&job.span.ids);
        }
        job
    }

    /// A part of a range begins to come.
    pub(super) fn arrives(&mut self, part: &Span) {
        for id in &part.ids {
            self.promised.remove(id);
            self.in_flight.insert(*id);
        }
    }

    /// A range that was fetched ahead has come or failed; its parts may still be decoded.
    pub(super) fn ended(&mut self, job: &Job) {
        match job.class {
            Class::Demand | Class::Again | Class::Late => return,
            Class::Ahead => self.active_ahead -= 1,
            Class::Fill => self.active_fill -= 1,
        }
        self.ahead_bytes -= job.span.bytes();
    }

    /// How large a range may be that is fetched ahead.
    fn target(&self) -> u64 {
        let missing = self.last_miss.is_some_and(|last| last.elapsed() < MISSING);
        if missing { self.pace.span().min(WAITED_FOR) } else { self.pace.span() }
    }

    /// How many ranges are fetched ahead now.
    pub(super) fn active(&self) -> usize {
        self.active_ahead + self.active_fill
    }

    fn next_demand(&mut self, map: &dyn ChunkMap, store: &ChunkStore) -> Option<Job> {
        while let Some((id, class)) = self.demand.pop_front() {
            let waited_for = self.waiting.contains_key(&id);
            if matches!(class, Class::Again | Class::Late) && waited_for {
                if let Some(span) = Span::single(map, id) {
                    return Some(Job::new(class, span));
                }
            } else if waited_for && !self.in_flight(id) {
                // Failed before: alone, so that no neighbour can make it fail again.
                let alone = self.failures.contains_key(&id);
                let target = if alone || !store.keeps() { 0 } else { DEMAND_SPAN };
                let limit = map.surroundings(id).end;
                let wanted = |id| self.missing(map, store, id);
                let span = plan::forward(map, id, limit, target, wanted);
                if let Some(span) = span {
                    return Some(Job::new(class, span));
                }
            }
        }
        None
    }

    fn has_ahead(&self) -> bool {
        !self.foretold.is_empty()
            || !self.trace.is_empty()
            || !self.references.is_empty()
            || self.sweeps.iter().any(|sweep| sweep.budget > 0 && !sweep.is_done())
    }

    fn next_ahead(&mut self, map: &dyn ChunkMap, store: &ChunkStore) -> Option<Job> {
        let bundled = self.next_foretold(map, store);
        bundled.or_else(|| Some(Job::new(Class::Ahead, self.next_in_layers(map, store)?)))
    }

    fn next_foretold(&mut self, map: &dyn ChunkMap, store: &ChunkStore) -> Option<Job> {
        let target = self.target();
        while let Some(mut first) = self.foretold.pop_front() {
            let wanted = |id| self.wanted(map, store, id);
            let span = plan::from_list(&*first.bundle, &mut first.ids, target, MAX_GAP_IN_BUNDLE, wanted);
            if let Some(span) = span {
                let bundle = Some(Arc::clone(&first.bundle));
                self.foretold.push_front(first);
                return Some(Job { class: Class::Ahead, span, bundle });
            }
        }
        None
    }

    fn next_in_layers(&mut self, map: &dyn ChunkMap, store: &ChunkStore) -> Option<Span> {
        let target = self.target();
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
        if self.full { self.next_of_all(map, store) } else { None }
    }

    /// The next range of the walk over everything.
    fn next_of_all(&mut self, map: &dyn ChunkMap, store: &ChunkStore) -> Option<Span> {
        // The map is empty while the index is on its way.
        let count = map.count();
        if count == 0 {
            return None;
        }
        let target = self.target();
        let from = self.everything.next;
        if from < count {
            let wanted = |id| self.wanted(map, store, id);
            let first = (from..count).find(|id| wanted(*id));
            let span = first.and_then(|first| plan::forward(map, first, count, target, wanted));
            self.everything.next =
                span.as_ref().and_then(|span| span.ids.last()).map_or(count, |last| last + 1);
            if span.is_some() {
                return span;
            }
        }
        if self.everything.again.is_empty()
            && !self.everything.lost.is_empty()
            && self.everything.rounds < MAX_ROUNDS
            && self.active() == 0
            // What was wrong in a part that is still being decoded counts as asked for until that is done.
            && !self.everything.lost.iter().any(|id| self.in_flight(*id))
        {
            self.everything.rounds += 1;
            let mut lost = std::mem::take(&mut self.everything.lost);
            lost.sort_unstable();
            lost.dedup();
            self.everything.again = lost.into();
        }
        let mut again = std::mem::take(&mut self.everything.again);
        let span = plan::from_list(map, &mut again, target, plan::MAX_GAP, |id| self.wanted(map, store, id));
        self.everything.again = again;
        span
    }

    /// Neither here nor asked for.
    fn wanted(&self, map: &dyn ChunkMap, store: &ChunkStore, id: ChunkId) -> bool {
        !self.promised.contains(&id) && self.missing(map, store, id)
    }

    /// Neither here nor about to come.
    fn missing(&self, map: &dyn ChunkMap, store: &ChunkStore, id: ChunkId) -> bool {
        !self.in_flight(id) && map.chunk(id).is_some_and(|place| !store.contains(&place.digest))
    }

    /// The source answered what a read waits for.
    pub(super) fn answered(&mut self, took: Duration) {
        self.lateness.answered(took);
    }

    /// The source gave something that nobody waits for.
    pub(super) fn recover(&mut self) {
        self.ahead_failures = 0;
    }

    /// Chunks that were fetched ahead have not come, or not as they must be.
    pub(super) fn lose(&mut self, ids: &[ChunkId]) {
        self.everything.lost.extend(ids);
    }

    /// The source failed for something that nobody waits for: leave it alone for a while.
    pub(super) fn back_off(&mut self) {
        self.ahead_failures = (self.ahead_failures + 1).min(6);
        let pause = Duration::from_millis(500) * 2u32.pow(self.ahead_failures);
        self.ahead_not_before = Some(Instant::now() + pause);
    }

    /// A request, or a part of one, is done with, its chunks kept or lost.
    pub(super) fn finish(&mut self, span: &Span) {
        for id in &span.ids {
            self.in_flight.remove(id);
            self.promised.remove(id);
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
