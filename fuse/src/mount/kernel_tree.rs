//! The kernel tree: the kernel itself mounts the image that a seed's index begins with, over files that we
//! serve.
//!
//! A FUSE file system of [`SeedBlobs`] is mounted at no place at all, and the image over it as EROFS, with the
//! virtual blobs as its devices. Names, attributes and links then cost no request, and pages that are cached
//! are read as from a local disk. What holds the FUSE file system is the EROFS mount alone: when that is taken
//! away, both end, and with them the server.
//!
//! Linux 6.12 and later mount EROFS from files. Before that a loop device stands between.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use rustix::fs::{CWD, Mode as FileMode, OFlags, ResolveFlags, openat2};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::device::{FILE_SYSTEM, explain_device, set_read_ahead};
use super::loop_device;
use super::runtime::is_initial_user_namespace;
use super::{SeedFs, fusermount};
use seed_format::bytes::Bytes;

use crate::blobs::{Blob, Blobs};
use crate::kernel::{Negotiated, Notices, SeedBlobs, Serving, Session, layer_name};

/// The first version of Linux that mounts EROFS from files.
const MOUNTS_FILES: (Option<u32>, Option<u32>) = (Some(6), Some(12));

/// What stands between EROFS and the files that are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// Nothing: Linux 6.12 and later.
    Files,
    /// A loop device for each.
    LoopDevices,
}

impl Over {
    /// What is told of a mount.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Files => "the kernel mounts EROFS from files",
            Self::LoopDevices => "the kernel mounts EROFS from loop devices",
        }
    }
}

/// Why the kernel does not mount the tree.
#[derive(Debug, thiserror::Error)]
pub enum KernelTreeError {
    /// Who asks may not mount EROFS.
    #[error("only root of the machine mounts EROFS, in no other user namespace")]
    NotRoot,
    /// A step failed.
    #[error("{step}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl KernelTreeError {
    fn at(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Step { step, source }
    }
}

/// A tree that is mounted at no place yet. Dropping it takes it away.
#[derive(Debug)]
pub(super) struct KernelTree {
    /// The mount of the subtree.
    pub(super) mount: OwnedFd,
    pub(super) serving: Serving,
    pub(super) over: Over,
    /// For a process that may serve the files after this one.
    pub(super) connection: (OwnedFd, Negotiated),
}

/// Whether this process may mount EROFS at all.
pub(super) fn may_mount() -> Result<(), KernelTreeError> {
    if fusermount::is_needed() || !is_initial_user_namespace() {
        return Err(KernelTreeError::NotRoot);
    }
    Ok(())
}

/// Whether the kernel would show the seeds that this process mounts, and how.
///
/// Tells what is known without a mount: the kernel may still refuse one, and then FUSE shows it.
pub fn can_show_by_kernel() -> Result<&'static str, KernelTreeError> {
    may_mount()?;
    Context::new("erofs").map_err(KernelTreeError::at("EROFS cannot be mounted"))?;
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let version = (numbers.next().and_then(Result::ok), numbers.next().and_then(Result::ok));
    if version >= MOUNTS_FILES {
        return Ok(Over::Files.reason());
    }
    let control = File::open(loop_device::CONTROL);
    control.map_err(KernelTreeError::at("EROFS cannot be mounted from files, nor from loop devices"))?;
    Ok(Over::LoopDevices.reason())
}

