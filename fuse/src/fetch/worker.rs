//! The threads of a fetcher: connections that wait for the network, decoders that use the processor, and a
//! watch over the reads that wait.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use seed_format::Chain;

use super::inbox::Decoder;
use super::map::{ChunkId, ChunkPlace};
use super::node::Budget;
use super::plan::Span;
use super::queue::{Class, Job, Next};
use super::spare::Scratch;
use super::waiter::Waiter;
use super::{Config, FetchError, Shared};
use crate::source::SourceError;
use crate::stats::add;
use crate::store::{Chunk, MAX_CHUNK, Mismatch, Verified};
use crate::sync::thread::JoinHandle;
use crate::sync::{PoisonError, thread};

/// Uncompressed bytes that are verified, written to the cache and handed out together.
const BATCH_BYTES: usize = 1 << 20;
/// Times that a chunk is asked for while a read waits for it.
const MAX_ATTEMPTS: u32 = 3;
/// Half of the pause before a chunk is asked for again that could not be had; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// How exactly deadlines are kept.
const TICK: Duration = Duration::from_millis(100);
/// The same where answers come fast, so that what is late is soon seen to be.
const SHORTEST_TICK: Duration = Duration::from_millis(10);
/// Priority of the thread that decodes what nobody waits for: the build has the processor first.
const FILL_NICENESS: i32 = 19;
/// Enough for the deepest call, which is the transport's TLS.
const STACK: usize = 1 << 20;

/// Compressed bytes of a range that are decoded together while the rest of it comes.
const PART: u64 = 512 << 10;
/// After so long without anything to do, memory that only makes haste is given back.
const REST_AFTER: Duration = Duration::from_secs(5);
/// Slowest range fetched ahead that is not given up, in bytes a second.
const LEAST_RATE: u64 = 32 << 10;

/// A range, or a part of one, that came, or did not.
pub(super) struct Fetched {
    pub(super) job: Job,
    answer: Result<Vec<u8>, SourceError>,
}

#[cfg(test)]
impl Fetched {
    pub(super) fn of(job: Job, bytes: Vec<u8>) -> Self {
        Self { job, answer: Ok(bytes) }
    }
}

/// Starts all threads, and gives those that decode. They end when the queue is stopped.
pub(super) fn start(shared: &Arc<Shared>, decoders: &mut Vec<JoinHandle<()>>) -> io::Result<()> {
    for number in 0..shared.config.connections.max(1) {
        let shared = Arc::clone(shared);
        spawn(format!("connection-{number}"), move || connection(&shared))?;
    }
    for number in 0..std::thread::available_parallelism().map_or(1, |n| n.get().min(4)) {
        let shared = Arc::clone(shared);
        decoders.push(spawn(format!("decode-{number}"), move || decode_urgent(&shared))?);
    }
    let filler = Arc::clone(shared);
    decoders.push(spawn("decode-fill".into(), move || {
        // Refused only by policies that forbid any change of priority; then the fill competes.
        let _ = rustix::process::nice(FILL_NICENESS);
        while let Some(fetched) = filler.inbox.take(Decoder::Fill) {
            decode(&filler, fetched, &mut |_| ());
        }
    })?);
    let watched = Arc::clone(shared);
    spawn("watch".into(), move || watch(&watched)).map(drop)
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name).stack_size(STACK).spawn(run)
}

fn connection(shared: &Shared) {
    while let Some(job) = next_job(shared) {
        shared.wake();
        if job.class.is_demand() {
            let answer = ask(shared, &job);
            shared.inbox.put(Fetched { job, answer });
        } else {
            keep_to_rates(shared, &job);
            take_in(shared, &job);
            shared.lock().ended(&job);
            shared.work.notify_all();
        }
    }
}

