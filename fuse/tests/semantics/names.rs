//! Names, attributes, listings, links.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, StatxFlags, open, openat, openat2, readlinkat,
    stat as stat_of, statat, statx,
};

use crate::observe::Seen;
use crate::world::MANY;

/// All that is in the tree and not one of many alike.
fn all(root: &Path) -> Vec<std::path::PathBuf> {
    let mut found = vec![root.to_owned()];
    let mut next = 0;
    while let Some(directory) = found.get(next).cloned() {
        next += 1;
        if std::fs::symlink_metadata(&directory).unwrap().is_dir() && !directory.ends_with("many") {
            found.extend(std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found
}

pub(crate) fn stat(root: &Path, seen: &mut Seen) {
    for path in all(root) {
        let what = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        let stat = statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        seen.note(
            format!("lstat {what}"),
            (
                stat.st_mode,
                stat.st_nlink,
                stat.st_uid,
                stat.st_gid,
                stat.st_rdev,
                stat.st_mtime,
                stat.st_mtime_nsec,
                stat.st_blksize,
            ),
        );
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            seen.note(format!("size {what}"), stat.st_size);
        }
        // As many as hold the bytes, if there are any.
        let held = u64::try_from(stat.st_blocks).unwrap() * 512 + 4096 > u64::try_from(stat.st_size).unwrap();
        seen.note(
            format!("blocks {what}"),
            held || FileType::from_raw_mode(stat.st_mode) == FileType::Symlink,
        );
        let more = statx(CWD, &path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS).unwrap();
        assert_eq!((more.stx_ino, u32::from(more.stx_mode)), (stat.st_ino, stat.st_mode));
        let size = more.stx_size == u64::try_from(stat.st_size).unwrap();
        seen.note(format!("statx {what}"), (size, more.stx_nlink, more.stx_mtime.tv_sec));
        if what == "file" {
            seen.note("statx knows", more.stx_mask & StatxFlags::BASIC_STATS.bits());
        }
    }
    // An inode has the same number by every name and every time.
    let number = |name: &str| stat_of(root.join(name)).unwrap().st_ino;
    seen.note(
        "one inode",
        (
            number("link") == number("file"),
            number("dir/..") == stat_of(root).unwrap().st_ino,
            number("Case") == number("case"),
        ),
    );
    let file = open(root.join("file"), OFlags::RDONLY, Mode::empty()).unwrap();
    seen.note("fstat", rustix::fs::fstat(&file).unwrap().st_ino == number("file"));
    seen.note(
        "one device",
        stat_of(root).unwrap().st_dev == stat_of(root.join("dir/below/deep")).unwrap().st_dev,
    );
}

fn listed(directory: &Path) -> BTreeMap<Vec<u8>, (u64, FileType)> {
    let directory = open(directory, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let mut found = BTreeMap::new();
    for entry in Dir::read_from(&directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_bytes().to_vec();
        assert!(found.insert(name, (entry.ino(), entry.file_type())).is_none(), "a name comes twice");
    }
    found
}

pub(crate) fn readdir(root: &Path, seen: &mut Seen) {
    for name in ["", "dir", "dir/below", "empty-dir"] {
        let entries = listed(&root.join(name));
        let shown: Vec<_> = entries
            .iter()
            .map(|(name, (_, kind))| (String::from_utf8_lossy(name).into_owned(), format!("{kind:?}")))
            .collect();
        seen.note(format!("entries of {name}"), shown);
        let path = |entry: &[u8]| root.join(name).join(std::ffi::OsStr::from_bytes(entry));
        let numbers = entries.iter().filter(|(entry, _)| **entry != b"..").all(|(entry, (ino, _))| {
            statat(CWD, path(entry), AtFlags::SYMLINK_NOFOLLOW).unwrap().st_ino == *ino
        });
        seen.note(format!("numbers of {name}"), numbers);
    }
    let many = listed(&root.join("many"));
    seen.note("many", (many.len(), (0..MANY).all(|number| many.contains_key(number.to_string().as_bytes()))));
    let file = open(root.join("file"), OFlags::RDONLY, Mode::empty()).unwrap();
    seen.done("readdir of a file", Dir::read_from(&file).and_then(|mut dir| dir.read().unwrap()));
    let mut small = [0u8; 8];
    let directory = open(root.join("dir"), OFlags::RDONLY, Mode::empty()).unwrap();
    // SAFETY: the buffer has as many bytes as are said.
    let result = unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            std::os::fd::AsRawFd::as_raw_fd(&directory),
            small.as_mut_ptr(),
            small.len(),
        )
    };
    seen.done("a buffer that holds no entry", crate::observe::of_libc(result));
}

/// An open directory of libc.
struct Stream(*mut libc::DIR);

impl Stream {
    fn open(path: &Path) -> Self {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the path is a string of C.
        let stream = unsafe { libc::opendir(path.as_ptr()) };
        assert!(!stream.is_null());
        Self(stream)
    }

    fn next(&self) -> Option<String> {
        // SAFETY: the stream is open, and the entry is copied before the next call.
        unsafe {
            let entry = libc::readdir64(self.0);
            (!entry.is_null())
                .then(|| CStr::from_ptr((*entry).d_name.as_ptr()).to_string_lossy().into_owned())
        }
    }

    fn tell(&self) -> libc::c_long {
        // SAFETY: the stream is open.
        unsafe { libc::telldir(self.0) }
    }

    fn seek(&self, place: libc::c_long) {
        // SAFETY: the stream is open, and the place was told by it.
        unsafe { libc::seekdir(self.0, place) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: it is not used any more.
        unsafe { libc::closedir(self.0) };
    }
}

pub(crate) fn seekdir(root: &Path, seen: &mut Seen) {
    let stream = Stream::open(&root.join("many"));
    let mut places = Vec::new();
    loop {
        let place = stream.tell();
        match stream.next() {
            Some(name) => places.push((place, name)),
            None => break,
        }
    }
    seen.note("all are told", places.len());
    let mut right = true;
    for step in 0..500 {
        let (place, name) = &places[step * 7919 % places.len()];
        stream.seek(*place);
        right &= stream.next().as_ref() == Some(name);
    }
    seen.note("every place is found again", right);
    // In a stream of its own, and after the first was closed.
    let (place, name) = places[1234].clone();
    drop(stream);
    let again = Stream::open(&root.join("many"));
    again.seek(place);
    seen.note("in another stream", again.next() == Some(name));
    let mut rest = 1;
    while again.next().is_some() {
        rest += 1;
    }
    seen.note("and what follows", rest == places.len() - 1234);
    again.seek(places[0].0);
    seen.note("rewound", again.next() == Some(places[0].1.clone()));
    let directory = open(root.join("dir"), OFlags::RDONLY, Mode::empty()).unwrap();
    seen.call(
        "lseek of a directory to its beginning",
        rustix::fs::seek(&directory, rustix::fs::SeekFrom::Start(0)),
    );
}

pub(crate) fn paths(root: &Path, seen: &mut Seen) {
    let look = |name: &str| stat_of(root.join(name)).map(|stat| stat.st_size);
    for name in [
        "file",
        "missing",
        "file/",
        "file/x",
        "file/.",
        "file/..",
        "dir/../file",
        "dir/./inner",
        "dir//inner",
        "./file",
        "dangling",
        "loop-1",
        "loop-1/x",
        "link",
        "up",
        "dir-link/inner",
        "dir-link/../file",
        "missing/x",
        "empty",
        "CASE",
        "Case",
        "case",
        "FILE",
        " ",
        "-",
        "new\nline",
        "ünïcödé",
        "long",
    ] {
        seen.call(format!("stat {name}"), look(name));
    }
    let long = "n".repeat(256);
    for (what, name) in [
        ("255", "n".repeat(255)),
        ("256", long.clone()),
        ("256 below a file", format!("file/{long}")),
        ("4095", "./".repeat(2047)),
        ("4096", "./".repeat(2100)),
    ] {
        // Relative to the directory, so that its own length does not count.
        let directory = open(root, OFlags::PATH, Mode::empty()).unwrap();
        seen.done(format!("a name of {what}"), statat(&directory, name.as_str(), AtFlags::empty()));
    }
    let directory = open(root, OFlags::PATH, Mode::empty()).unwrap();
    seen.done("the empty name", statat(&directory, "", AtFlags::empty()));
    for (what, name, flags) in [
        ("a directory", "dir", OFlags::RDONLY),
        ("a directory to write", "dir", OFlags::WRONLY),
        ("a directory to write, O_DIRECTORY", "dir", OFlags::WRONLY | OFlags::DIRECTORY),
        ("a file as a directory", "file", OFlags::RDONLY | OFlags::DIRECTORY),
        ("a link as itself", "link", OFlags::RDONLY | OFlags::NOFOLLOW),
        ("a link as a path", "link", OFlags::PATH | OFlags::NOFOLLOW),
        ("a link to a directory as a directory", "dir-link", OFlags::DIRECTORY),
        ("a link to a directory, not followed", "dir-link", OFlags::DIRECTORY | OFlags::NOFOLLOW),
        ("a loop", "loop-1", OFlags::RDONLY),
        ("nothing", "missing", OFlags::RDONLY),
        ("without access time", "file", OFlags::RDONLY | OFlags::NOATIME),
        ("without blocking", "file", OFlags::RDONLY | OFlags::NONBLOCK),
        ("synchronously", "file", OFlags::RDONLY | OFlags::SYNC),
    ] {
        seen.done(format!("open {what}"), openat(&directory, name, flags, Mode::empty()));
    }
    for (what, name, resolve) in [
        ("below", "dir/inner", ResolveFlags::BENEATH),
        ("above", "../", ResolveFlags::BENEATH),
        ("without links", "dir-link/inner", ResolveFlags::NO_SYMLINKS),
        ("in the root", "../dir/inner", ResolveFlags::IN_ROOT),
    ] {
        seen.done(
            format!("openat2 {what}"),
            openat2(&directory, name, OFlags::RDONLY, Mode::empty(), resolve),
        );
    }
    let file = open(root.join("file"), OFlags::PATH, Mode::empty()).unwrap();
    let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    seen.done("open again by descriptor", open(again, OFlags::RDONLY, Mode::empty()));
}

pub(crate) fn links(root: &Path, seen: &mut Seen) {
    for name in ["link", "dir-link", "dangling", "loop-1", "long", "up", "file", "dir", "missing", "link/"] {
        let target = readlinkat(CWD, root.join(name), Vec::new());
        seen.call(
            format!("readlink {name}"),
            target.map(|target| (target.as_bytes().len(), target.to_string_lossy().into_owned())),
        );
    }
    let mut three = [0u8; 3];
    let path = CString::new(root.join("link").as_os_str().as_bytes()).unwrap();
    // SAFETY: the buffer has as many bytes as are said.
    let result = unsafe { libc::readlink(path.as_ptr(), three.as_mut_ptr().cast(), three.len()) };
    seen.call("a buffer that is too short", crate::observe::of_libc(result));
    seen.note("what it holds", three);
}
