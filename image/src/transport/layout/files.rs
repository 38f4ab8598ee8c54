//! The files of a layout: opened without following links, written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use serde::Deserialize;

use crate::transport::TransportError;
use crate::transport::error::LayoutProblem;

/// What `oci-layout` must begin to say: `imageLayoutVersion` 1.x.
const MARKER: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const MAX_MARKER: usize = 4096;
/// How the names of directories with unfinished files begin.
const UNFINISHED: &str = ".seed-unfinished-";

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TransportError {
    let path = path.to_owned();
    move |source| TransportError::File { action, path, source }
}

/// Opens a regular file and says how many bytes it has; `None` if there is nothing of that name.
///
/// A link is refused: a layout that was copied from elsewhere must not name files outside it.
pub(super) fn open_regular(path: &Path) -> Result<Option<(File, u64)>, TransportError> {
    let not_regular =
        || TransportError::NotALayout { path: path.to_owned(), problem: LayoutProblem::NotRegular };
    // Without O_NONBLOCK, opening a named pipe would wait for its writer.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let flags = i32::try_from(flags.bits()).expect("open flags are a C int");
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(not_regular());
        }
        Err(error) => return Err(file_error("open", path)(error)),
    };
    let metadata = file.metadata().map_err(file_error("inspect", path))?;
    if !metadata.is_file() {
        return Err(not_regular());
    }
    Ok(Some((file, metadata.len())))
}

/// The whole of a small file; `None` if there is nothing of that name. More than `limit` bytes are not read:
/// the parser then finds the text too long.
pub(super) fn read_small(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, TransportError> {
    let Some((file, _)) = open_regular(path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(file_error("read", path))?;
    Ok(Some(bytes))
}

/// Checks that `oci-layout` says version 1.x.
pub(super) fn check_marker(directory: &Path) -> Result<(), TransportError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Marker {
        image_layout_version: String,
    }
    let path = directory.join("oci-layout");
    let problem = |path: &Path, problem| TransportError::NotALayout { path: path.to_owned(), problem };
    let Some(bytes) = read_small(&path, MAX_MARKER)? else {
        let missing = if directory.exists() { LayoutProblem::NoMarker } else { LayoutProblem::Missing };
        return Err(problem(directory, missing));
    };
    match seed_format::json::from_slice::<Marker>(&bytes, MAX_MARKER) {
        Ok(marker) if marker.image_layout_version.starts_with("1.") => Ok(()),
        _ => Err(problem(&path, LayoutProblem::Version)),
    }
}

/// Makes an empty layout where there is none, and refuses a directory that is something else. Gives a place
/// for what is being written to it, and takes away what dead writers have left.
pub(super) fn create(directory: &Path) -> Result<Workshop, TransportError> {
    let blobs = directory.join("blobs").join("sha256");
    fs::create_dir_all(directory).map_err(file_error("make", directory))?;
    let _lock = lock(directory)?;
    sweep(directory)?;
    let workshop = Workshop::new(directory)?;
    if !directory.join("oci-layout").exists() {
        let mut entries = fs::read_dir(directory).map_err(file_error("read", directory))?;
        if entries.any(|entry| entry.is_ok_and(|entry| !is_unfinished(&entry.path()))) {
            let problem = LayoutProblem::NoMarker;
            return Err(TransportError::NotALayout { path: directory.to_owned(), problem });
        }
        // The marker comes last: what has it is complete.
        fs::create_dir_all(&blobs).map_err(file_error("make", &blobs))?;
        super::index::write_empty(directory, &workshop)?;
        replace(directory, &workshop, "oci-layout", MARKER)?;
    }
    check_marker(directory)?;
    fs::create_dir_all(&blobs).map_err(file_error("make", &blobs))?;
    Ok(workshop)
}

/// Holds a directory until it is dropped: the layout for one writer of `index.json`, or a [`Workshop`].
pub(super) fn lock(directory: &Path) -> Result<OwnedFd, TransportError> {
    let file = File::open(directory).map_err(file_error("open", directory))?;
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(file_error("lock", directory)(error.into())),
            Ok(()) => return Ok(file.into()),
        }
    }
}

/// A directory in the layout for what one writer has not finished.
///
/// The writer holds a lock on it, which ends with its process, however that ends: so one that can be locked is
/// a dead writer's, and goes. It is made and swept under the layout's lock, since it has no lock of its own yet
/// when it is made.
#[derive(Debug)]
pub(super) struct Workshop {
    path: PathBuf,
    _lock: OwnedFd,
}

impl Workshop {
    /// The caller holds the layout's lock.
    fn new(directory: &Path) -> Result<Self, TransportError> {
        let name = format!("{UNFINISHED}{}-{:016x}", std::process::id(), fastrand::u64(..));
        let path = directory.join(name);
        fs::create_dir(&path).map_err(file_error("make", &path))?;
        Ok(Self { _lock: lock(&path)?, path })
    }

    /// A fresh name for a file that is being written.
    pub(super) fn name(&self) -> PathBuf {
        self.path.join(format!("{:016x}", fastrand::u64(..)))
    }

    /// Removes it with all that is in it: nothing can be written to the layout from then on.
    pub(super) fn clear(&self) {
        // What cannot be removed now is, as a dead writer's.
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Replaces a file of the layout by another, so that readers see the old one or the new one.
pub(super) fn replace(
    directory: &Path,
    workshop: &Workshop,
    name: &str,
    bytes: &[u8],
) -> Result<(), TransportError> {
    let unfinished = Unfinished::new(workshop);
    let path = unfinished.path();
    let mut file = create_new(path)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(file_error("write", path))?;
    publish(path, &directory.join(name))
}

/// Makes a new file, readable by all.
pub(super) fn create_new(path: &Path) -> Result<File, TransportError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o644).open(path).map_err(file_error("make", path))
}

/// Gives a complete file its name, and waits until the name is on disk.
pub(super) fn publish(unfinished: &Path, path: &Path) -> Result<(), TransportError> {
    fs::rename(unfinished, path).map_err(file_error("rename", unfinished))?;
    let directory = path.parent().expect("every file of a layout is in a directory");
    File::open(directory).and_then(|file| file.sync_all()).map_err(file_error("write", directory))
}

fn is_unfinished(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes()))
}

/// A file that is removed when it is dropped, unless it was published before.
pub(super) struct Unfinished(PathBuf);

impl Unfinished {
    pub(super) fn new(workshop: &Workshop) -> Self {
        Self(workshop.name())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Gone already if it was published.
        let _ = fs::remove_file(&self.0);
    }
}

/// Removes what dead writers left behind. The caller holds the layout's lock.
fn sweep(directory: &Path) -> Result<(), TransportError> {
    let entries = fs::read_dir(directory).map_err(file_error("read", directory))?;
    for path in
        entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).filter(|path| is_unfinished(path))
    {
        let flags = OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(left) = rustix::fs::open(&path, flags, rustix::fs::Mode::empty()) else { continue };
        if flock(&left, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Somebody else's, perhaps: then it stays, and does no harm.
            let _ = fs::remove_dir_all(&path);
        }
    }
    Ok(())
}
