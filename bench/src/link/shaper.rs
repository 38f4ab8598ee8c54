//! When a packet leaves a link: pure arithmetic on times.

use std::time::Duration;

/// What a link does to packets, the same in both directions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Bits a second that the wire carries, headers included.
    pub rate: u64,
    /// One way.
    pub delay: Duration,
    /// How long a packet may wait in front of the wire; later ones are dropped.
    pub queue: Duration,
}

impl Shape {
    /// A hosted runner and a registry of the same continent. The queue is two bandwidth-delay products: the
    /// kernel hands over up to 64 KiB of a stream at once, and a drop loses all of it, where a router would
    /// drop one segment. With one product eight streams lost a fifth of the rate to that.
    pub(super) const GIGABIT_20: Self =
        Self { rate: 1_000_000_000, delay: Duration::from_millis(10), queue: Duration::from_millis(40) };

    fn transmission(&self, wire_bytes: u64) -> Duration {
        Duration::from_nanos(wire_bytes.saturating_mul(8_000_000_000) / self.rate)
    }
}

/// One direction of a link.
#[derive(Debug)]
pub(super) struct Shaper {
    shape: Shape,
    /// When the wire has sent all that was accepted.
    free_at: Duration,
}

impl Shaper {
    pub(super) fn new(shape: Shape) -> Self {
        Self { shape, free_at: Duration::ZERO }
    }

    /// Accepts a packet at `now`, and tells when its last byte arrives; `None` when the queue is full. Times
    /// are measured from any fixed moment.
    pub(super) fn accept(&mut self, now: Duration, wire_bytes: u64) -> Option<Duration> {
        let start = self.free_at.max(now);
        if start - now > self.shape.queue {
            return None;
        }
        self.free_at = start + self.shape.transmission(wire_bytes);
        Some(self.free_at + self.shape.delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);
    /// What the wire sends in a millisecond.
    const BYTES: u64 = 125_000;

    #[test]
    fn packets_follow_each_other_at_the_rate_and_arrive_after_the_delay() {
        let mut shaper = Shaper::new(Shape::GIGABIT_20);
        let arrivals: Vec<_> =
            [0, 0, 5].iter().map(|at| shaper.accept(*at * MILLISECOND, BYTES).unwrap()).collect();
        assert_eq!(arrivals, [11 * MILLISECOND, 12 * MILLISECOND, 16 * MILLISECOND]);
    }

    #[test]
    fn a_full_queue_drops_and_drains() {
        let mut shaper = Shaper::new(Shape::GIGABIT_20);
        let accepted = (0..100).filter(|_| shaper.accept(Duration::ZERO, BYTES).is_some()).count();
        assert_eq!(accepted, 41, "40 ms of queue, and the packet that is on the wire");
        assert!(shaper.accept(MILLISECOND, BYTES).is_some());
        assert!(shaper.accept(MILLISECOND, BYTES).is_none());
    }
}
