//! The system calls that no safe interface covers.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::process::Pid;

/// Runs `child` in a forked process that exits with what it returns, and says its number.
///
/// Refused in a process with several threads: the others would be missing in the child, with all that
/// they had locked.
pub(super) fn fork(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    // SAFETY: with one thread, the child's memory is as consistent as the parent's.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => std::process::exit(child()),
        _ if pid > 0 => Pid::from_raw(pid).ok_or_else(|| io::ErrorKind::InvalidData.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Leaves the namespaces that `flags` name for new ones.
pub(super) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no pointer. The flags used here (namespaces) do not touch the memory or the
    // descriptor table that Rust relies on.
    check(unsafe { libc::unshare(flags) })
}

/// `mount_setattr(2)` on a whole detached tree: sets `attributes`, and maps owners by the user
/// namespace `mapping` where there is one.
pub(super) fn set_mount_attributes(
    tree: BorrowedFd<'_>,
    attributes: u64,
    mapping: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    /// `struct mount_attr`, version 0 (`linux/mount.h`).
    #[repr(C)]
    struct MountAttr {
        attr_set: u64,
        attr_clr: u64,
        propagation: u64,
        userns_fd: u64,
    }
    const _: () = assert!(size_of::<MountAttr>() == 32);
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

    let mut wanted = MountAttr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    if let Some(mapping) = mapping {
        wanted.attr_set |= MOUNT_ATTR_IDMAP;
        wanted.userns_fd = u64::from(mapping.as_raw_fd().unsigned_abs());
    }
    // SAFETY: the path is a NUL-terminated literal, the structure lives through the call and its true
    // size is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const wanted,
            size_of::<MountAttr>(),
        )
    })
}

/// Brings the loopback device of this network namespace up. The kernel gives it its addresses.
pub(super) fn raise_loopback() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: `ifreq` is plain data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        // Signed or not, as the architecture has it.
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: SIOCSIFFLAGS reads the `ifreq` that is given, which lives through the call.
    check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })
}

/// A descriptor that becomes readable when a child of this process ended. Blocks `SIGCHLD`.
pub(super) fn child_events() -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::{FromRawFd, OwnedFd};

    // SAFETY: `sigset_t` is plain data which sigemptyset initialises; the pointers live through the
    // calls; signalfd returns a descriptor that nobody else owns.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()))?;
        let descriptor = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        check(descriptor)?;
        Ok(OwnedFd::from_raw_fd(descriptor))
    }
}

/// Makes `command` lead a session whose terminal is its standard input.
pub(super) fn own_terminal(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;

    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            Ok(())
        });
    }
}

fn check<T: Into<i64>>(result: T) -> io::Result<()> {
    if result.into() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