fn next_job(shared: &Shared) -> Option<Job> {
    let mut queue = shared.lock();
    loop {
        queue =
            match queue.next(&*shared.map, &shared.store, &shared.config, shared.last_read(), &shared.node) {
                Next::Job(job) => return Some(job),
                Next::Stop => return None,
                Next::Wait(None) => shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Next::Wait(Some(until)) => {
                    let time = until.saturating_duration_since(Instant::now());
                    let woken = shared.work.wait_timeout(queue, time);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
    }
}

/// Asks for what a read waits for.
fn ask(shared: &Shared, job: &Job) -> Result<Vec<u8>, SourceError> {
    let span = &job.span;
    let failures = {
        let queue = shared.lock();
        span.ids.iter().filter_map(|id| queue.failures.get(id)).max().copied()
    };
    if let Some(failures) = failures {
        // A source that fails at once is not asked without a pause.
        thread::sleep(FIRST_PAUSE.saturating_mul(1 << failures.min(5)));
    }
    let layer = shared.map.layer(span.layer).ok_or(SourceError::Length { wanted: span.bytes(), got: 0 })?;
    add(&shared.counters.requests, 1);
    let begin = Instant::now();
    let deadline = begin + shared.config.read_deadline;
    let answer = match job.class {
        Class::Again => shared.source.read_elsewhere(&layer, span.blob.clone(), deadline),
        Class::Late => shared.source.read_beside(&layer, span.blob.clone(), deadline),
        _ => shared.source.read(&layer, span.blob.clone(), deadline),
    };
    let bytes = answer?;
    if bytes.len() as u64 != span.bytes() {
        return Err(SourceError::Length { wanted: span.bytes(), got: bytes.len() as u64 });
    }
    add(&shared.counters.bytes_fetched, span.bytes());
    shared.counters.activity.came(job.class.cause(), span.bytes(), begin);
    shared.lock().answered(begin.elapsed());
    Ok(bytes)
}

/// Waits until the limits of the node allow what no read waits for.
fn keep_to_rates(shared: &Shared, job: &Job) {
    let Config { rate, fill_rate, .. } = &shared.config;
    let fill_rate = fill_rate.filter(|_| job.class.is_fill());
    let waits = [(Budget::Ahead, *rate), (Budget::Fill, fill_rate)];
    let waits = waits.into_iter().filter_map(|(budget, rate)| Some((budget, rate?)));
    let wait = waits.map(|(budget, rate)| shared.node.take(budget, job.span.bytes(), rate)).max();
    let until = Instant::now() + wait.unwrap_or_default();
    let mut queue = shared.lock();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || queue.stopped {
            return;
        }
        queue = shared.work.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Asks for a range that no read waits for, and hands over its parts while they come.
fn take_in(shared: &Shared, job: &Job) {
    let parts = job.span.parts(job.map(&*shared.map), PART);
    let mut came = 0;
    if let Err(error) = stream(shared, job, &parts, &mut came) {
        // All that has not come has failed for one reason.
        let rest = parts[came..].iter().flat_map(|part| part.ids.iter().copied()).collect();
        let span = Span { layer: job.span.layer, blob: job.span.blob.clone(), ids: rest };
        shared.inbox.put(Fetched { job: job.with(span), answer: Err(error) });
    }
}

fn stream(shared: &Shared, job: &Job, parts: &[Span], came: &mut usize) -> Result<(), SourceError> {
    let Job { class, span, .. } = job;
    let layer = job
        .map(&*shared.map)
        .layer(span.layer)
        .ok_or(SourceError::Length { wanted: span.bytes(), got: 0 })?;
    add(&shared.counters.requests, 1);
    let begin = Instant::now();
    let deadline = begin + shared.config.read_deadline + Duration::from_secs(span.bytes() / LEAST_RATE);
    let mut source = shared.source.stream(&layer, span.blob.clone(), deadline)?;
    let mut at = span.blob.start;
    // Time in which bytes waited for a processor is not the link's.
    let (mut first_byte, mut waited, mut since) = (None, Duration::ZERO, begin);
    for part in parts {
        let mut bytes = shared.spare.buffer();
        let gap = part.blob.start.saturating_sub(at);
        skip(&mut source, gap, span)?;
        shared.lock().arrives(part);
        bytes.resize(usize::try_from(part.bytes()).unwrap_or(usize::MAX), 0);
        source.read_exact(&mut bytes).map_err(|error| cut_short(error, span))?;
        first_byte.get_or_insert_with(|| begin.elapsed());
        add(&shared.counters.bytes_fetched, gap + part.bytes());
        shared.counters.activity.came(class.cause(), gap + part.bytes(), since);
        at = part.blob.end;
        *came += 1;
        let put = Instant::now();
        let part = job.with(part.clone());
        let size = part.span.bytes();
        let choked = shared.inbox.put(Fetched { job: part, answer: Ok(bytes) });
        waited += put.elapsed();
        since = Instant::now();
        let mut queue = shared.lock();
        let active = queue.active();
        queue.pace.received(Instant::now(), size, choked, active);
        queue.recover();
    }
    // The end is read too, so that the connection can be used again.
    match source.read(&mut [0]) {
        Ok(0) => {}
        Ok(_) => return Err(SourceError::Length { wanted: span.bytes(), got: span.bytes() + 1 }),
        Err(error) => return Err(cut_short(error, span)),
    }
    let took = begin.elapsed().saturating_sub(waited);
    shared.lock().pace.ended(span.bytes(), first_byte.unwrap_or(took), took);
    Ok(())
}

fn skip(source: &mut dyn Read, gap: u64, span: &Span) -> Result<(), SourceError> {
    let skipped = io::copy(&mut source.take(gap), &mut io::sink()).map_err(|error| cut_short(error, span))?;
    if skipped == gap { Ok(()) } else { Err(SourceError::Length { wanted: span.bytes(), got: skipped }) }
}

fn cut_short(error: io::Error, span: &Span) -> SourceError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => SourceError::Length { wanted: span.bytes(), got: 0 },
        _ => SourceError::Transport(Box::new(error)),
    }
}

/// Decodes what reads wait for, and what is fetched ahead while none do.
fn decode_urgent(shared: &Shared) {
    while let Some(fetched) = shared.inbox.take(Decoder::Urgent) {
        decode(shared, fetched, &mut |shared| {
            while let Some(urgent) = shared.inbox.take_urgent() {
                decode(shared, urgent, &mut |_| ());
            }
        });
    }
}

/// Deals with one answer; calls `between` after each batch of chunks.
fn decode(shared: &Shared, Fetched { job, answer }: Fetched, between: &mut dyn FnMut(&Shared)) {
    match answer {
        Ok(bytes) => {
            let mut scratch = shared.spare.scratch();
            admit_all(shared, &job, &bytes, &mut scratch, between);
            shared.spare.keep_scratch(scratch);
            if !job.class.is_demand() {
                shared.spare.keep_buffer(bytes);
            }
        }
        Err(error) => source_failed(shared, &job, error),
    }
    let left = {
        let mut queue = shared.lock();
        queue.finish(&job.span);
        let waited = |id: &&ChunkId| queue.waiting.contains_key(id);
        job.span.ids.iter().filter(waited).copied().collect::<Vec<_>>()
    };
    hand_out_kept(shared, &left);
    shared.work.notify_all();
}

/// Reads that began to wait after a chunk was handed out, and before its request was finished.
fn hand_out_kept(shared: &Shared, ids: &[ChunkId]) {
    for id in ids {
        let place = shared.map.chunk(*id);
        match place.and_then(|place| shared.store.get(&place.digest, place.len)) {
            Some(chunk) => shared.deliver(*id, &chunk),
            None => {
                let mut queue = shared.lock();
                if queue.waiting.contains_key(id) {
                    queue.want(*id, Class::Demand);
                }
            }
        }
    }
}

/// What is wrong with the bytes that came for a chunk.
enum Wrong {
    Digest(Mismatch),
    Frame(String),
}

/// Decompresses and verifies the chunks of a range, hands them out, and keeps them.
fn admit_all(
    shared: &Shared,
    job: &Job,
    bytes: &[u8],
    scratch: &mut Scratch,
    between: &mut dyn FnMut(&Shared),
) {
    // The first chunk of a read's own range is what it waits for: it does not wait for its neighbours too.
    let mut limit = if job.class.is_demand() { 0 } else { BATCH_BYTES };
    // Others may have brought some of it meanwhile.
    let wanted = |id, place: &ChunkPlace| !shared.store.contains(&place.digest) || shared.is_waited_for(id);
    let map = job.map(&*shared.map);
    let places = job.span.ids.iter().filter_map(|id| Some((*id, map.chunk(*id)?)));
    let mut places = places.filter(|(id, place)| wanted(*id, place)).peekable();
    while places.peek().is_some() {
        let mut batch = Vec::new();
        let mut buffer = std::mem::take(&mut scratch.buffer);
        let mut filled = 0;
        while let Some((id, place)) =
            places.next_if(|(_, place)| batch.is_empty() || filled + place.len as usize <= limit)
        {
            let inflated = match frame_of(job, &place, bytes) {
                Some(frame) => inflate(&mut scratch.decompressor, frame, &place, &mut buffer, filled),
                None => Err("its frame lies outside of the range".to_owned()),
            };
            match inflated {
                Ok(()) => {
                    let end = filled + place.len as usize;
                    batch.push((id, place, filled..end));
                    filled = end;
                }
                Err(reason) => mismatch(shared, job, id, &place, Wrong::Frame(reason)),
            }
        }
        let buffer = Arc::new(buffer);
        let mut admitted: Vec<Verified<Chunk>> = Vec::with_capacity(batch.len());
        for (id, place, range) in batch {
            match shared.store.admit(&place.digest, &buffer, range) {
                Ok(chunk) => {
                    shared.counters.activity.fetched(shared.map.count(), id);
                    shared.deliver(id, &chunk);
                    admitted.push(chunk);
                }
                Err(wrong) => mismatch(shared, job, id, &place, Wrong::Digest(wrong)),
            }
        }
        add(&shared.counters.chunks_fetched, admitted.len() as u64);
        shared.store.keep(&admitted);
        drop(admitted);
        // Unless a read still holds one of them.
        scratch.buffer = Arc::try_unwrap(buffer).unwrap_or_default();
        limit = BATCH_BYTES;
        between(shared);
    }
}

fn frame_of<'a>(job: &Job, place: &ChunkPlace, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let start = usize::try_from(place.blob_offset.checked_sub(job.span.blob.start)?).ok()?;
    bytes.get(start..start.checked_add(place.blob_len as usize)?)
}

