//! The system calls that a build never needs, refused.
//!
//! A list of what is refused, not of what is allowed: what runs inside is arbitrary, and most of what the
//! kernel guards by capabilities is out of its reach already. The list holds what needs no capability
//! inside a user namespace, has a history of holes, is not confined by namespaces (kernel keys, virtual
//! machine sockets), or could only be an attack. Nix makes its own sandboxes inside, so that `mount`,
//! `pivot_root`, `unshare` and `clone` stay; the newer interface for mounts, which Nix does not use, goes.
//!
//! The program is written here, instruction by instruction, since `seccompiler`, which installs it,
//! compiles for one architecture and kills all others: 32-bit builds are legitimate. So is refusing them
//! the same things: the filter has a part for each architecture that the kernel runs, and the x32 numbers,
//! which the kernel reports as x86_64, are refused whole.

use std::io;

use libc::{EAFNOSUPPORT, ENOSYS, EPERM, EPROTONOSUPPORT};
use seccompiler::sock_filter;

/// Installs the filter for this process and all that it starts.
pub(super) fn install() -> io::Result<()> {
    seccompiler::apply_filter(&program()).map_err(|error| match error {
        seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error,
        other => io::Error::other(other),
    })
}

/// One architecture's numbers.
struct Architecture {
    /// The kernel's name for it (`linux/audit.h`).
    audit: u32,
    /// Refused with "operation not permitted".
    forbidden: &'static [u32],
    /// Refused as if the kernel did not have it, so that programs fall back.
    missing: &'static [u32],
    socket: u32,
    socketpair: u32,
    ioctl: u32,
}

macro_rules! numbers {
    ($($name:ident)*) => { &[$(number(libc::$name)),*] };
}

/// `libc` has the numbers as `long`; all are small.
#[allow(clippy::cast_possible_truncation)]
const fn number(call: libc::c_long) -> u32 {
    call.unsigned_abs() as u32
}

const NATIVE_MISSING: &[u32] = numbers! {
    SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register
    SYS_open_tree SYS_move_mount SYS_fsopen SYS_fsconfig SYS_fsmount SYS_fspick SYS_mount_setattr
    SYS_lookup_dcookie
};

#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: [Architecture; 2] = [
    Architecture {
        audit: 0xc000_003e,
        forbidden: numbers! {
            SYS_kexec_load SYS_kexec_file_load SYS_reboot
            SYS_init_module SYS_finit_module SYS_delete_module
            SYS_uselib
            SYS_swapon SYS_swapoff SYS_acct SYS_quotactl SYS_quotactl_fd SYS_nfsservctl
            SYS_settimeofday SYS_clock_settime SYS_clock_adjtime SYS_adjtimex
            SYS_iopl SYS_ioperm SYS_syslog SYS_vhangup
            SYS_bpf SYS_perf_event_open SYS_fanotify_init SYS_userfaultfd SYS_open_by_handle_at
            SYS_add_key SYS_request_key SYS_keyctl
        },
        missing: NATIVE_MISSING,
        socket: number(libc::SYS_socket),
        socketpair: number(libc::SYS_socketpair),
        ioctl: number(libc::SYS_ioctl),
    },
    // The numbers of `asm/unistd_32.h`, in the order of the names above. `socketcall`, the older way to
    // make a socket, keeps the family in memory, where no filter can see it: it is missing.
    Architecture {
        audit: 0x4000_0003,
        forbidden: &[
            283, 88, 128, 350, 129, 86, 87, 115, 51, 131, 443, 169, 79, 25, 264, 404, 343, 405, 124, 110,
            101, 103, 111, 166, 113, 357, 336, 338, 374, 342, 286, 287, 288,
        ],
        missing: &[425, 426, 427, 428, 429, 430, 431, 432, 433, 442, 253, 102],
        socket: 359,
        socketpair: 360,
        ioctl: 54,
    },
];

#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: [Architecture; 1] = [Architecture {
    audit: 0xc000_00b7,
    forbidden: numbers! {
        SYS_kexec_load SYS_kexec_file_load SYS_reboot
        SYS_init_module SYS_finit_module SYS_delete_module
        SYS_swapon SYS_swapoff SYS_acct SYS_quotactl SYS_quotactl_fd SYS_nfsservctl
        SYS_settimeofday SYS_clock_settime SYS_clock_adjtime SYS_adjtimex
        SYS_syslog SYS_vhangup
        SYS_bpf SYS_perf_event_open SYS_fanotify_init SYS_userfaultfd SYS_open_by_handle_at
        SYS_add_key SYS_request_key SYS_keyctl
    },
    missing: NATIVE_MISSING,
    socket: number(libc::SYS_socket),
    socketpair: number(libc::SYS_socketpair),
    ioctl: number(libc::SYS_ioctl),
}];

