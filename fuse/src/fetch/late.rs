//! When an answer that a read waits for is late, and whether it may be asked for a second time.

use std::collections::VecDeque;
use std::time::Duration;

/// Answers that are remembered.
const REMEMBERED: usize = 128;
/// Fewer than these say nothing of what is usual.
const ENOUGH: usize = 8;
/// No answer is late before: at what is usual within a city, one more request costs more than it may gain.
const SOONEST: Duration = Duration::from_millis(50);
/// An answer is late when it takes so many times as long as nine in ten. Not a higher quantile: where one answer in
/// twenty stalls, that would be the time of those that stall.
const TIMES: u32 = 3;
/// Of so many answers one may be asked for twice.
const ONE_IN: u64 = 20;
/// So many may be before that.
const BURST: u64 = 4;

/// What is known of the answers that reads waited for.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    recent: VecDeque<Duration>,
    usual: Option<Duration>,
    answers: u64,
    second: u64,
}

impl Lateness {
    /// An answer came.
    pub(super) fn answered(&mut self, took: Duration) {
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(took);
        self.answers += 1;
        if self.recent.len() >= ENOUGH {
            let mut sorted: Vec<_> = self.recent.iter().copied().collect();
            sorted.sort_unstable();
            self.usual = sorted.get(sorted.len() * 9 / 10).copied();
        }
    }

    /// After what time an answer is late: `most` at most.
    pub(super) fn patience(&self, most: Duration) -> Duration {
        self.usual.map_or(most, |usual| usual.saturating_mul(TIMES).max(SOONEST)).min(most)
    }

    /// Whether one more may be asked for a second time; counts it.
    pub(super) fn may_ask_again(&mut self) -> bool {
        let may = self.second < BURST + self.answers / ONE_IN;
        self.second += u64::from(may);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(3);

    fn after(times: impl IntoIterator<Item = u64>) -> Lateness {
        let mut lateness = Lateness::default();
        times.into_iter().for_each(|millis| lateness.answered(Duration::from_millis(millis)));
        lateness
    }

    #[test]
    fn what_is_late_follows_what_is_usual() {
        for (times, late) in [
            (vec![1; 5], 3000),
            (vec![1; 100], 50),
            (vec![40; 100], 120),
            // One in twenty stalls for ten seconds.
            ((0..100).map(|n| if n % 20 == 0 { 10_000 } else { 30 }).collect(), 90),
            (vec![5000; 100], 3000),
            // The link became slow.
            ((0..300).map(|n| if n < 150 { 10 } else { 200 }).collect(), 600),
        ] {
            assert_eq!(after(times.clone()).patience(MOST), Duration::from_millis(late), "{times:?}");
        }
    }

    #[test]
    fn few_are_asked_for_twice() {
        let mut lateness = after(vec![10; 1000]);
        let asked = (0..1000).filter(|_| lateness.may_ask_again()).count();
        assert_eq!(asked, 54);
    }
}
