//! What looks around inside a sandbox.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

pub(crate) const ROLE: &str = "probe";

/// Prints what the system answers, one line for each question.
pub(crate) fn main(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let what = arguments.next().unwrap();
    let mut next = || arguments.next().unwrap();
    match what.as_str() {
        "tcp" => say(TcpStream::connect_timeout(&next().parse().unwrap(), Duration::from_secs(5)).map(drop)),
        "udp" => say(send_datagram(&next())),
        "name" => say(next().to_socket_addrs().map(drop)),
        "path-socket" => say(UnixStream::connect(next()).map(drop)),
        "abstract-socket" => {
            let address = std::os::unix::net::SocketAddr::from_abstract_name(next()).unwrap();
            say(UnixStream::connect_addr(&address).map(drop));
        }
        "loopback" => say(talk_to_itself()),
        "calls" => calls(),
        "nest" => say(nest()),
        other => panic!("no probe {other:?}"),
    }
    ExitCode::SUCCESS
}

/// Prints the name of the error, or `ok`.
fn say(result: io::Result<()>) {
    match result {
        Ok(()) => println!("ok"),
        Err(error) => match error.raw_os_error() {
            Some(errno) => println!("{}", rustix::io::Errno::from_raw_os_error(errno)),
            None => println!("{:?}", error.kind()),
        },
    }
}

fn send_datagram(to: &str) -> io::Result<()> {
    let to: SocketAddr = to.parse().unwrap();
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.send_to(b"question", to).map(drop)
}

fn talk_to_itself() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    TcpStream::connect(listener.local_addr()?)?;
    listener.accept().map(drop)
}

/// System calls with arguments that are harmless if the filter lets them through, and what a kernel
/// without the filter would answer: something else than with it.
fn calls() {
    let call = |name: &str, number: libc::c_long, arguments: [libc::c_long; 4]| {
        let [a, b, c, d] = arguments;
        // SAFETY: no argument is a valid pointer to anything that the kernel could write to.
        let result = unsafe { libc::syscall(number, a, b, c, d) };
        print!("{name} ");
        say(if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) });
    };
    let vsock = libc::c_long::from(libc::AF_VSOCK);
    let stream = libc::c_long::from(libc::SOCK_STREAM);
    let raw = libc::c_long::from(libc::SOCK_RAW);
    call("socket-vsock", libc::SYS_socket, [vsock, stream, 0, 0]);
    call("socket-alg", libc::SYS_socket, [libc::AF_ALG.into(), libc::SOCK_SEQPACKET.into(), 0, 0]);
    call("socket-packet", libc::SYS_socket, [libc::AF_PACKET.into(), raw, 0, 0]);
    call(
        "socket-netlink-audit",
        libc::SYS_socket,
        [libc::AF_NETLINK.into(), raw, libc::NETLINK_AUDIT.into(), 0],
    );
    call("socket-netlink-route", libc::SYS_socket, [libc::AF_NETLINK.into(), raw, 0, 0]);
    call("socket-unix", libc::SYS_socket, [libc::AF_UNIX.into(), stream, 0, 0]);
    call("io_uring_setup", libc::SYS_io_uring_setup, [0, 0, 0, 0]);
    call("bpf", libc::SYS_bpf, [-1, 0, 0, 0]);
    call("perf_event_open", libc::SYS_perf_event_open, [0, 0, 0, 0]);
    call("userfaultfd", libc::SYS_userfaultfd, [-1, 0, 0, 0]);
    call("keyctl", libc::SYS_keyctl, [-1, 0, 0, 0]);
    call("add_key", libc::SYS_add_key, [0, 0, 0, 0]);
    call("open_by_handle_at", libc::SYS_open_by_handle_at, [-1, 0, 0, 0]);
    call("fsopen", libc::SYS_fsopen, [0, -1, 0, 0]);
    call("open_tree", libc::SYS_open_tree, [-1, 0, -1, 0]);
    call("mount_setattr", libc::SYS_mount_setattr, [-1, 0, 0, 0]);
    call("fanotify_init", libc::SYS_fanotify_init, [-1, -1, 0, 0]);
    call("init_module", libc::SYS_init_module, [0, 0, 0, 0]);
    call("reboot", libc::SYS_reboot, [0, 0, 0, 0]);
    call("swapon", libc::SYS_swapon, [0, 0, 0, 0]);
    call("syslog", libc::SYS_syslog, [-1, 0, 0, 0]);
    call("ioctl-tiocsti", libc::SYS_ioctl, [-1, 0x5412, 0, 0]);
    call("ioctl-other", libc::SYS_ioctl, [-1, 0x5401, 0, 0]);
    call("ptrace-other", libc::SYS_ptrace, [libc::PTRACE_ATTACH.into(), 1, 0, 0]);
    call("mount-without-namespace", libc::SYS_mount, [0, 0, 0, 0]);
}

/// Makes the sandbox that Nix makes for a build: a user namespace with one user, and in it a mount, a
/// process, a network, an IPC and a host name namespace with an own `/proc` and an own root.
fn nest() -> io::Result<()> {
    let check = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    let flags = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS;
    // SAFETY: the probe has one thread; `unshare` takes no pointer.
    check(unsafe { libc::unshare(flags) })?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", "1000 1000 1")?;
    std::fs::write("/proc/self/gid_map", "100 1000 1")?;
    // SAFETY: the probe has one thread.
    match unsafe { libc::fork() } {
        0 => std::process::exit(build_root().map_or_else(|e| e.raw_os_error().unwrap_or(255), |()| 0)),
        child => {
            let mut status = 0;
            // SAFETY: `status` lives through the call.
            check(unsafe { libc::waitpid(child, &raw mut status, 0) })?;
            match libc::WEXITSTATUS(status) {
                0 => Ok(()),
                errno => Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }
}

fn build_root() -> io::Result<()> {
    let c = |text: &str| CString::new(text).unwrap();
    let mount = |source: &str, target: &str, kind: &str, flags: libc::c_ulong| {
        // SAFETY: all four are NUL-terminated and live through the call.
        let result = unsafe {
            libc::mount(c(source).as_ptr(), c(target).as_ptr(), c(kind).as_ptr(), flags, std::ptr::null())
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    mount("none", "/", "", libc::MS_PRIVATE | libc::MS_REC)?;
    let root = "/tmp/root";
    std::fs::create_dir(root)?;
    mount(root, root, "", libc::MS_BIND)?;
    for directory in ["proc", "dev", "dev/shm", "dev/pts", "store"] {
        std::fs::create_dir(format!("{root}/{directory}"))?;
    }
    mount("none", &format!("{root}/proc"), "proc", 0)?;
    mount("none", &format!("{root}/dev/shm"), "tmpfs", 0)?;
    mount("none", &format!("{root}/dev/pts"), "devpts", 0)?;
    std::fs::write(format!("{root}/dev/null"), "")?;
    mount("/dev/null", &format!("{root}/dev/null"), "", libc::MS_BIND | libc::MS_REC)?;
    mount("/nix/store", &format!("{root}/store"), "", libc::MS_BIND | libc::MS_REC)?;
    std::fs::create_dir(format!("{root}/old"))?;
    std::env::set_current_dir(root)?;
    rustix::process::pivot_root(".", "old")?;
    rustix::process::chroot(".")?;
    rustix::mount::unmount("old", rustix::mount::UnmountFlags::DETACH)?;
    std::fs::write("/dev/null", "x")
}