/// Socket families that a build may use: all of them end inside its own network namespace.
const FAMILIES: [i32; 3] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];

/// Pushing characters into a terminal's input, and the console's own version of it.
const TERMINAL_INJECTION: [u32; 2] = [0x5412, 0x541c];

/// The bit that marks x32 numbers on x86_64. No other architecture has numbers as large.
const X32_BIT: u32 = 0x4000_0000;

/// Offsets in `struct seccomp_data`, little-endian.
mod offset {
    pub(super) const NUMBER: u32 = 0;
    pub(super) const ARCHITECTURE: u32 = 4;
    /// The low half of an argument.
    pub(super) const fn argument(n: u32) -> u32 {
        16 + 8 * n
    }
}

fn program() -> Vec<sock_filter> {
    let mut program = vec![load(offset::ARCHITECTURE)];
    for architecture in &ARCHITECTURES {
        let part = part(architecture);
        // A conditional jump reaches 255 instructions: jump over a far one instead.
        program.push(unless_equal(architecture.audit, 1));
        program.push(skip(1));
        program.push(skip(part.len()));
        program.extend(part);
    }
    program.push(ret(libc::SECCOMP_RET_KILL_PROCESS));
    program
}

fn part(architecture: &Architecture) -> Vec<sock_filter> {
    let mut part = vec![load(offset::NUMBER), unless_at_least(X32_BIT, 1), errno(ENOSYS)];
    for (numbers, error) in [(architecture.forbidden, EPERM), (architecture.missing, ENOSYS)] {
        for number in numbers {
            part.extend([unless_equal(*number, 1), errno(error)]);
        }
    }
    for call in [architecture.socket, architecture.socketpair] {
        part.extend(guarded(call, socket_guard()));
    }
    part.extend(guarded(architecture.ioctl, ioctl_guard()));
    part.push(ret(libc::SECCOMP_RET_ALLOW));
    part
}

/// Runs `guard`, which always returns, for one system call.
fn guarded(call: u32, guard: Vec<sock_filter>) -> impl Iterator<Item = sock_filter> {
    let over = u8::try_from(guard.len()).expect("guards are short");
    std::iter::once(unless_equal(call, over)).chain(guard)
}

fn socket_guard() -> Vec<sock_filter> {
    let mut guard = vec![load(offset::argument(0))];
    for family in FAMILIES {
        guard.extend([unless_equal(family.unsigned_abs(), 1), ret(libc::SECCOMP_RET_ALLOW)]);
    }
    // Asking for the addresses of network devices goes by netlink; its other protocols are no build's.
    guard.extend([
        unless_equal(libc::AF_NETLINK.unsigned_abs(), 4),
        load(offset::argument(2)),
        unless_equal(libc::NETLINK_ROUTE.unsigned_abs(), 1),
        ret(libc::SECCOMP_RET_ALLOW),
        errno(EPROTONOSUPPORT),
        errno(EAFNOSUPPORT),
    ]);
    guard
}

fn ioctl_guard() -> Vec<sock_filter> {
    let mut guard = vec![load(offset::argument(1))];
    for request in TERMINAL_INJECTION {
        guard.extend([unless_equal(request, 1), errno(EPERM)]);
    }
    guard.push(ret(libc::SECCOMP_RET_ALLOW));
    guard
}

// The instructions, of `linux/bpf_common.h`.

const LOAD_WORD: u16 = 0x20;
const JUMP_ALWAYS: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

const fn load(offset: u32) -> sock_filter {
    sock_filter { code: LOAD_WORD, jt: 0, jf: 0, k: offset }
}

const fn unless_equal(value: u32, over: u8) -> sock_filter {
    sock_filter { code: JUMP_EQUAL, jt: 0, jf: over, k: value }
}

const fn unless_at_least(value: u32, over: u8) -> sock_filter {
    sock_filter { code: JUMP_AT_LEAST, jt: 0, jf: over, k: value }
}

fn skip(instructions: usize) -> sock_filter {
    let k = u32::try_from(instructions).expect("the program is short");
    sock_filter { code: JUMP_ALWAYS, jt: 0, jf: 0, k }
}

const fn ret(action: u32) -> sock_filter {
    sock_filter { code: RETURN, jt: 0, jf: 0, k: action }
}

const fn errno(errno: i32) -> sock_filter {
    ret(libc::SECCOMP_RET_ERRNO | errno.unsigned_abs())
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
