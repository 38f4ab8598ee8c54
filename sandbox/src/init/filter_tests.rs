//! The filter, run by a small interpreter, for the architectures that the machine of the tests may not
//! have. That the kernel does the same with the native part is tested from inside a sandbox.

use super::*;

/// Runs the program as the kernel does, and panics where the kernel would have refused to load it.
fn run(architecture: u32, number: u32, arguments: [u32; 3]) -> u32 {
    let program = program();
    let mut at = 0;
    let mut accumulator = 0;
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        match code {
            LOAD_WORD => {
                accumulator = match k {
                    offset::NUMBER => number,
                    offset::ARCHITECTURE => architecture,
                    _ => arguments[(k as usize - 16) / 8],
                }
            }
            JUMP_ALWAYS => at += k as usize,
            JUMP_EQUAL => at += usize::from(if accumulator == k { jt } else { jf }),
            JUMP_AT_LEAST => at += usize::from(if accumulator >= k { jt } else { jf }),
            RETURN => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn refused(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno.unsigned_abs()
}

const ALLOWED: u32 = libc::SECCOMP_RET_ALLOW;

#[test]
fn each_architecture_refuses_its_list_and_nothing_else() {
    for architecture in &ARCHITECTURES {
        for number in 0..1024 {
            let expected = if architecture.forbidden.contains(&number) {
                refused(EPERM)
            } else if architecture.missing.contains(&number) {
                refused(ENOSYS)
            } else {
                ALLOWED
            };
            assert_eq!(
                run(architecture.audit, number, [libc::AF_UNIX.unsigned_abs(), 0, 0]),
                expected,
                "{:#x} {number}",
                architecture.audit
            );
        }
    }
}

#[test]
fn sockets_end_inside() {
    let protocol_refused = refused(EPROTONOSUPPORT);
    let family_refused = refused(EAFNOSUPPORT);
    for (family, protocol, expected) in [
        (libc::AF_UNIX, 0, ALLOWED),
        (libc::AF_INET, 0, ALLOWED),
        (libc::AF_INET6, 0, ALLOWED),
        (libc::AF_NETLINK, libc::NETLINK_ROUTE, ALLOWED),
        (libc::AF_NETLINK, libc::NETLINK_AUDIT, protocol_refused),
        (libc::AF_PACKET, 0, family_refused),
        (libc::AF_ALG, 0, family_refused),
        (libc::AF_VSOCK, 0, family_refused),
        (libc::AF_BLUETOOTH, 0, family_refused),
        (libc::AF_UNSPEC, 0, family_refused),
    ] {
        for architecture in &ARCHITECTURES {
            for call in [architecture.socket, architecture.socketpair] {
                let arguments = [family.unsigned_abs(), 1, protocol.unsigned_abs()];
                assert_eq!(run(architecture.audit, call, arguments), expected, "family {family}");
            }
        }
    }
}

#[test]
fn terminals_take_no_injected_input() {
    for architecture in &ARCHITECTURES {
        for (request, expected) in
            [(0x5412, refused(EPERM)), (0x541c, refused(EPERM)), (0x5413, ALLOWED), (0x5401, ALLOWED)]
        {
            assert_eq!(
                run(architecture.audit, architecture.ioctl, [0, request, 0]),
                expected,
                "{request:#x}"
            );
        }
    }
}

#[test]
fn unknown_architectures_are_killed_and_x32_is_missing() {
    assert_eq!(run(0x1234, 1, [0; 3]), libc::SECCOMP_RET_KILL_PROCESS);
    let native = &ARCHITECTURES[0];
    assert_eq!(run(native.audit, X32_BIT | 1, [0; 3]), refused(ENOSYS));
    assert_eq!(run(native.audit, u32::MAX, [0; 3]), refused(ENOSYS));
}
