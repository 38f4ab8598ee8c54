//! What a mount counts, from its first request to its last.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::activity::Activity;

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// Live counters, shared by the parts of one mount.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $doc])* pub(crate) $name: AtomicU64,)*
            /// What happened when.
            pub(crate) activity: Activity,
        }

        /// The counters at one moment.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Stats {
            $($(#[doc = $doc])* pub $name: u64,)*
        }

        impl Stats {
            /// Each counter: its name, what it counts, and how many.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), concat!($($doc),*), self.$name)),*].into_iter()
            }
        }

        impl Counters {
            /// Reads all counters; each is exact, together they may be a request apart.
            pub fn snapshot(&self) -> Stats {
                Stats { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Range requests sent to the source.
    requests,
    /// Compressed bytes that the source gave.
    bytes_fetched,
    /// Chunks that were verified and admitted from the source.
    chunks_fetched,
    /// Chunks that traces said would be read; those that several name count for each.
    traced_chunks,
    /// Chunk reads answered from memory.
    memory_hits,
    /// Chunk reads answered from the cache on disk, after their digest was checked.
    cache_hits,
    /// Chunks on disk whose bytes were wrong; they were dropped and fetched again.
    cache_dropped,
    /// Chunk reads that had to wait for the source.
    demand_misses,
    /// Time that those reads waited, in microseconds.
    demand_wait_us,
    /// Ranges asked for again after the source failed.
    retries,
    /// Chunks asked for a second time because the first answer was late.
    hedges,
    /// Chunks from the source whose bytes did not have their digest.
    mismatches,
    /// Reads that ended in an error.
    failed_reads,
    /// READ requests of the kernel.
    fuse_reads,
    /// LOOKUP requests of the kernel.
    fuse_lookups,
    /// GETATTR requests of the kernel.
    fuse_getattrs,
    /// READDIR and READDIRPLUS requests of the kernel.
    fuse_readdirs,
    /// READLINK requests of the kernel.
    fuse_readlinks,
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

pub(crate) fn add_micros(counter: &AtomicU64, time: Duration) {
    add(counter, u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
}
