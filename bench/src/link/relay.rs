//! Carries packets between the two ends of a shaped link, a thread for each direction.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};

use super::shaper::{Shape, Shaper};
use super::tun::{MAX_PACKET, Tun, wire_bytes};

/// The threads of a link; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Relay {
    directions: Vec<(JoinHandle<()>, Arc<AtomicU64>)>,
    /// Closing it is what ends the threads.
    stop: Option<OwnedFd>,
}

impl Relay {
    pub(super) fn start(one: Tun, other: Tun, shape: &Shape) -> Result<Self> {
        let (stopped, stop) = rustix::pipe::pipe().context("cannot make a pipe")?;
        let stopped = Arc::new(File::from(stopped));
        let (one, other) = (Arc::new(one), Arc::new(other));
        let directions = [(Arc::clone(&one), Arc::clone(&other)), (other, one)]
            .into_iter()
            .map(|(from, to)| {
                let nanoseconds = Arc::new(AtomicU64::new(0));
                let direction = Direction {
                    from,
                    to,
                    stopped: Arc::clone(&stopped),
                    started: Instant::now(),
                    shaper: Shaper::new(*shape),
                    waiting: VecDeque::new(),
                    processor_time: Arc::clone(&nanoseconds),
                };
                let thread = thread::Builder::new()
                    .name("link-relay".into())
                    .spawn(move || direction.run())
                    .context("cannot start a thread")?;
                Ok((thread, nanoseconds))
            })
            .collect::<Result<_>>()?;
        Ok(Self { directions, stop: Some(stop) })
    }

    pub(super) fn processor_time(&self) -> Duration {
        Duration::from_nanos(self.directions.iter().map(|(_, time)| time.load(Ordering::Relaxed)).sum())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop = None;
        for (thread, _) in self.directions.drain(..) {
            // A thread that panicked has said so on stderr; dropping must not panic too.
            let _ = thread.join();
        }
    }
}

struct Direction {
    from: Arc<Tun>,
    to: Arc<Tun>,
    stopped: Arc<File>,
    started: Instant,
    shaper: Shaper,
    /// Packets on their way and when they arrive, in order.
    waiting: VecDeque<(Duration, Vec<u8>)>,
    processor_time: Arc<AtomicU64>,
}

impl Direction {
    fn run(mut self) {
        // A wire is not slower when the machine is busy. Where these are refused, it is a little.
        let _ = prefer_this_thread();
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        let mut buffer = vec![0; MAX_PACKET];
        loop {
            self.deliver();
            self.account();
            let timeout = self.waiting.front().map(|(at, _)| timespec(at.saturating_sub(self.now())));
            let mut ready = [
                PollFd::new(&self.from, PollFlags::IN),
                PollFd::from_borrowed_fd(self.stopped.as_fd(), PollFlags::IN),
            ];
            match poll(&mut ready, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("cannot wait for packets: {error}"),
            }
            if !ready[1].revents().is_empty() {
                return;
            }
            if !ready[0].revents().is_empty() {
                self.accept(&mut buffer);
            }
        }
    }

    /// Takes what has been sent.
    fn accept(&mut self, buffer: &mut [u8]) {
        while let Some(length) = self.from.receive(buffer).expect("the TUN device lasts as long as the relay")
        {
            let packet = &buffer[..length];
            if let Some(arrival) = self.shaper.accept(self.now(), wire_bytes(packet)) {
                self.waiting.push_back((arrival, packet.to_vec()));
            }
            // A sender that never pauses must not keep back what is due.
            self.deliver();
        }
    }

    /// Hands over what is due.
    fn deliver(&mut self) {
        let now = self.now();
        while self.waiting.front().is_some_and(|(arrival, _)| *arrival <= now) {
            if let Some((_, packet)) = self.waiting.pop_front() {
                self.to.send(&packet).expect("the TUN device lasts as long as the relay");
            }
        }
    }

    fn account(&self) {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        let nanoseconds = time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs();
        self.processor_time.store(nanoseconds, Ordering::Relaxed);
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Lets the calling thread run before all that have ordinary priority.
#[allow(unsafe_code)]
fn prefer_this_thread() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: 1 };
    // SAFETY: the call reads one `sched_param`, which outlives it; 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const parameter) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
