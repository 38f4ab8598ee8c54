//! Locks, leases and what is told of accesses.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{FlockOperation, flock};

use crate::observe::{Seen, of_libc};

fn record_lock(file: &File, command: libc::c_int, kind: libc::c_int) -> Result<i32, rustix::io::Errno> {
    let whence = i16::try_from(libc::SEEK_SET).unwrap();
    let lock = libc::flock {
        l_type: i16::try_from(kind).unwrap(),
        l_whence: whence,
        l_start: 0,
        l_len: 10,
        l_pid: 0,
    };
    // SAFETY: the kernel reads the structure only.
    of_libc(unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const lock) })
}

pub(crate) fn locks(root: &Path, seen: &mut Seen) {
    let [one, two] = [0, 1].map(|_| File::open(root.join("file")).unwrap());
    for (what, file, operation) in [
        ("shared", &one, FlockOperation::NonBlockingLockShared),
        ("shared by another", &two, FlockOperation::NonBlockingLockShared),
        ("exclusive while shared", &one, FlockOperation::NonBlockingLockExclusive),
        ("given back", &two, FlockOperation::Unlock),
        ("exclusive", &one, FlockOperation::NonBlockingLockExclusive),
        ("shared while exclusive", &two, FlockOperation::NonBlockingLockShared),
        ("given back by the first", &one, FlockOperation::Unlock),
        ("then by the second", &two, FlockOperation::NonBlockingLockExclusive),
    ] {
        seen.call(format!("flock {what}"), flock(file, operation));
    }
    for (what, file, command, kind) in [
        ("to read", &one, libc::F_SETLK, libc::F_RDLCK),
        ("to write", &one, libc::F_SETLK, libc::F_WRLCK),
        ("of an open file, to read", &one, libc::F_OFD_SETLK, libc::F_RDLCK),
        ("of another, to read", &two, libc::F_OFD_SETLK, libc::F_RDLCK),
        ("of an open file, to write", &one, libc::F_OFD_SETLK, libc::F_WRLCK),
        ("given back", &one, libc::F_SETLK, libc::F_UNLCK),
    ] {
        seen.call(format!("fcntl {what}"), record_lock(file, command, kind));
    }
    let directory = File::open(root.join("dir")).unwrap();
    seen.call("flock of a directory", flock(&directory, FlockOperation::NonBlockingLockExclusive));
    let other = File::open(root.join("other")).unwrap();
    for (what, kind) in [("to read", libc::F_RDLCK), ("none", libc::F_UNLCK)] {
        // SAFETY: a call with numbers only.
        seen.call(
            format!("a lease {what}"),
            of_libc(unsafe { libc::fcntl(other.as_raw_fd(), libc::F_SETLEASE, kind) }),
        );
    }
}

pub(crate) fn inotify(root: &Path, seen: &mut Seen) {
    let watcher = inotify::init(CreateFlags::NONBLOCK).unwrap();
    let all = WatchFlags::OPEN | WatchFlags::ACCESS | WatchFlags::CLOSE_NOWRITE;
    let told = |watcher: &std::os::fd::OwnedFd| {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(watcher, &mut buffer);
        let mut events = Vec::new();
        while let Ok(event) = reader.next() {
            events.push((
                event.events().bits(),
                event.file_name().map(|name| name.to_string_lossy().into_owned()),
            ));
        }
        events
    };
    seen.done("watch a file", inotify::add_watch(&watcher, root.join("other"), all));
    std::fs::read(root.join("other")).unwrap();
    seen.note("a file is read", told(&watcher));
    let watcher = inotify::init(CreateFlags::NONBLOCK).unwrap();
    seen.done("watch a directory", inotify::add_watch(&watcher, root.join("dir"), all));
    std::fs::read(root.join("dir/inner")).unwrap();
    seen.note("a file in it is read", told(&watcher));
    std::fs::read_dir(root.join("dir")).unwrap().for_each(drop);
    seen.note("it is listed", told(&watcher).first().cloned());
    seen.done("watch nothing", inotify::add_watch(&watcher, root.join("missing"), all));
}
