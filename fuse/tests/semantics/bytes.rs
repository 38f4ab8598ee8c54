//! Bytes of files, by every way that leads to them.

use std::ffi::c_void;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::ptr;

use rustix::fs::{Advice, MemfdFlags, memfd_create};
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap as map, msync, munmap};

use crate::observe::{Seen, of_libc};
use crate::support::noise::noise;
use crate::world::{BIG, FILE};

pub(crate) fn reading(root: &Path, seen: &mut Seen) {
    let file = File::open(root.join("big")).unwrap();
    let whole = noise(2, BIG);
    for (what, offset, len) in [
        ("the beginning", 0, 4096),
        ("across a page", 4000, 200),
        ("the end", BIG - 10, 10),
        ("across the end", BIG - 10, 100),
        ("behind the end", BIG, 10),
        ("far behind the end", BIG * 1000, 10),
        ("nothing", 5, 0),
    ] {
        let mut bytes = vec![0; len];
        let got = file.read_at(&mut bytes, offset as u64).unwrap();
        let right = offset >= BIG || bytes[..got] == whole[offset..][..got];
        seen.note(format!("pread {what}"), (got, right));
    }
    let mut all = Vec::new();
    (&file).read_to_end(&mut all).unwrap();
    seen.note("read to the end", all == whole);
    seen.note("and again at it", (&file).read(&mut [0; 10]).unwrap());
    for (what, to) in [
        ("end", SeekFrom::End(0)),
        ("before the end", SeekFrom::End(-5)),
        ("behind the end", SeekFrom::Start(1 << 40)),
    ] {
        seen.note(format!("seek {what}"), (&file).seek(to).unwrap());
    }
    seen.note(
        "seek before the beginning",
        (&file).seek(SeekFrom::End(-(1 << 40))).unwrap_err().raw_os_error(),
    );
    seen.call("pread before the beginning", {
        let mut byte = [0u8];
        // SAFETY: the buffer has as many bytes as are said.
        of_libc(unsafe { libc::pread(file.as_raw_fd(), byte.as_mut_ptr().cast(), 1, -1) })
    });
    seen.call("read a directory", {
        let directory = File::open(root.join("dir")).unwrap();
        rustix::io::read(&directory, &mut [0u8; 10]).map(|_| ())
    });
    seen.note("an empty file", std::fs::read(root.join("empty")).unwrap());
    let (mut first, mut second) = ([0; 100], [0; 5000]);
    let mut parts = [std::io::IoSliceMut::new(&mut first), std::io::IoSliceMut::new(&mut second)];
    let got = rustix::io::preadv(&file, &mut parts, 4090).unwrap();
    seen.note("preadv", (got, [&first[..], &second].concat() == whole[4090..][..5100]));
    seen.call("write to it", rustix::io::write(&file, b"x"));
    seen.call("fsync", rustix::fs::fsync(&file));
    seen.call("fdatasync", rustix::fs::fdatasync(&file));
    seen.call("fallocate", rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 10));
    seen.call("syncfs", rustix::fs::syncfs(&file));
}

/// A mapping that ends.
struct Mapping(*mut c_void, usize);

