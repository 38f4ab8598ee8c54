//! What would change something: nothing may, and each says why as on ext4.

use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, chmodat, chownat,
    ftruncate, futimens, linkat, mkdirat, mknodat, open, renameat, renameat_with, rmdir, symlinkat, unlink,
    unlinkat, utimensat,
};

use crate::observe::Seen;

pub(crate) fn creating(root: &Path, seen: &mut Seen) {
    let at = |name: &str| root.join(name);
    for (what, flags) in [
        ("O_WRONLY", OFlags::WRONLY),
        ("O_RDWR", OFlags::RDWR),
        ("O_APPEND", OFlags::WRONLY | OFlags::APPEND),
        ("O_TRUNC", OFlags::RDONLY | OFlags::TRUNC),
        ("O_WRONLY|O_TRUNC", OFlags::WRONLY | OFlags::TRUNC),
        ("O_CREAT", OFlags::RDONLY | OFlags::CREATE),
        ("O_CREAT|O_WRONLY", OFlags::WRONLY | OFlags::CREATE),
        ("O_CREAT|O_EXCL", OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL),
    ] {
        for name in [
            "file",
            "empty",
            "dir",
            "missing",
            "link",
            "dangling",
            "file/x",
            "missing/x",
            "dir/new",
            "loop-1",
            "dir/",
        ] {
            seen.done(format!("open {name} {what}"), open(at(name), flags, Mode::RUSR));
        }
    }
    seen.done("O_TMPFILE", open(at("dir"), OFlags::TMPFILE | OFlags::RDWR, Mode::RUSR));
    for name in
        ["new", "file", "dir", "link", "dangling", "file/x", "missing/x", "dir/", "dir/new/", ".", ".."]
    {
        seen.done(format!("mkdir {name}"), mkdirat(CWD, at(name), Mode::RWXU));
        seen.done(format!("symlink {name}"), symlinkat("target", CWD, at(name)));
        for (what, kind) in
            [("fifo", FileType::Fifo), ("file", FileType::RegularFile), ("device", FileType::CharacterDevice)]
        {
            seen.done(format!("mknod {what} {name}"), mknodat(CWD, at(name), kind, Mode::RUSR, 0x103));
        }
        seen.done(format!("link file {name}"), linkat(CWD, at("file"), CWD, at(name), AtFlags::empty()));
    }
    seen.done("link missing", linkat(CWD, at("missing"), CWD, at("new"), AtFlags::empty()));
    seen.done("link dir", linkat(CWD, at("dir"), CWD, at("new"), AtFlags::empty()));
    seen.done("link to elsewhere", linkat(CWD, at("file"), CWD, root.join("../../new"), AtFlags::empty()));
    seen.done("link from elsewhere", linkat(CWD, "/proc/version", CWD, at("new"), AtFlags::empty()));
    // Of a directory with a short name: addresses of sockets are short.
    let directory = open(root, OFlags::PATH, Mode::empty()).unwrap();
    let short = format!("/proc/self/fd/{}/socket", std::os::fd::AsRawFd::as_raw_fd(&directory));
    seen.note("bind a socket", UnixListener::bind(short).unwrap_err().raw_os_error());
}

pub(crate) fn removing(root: &Path, seen: &mut Seen) {
    for name in [
        "file",
        "dir",
        "empty-dir",
        "missing",
        "link",
        "dangling",
        "file/x",
        "missing/x",
        "loop-1",
        "dir-link/inner",
        ".",
        "dir/..",
        "link/",
        "dir/",
    ] {
        seen.done(format!("unlink {name}"), unlink(root.join(name)));
        seen.done(format!("rmdir {name}"), rmdir(root.join(name)));
        seen.done(format!("unlinkat {name}"), unlinkat(CWD, root.join(name), AtFlags::empty()));
    }
    let long = "n".repeat(256);
    seen.done("unlink a long name", unlink(root.join(&long)));
    seen.done("mkdir a long name", mkdirat(CWD, root.join(&long), Mode::RWXU));
}

pub(crate) fn renaming(root: &Path, seen: &mut Seen) {
    for (from, to) in [
        ("file", "new"),
        ("file", "other"),
        ("file", "file"),
        ("file", "dir"),
        ("file", "dir/new"),
        ("file", "missing/new"),
        ("dir", "new"),
        ("dir", "empty-dir"),
        ("dir", "dir/below/new"),
        ("dir", "file"),
        ("missing", "new"),
        ("link", "new"),
        ("dangling", "file"),
        ("file/x", "new"),
        ("file", "file/x"),
        ("file", "new/"),
        (".", "new"),
        ("dir", "."),
    ] {
        seen.done(format!("{from} to {to}"), renameat(CWD, root.join(from), CWD, root.join(to)));
        for (what, flags) in [
            ("and replace nothing", RenameFlags::NOREPLACE),
            ("and back", RenameFlags::EXCHANGE),
            ("and a whiteout", RenameFlags::WHITEOUT),
        ] {
            seen.done(
                format!("{from} to {to} {what}"),
                renameat_with(CWD, root.join(from), CWD, root.join(to), flags),
            );
        }
    }
    let elsewhere = root.join("../../new");
    seen.done("to elsewhere", renameat(CWD, root.join("file"), CWD, &elsewhere));
    seen.done("from elsewhere", renameat(CWD, "/proc/version", CWD, root.join("new")));
}

pub(crate) fn changing(root: &Path, seen: &mut Seen) {
    let one = Timespec { tv_sec: 5, tv_nsec: 0 };
    let times = Timestamps { last_access: one, last_modification: one };
    for name in ["file", "dir", "link", "dangling", "missing", "file/x", "loop-1"] {
        let path = root.join(name);
        seen.done(format!("chmod {name}"), chmodat(CWD, &path, Mode::RWXU, AtFlags::empty()));
        let owner = (Some(Uid::from_raw(1)), Some(Gid::from_raw(1)));
        seen.done(format!("chown {name}"), chownat(CWD, &path, owner.0, owner.1, AtFlags::empty()));
        seen.done(format!("lchown {name}"), chownat(CWD, &path, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW));
        seen.done(format!("chown {name} to nobody"), chownat(CWD, &path, None, None, AtFlags::empty()));
        seen.done(format!("utimensat {name}"), utimensat(CWD, &path, &times, AtFlags::empty()));
        seen.done(
            format!("utimensat {name} itself"),
            utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW),
        );
        let c = std::ffi::CString::new(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())).unwrap();
        for len in [0, 10, -1] {
            // SAFETY: the path is a string of C.
            seen.done(
                format!("truncate {name} to {len}"),
                crate::observe::of_libc(unsafe { libc::truncate(c.as_ptr(), len) }),
            );
        }
    }
    let file = open(root.join("file"), OFlags::RDONLY, Mode::empty()).unwrap();
    seen.done("ftruncate", ftruncate(&file, 0));
    seen.done("fchmod", rustix::fs::fchmod(&file, Mode::RWXU));
    seen.done("fchown", rustix::fs::fchown(&file, Some(Uid::from_raw(1)), None));
    seen.done("futimens", futimens(&file, &times));
    seen.note(
        "all is as it was",
        std::fs::read(root.join("file")).unwrap() == crate::support::noise::noise(1, crate::world::FILE),
    );
}
