//! `/dev/fuse` and the mount table of this process's mount namespace.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use super::fusermount;

/// File-system type of our mounts, as the mount table shows it.
pub const FILE_SYSTEM: &str = "fuse.seed-mount";

/// What is written to `read_ahead_kb` of a mount. With a latency of 10 ms, sequential reading went from
/// 25 MB/s at the kernel's 128 KiB to 600 MB/s at 8 MiB.
const READ_AHEAD_KIB: u32 = 8 << 10;

/// Opens `/dev/fuse` and mounts it at `directory`, read-only.
///
/// This is all that has to run in the mount namespace where the mount shall be; the descriptor may be
/// served from elsewhere by [`serve`](super::serve). Until then whoever touches the mount waits. It needs to
/// be root, or root of a user namespace that owns the mount namespace. `source` is what the mount table
/// shows as the mounted device; it must have no comma.
pub fn mount_fd(directory: &Path, source: &str) -> io::Result<OwnedFd> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(explain_device)?;
    let device = OwnedFd::from(device);
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let fd = device.as_raw_fd();
    let data =
        format!("fd={fd},rootmode=40000,user_id={user},group_id={group},default_permissions,allow_other");
    let data = CString::new(data).map_err(io::Error::other)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    rustix::mount::mount(source, directory, FILE_SYSTEM, flags, Some(data.as_c_str()))?;
    Ok(device)
}

/// What to do where the device cannot be opened.
pub(super) fn explain_device(error: io::Error) -> io::Error {
    let next = match error.kind() {
        io::ErrorKind::NotFound => "modprobe fuse; in a container: --device /dev/fuse",
        io::ErrorKind::PermissionDenied => "as root: chmod 666 /dev/fuse",
        _ => return error,
    };
    io::Error::new(error.kind(), format!("cannot open /dev/fuse: {error} ({next})"))
}

/// Takes one mount at `directory` away at once, even if it is in use: whoever has files of it open keeps
/// them, nobody opens new ones.
pub fn unmount_lazily(directory: &Path) -> io::Result<()> {
    if fusermount::is_needed() {
        return fusermount::unmount(directory, true);
    }
    Ok(rustix::mount::unmount(directory, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?)
}

/// Takes one mount at `directory` away, unless it is in use (`EBUSY`).
pub(super) fn unmount_idle(directory: &Path) -> io::Result<()> {
    if fusermount::is_needed() {
        return fusermount::unmount(directory, false);
    }
    Ok(rustix::mount::unmount(directory, UnmountFlags::NOFOLLOW)?)
}

/// Lets the kernel read far ahead in files of the mount at `directory`. To be called once the mount is
/// served, from a process that sees it. Says whether that was permitted: it is a matter of speed only.
pub fn raise_read_ahead(directory: &Path) -> bool {
    let Ok(mounts) = mount_table() else { return false };
    let Some(mount) = mounts.iter().rev().find(|mount| mount.directory == directory) else { return false };
    write_read_ahead(&mount.device)
}

/// The same for a mount that may be at no place: any file of it.
pub(super) fn set_read_ahead(mount: BorrowedFd<'_>) -> bool {
    let Ok(stat) = rustix::fs::fstat(mount) else { return false };
    let device = stat.st_dev;
    write_read_ahead(&format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device)))
}

fn write_read_ahead(device: &str) -> bool {
    let file = format!("/sys/class/bdi/{device}/read_ahead_kb");
    match fs::write(&file, READ_AHEAD_KIB.to_string()) {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(file, %error, "read-ahead stays as it is");
            false
        }
    }
}

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MountLine {
    /// `MAJOR:MINOR`.
    pub(super) device: String,
    pub(super) directory: PathBuf,
    pub(super) kind: String,
    pub(super) source: OsString,
}

/// The mounts of this process's mount namespace; of several at one place, the topmost comes last.
pub(super) fn mount_table() -> io::Result<Vec<MountLine>> {
    let table = fs::read("/proc/thread-self/mountinfo")?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(parse_line).collect())
}

/// `ID PARENT MAJOR:MINOR ROOT DIRECTORY OPTIONS [FIELD…] - TYPE SOURCE SUPEROPTIONS` (proc(5)).
fn parse_line(line: &[u8]) -> Option<MountLine> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    let directory = PathBuf::from(unescape(fields.nth(1)?));
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = String::from_utf8(rest.next()?.to_vec()).ok()?;
    Some(MountLine { device, directory, kind, source: unescape(rest.next()?) })
}

/// The table writes space, tab, newline and backslash as `\` and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let escaped = after.get(..3).filter(|_| *byte == b'\\');
        let code = escaped.and_then(|digits| u8::from_str_radix(OsStr::from_bytes(digits).to_str()?, 8).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &after[3..];
            }
            None => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_lines() {
        let line =
            b"36 35 98:0 /mnt1 /mnt\\040two/\\134 rw,noatime master:1 shared:2 - fuse.seed-mount seed:1 ro";
        let parsed = parse_line(line).unwrap();
        assert_eq!(parsed.device, "98:0");
        assert_eq!(parsed.directory, Path::new("/mnt two/\\"));
        assert_eq!((parsed.kind.as_str(), parsed.source.as_os_str()), (FILE_SYSTEM, OsStr::new("seed:1")));
        for malformed in [&b""[..], b"1 2 3", b"36 35 98:0 /mnt1 /mnt2 rw - ext4", b"\xff \xff \xff \xff"] {
            assert_eq!(parse_line(malformed), None);
        }
        assert_eq!(unescape(b"a\\04"), OsStr::new("a\\04"));
    }

    #[test]
    fn the_table_has_a_root() {
        assert!(mount_table().unwrap().iter().any(|mount| mount.directory == Path::new("/")));
    }
}
