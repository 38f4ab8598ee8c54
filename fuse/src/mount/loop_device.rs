//! Loop devices over files that are served, for kernels that mount EROFS from block devices only.
//!
//! `loop(4)`; the structures are those of `linux/loop.h`.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, openat, symlinkat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::kernel::layer_name;

/// Gives free devices.
pub(super) const CONTROL: &str = "/dev/loop-control";

const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LO_FLAGS_READ_ONLY: u32 = 1;
/// The device lets go of its file when nobody has it open any more.
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const BLOCK: u32 = 4096;
/// Free devices that others may take before us.
const ATTEMPTS: usize = 64;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo>() == 232 && size_of::<LoopConfig>() == 304);

/// A loop device. It ends when it is dropped, unless something else has opened it.
#[derive(Debug)]
struct LoopDevice {
    _device: File,
    path: PathBuf,
}

/// Loop devices by the names of the files that they are over.
#[derive(Debug)]
pub(super) struct Loops {
    directory: OwnedFd,
    _devices: Vec<LoopDevice>,
}

impl Loops {
    /// A directory, of no mounted file system, with a link to each.
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Loop devices over the image and the layers in `files`.
pub(super) fn over(files: BorrowedFd<'_>, image: &str, layers: u16) -> io::Result<Loops> {
    let directory = links()?;
    let names = std::iter::once(image.to_owned()).chain((0..layers).map(layer_name));
    let devices = names.map(|name| {
        let file = openat(files, &name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let device = LoopDevice::over(&file)?;
        symlinkat(&device.path, &directory, &name)?;
        Ok(device)
    });
    let devices = devices.collect::<io::Result<_>>()?;
    Ok(Loops { directory, _devices: devices })
}

/// A directory that nobody else sees.
fn links() -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

impl LoopDevice {
    fn over(file: &OwnedFd) -> io::Result<Self> {
        let control = OpenOptions::new().read(true).write(true).open(CONTROL)?;
        let mut taken = None;
        for _ in 0..ATTEMPTS {
            // SAFETY: this request has no argument and gives a number.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            if number < 0 {
                return Err(io::Error::last_os_error());
            }
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = OpenOptions::new().read(true).open(&path)?;
            match configure(&device, file) {
                Ok(()) => return Ok(Self { _device: device, path }),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => taken = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(taken.unwrap_or_else(|| io::ErrorKind::ResourceBusy.into()))
    }
}

fn configure(device: &File, file: &OwnedFd) -> io::Result<()> {
    let info = LoopInfo {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    let fd = u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?;
    let config = LoopConfig { fd, block_size: BLOCK, info, reserved: [0; 8] };
    // SAFETY: the kernel reads as many bytes as the structure has.
    match unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