/// Writes the chunk into `buffer` at `start`: exactly as many bytes as the index says. What is behind them is of
/// no meaning.
fn inflate(
    decompressor: &mut Option<zstd::bulk::Decompressor<'static>>,
    frame: &[u8],
    place: &ChunkPlace,
    buffer: &mut Vec<u8>,
    start: usize,
) -> Result<(), String> {
    if place.len > MAX_CHUNK {
        return Err(format!("it has {} bytes, more than {MAX_CHUNK}", place.len));
    }
    let decompressor = match decompressor {
        Some(decompressor) => decompressor,
        none => none.insert(zstd::bulk::Decompressor::new().map_err(|error| error.to_string())?),
    };
    let end = start + place.len as usize;
    if buffer.len() < end {
        buffer.resize(end, 0);
    }
    match decompressor.decompress_to_buffer(frame, &mut buffer[start..end]) {
        Ok(len) if len == place.len as usize => Ok(()),
        Ok(len) => Err(format!("it has {len} bytes, not {}", place.len)),
        Err(error) => Err(error.to_string()),
    }
}

fn mismatch(shared: &Shared, job: &Job, id: ChunkId, place: &ChunkPlace, wrong: Wrong) {
    add(&shared.counters.mismatches, 1);
    let path = shared.map.describe(id);
    let layer = job.map(&*shared.map).layer(place.layer).unwrap_or(place.digest);
    let expected = place.digest;
    let error = match wrong {
        Wrong::Digest(Mismatch { actual, .. }) => FetchError::Integrity { path, layer, expected, actual },
        Wrong::Frame(reason) => FetchError::Damaged { path, layer, expected, reason },
    };
    if let Some(bundle) = &job.bundle {
        tracing::warn!(%error, "a trace's bundle is wrong: the layers are read");
        // `finish` follows and finds the reads that wait.
        return shared.lock().give_up(bundle, &[id]);
    }
    tracing::error!(%error, "the source gave wrong bytes");
    if job.class == Class::Again {
        shared.fail(id, &error);
        return;
    }
    let mut queue = shared.lock();
    if queue.waiting.contains_key(&id) {
        add(&shared.counters.retries, 1);
        queue.want(id, Class::Again);
    } else {
        queue.lose(&[id]);
    }
}

