//! A trace: which chunks of a seed a command read, in which order, and when. It says what to fetch ahead.
//!
//! A trace is a hint that anybody may write. It names chunks by number, never bytes, so that a wrong one costs
//! bytes that nobody reads and changes none. `docs/format.md`, "Traces", has the bytes.

use std::io::Read;
use std::ops::Range;

use crate::Digest;
use crate::index::MAX_CHUNKS;

/// Media type of a trace, and the type of the artifact that holds one.
pub const MEDIA_TYPE: &str = "application/vnd.nix-seed.trace.v1+zstd";
/// Media type of a trace's bundle.
pub const BUNDLE_MEDIA_TYPE: &str = "application/vnd.nix-seed.trace.bundle.v1";
/// Largest trace as it is stored, in bytes: a chunk that is read alone takes about two of them.
pub const MAX_TRACE_LEN: usize = 4 << 20;
/// Largest trace that has been decompressed, in bytes.
pub const MAX_BODY_LEN: usize = 16 << 20;
/// Most runs of a trace.
pub const MAX_RUNS: usize = 1 << 20;
/// Largest bundle, in bytes: what a link of 1 Gbps brings in two seconds.
pub const MAX_BUNDLE_LEN: u64 = 256 << 20;
/// Longest target, in bytes.
pub const MAX_TARGET_LEN: usize = 1024;

const MAGIC: [u8; 8] = *b"SEEDTRC1";
/// Most memory that decompression may take for its window, as a power of two: more than a body has.
const MAX_WINDOW_LOG: u32 = 24;
/// A trace is written once and fetched by every job.
const LEVEL: i32 = 19;
/// Chunks that follow one another are one run while they are read within this time, in milliseconds.
const ONE_RUN_MS: u32 = 10;

/// What a command read of a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Digest of the seed's manifest.
    pub seed: Digest,
    /// What was done: `develop ATTRIBUTE`, `build ATTRIBUTE`, `run ATTRIBUTE`, or `command WORDS…`.
    pub target: String,
    /// Compressed bytes of the chunks, as their recorder counted them. For people only.
    pub bytes: u64,
    /// What was read, in the order in which it was first read.
    pub runs: Vec<Run>,
}

/// Chunks that were read one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Number of the first chunk.
    pub first: u32,
    /// How many there are; at least one.
    pub len: u32,
    /// When the first was read, in milliseconds since the recording began.
    pub at_ms: u32,
}

impl Run {
    /// The numbers of the chunks.
    pub fn chunks(&self) -> Range<u32> {
        self.first..self.first.saturating_add(self.len)
    }
}

/// Why bytes are no trace, or a trace cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// It has more bytes than a trace may have.
    #[error("a trace has more than {0} bytes")]
    TooLong(usize),
    /// The bytes are not those of zstd frames.
    #[error("the trace cannot be decompressed")]
    Zstd(#[source] std::io::Error),
    /// It is not a trace, or one of a later version.
    #[error("it is no trace of version 1")]
    Magic,
    /// It ends in the middle of something, or something follows its end.
    #[error("the trace does not end where it should")]
    Length,
    /// A number is not written in its shortest form, or is too large.
    #[error("the trace has a number that is malformed")]
    Number,
    /// The target is not text of 1 to [`MAX_TARGET_LEN`] bytes without control characters.
    #[error("the trace's target is malformed")]
    Target,
    /// There are too many runs, or more chunks than an index may have.
    #[error("the trace has too many chunks")]
    TooMany,
    /// A run has chunks that no index may have.
    #[error("the trace has a run of chunks that cannot be")]
    Run,
}

impl Trace {
    /// A trace of chunks in the order in which they were first read, each with the milliseconds since the
    /// recording began. Chunks that follow one another become runs.
    pub fn of(seed: Digest, target: String, bytes: u64, touched: &[(u32, u32)]) -> Self {
        let mut runs: Vec<Run> = Vec::new();
        let mut last_ms = 0;
        for &(chunk, at_ms) in touched {
            // Threads note what they read one after another, and may overtake each other.
            last_ms = at_ms.max(last_ms);
            match runs.last_mut() {
                Some(run) if run.chunks().end == chunk && last_ms - run.at_ms <= ONE_RUN_MS => run.len += 1,
                _ => runs.push(Run { first: chunk, len: 1, at_ms: last_ms }),
            }
        }
        Self { seed, target, bytes, runs }
    }