/// Mounts `subtree` of a seed at no place. `source` is what the mount table will show as the mounted device.
pub(super) fn make(
    fs: &Arc<SeedFs>,
    subtree: &[u8],
    source: &str,
    over: Option<Over>,
) -> Result<KernelTree, KernelTreeError> {
    may_mount()?;
    let blobs =
        fs.blobs().map_err(io::Error::other).map_err(KernelTreeError::at("the index cannot be used"))?;
    let layers = blobs.layers();
    let Files { mount: files, serving, notices, connection } = serve_files(fs, blobs, source)?;
    // Its working directory shall be of this thread alone: names of files are looked up there, so that the
    // mount table shows `source` and not a path.
    let made = thread::scope(|scope| {
        let mount = || mount_image(files.as_fd(), layers, subtree, source, over);
        scope.spawn(mount).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let (mount, over) = made?;
    give_image(fs, notices).map_err(KernelTreeError::at("a thread cannot be started"))?;
    Ok(KernelTree { mount, serving, over, connection })
}

impl KernelTree {
    /// Shows the tree at `directory`.
    pub(super) fn attach(&self, directory: &Path) -> Result<(), KernelTreeError> {
        move_mount(&self.mount, "", CWD, directory, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(|error| KernelTreeError::at("cannot show the tree there")(error.into()))
    }
}

/// Most bytes of the image that the kernel is given at once.
const GIFT: usize = 1 << 20;

/// Lets the kernel have all of the image once it has arrived: by itself it asks for one page after another.
fn give_image(fs: &Arc<SeedFs>, notices: Notices) -> io::Result<()> {
    let fs = Arc::clone(fs);
    let give = move || {
        let (Ok(index), Some(size)) =
            (fs.index().whole(), fs.blobs().ok().and_then(|blobs| blobs.size(Blob::Image)))
        else {
            return;
        };
        let size = usize::try_from(size).unwrap_or_default();
        for start in (0..size).step_by(GIFT) {
            let bytes = index.bytes().get_bytes(start..size.min(start + GIFT)).unwrap_or_default();
            match notices.store(SeedBlobs::number(Blob::Image), start as u64, bytes) {
                Ok(true) => {}
                // The mount is gone.
                Ok(false) => return,
                Err(error) => return tracing::debug!(%error, "the kernel asks for the image itself"),
            }
        }
    };
    thread::Builder::new().name("image".into()).spawn(give).map(drop)
}

/// The files that EROFS is mounted from, mounted at no place, and served.
struct Files {
    mount: OwnedFd,
    serving: Serving,
    notices: Notices,
    connection: (OwnedFd, Negotiated),
}

/// Mounts the files that EROFS is mounted from, at no place, and serves them.
fn serve_files(fs: &Arc<SeedFs>, blobs: Blobs, image: &str) -> Result<Files, KernelTreeError> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(explain_device);
    let device = OwnedFd::from(device.map_err(KernelTreeError::at("cannot serve the seed's files"))?);
    let subtype = FILE_SYSTEM.trim_start_matches("fuse.");
    let fd = device.as_raw_fd().to_string();
    let strings = [
        ("source", image),
        ("subtype", subtype),
        ("fd", &fd),
        ("rootmode", "40000"),
        ("user_id", "0"),
        ("group_id", "0"),
    ];
    let context = Context::new("fuse").and_then(|context| {
        strings.iter().try_for_each(|(key, value)| context.set(key, value))?;
        ["ro", "default_permissions", "allow_other"].iter().try_for_each(|flag| context.flag(flag))?;
        Ok(context)
    });
    let files = context.and_then(Context::mount);
    let files = files.map_err(KernelTreeError::at("cannot mount the seed's files by FUSE"))?;
    let serve = || {
        let session = Session::begin(device, true)?;
        let (notices, connection) = (Notices::new(session.descriptor())?, session.connection()?);
        let service = SeedBlobs::new(blobs, image, Notices::new(session.descriptor())?)?;
        Ok((session.serve(Arc::new(service), Arc::clone(fs.counters()))?, notices, connection))
    };
    let (serving, notices, connection) =
        serve().map_err(KernelTreeError::at("cannot serve the seed's files"))?;
    set_read_ahead(files.as_fd());
    Ok(Files { mount: files, serving, notices, connection })
}

/// The files of a mount whose connection is `device`, for a process that goes on with it.
pub(super) fn files(
    fs: &Arc<SeedFs>,
    image: &str,
    device: BorrowedFd<'_>,
) -> Result<SeedBlobs, KernelTreeError> {
    let blobs =
        fs.blobs().map_err(io::Error::other).map_err(KernelTreeError::at("the index cannot be used"))?;
    let service = Notices::new(device).and_then(|notices| SeedBlobs::new(blobs, image, notices));
    service.map_err(KernelTreeError::at("cannot serve the seed's files"))
}

/// Mounts the image in `files`, at no place, and gives the mount of a directory in it. Changes the working
/// directory of the thread that calls it.
fn mount_image(
    files: BorrowedFd<'_>,
    layers: u16,
    subtree: &[u8],
    source: &str,
    over: Option<Over>,
) -> Result<(OwnedFd, Over), KernelTreeError> {
    own_working_directory().map_err(KernelTreeError::at("cannot have a working directory of one's own"))?;
    let from_files = || mount_erofs(files, layers, source).map(|image| (image, Over::Files));
    let from_loops = || {
        let loops = loop_device::over(files, source, layers)?;
        // The devices are let go of as soon as EROFS holds them: they end with it.
        mount_erofs(loops.directory(), layers, source).map(|image| (image, Over::LoopDevices))
    };
    let mounted = match over {
        Some(Over::Files) => from_files(),
        Some(Over::LoopDevices) => from_loops(),
        None => from_files().or_else(|error| match error.raw_os_error() {
            // A kernel that wants a block device.
            Some(libc::ENOTBLK | libc::EINVAL) => from_loops(),
            _ => Err(error),
        }),
    };
    let (image, over) =
        mounted.map_err(KernelTreeError::at("the kernel does not mount the image as EROFS"))?;
    let mount = if subtree.is_empty() { Ok(image) } else { only_subtree(&image, subtree) };
    let mount = mount.map_err(KernelTreeError::at("cannot show that part of the image alone"))?;
    Ok((mount, over))
}

/// Mounts the image called `source` in `directory`, which is a file or a block device.
fn mount_erofs(directory: BorrowedFd<'_>, layers: u16, source: &str) -> io::Result<OwnedFd> {
    rustix::process::fchdir(directory)?;
    let context = Context::new("erofs")?;
    context.set("source", source)?;
    context.flag("ro")?;
    for layer in 0..layers {
        context.set("device", &layer_name(layer))?;
    }
    context.mount()
}

/// A mount of a directory of a mounted image, by itself.
fn only_subtree(image: &OwnedFd, subtree: &[u8]) -> io::Result<OwnedFd> {
    let directory = open_subtree(image, subtree)?;
    match clone_tree(&directory) {
        // Before Linux 6.15 only what is attached can be cloned.
        Err(rustix::io::Errno::INVAL) => only_subtree_attached(image, subtree),
        cloned => Ok(cloned?),
    }
}

/// The same, by way of a mount namespace that ends with this thread.
fn only_subtree_attached(image: &OwnedFd, subtree: &[u8]) -> io::Result<OwnedFd> {
    own_mount_namespace()?;
    let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)?;
    move_mount(image, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(clone_tree(&open_subtree(image, subtree)?)?)
}

fn clone_tree(directory: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(directory, "", flags)
}

/// Never leads out of the image, whatever links are in it.
fn open_subtree(image: &OwnedFd, subtree: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    Ok(openat2(image, subtree, flags, FileMode::empty(), resolve)?)
}

#[allow(unsafe_code)]
fn own_working_directory() -> io::Result<()> {
    // SAFETY: only the table of descriptors is dangerous to unshare, and it stays shared.
    Ok(unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }?)
}

#[allow(unsafe_code)]
fn own_mount_namespace() -> io::Result<()> {
    // SAFETY: as above.
    Ok(unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?)
}

/// A file system that is being configured (`fsopen(2)`).
struct Context(File);

impl Context {
    fn new(kind: &str) -> io::Result<Self> {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC);
        context.map(|context| Self(context.into())).map_err(|error| match error {
            rustix::io::Errno::NODEV => {
                let said = format!("this kernel has no file system {kind} (modprobe {kind})");
                io::Error::new(io::ErrorKind::Unsupported, said)
            }
            error => error.into(),
        })
    }

    fn set(&self, key: &str, value: &str) -> io::Result<()> {
        fsconfig_set_string(&self.0, key, value).map_err(|error| self.explain(error))
    }

    fn flag(&self, key: &str) -> io::Result<()> {
        fsconfig_set_flag(&self.0, key).map_err(|error| self.explain(error))
    }

    fn mount(self) -> io::Result<OwnedFd> {
        fsconfig_create(&self.0).map_err(|error| self.explain(error))?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOATIME;
        fsmount(&self.0, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(|error| self.explain(error))
    }

    /// The error, and in the log what the file system said of it.
    fn explain(&self, error: rustix::io::Errno) -> io::Error {
        let mut message = [0; 1024];
        while let Ok(len @ 1..) = (&self.0).read(&mut message) {
            tracing::debug!(%error, message = %String::from_utf8_lossy(&message[..len]).trim(), "the kernel said");
        }
        error.into()
    }
}