impl Mapping {
    fn new(file: &File, len: usize, protection: ProtFlags, flags: MapFlags) -> rustix::io::Result<Self> {
        // SAFETY: a place of the kernel's choice, and a file that nobody writes to.
        unsafe { map(ptr::null_mut(), len, protection, flags, file, 0) }.map(|at| Self(at, len))
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: it is mapped as long as this lives, readable, and of a file with as many pages.
        unsafe { std::slice::from_raw_parts(self.0.cast(), self.1) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nobody has a reference to its bytes any more.
        unsafe { munmap(self.0, self.1) }.unwrap();
    }
}

pub(crate) fn mmap(root: &Path, seen: &mut Seen) {
    let file = File::open(root.join("file")).unwrap();
    let whole = noise(1, FILE);
    let pages = FILE.next_multiple_of(4096);
    for (what, flags) in [("shared", MapFlags::SHARED), ("private", MapFlags::PRIVATE)] {
        let mapping = Mapping::new(&file, pages, ProtFlags::READ, flags).unwrap();
        seen.note(format!("{what}: the bytes"), mapping.bytes()[..FILE] == whole);
        seen.note(
            format!("{what}: zeros behind the end"),
            mapping.bytes()[FILE..].iter().all(|byte| *byte == 0),
        );
    }
    seen.done(
        "shared, to write",
        Mapping::new(&file, pages, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED),
    );
    seen.done("to execute", Mapping::new(&file, pages, ProtFlags::READ | ProtFlags::EXEC, MapFlags::PRIVATE));
    let own = Mapping::new(&file, pages, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE).unwrap();
    // SAFETY: it is mapped to be written to, and nobody reads it meanwhile.
    unsafe { own.0.cast::<u8>().write(!whole[0]) };
    seen.note("a private write is seen there", own.bytes()[0] == !whole[0]);
    seen.note("and nowhere else", std::fs::read(root.join("file")).unwrap() == whole);
    // SAFETY: as above.
    seen.call("msync", unsafe { msync(own.0, pages, MsyncFlags::SYNC) });
    seen.done(
        "a directory",
        Mapping::new(&File::open(root.join("dir")).unwrap(), 4096, ProtFlags::READ, MapFlags::PRIVATE),
    );
    // A page behind the end: the signal ends a process of its own.
    let path = root.join("empty");
    let script = "import mmap,os,sys,ctypes\nf=os.open(sys.argv[1],os.O_RDONLY)\nlibc=ctypes.CDLL(None,use_errno=True)\nlibc.mmap.restype=ctypes.c_void_p\np=libc.mmap(None,4096,1,2,f,0)\nctypes.c_char.from_address(p).value";
    let status = Command::new("python3").args(["-c", script]).arg(&path).status().unwrap();
    seen.note("behind the end", std::os::unix::process::ExitStatusExt::signal(&status));
    let mut old = File::open(root.join("file")).unwrap();
    let mapping = Mapping::new(&old, pages, ProtFlags::READ, MapFlags::SHARED).unwrap();
    let mut read = Vec::new();
    old.read_to_end(&mut read).unwrap();
    seen.note("read and mapped are one", mapping.bytes()[..FILE] == read);
}

pub(crate) fn sendfile(root: &Path, seen: &mut Seen) {
    let whole = noise(2, BIG);
    let file = File::open(root.join("big")).unwrap();
    let sink = || File::from(memfd_create("sink", MemfdFlags::empty()).unwrap());
    let holds = |mut sink: File, expected: &[u8]| {
        let mut bytes = Vec::new();
        sink.seek(SeekFrom::Start(0)).unwrap();
        sink.read_to_end(&mut bytes).unwrap();
        bytes == expected
    };
    let to = sink();
    let mut offset = 5;
    while rustix::fs::sendfile(&to, &file, Some(&mut offset), 1 << 20).unwrap() > 0 {}
    seen.note("sendfile", (offset, holds(to, &whole[5..])));
    let to = sink();
    let mut at = 7;
    let copied = rustix::fs::copy_file_range(&file, Some(&mut at), &to, None, 100_000);
    seen.call("copy_file_range to another file system", copied);
    let mut copied = sink();
    seen.note("std's copy", std::io::copy(&mut File::open(root.join("big")).unwrap(), &mut copied).unwrap());
    seen.note("and its bytes", holds(copied, &whole));
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let mut offset = 4090;
    let moved = rustix::pipe::splice(
        &file,
        Some(&mut offset),
        &writer,
        None,
        10_000,
        rustix::pipe::SpliceFlags::empty(),
    )
    .unwrap();
    let mut bytes = vec![0; moved];
    File::from(reader).read_exact(&mut bytes).unwrap();
    seen.note("splice", (moved > 0, offset == 4090 + moved as u64, bytes == whole[4090..][..moved]));
}

/// Bytes that begin at a page.
#[repr(align(4096))]
struct Aligned([u8; 8192]);

pub(crate) fn direct(root: &Path, seen: &mut Seen) {
    let whole = noise(2, BIG);
    let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(root.join("big"));
    seen.note("open", file.as_ref().err().map(std::io::Error::raw_os_error));
    let file = file.or_else(|_| File::open(root.join("big"))).unwrap();
    let mut buffer = Box::new(Aligned([0; 8192]));
    for (what, offset, start, len) in [
        ("aligned", 4096, 0, 8192),
        ("across the end", BIG.next_multiple_of(4096) - 4096, 0, 4096),
        ("behind the end", BIG.next_multiple_of(4096), 0, 4096),
        ("at any offset", 4097, 0, 4096),
        ("of any length", 4096, 0, 100),
        ("into any memory", 4096, 1, 4096),
    ] {
        let got = file.read_at(&mut buffer.0[start..start + len], offset as u64);
        let right = got
            .as_ref()
            .is_ok_and(|got| offset >= BIG || buffer.0[start..][..*got] == whole[offset..][..*got]);
        seen.note(what, (got.map_err(|error| error.raw_os_error()), right));
    }
}

pub(crate) fn holes(root: &Path, seen: &mut Seen) {
    let file = File::open(root.join("file")).unwrap();
    for (what, whence, offset) in [
        ("data from 0", libc::SEEK_DATA, 0),
        ("data from within", libc::SEEK_DATA, 5000),
        ("data from the end", libc::SEEK_DATA, FILE),
        ("data from behind", libc::SEEK_DATA, FILE + 1),
        ("a hole from 0", libc::SEEK_HOLE, 0),
        ("a hole from within", libc::SEEK_HOLE, 5000),
        ("a hole from the last byte", libc::SEEK_HOLE, FILE - 1),
        ("a hole from the end", libc::SEEK_HOLE, FILE),
        ("a hole from behind", libc::SEEK_HOLE, FILE + 1),
    ] {
        // SAFETY: a call with numbers only.
        seen.call(
            what,
            of_libc(unsafe { libc::lseek(file.as_raw_fd(), i64::try_from(offset).unwrap(), whence) }),
        );
    }
    let empty = File::open(root.join("empty")).unwrap();
    for (what, whence) in
        [("data of an empty file", libc::SEEK_DATA), ("a hole of an empty file", libc::SEEK_HOLE)]
    {
        // SAFETY: a call with numbers only.
        seen.call(what, of_libc(unsafe { libc::lseek(empty.as_raw_fd(), 0, whence) }));
    }
}

pub(crate) fn advice(root: &Path, seen: &mut Seen) {
    let file = File::open(root.join("big")).unwrap();
    for advice in [
        Advice::Normal,
        Advice::Sequential,
        Advice::Random,
        Advice::WillNeed,
        Advice::DontNeed,
        Advice::NoReuse,
    ] {
        seen.call(
            format!("fadvise {advice:?}"),
            rustix::fs::fadvise(&file, 0, NonZeroU64::new(1 << 20), advice),
        );
        let mut bytes = [0; 5000];
        file.read_exact_at(&mut bytes, 777).unwrap();
        seen.note(format!("and read after {advice:?}"), bytes == noise(2, BIG)[777..][..5000]);
    }
    // SAFETY: a call with numbers only.
    seen.call("readahead", of_libc(unsafe { libc::readahead(file.as_fd().as_raw_fd(), 0, 1 << 20) }));
}

pub(crate) fn exec(root: &Path, seen: &mut Seen) {
    let run = |name: &str| {
        let output = Command::new(root.join(name)).output();
        output
            .map(|output| (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
            .map_err(|error| error.raw_os_error())
    };
    for name in ["program", "script", "file", "dir", "missing", "empty"] {
        seen.note(name, run(name));
    }
    let again: Vec<_> = (0..3).map(|_| run("program")).collect();
    seen.note("again", again);
    // A program that runs is busy only for who would write to it; nobody can here.
    seen.note(
        "write to a program",
        File::options().write(true).open(root.join("program")).unwrap_err().raw_os_error(),
    );
}
