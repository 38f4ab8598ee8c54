//! The threads of a fetcher: connections that wait for the network, decoders that use the processor, and a
//! watch over the reads that wait.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use seed_format::Chain;

use super::map::{ChunkId, ChunkPlace};
use super::queue::{Class, Job, Next};
use super::{FetchError, Shared};
use crate::source::SourceError;
use crate::stats::add;
use crate::store::{Chunk, MAX_CHUNK, Mismatch, Verified};

/// Uncompressed bytes that are verified, written to the cache and handed out together.
const BATCH_BYTES: usize = 1 << 20;
/// Times that a chunk is asked for while a read waits for it.
const MAX_ATTEMPTS: u32 = 3;
/// How exactly deadlines are kept.
const TICK: Duration = Duration::from_millis(100);
/// Priority of the thread that decodes what nobody waits for: the build has the processor first.
const FILL_NICENESS: i32 = 19;
/// Enough for the deepest call, which is the transport's TLS.
const STACK: usize = 1 << 20;

/// A range that came, or did not.
struct Fetched {
    job: Job,
    answer: Result<Vec<u8>, SourceError>,
}

/// Starts all threads. They end when the queue is stopped.
pub(super) fn start(shared: &Arc<Shared>) -> io::Result<()> {
    let demand = unbounded();
    let ahead = unbounded();
    let fill = unbounded();
    for number in 0..shared.config.connections.max(1) {
        let shared = Arc::clone(shared);
        let (demand, ahead, fill) = (demand.0.clone(), ahead.0.clone(), fill.0.clone());
        spawn(format!("connection-{number}"), move || connection(&shared, &demand, &ahead, &fill))?;
    }
    let decoders = thread::available_parallelism().map_or(1, |n| n.get().min(4));
    for number in 0..decoders {
        let shared = Arc::clone(shared);
        let (demand, ahead) = (demand.1.clone(), ahead.1.clone());
        spawn(format!("decode-{number}"), move || decode_urgent(&shared, &demand, &ahead))?;
    }
    let filler = Arc::clone(shared);
    spawn("decode-fill".into(), move || {
        // Refused only by policies that forbid any change of priority; then the fill competes.
        let _ = rustix::process::nice(FILL_NICENESS);
        while let Ok(fetched) = fill.1.recv() {
            decode(&filler, fetched, &|| ());
        }
    })?;
    let watched = Arc::clone(shared);
    spawn("watch".into(), move || watch(&watched))
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name).stack_size(STACK).spawn(run).map(drop)
}

fn connection(shared: &Shared, demand: &Sender<Fetched>, ahead: &Sender<Fetched>, fill: &Sender<Fetched>) {
    while let Some(job) = next_job(shared) {
        let answer = ask(shared, &job);
        let decoders = match job.class {
            Class::Demand | Class::Again => demand,
            Class::Ahead => ahead,
            Class::Fill => fill,
        };
        if decoders.send(Fetched { job, answer }).is_err() {
            return;
        }
    }
}

fn next_job(shared: &Shared) -> Option<Job> {
    let mut queue = shared.lock();
    loop {
        queue = match queue.next(&*shared.map, &shared.store, &shared.config) {
            Next::Job(job) => return Some(job),
            Next::Stop => return None,
            Next::Wait(None) => shared.work.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner),
            Next::Wait(Some(until)) => {
                let time = until.saturating_duration_since(Instant::now());
                let woken = shared.work.wait_timeout(queue, time);
                woken.unwrap_or_else(std::sync::PoisonError::into_inner).0
            }
        };
    }
}

fn ask(shared: &Shared, job: &Job) -> Result<Vec<u8>, SourceError> {
    let span = &job.span;
    let layer = shared.map.layer(span.layer).ok_or(SourceError::Length { wanted: span.bytes(), got: 0 })?;
    add(&shared.counters.requests, 1);
    let begin = Instant::now();
    let deadline = begin + shared.config.read_deadline;
    let answer = match job.class {
        Class::Again => shared.source.read_elsewhere(&layer, span.blob.clone(), deadline),
        _ => shared.source.read(&layer, span.blob.clone(), deadline),
    };
    let bytes = answer?;
    if bytes.len() as u64 != span.bytes() {
        return Err(SourceError::Length { wanted: span.bytes(), got: bytes.len() as u64 });
    }
    add(&shared.counters.bytes_fetched, span.bytes());
    shared.lock().answered(job.class, span.bytes(), begin.elapsed());
    Ok(bytes)
}

/// Decodes what reads wait for, and what is fetched ahead while none do.
fn decode_urgent(shared: &Shared, demand: &Receiver<Fetched>, ahead: &Receiver<Fetched>) {
    loop {
        let fetched = demand.try_recv().or_else(|_| {
            crossbeam_channel::select_biased! {
                recv(demand) -> fetched => fetched,
                recv(ahead) -> fetched => fetched,
            }
        });
        let urgent_first = || {
            while let Ok(urgent) = demand.try_recv() {
                decode(shared, urgent, &|| ());
            }
        };
        match fetched {
            Ok(fetched) => decode(shared, fetched, &urgent_first),
            Err(_) => return,
        }
    }
}