fn source_failed(shared: &Shared, job: &Job, error: SourceError) {
    let error = Arc::new(error);
    let layer = job.map(&*shared.map).layer(job.span.layer);
    if let Some(bundle) = &job.bundle {
        tracing::warn!(?layer, error = %Chain(&*error), "a trace's bundle cannot be read: the layers are");
        return shared.lock().give_up(bundle, &job.span.ids);
    }
    tracing::warn!(?layer, range = ?job.span.blob, error = %Chain(&*error), "a range could not be read");
    let mut failed = Vec::new();
    {
        let mut queue = shared.lock();
        if !job.class.is_demand() {
            queue.back_off();
            queue.lose(&job.span.ids);
        }
        for id in &job.span.ids {
            if !queue.waiting.contains_key(id) {
                continue;
            }
            let failures = queue.failures.entry(*id).or_insert(0);
            *failures += 1;
            // What may pass is waited for, as long as a read may.
            let passing = matches!(*error, SourceError::Unavailable(_));
            if *failures >= MAX_ATTEMPTS && !passing {
                failed.push(*id);
            } else {
                // `finish` follows and finds the reads that still wait: they are asked for again there.
                add(&shared.counters.retries, 1);
            }
        }
    }
    for id in failed {
        let Some(layer) = layer else { return shared.fail(id, &FetchError::NoChunk(id)) };
        let path = shared.map.describe(id);
        shared.fail(id, &FetchError::Source { path, layer, source: Arc::clone(&error) });
    }
}

