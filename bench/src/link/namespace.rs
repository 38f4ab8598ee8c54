//! A network namespace without a name, and how to run something in it.

use std::fs::File;
use std::os::fd::AsFd;
use std::thread;

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// A network namespace; it lasts while this value or a process in it does.
#[derive(Debug)]
pub(crate) struct Namespace(File);

impl Namespace {
    /// Makes a namespace in which no device is up.
    pub(crate) fn new() -> Result<Self> {
        // A thread of its own, since a thread cannot leave the namespace that it made.
        on_a_thread(|| {
            unshare_network().context("unshare")?;
            Ok(Self(File::open("/proc/thread-self/ns/net").context("/proc/thread-self/ns/net")?))
        })?
    }

    /// A second handle of the same namespace.
    pub(crate) fn try_clone(&self) -> Result<Self> {
        Ok(Self(self.0.try_clone().context("cannot copy the handle of a namespace")?))
    }

    /// Runs `job` on a thread in the namespace. Processes that it starts are in it too.
    pub(crate) fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> Result<T> {
        on_a_thread(|| {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                .context("cannot enter the network namespace")?;
            Ok(job())
        })?
    }
}

#[allow(unsafe_code)]
fn unshare_network() -> rustix::io::Result<()> {
    // SAFETY: the flag concerns the network only; the table of open files stays shared, which is what the
    // contract of the function is about.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
}

fn on_a_thread<T: Send>(job: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(job).join()).map_err(|_| anyhow!("a thread of the link panicked"))
}