/// Deals with one answer; calls `between` after each batch of chunks.
fn decode(shared: &Shared, Fetched { job, answer }: Fetched, between: &dyn Fn()) {
    match answer {
        Ok(bytes) => admit_all(shared, &job, &bytes, between),
        Err(error) => source_failed(shared, &job, error),
    }
    let left = {
        let mut queue = shared.lock();
        queue.finish(&job);
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
fn admit_all(shared: &Shared, job: &Job, bytes: &[u8], between: &dyn Fn()) {
    let mut decompressor = zstd::bulk::Decompressor::new();
    // The first chunk of a read's own range is what it waits for: it does not wait for its neighbours too.
    let mut limit = if job.class.is_demand() { 0 } else { BATCH_BYTES };
    let mut places = job.span.ids.iter().filter_map(|id| Some((*id, shared.map.chunk(*id)?))).peekable();
    while places.peek().is_some() {
        let mut batch = Vec::new();
        let mut buffer = Vec::new();
        while let Some((id, place)) =
            places.next_if(|(_, place)| batch.is_empty() || buffer.len() + place.len as usize <= limit)
        {
            let start = buffer.len();
            let frame = frame_of(job, &place, bytes);
            let inflated = match (&mut decompressor, frame) {
                (Ok(decompressor), Some(frame)) => inflate(decompressor, frame, &place, &mut buffer),
                (Err(error), _) => Err(error.to_string()),
                (_, None) => Err("its frame lies outside of the range".to_owned()),
            };
            match inflated {
                Ok(()) => batch.push((id, place, start..buffer.len())),
                Err(reason) => {
                    buffer.truncate(start);
                    mismatch(shared, job, id, &place, Wrong::Frame(reason));
                }
            }
        }
        let buffer = Arc::new(buffer);
        let mut admitted: Vec<Verified<Chunk>> = Vec::with_capacity(batch.len());
        for (id, place, range) in batch {
            match shared.store.admit(&place.digest, &buffer, range) {
                Ok(chunk) => {
                    shared.deliver(id, &chunk);
                    admitted.push(chunk);
                }
                Err(wrong) => mismatch(shared, job, id, &place, Wrong::Digest(wrong)),
            }
        }
        add(&shared.counters.chunks_fetched, admitted.len() as u64);
        shared.store.keep(&admitted);
        limit = BATCH_BYTES;
        between();
    }
}

fn frame_of<'a>(job: &Job, place: &ChunkPlace, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let start = usize::try_from(place.blob_offset.checked_sub(job.span.blob.start)?).ok()?;
    bytes.get(start..start.checked_add(place.blob_len as usize)?)
}

/// Appends the chunk to `buffer`: exactly as many bytes as the index says.
fn inflate(
    decompressor: &mut zstd::bulk::Decompressor<'_>,
    frame: &[u8],
    place: &ChunkPlace,
    buffer: &mut Vec<u8>,
) -> Result<(), String> {
    if place.len > MAX_CHUNK {
        return Err(format!("it has {} bytes, more than {MAX_CHUNK}", place.len));
    }
    let start = buffer.len();
    buffer.resize(start + place.len as usize, 0);
    match decompressor.decompress_to_buffer(frame, &mut buffer[start..]) {
        Ok(len) if len == place.len as usize => Ok(()),
        Ok(len) => Err(format!("it has {len} bytes, not {}", place.len)),
        Err(error) => Err(error.to_string()),
    }
}

fn mismatch(shared: &Shared, job: &Job, id: ChunkId, place: &ChunkPlace, wrong: Wrong) {
    add(&shared.counters.mismatches, 1);
    let path = shared.map.describe(id);
    let layer = shared.map.layer(place.layer).unwrap_or(place.digest);
    let expected = place.digest;
    let error = match wrong {
        Wrong::Digest(Mismatch { actual, .. }) => FetchError::Integrity { path, layer, expected, actual },
        Wrong::Frame(reason) => FetchError::Damaged { path, layer, expected, reason },
    };
    tracing::error!(%error, "the source gave wrong bytes");
    if job.class == Class::Again {
        shared.fail(id, &error);
        return;
    }
    let mut queue = shared.lock();
    if queue.waiting.contains_key(&id) {
        add(&shared.counters.retries, 1);
        queue.want(id, Class::Again);
    }
}

fn source_failed(shared: &Shared, job: &Job, error: SourceError) {
    let error = Arc::new(error);
    let layer = shared.map.layer(job.span.layer);
    tracing::warn!(?layer, range = ?job.span.blob, error = %Chain(&*error), "a range could not be read");
    let mut failed = Vec::new();
    {
        let mut queue = shared.lock();
        if !job.class.is_demand() {
            queue.back_off();
        }
        for id in &job.span.ids {
            if !queue.waiting.contains_key(id) {
                continue;
            }
            let failures = queue.failures.entry(*id).or_insert(0);
            *failures += 1;
            if *failures >= MAX_ATTEMPTS {
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

/// Ends reads whose time is up, and asks again for what takes long.
fn watch(shared: &Shared) {
    let mut queue = shared.lock();
    loop {
        if queue.stopped {
            return;
        }
        queue = if queue.waiting.is_empty() {
            shared.waits.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner)
        } else {
            shared.waits.wait_timeout(queue, TICK).unwrap_or_else(std::sync::PoisonError::into_inner).0
        };
        let now = Instant::now();
        let mut late = Vec::new();
        let mut slow = Vec::new();
        queue.waiting.retain(|id, waiters| {
            waiters.retain(|waiter| {
                if waiter.deadline <= now {
                    late.push((*id, Arc::clone(waiter)));
                } else if waiter.hedge_due(now, shared.config.hedge_after) {
                    slow.extend(waiter.missing());
                }
                waiter.deadline > now && !waiter.answered()
            });
            !waiters.is_empty()
        });
        for id in &slow {
            queue.hedge(*id);
            add(&shared.counters.retries, 1);
        }
        if late.is_empty() && slow.is_empty() {
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
