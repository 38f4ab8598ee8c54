//! Who may do what, and what is told of the file system and of attributes.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, XattrFlags, accessat, getxattr, listxattr, removexattr, setxattr};

use crate::observe::{Seen, of_libc};

const WAYS: [(&str, Access); 4] = [
    ("exists", Access::EXISTS),
    ("read", Access::READ_OK),
    ("write", Access::WRITE_OK),
    ("execute", Access::EXEC_OK),
];

fn look(root: &Path, seen: &mut Seen) {
    for name in ["file", "program", "dir", "link", "dangling", "missing", "empty"] {
        for (what, way) in WAYS {
            seen.call(format!("{what} {name}"), accessat(CWD, root.join(name), way, AtFlags::empty()));
            seen.call(
                format!("{what} {name}, effectively"),
                accessat(CWD, root.join(name), way, AtFlags::EACCESS),
            );
        }
    }
}

pub(crate) fn access(root: &Path, seen: &mut Seen) {
    look(root, seen);
}

/// As user and group 65534, in a thread of its own.
pub(crate) fn ordinary_user(root: &Path, seen: &mut Seen) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: the calls of the kernel, unlike those of libc, change this thread alone.
            unsafe {
                assert_eq!(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()), 0);
                assert_eq!(libc::syscall(libc::SYS_setresgid, 65534, 65534, 65534), 0);
                assert_eq!(libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534), 0);
            }
            look(root, seen);
            seen.note("reads", std::fs::read(root.join("other")).map_err(|error| error.raw_os_error()));
            seen.note("writes", std::fs::write(root.join("other"), "").map_err(|error| error.raw_os_error()));
            seen.note("creates", std::fs::write(root.join("new"), "").map_err(|error| error.raw_os_error()));
            seen.note("changes the mode", rustix::fs::chmod(root.join("other"), rustix::fs::Mode::RUSR));
            seen.note(
                "removes",
                std::fs::remove_file(root.join("other")).map_err(|error| error.raw_os_error()),
            );
        });
    });
}

pub(crate) fn statfs(root: &Path, seen: &mut Seen) {
    let stat = rustix::fs::statvfs(root).unwrap();
    seen.note("names and blocks", (stat.f_namemax, stat.f_bsize, stat.f_frsize));
    seen.note("flags", stat.f_flag);
    seen.note("has files and blocks", (stat.f_files > 0, stat.f_blocks > 0));
    let file = File::open(root.join("file")).unwrap();
    let of_file = rustix::fs::fstatfs(&file).unwrap();
    let of_root = rustix::fs::statfs(root).unwrap();
    seen.note("of a file the same", (of_file.f_blocks == of_root.f_blocks, of_file.f_type == of_root.f_type));
    for (what, name) in [
        ("links", libc::_PC_LINK_MAX),
        ("name", libc::_PC_NAME_MAX),
        ("path", libc::_PC_PATH_MAX),
        ("no truncation", libc::_PC_NO_TRUNC),
    ] {
        // SAFETY: a call with numbers only.
        let value = unsafe { libc::fpathconf(file.as_raw_fd(), name) };
        if name != libc::_PC_LINK_MAX {
            seen.note(format!("pathconf {what}"), value);
        }
    }
}

pub(crate) fn attributes(root: &Path, seen: &mut Seen) {
    let file = root.join("file");
    for name in [
        "user.none",
        "trusted.none",
        "security.none",
        "security.capability",
        "system.posix_acl_access",
        "none.none",
        "user.",
    ] {
        seen.call(format!("get {name}"), getxattr(&file, name, &mut [0u8; 100]));
        seen.call(format!("set {name}"), setxattr(&file, name, b"x", XattrFlags::empty()));
        seen.call(format!("remove {name}"), removexattr(&file, name));
    }
    seen.call("list", listxattr(&file, &mut [0u8; 100]));
    seen.call("list of a link", rustix::fs::llistxattr(root.join("link"), &mut [0u8; 100]));
    seen.call("list of a directory", listxattr(root.join("dir"), &mut [0u8; 100]));
    seen.call("get of nothing", getxattr(root.join("missing"), "user.none", &mut [0u8; 100]));
    let open = File::open(&file).unwrap();
    // FS_IOC_GETFLAGS and FS_IOC_SETFLAGS.
    let mut flags: libc::c_int = 0;
    // SAFETY: the number is as long as the kernel writes.
    let got = of_libc(unsafe { libc::ioctl(open.as_raw_fd(), 0x8008_6601, &raw mut flags) });
    seen.done("flags", got);
    // SAFETY: the same, read by the kernel.
    seen.call("set flags", of_libc(unsafe { libc::ioctl(open.as_raw_fd(), 0x4008_6602, &raw const flags) }));
}

/// `name_to_handle_at(2)`, which NFS servers and some overlays use.
pub(crate) fn handles(root: &Path, seen: &mut Seen) {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        data: [u8; 128],
    }
    let mut handle = Handle { bytes: 128, kind: 0, data: [0; 128] };
    let mut mount = 0;
    let path = CString::new(root.join("file").as_os_str().as_bytes()).unwrap();
    // SAFETY: the structure has as many bytes as it says, and the path is a string of C.
    let made = of_libc(unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            &raw mut handle,
            &raw mut mount,
            0,
        )
    });
    seen.done("a handle is made", made);
    let directory = File::open(root).unwrap();
    // SAFETY: the handle is the kernel's own.
    let opened = of_libc(unsafe {
        libc::syscall(libc::SYS_open_by_handle_at, directory.as_raw_fd(), &raw const handle, libc::O_RDONLY)
    });
    if let Ok(descriptor) = opened {
        // SAFETY: nobody else has it.
        unsafe { libc::close(i32::try_from(descriptor).unwrap()) };
    }
    seen.done("and opened", opened);
}