    /// How many chunks it names.
    pub fn chunk_count(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.len)).sum()
    }

    /// The chunks, in order.
    pub fn chunks(&self) -> impl Iterator<Item = u32> + '_ {
        self.runs.iter().flat_map(Run::chunks)
    }

    /// The chunks below `count`, each once, in the order in which it was first read. A bundle has their frames in
    /// this order.
    pub fn distinct_chunks(&self, count: u32) -> Vec<u32> {
        let mut seen = vec![0u64; (count as usize).div_ceil(64)];
        let mut fresh = |chunk: &u32| {
            let Some(word) = seen.get_mut(*chunk as usize / 64).filter(|_| *chunk < count) else {
                return false;
            };
            let bit = 1 << (chunk % 64);
            let fresh = *word & bit == 0;
            *word |= bit;
            fresh
        };
        self.chunks().filter(|chunk| fresh(chunk)).collect()
    }

    /// The bytes of the trace, as they are stored.
    pub fn to_bytes(&self) -> Result<Vec<u8>, TraceError> {
        self.check()?;
        let mut body = MAGIC.to_vec();
        body.extend(self.seed.as_bytes());
        put(&mut body, self.bytes);
        put(&mut body, self.target.len() as u64);
        body.extend(self.target.as_bytes());
        put(&mut body, self.runs.len() as u64);
        let (mut end, mut at_ms) = (0, 0);
        for run in &self.runs {
            put(&mut body, zigzag(i64::from(run.first) - i64::from(end)));
            put(&mut body, u64::from(run.len) - 1);
            put(&mut body, u64::from(run.at_ms - at_ms));
            (end, at_ms) = (run.chunks().end, run.at_ms);
        }
        if body.len() > MAX_BODY_LEN {
            return Err(TraceError::TooLong(MAX_BODY_LEN));
        }
        let bytes = zstd::bulk::compress(&body, LEVEL).map_err(TraceError::Zstd)?;
        if bytes.len() > MAX_TRACE_LEN { Err(TraceError::TooLong(MAX_TRACE_LEN)) } else { Ok(bytes) }
    }

    /// Reads the bytes of a trace. What it says need not be true of the seed: a chunk may not exist.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TraceError> {
        let body = decompress(bytes)?;
        let mut rest = body.strip_prefix(&MAGIC).ok_or(TraceError::Magic)?;
        let (seed, after) = rest.split_first_chunk::<32>().ok_or(TraceError::Length)?;
        rest = after;
        let bytes = take(&mut rest)?;
        let len = usize::try_from(take(&mut rest)?).ok().filter(|len| *len <= MAX_TARGET_LEN);
        let (target, after) =
            rest.split_at_checked(len.ok_or(TraceError::Target)?).ok_or(TraceError::Length)?;
        rest = after;
        let target = std::str::from_utf8(target).map_err(|_| TraceError::Target)?.to_owned();
        let count = usize::try_from(take(&mut rest)?).ok().filter(|count| *count <= MAX_RUNS);
        let count = count.ok_or(TraceError::TooMany)?;
        // Each takes three bytes at least: a count that is too large allocates nothing.
        let mut runs = Vec::with_capacity(count.min(rest.len() / 3));
        let (mut end, mut at_ms) = (0u32, 0u32);
        for _ in 0..count {
            let first = i64::from(end).checked_add(unzigzag(take(&mut rest)?)).ok_or(TraceError::Run)?;
            let first = u32::try_from(first).map_err(|_| TraceError::Run)?;
            let len = take(&mut rest)?.checked_add(1).and_then(|len| u32::try_from(len).ok());
            let len = len.ok_or(TraceError::Run)?;
            let later = u32::try_from(take(&mut rest)?).map_err(|_| TraceError::Number)?;
            at_ms = at_ms.checked_add(later).ok_or(TraceError::Number)?;
            end = first.checked_add(len).filter(|end| *end <= MAX_CHUNKS).ok_or(TraceError::Run)?;
            runs.push(Run { first, len, at_ms });
        }
        if !rest.is_empty() {
            return Err(TraceError::Length);
        }
        let trace = Self { seed: Digest::from_bytes(*seed), target, bytes, runs };
        trace.check()?;
        Ok(trace)
    }

    fn check(&self) -> Result<(), TraceError> {
        let target = &self.target;
        if target.is_empty() || target.len() > MAX_TARGET_LEN || target.chars().any(char::is_control) {
            return Err(TraceError::Target);
        }
        if self.runs.len() > MAX_RUNS || self.chunk_count() > u64::from(MAX_CHUNKS) {
            return Err(TraceError::TooMany);
        }
        let sound =
            |run: &Run| run.len > 0 && run.first.checked_add(run.len).is_some_and(|end| end <= MAX_CHUNKS);
        if !self.runs.iter().all(sound) || !self.runs.is_sorted_by_key(|run| run.at_ms) {
            return Err(TraceError::Run);
        }
        Ok(())
    }
}

fn decompress(bytes: &[u8]) -> Result<Vec<u8>, TraceError> {
    if bytes.len() > MAX_TRACE_LEN {
        return Err(TraceError::TooLong(MAX_TRACE_LEN));
    }
    let mut decoder = zstd::Decoder::new(bytes).map_err(TraceError::Zstd)?;
    decoder.window_log_max(MAX_WINDOW_LOG).map_err(TraceError::Zstd)?;
    let mut body = Vec::new();
    decoder.take(MAX_BODY_LEN as u64 + 1).read_to_end(&mut body).map_err(TraceError::Zstd)?;
    if body.len() > MAX_BODY_LEN { Err(TraceError::TooLong(MAX_BODY_LEN)) } else { Ok(body) }
}

/// Unsigned LEB128: seven bits a byte, the lowest first, the highest bit set in all bytes but the last.
fn put(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    to.push(number.to_le_bytes()[0]);
}

/// Reads a number in its shortest form.
fn take(from: &mut &[u8]) -> Result<u64, TraceError> {
    let mut number = 0u64;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, rest) = from.split_first().ok_or(TraceError::Length)?;
        *from = rest;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return Err(TraceError::Number);
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            let shortest = bits != 0 || shift == 0;
            return if shortest { Ok(number) } else { Err(TraceError::Number) };
        }
    }
    Err(TraceError::Number)
}

/// Small numbers of either sign as small numbers: 0, -1, 1, -2, …
fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

#[cfg(test)]
mod tests;