/// Ends reads whose time is up, asks again for what takes long, and gives memory back when nothing is to be done.
fn watch(shared: &Shared) {
    let mut queue = shared.lock();
    let mut busy = Instant::now();
    loop {
        if queue.stopped {
            return;
        }
        if !queue.is_idle() || !queue.waiting.is_empty() {
            busy = Instant::now();
        }
        queue = if queue.waiting.is_empty() {
            let quiet = shared.last_read().map_or(busy, |read| read.max(busy)).elapsed();
            match REST_AFTER.checked_sub(quiet) {
                _ if shared.resting.load(Ordering::Relaxed) => {
                    shared.waits.wait(queue).unwrap_or_else(PoisonError::into_inner)
                }
                Some(left) if !left.is_zero() => {
                    shared.waits.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0
                }
                _ => {
                    shared.resting.store(true, Ordering::Relaxed);
                    drop(queue);
                    shared.rest();
                    shared.lock()
                }
            }
        } else {
            let patience = queue.lateness.patience(shared.config.hedge_after);
            let tick = (patience / 4).clamp(SHORTEST_TICK, TICK);
            shared.waits.wait_timeout(queue, tick).unwrap_or_else(PoisonError::into_inner).0
        };
        let now = Instant::now();
        let patience = queue.lateness.patience(shared.config.hedge_after);
        let mut late = Vec::new();
        let mut slow: Vec<Arc<Waiter>> = Vec::new();
        queue.waiting.retain(|id, waiters| {
            waiters.retain(|waiter| {
                if waiter.deadline <= now {
                    late.push((*id, Arc::clone(waiter)));
                } else if waiter.is_late(now, patience) {
                    slow.push(Arc::clone(waiter));
                }
                waiter.deadline > now && !waiter.answered()
            });
            !waiters.is_empty()
        });
        let mut again = false;
        for waiter in slow {
            // One that waited for very long is asked for again, whatever that costs.
            let long = now.saturating_duration_since(waiter.since) >= shared.config.hedge_after;
            // Several chunks of a read: it is here more than once.
            if waiter.is_late(now, patience) && (queue.lateness.may_ask_again() || long) {
                waiter.ask_again();
                for id in waiter.missing() {
                    queue.hedge(id);
                    add(&shared.counters.hedges, 1);
                }
                again = true;
            }
        }
        if late.is_empty() && !again {
            continue;
        }
        drop(queue);
        shared.work.notify_all();
        for (id, waiter) in late {
            let error = FetchError::Deadline { path: shared.map.describe(id), after: waiter.since.elapsed() };
            waiter.fail(error, &shared.counters);
        }
        queue = shared.lock();
    }
}
