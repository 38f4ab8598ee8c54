//! `/dev`: six nodes of the host's, terminals and shared memory of the sandbox's own.

use std::os::unix::fs::symlink;

use rustix::mount::{MountFlags, mount};

use super::binds::Sources;
use super::{During, Failure, root};
use crate::error::Step;

/// The nodes that show inside. They hold no state that could carry anything in or out.
pub(super) const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// Makes `/dev` in the new root.
pub(super) fn make(sources: &Sources) -> Result<(), Failure> {
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC;
    let mounts = [
        ("/dev", c"tmpfs", quiet, c"mode=0755,size=64k"),
        ("/dev/pts", c"devpts", quiet, c"newinstance,ptmxmode=0666,mode=0620"),
        ("/dev/shm", c"tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=1777"),
    ];
    for (target, kind, flags, options) in mounts {
        root::directory(target, 0o755)
            .and_then(|()| Ok(mount(kind, target, kind, flags, options)?))
            .during_with(Step::Devices, target)?;
    }
    sources.attach_devices()?;
    for (to, link) in LINKS {
        symlink(to, link).during_with(Step::Devices, link)?;
    }
    Ok(())
}
