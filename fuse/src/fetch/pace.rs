//! How many ranges are fetched ahead at once, and how large each is: learned from what comes and how fast.
//!
//! One connection that is always busy brings a window of bytes in each round trip. So a range should be so long
//! that the wait for its first byte is a small part of its time, and there should be as many at once as make the
//! whole faster. A pure state machine: the clock is an argument.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// Ranges fetched ahead at once before anything is known of the link.
const FIRST_STREAMS: usize = 4;
/// Bounds of one range that is fetched ahead of need. Registries do work for each request, some of it as large as
/// megabytes; and what is asked for comes in the order of its range, whatever is wanted meanwhile.
const SPAN_BYTES: std::ops::RangeInclusive<u64> = 512 << 10..=8 << 20;
/// A range before anything is known of the link.
const FIRST_SPAN: u64 = 2 << 20;
/// A range where a limit allows little.
const LEAST_SPAN: u64 = 64 << 10;
/// How long one range should take on its connection, at least.
const SPAN_TIME: Duration = Duration::from_millis(150);
/// And how many times as long as the wait for its first byte.
const SPAN_DELAYS: u32 = 4;
/// How long throughput is measured before the number of streams changes.
const WINDOW: Duration = Duration::from_millis(400);
/// By how much throughput must grow for more streams to be worth it.
const GAIN: f64 = 1.1;
/// Windows after which more streams are tried again: the link may have changed.
const TRY_AGAIN: u32 = 25;

/// What was learned of the link.
#[derive(Debug)]
pub(super) struct Pace {
    most: usize,
    /// Largest range.
    longest: u64,
    streams: usize,
    span: u64,
    window: Option<Window>,
    /// Bytes a second before the number of streams was last raised, and that number.
    before: Option<(f64, usize)>,
    steady: u32,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    bytes: u64,
    /// Whether bytes had to wait for a processor: then more connections bring nothing.
    choked: bool,
}

impl Pace {
    /// Never more than `most` streams. With a limit of `rate` bytes a second, no range has more than half of that: it
    /// is taken out of the limit at once.
    pub(super) fn new(most: usize, rate: Option<NonZeroU64>) -> Self {
        let most = most.max(1);
        let streams = FIRST_STREAMS.min(most);
        let longest = rate.map_or(u64::MAX, |rate| (rate.get() / 2).max(LEAST_SPAN));
        Self { most, longest, streams, span: FIRST_SPAN, window: None, before: None, steady: 0 }
    }

    /// How many connections may be used by what is fetched ahead.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// How many ranges may be fetched ahead at once.
    pub(super) fn streams(&self) -> usize {
        self.streams
    }

    /// How many bytes one of them should have.
    pub(super) fn span(&self) -> u64 {
        self.span.min(self.longest)
    }

    /// A part of a range has come; `choked` says that it had to wait until others were decoded.
    pub(super) fn received(&mut self, now: Instant, bytes: u64, choked: bool, active: usize) {
        let window = self.window.get_or_insert(Window { since: now, bytes: 0, choked: false });
        window.bytes += bytes;
        window.choked |= choked;
        let took = now.saturating_duration_since(window.since);
        if took < WINDOW {
            return;
        }
        let rate = window.bytes as f64 / took.as_secs_f64();
        let choked = window.choked;
        self.window = None;
        // Fewer streams than are allowed, or a window with a pause in it, say nothing.
        if active < self.streams || took > WINDOW * 3 {
            return;
        }
        self.adapt(rate, choked);
    }

    fn adapt(&mut self, rate: f64, choked: bool) {
        if let Some((before, streams)) = self.before.take() {
            if rate < before * GAIN {
                self.streams = streams;
                self.steady = 1;
                return;
            }
            self.steady = TRY_AGAIN;
        }
        self.steady += 1;
        let first = self.steady == 1;
        if choked || self.streams >= self.most || (!first && self.steady < TRY_AGAIN) {
            return;
        }
        self.before = Some((rate, self.streams));
        self.streams = (self.streams + self.streams.div_ceil(2)).min(self.most);
    }

    /// A whole range has come: `first_byte` after it was asked for its first byte, and all of it after `took`.
    pub(super) fn ended(&mut self, bytes: u64, first_byte: Duration, took: Duration) {
        let flowing = took.saturating_sub(first_byte).as_secs_f64().max(1e-4);
        let rate = bytes as f64 / flowing;
        let time = SPAN_TIME.max(first_byte.saturating_mul(SPAN_DELAYS));
        #[expect(clippy::cast_possible_truncation, reason = "a float that is out of range saturates")]
        let fitting = (rate * time.as_secs_f64()) as u64;
        self.span = (self.span * 3 + fitting.clamp(*SPAN_BYTES.start(), *SPAN_BYTES.end())) / 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link that gives each stream `each` bytes a second and all of them together `all`.
    fn after(seconds: u64, each: u64, all: u64, choked: bool) -> Pace {
        let mut pace = Pace::new(24, None);
        let begin = Instant::now();
        for tick in 0..seconds * 100 {
            let streams = pace.streams() as u64;
            let bytes = (each * streams).min(all) / 100;
            pace.received(begin + Duration::from_millis(tick * 10), bytes, choked, pace.streams());
        }
        pace
    }

    #[test]
    fn streams_are_as_many_as_make_it_faster() {
        for (each, all, streams) in [
            // One stream fills the link.
            (200 << 20, 100 << 20, 4..=4),
            // Each has a small window: ten fill it.
            (10 << 20, 100 << 20, 9..=16),
            // No number fills it.
            (1 << 20, 100 << 20, 24..=24),
        ] {
            let found = after(8, each, all, false).streams();
            assert!(streams.contains(&found), "{each} of {all}: {found}");
        }
    }

    #[test]
    fn a_busy_processor_needs_no_more_streams() {
        assert_eq!(after(8, 1 << 20, 100 << 20, true).streams(), FIRST_STREAMS);
    }

    #[test]
    fn ranges_fit_bandwidth_and_delay() {
        let millis = Duration::from_millis;
        for (bytes, first_byte, took, span) in [
            // 25 MB/s.
            (2_500_000, millis(20), millis(120), 3_000_000..=4_200_000),
            // The same with a long way.
            (2_500_000, millis(100), millis(200), 8_000_000..=8 << 20),
            // 1 Mbps: as small as may be.
            (512 << 10, millis(50), millis(4050), 512 << 10..=600 << 10),
            (8 << 20, Duration::ZERO, Duration::ZERO, 8_000_000..=8 << 20),
        ] {
            let mut pace = Pace::new(4, None);
            for _ in 0..30 {
                pace.ended(bytes, first_byte, took);
            }
            assert!(span.contains(&pace.span()), "{} for {bytes} in {took:?}", pace.span());
        }
    }
}
