//! The namespaces, from the outside.

use std::fs;
use std::io;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{getegid, geteuid};

use super::syscalls;
use crate::protocol::Network;

/// Enters a user namespace in which the caller is root, so that it may make the other namespaces.
pub(super) fn enter_user_namespace() -> io::Result<()> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    syscalls::unshare(libc::CLONE_NEWUSER)?;
    map_single(0, uid, 0, gid)
}

/// Maps one user and one group of the parent's namespace into this process's new one.
///
/// Groups other than that one are given up for good: `setgroups` is denied, as the kernel demands of a
/// process without privileges.
pub(super) fn map_single(uid: u32, parent_uid: u32, gid: u32, parent_gid: u32) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{uid} {parent_uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("{gid} {parent_gid} 1"))
}

/// Enters all other namespaces; the process namespace takes effect for the next child. No mount that is
/// made from now on can be seen outside, and none that is made outside appears here.
pub(super) fn enter_others(network: Network) -> io::Result<()> {
    let network = match network {
        Network::None => libc::CLONE_NEWNET,
        Network::Host => 0,
    };
    syscalls::unshare(
        network
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWCGROUP,
    )?;
    Ok(mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
}
