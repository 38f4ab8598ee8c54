//! A child process and what it and its descendants have cost.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::Duration;
use std::{io, mem};

/// What a process took from its start to its end, with all of its descendants that were waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub status: ExitStatus,
    /// In user and kernel mode.
    pub cpu: Duration,
    /// The largest resident set of any one process, in bytes.
    pub max_resident: u64,
}

/// Waits for a child that has not been waited for.
#[allow(unsafe_code)]
pub(crate) fn wait(child: Child) -> io::Result<Usage> {
    let mut status = 0;
    // SAFETY: an all-zero `rusage` is a valid one: it holds integers only.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    let id = i32::try_from(child.id()).map_err(io::Error::other)?;
    loop {
        // SAFETY: both pointers are to locals of the right type that outlive the call. `child` is consumed, so
        // nothing waits for this process again.
        if unsafe { libc::wait4(id, &raw mut status, 0, &raw mut usage) } == id {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(Usage {
        status: ExitStatus::from_raw(status),
        cpu: duration(usage.ru_utime) + duration(usage.ru_stime),
        // The kernel counts in KiB.
        max_resident: usage.ru_maxrss.unsigned_abs() * 1024,
    })
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn counts_a_descendants_time_and_memory() {
        // The shell waits for a child that computes for a while.
        let script = "(i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done); exit 3";
        let usage = wait(Command::new("sh").args(["-c", script]).spawn().unwrap()).unwrap();
        assert_eq!(usage.status.code(), Some(3));
        assert!(usage.cpu > Duration::from_millis(5), "{usage:?}");
        assert!(usage.max_resident > 100_000, "{usage:?}");
    }
}
