//! Mounts of ordinary users: by `fusermount3`, which Debian's package `fuse3` installs set-user-ID root.
//!
//! It mounts where its caller may write, and passes the descriptor of `/dev/fuse` back over a socket whose
//! number it finds in `_FUSE_COMMFD` (`util/fusermount.c` of libfuse). The mount shows in the namespace of the
//! caller, so user namespaces are not needed.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::thread::CapabilitySet;

use super::device::FILE_SYSTEM;

const PROGRAM: &str = "fusermount3";

/// Whether this process is ordinary: the kernel would neither mount nor unmount for it.
pub(super) fn is_needed() -> bool {
    let capabilities = rustix::thread::capabilities(None);
    !capabilities.is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Mounts at `directory`, as [`mount_fd`](super::mount_fd) does. `others` lets other users see it, root
/// included, which `/etc/fuse.conf` must permit.
pub(super) fn mount(directory: &Path, source: &str, others: bool) -> io::Result<OwnedFd> {
    let subtype = FILE_SYSTEM.trim_start_matches("fuse.");
    let mut options =
        format!("ro,nosuid,nodev,noatime,default_permissions,fsname={source},subtype={subtype}");
    if others {
        options.push_str(",allow_other");
    }
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(PROGRAM);
    // As its standard input: the only descriptor that no other child of this process can inherit as well.
    command.args(["-o", &options, "--"]).arg(directory).env("_FUSE_COMMFD", "0").stdin(OwnedFd::from(theirs));
    let ended = run(command);
    match receive(&ours)? {
        Some(device) => Ok(device),
        None => Err(refusal(&ended?)),
    }
}

/// Takes one mount at `directory` away: with `lazy` also while it is in use.
pub(super) fn unmount(directory: &Path, lazy: bool) -> io::Result<()> {
    let mut command = Command::new(PROGRAM);
    command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(directory).stdin(Stdio::null());
    let ended = run(command)?;
    if ended.status.success() { Ok(()) } else { Err(refusal(&ended)) }
}

fn run(mut command: Command) -> io::Result<Output> {
    let ended = command.stdout(Stdio::null()).stderr(Stdio::piped()).env("LC_ALL", "C").output();
    ended.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            let said = if rustix::process::geteuid().is_root() {
                "this root may not mount (a container?): begin the container with --cap-add SYS_ADMIN, or mount \
                 within `unshare --user --map-root-user --mount`"
            } else {
                "an ordinary user mounts by fusermount3, which is not there: apt-get install fuse3"
            };
            io::Error::new(error.kind(), said)
        }
        _ => error,
    })
}

/// The descriptor that came, or `None` if the other end was closed without one.
fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => break,
        }
    }
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

/// What it said, with the next step where that is known.
fn refusal(ended: &Output) -> io::Error {
    let said = String::from_utf8_lossy(&ended.stderr);
    let said = said.trim().trim_start_matches("fusermount3: ");
    if said.is_empty() {
        return io::Error::other(format!("{PROGRAM} ended with {}", ended.status));
    }
    let (kind, next) = next_step(said);
    let next = next.map(|next| format!(" ({next})")).unwrap_or_default();
    io::Error::new(kind, format!("{PROGRAM}: {said}{next}"))
}

fn next_step(said: &str) -> (io::ErrorKind, Option<&'static str>) {
    use io::ErrorKind::{NotFound, Other, PermissionDenied, ResourceBusy};
    let table = [
        ("user_allow_other", PermissionDenied, Some("root writes the line user_allow_other into that file")),
        ("open /dev/fuse: Permission", PermissionDenied, Some("as root: chmod 666 /dev/fuse")),
        ("device not found", NotFound, Some("as root: modprobe fuse; in a container: --device /dev/fuse")),
        (
            "open /dev/fuse: No such",
            NotFound,
            Some("as root: modprobe fuse; in a container: --device /dev/fuse"),
        ),
        ("too many FUSE filesystems", PermissionDenied, Some("mount_max in /etc/fuse.conf is reached")),
        ("no write access", PermissionDenied, Some("mount at a directory of your own")),
        ("not owner of sticky", PermissionDenied, Some("mount at a directory of your own")),
        (
            "Operation not permitted",
            PermissionDenied,
            Some("is it installed set-user-ID root, and does nothing forbid that?"),
        ),
        ("resource busy", ResourceBusy, None),
    ];
    let found = table.into_iter().find(|(words, ..)| said.to_lowercase().contains(&words.to_lowercase()));
    found.map_or((Other, None), |(_, kind, next)| (kind, next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn refusals_have_a_next_step() {
        for (said, kind, next) in [
            (
                "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf\n",
                io::ErrorKind::PermissionDenied,
                "root writes the line user_allow_other",
            ),
            (
                "fusermount3: failed to open /dev/fuse: Permission denied",
                io::ErrorKind::PermissionDenied,
                "chmod 666 /dev/fuse",
            ),
            (
                "fusermount3: fuse device not found, try 'modprobe fuse' first",
                io::ErrorKind::NotFound,
                "--device /dev/fuse",
            ),
            (
                "fusermount3: user has no write access to mountpoint /mnt",
                io::ErrorKind::PermissionDenied,
                "a directory of your own",
            ),
            (
                "fusermount3: mount failed: Operation not permitted",
                io::ErrorKind::PermissionDenied,
                "set-user-ID root",
            ),
            (
                "fusermount3: failed to unmount /m: Device or resource busy",
                io::ErrorKind::ResourceBusy,
                "busy",
            ),
            ("fusermount3: something new", io::ErrorKind::Other, "something new"),
            ("", io::ErrorKind::Other, "exit status: 1"),
        ] {
            let status = std::process::ExitStatus::from_raw(1 << 8);
            let error = refusal(&Output { status, stdout: Vec::new(), stderr: said.into() });
            assert_eq!(error.kind(), kind, "{said}");
            assert!(error.to_string().contains(next), "{error}");
        }
    }

    #[test]
    fn a_descriptor_that_does_not_come_is_none() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(receive(&ours).unwrap().is_none());
    }
}
