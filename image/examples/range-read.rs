//! How fast ranges of one blob come from a registry.
//!
//! `range-read HOST/REPOSITORY DIGEST SIZE THREADS SECONDS`: reads random ranges of 1 MiB from so many threads
//! for so long, and prints MiB/s, requests and the processor time that this process used.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use seed_format::Digest;
use seed_image::reference::Reference;
use seed_image::transport::{self, TransportOptions};

const RANGE: u64 = 1 << 20;

#[expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement, run by hand")]
fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, place, digest, size, threads, seconds] = &arguments[..] else {
        panic!("range-read HOST/REPOSITORY DIGEST SIZE THREADS SECONDS")
    };
    let reference: Reference = place.parse().unwrap();
    let digest: Digest = digest.parse().unwrap();
    let size: u64 = size.parse().unwrap();
    let seconds = Duration::from_secs(seconds.parse().unwrap());
    let transport = transport::open(&reference.location, &TransportOptions::default()).unwrap();
    let (stop, bytes) = (AtomicBool::new(false), AtomicU64::new(0));
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads.parse().unwrap() {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let start = fastrand::u64(0..=size - RANGE);
                    let deadline = Instant::now() + Duration::from_secs(30);
                    let read = transport.read_range(&digest, start..start + RANGE, deadline).unwrap();
                    bytes.fetch_add(read.len() as u64, Ordering::Relaxed);
                }
            });
        }
        while begin.elapsed() < seconds {
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let took = begin.elapsed().as_secs_f64();
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let cpu =
        Duration::new(u64::try_from(cpu.tv_sec).unwrap(), u32::try_from(cpu.tv_nsec).unwrap()).as_secs_f64();
    let mib = bytes.into_inner() as f64 / (1 << 20) as f64;
    let counters = transport.counters();
    println!(
        "{threads} threads: {:.0} MiB/s, {} requests, {} retries, {:.2} ms of processor time a MiB",
        mib / took,
        counters.requests,
        counters.retries,
        cpu * 1000.0 / mib
    );
}
