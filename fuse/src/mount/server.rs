//! The threads that answer the kernel.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seed_format::Chain;

use super::device::{self, mount_fd, raise_read_ahead, unmount_lazily};
use super::kernel_tree::{self, KernelTreeError, Over};
use super::runtime::MountState;
use super::{Mode, MountError, SeedFs, Shown, fusermount};
use crate::kernel::{Negotiated, SeedTree, Service, Serving, Session};

/// A mount that is being served. It ends when the mount is gone.
#[derive(Debug)]
pub struct Server {
    serving: Serving,
    fs: Arc<SeedFs>,
}

/// Serves `subtree` of a seed on a descriptor of [`mount_fd`], which may come from another mount namespace.
///
/// When this returns, the mount answers.
pub fn serve(fs: Arc<SeedFs>, subtree: &[u8], device: OwnedFd) -> Result<Server, MountError> {
    // Nothing is known of the process namespace that the mount was made in.
    let session = Session::begin(device, false).map_err(MountError::Handshake)?;
    start(fs, subtree, session)
}

/// A server that could begin to answer at any time, on a connection that another serves until now.
#[derive(Debug)]
pub(super) struct Prepared {
    fs: Arc<SeedFs>,
    session: Session,
    service: Arc<dyn Service>,
}

/// Prepares to go on with a mount.
pub(super) fn prepare(
    fs: &Arc<SeedFs>,
    state: &MountState,
    device: OwnedFd,
    negotiated: Negotiated,
) -> Result<Prepared, MountError> {
    let session = Session::resume(device, negotiated);
    let service: Arc<dyn Service> = if state.shown.is_by_kernel() {
        let blobs = kernel_tree::files(fs, &state.id, session.descriptor());
        Arc::new(blobs.map_err(|error| MountError::Session(std::io::Error::other(error)))?)
    } else {
        Arc::new(SeedTree::new(fs.tree(state.subtree.as_bytes())?))
    };
    Ok(Prepared { fs: Arc::clone(fs), session, service })
}

fn start(fs: Arc<SeedFs>, subtree: &[u8], session: Session) -> Result<Server, MountError> {
    let service = Arc::new(SeedTree::new(fs.tree(subtree)?));
    let serving = session.serve(service, Arc::clone(fs.counters())).map_err(MountError::Thread)?;
    Ok(Server { serving, fs })
}

impl Server {
    /// The seed that is served.
    pub fn fs(&self) -> &Arc<SeedFs> {
        &self.fs
    }

    /// Whether the mount is gone.
    pub fn is_finished(&self) -> bool {
        self.serving.is_finished()
    }

    /// Waits until the mount is gone.
    pub fn wait(self) -> Result<(), MountError> {
        self.serving.wait().map_err(MountError::Session)
    }
}

/// A mount of this process. Dropping it takes the mount away.
#[derive(Debug)]
pub struct Mounted {
    directory: PathBuf,
    server: Option<Server>,
    shown: Shown,
    /// The connection and what was agreed on it, for a process that may serve the mount after this one.
    connection: Option<(OwnedFd, Negotiated)>,
}

/// Mounts `subtree` of a seed at `directory` and serves it from this process. Who may not mount does so by
/// `fusermount3`, and only the user sees it.
pub fn mount(fs: Arc<SeedFs>, directory: &Path, subtree: &[u8], mode: Mode) -> Result<Mounted, MountError> {
    let source = format!("seed:{}", fs.digest().hex());
    mount_as(fs, directory, subtree, mode, &source, false)
}

/// Mounts with this source in the mount table. `others` is for the mounts of ordinary users: who may mount
/// shows them to all.
pub(super) fn mount_as(
    fs: Arc<SeedFs>,
    directory: &Path,
    subtree: &[u8],
    mode: Mode,
    source: &str,
    others: bool,
) -> Result<Mounted, MountError> {
    let failed = |source| MountError::Directory { directory: directory.to_owned(), source };
    let directory = directory.canonicalize().map_err(failed)?;
    // A subtree that is not there is an error before anything is mounted.
    fs.tree(subtree)?;
    let kernel = |over| mount_by_kernel(&fs, &directory, subtree, source, over);
    let why_not = match mode {
        Mode::Kernel => return Ok(kernel(None)?),
        Mode::KernelLoop => return Ok(kernel(Some(Over::LoopDevices))?),
        Mode::Fuse => "it was asked for".to_owned(),
        Mode::Auto => match kernel(None) {
            Ok(mounted) => return Ok(mounted),
            Err(error) => {
                let why_not = Chain(&error).to_string();
                tracing::info!(why_not, "the kernel does not mount the seed by itself: FUSE does");
                why_not
            }
        },
    };
    mount_by_fuse(fs, directory, subtree, source, others, Shown::by_fuse(why_not))
}

fn mount_by_kernel(
    fs: &Arc<SeedFs>,
    directory: &Path,
    subtree: &[u8],
    source: &str,
    over: Option<Over>,
) -> Result<Mounted, KernelTreeError> {
    let tree = kernel_tree::make(fs, subtree, source, over)?;
    tree.attach(directory)?;
    let shown = Shown::by_kernel(tree.over.reason());
    let server = Server { serving: tree.serving, fs: Arc::clone(fs) };
    let connection = Some(tree.connection);
    Ok(Mounted { directory: directory.to_owned(), server: Some(server), shown, connection })
}

fn mount_by_fuse(
    fs: Arc<SeedFs>,
    directory: PathBuf,
    subtree: &[u8],
    source: &str,
    others: bool,
    shown: Shown,
) -> Result<Mounted, MountError> {
    let device = if fusermount::is_needed() {
        fusermount::mount(&directory, source, others)
    } else {
        mount_fd(&directory, source)
    };
    let device = device.map_err(|source| MountError::Directory { directory: directory.clone(), source })?;
    let served = Session::begin(device, true).map_err(MountError::Handshake).and_then(|session| {
        let connection = session.connection().map_err(MountError::Handshake)?;
        Ok((start(fs, subtree, session)?, connection))
    });
    match served {
        Ok((server, connection)) => {
            raise_read_ahead(&directory);
            Ok(Mounted { directory, server: Some(server), shown, connection: Some(connection) })
        }
        Err(error) => {
            let _ = unmount_lazily(&directory);
            Err(error)
        }
    }
}

impl Mounted {
    /// Serves a mount that another process has made, and served until now.
    pub(super) fn go_on(prepared: Prepared, state: &MountState) -> Result<Self, MountError> {
        let Prepared { fs, session, service } = prepared;
        let serving = session.serve(service, Arc::clone(fs.counters())).map_err(MountError::Thread)?;
        Ok(Self {
            directory: state.directory.clone(),
            server: Some(Server { serving, fs }),
            shown: state.shown.clone(),
            connection: None,
        })
    }

    /// Gives the connection to who keeps it, which is to be done once.
    pub(super) fn hand_over<T>(
        &mut self,
        give: impl FnOnce(BorrowedFd<'_>, Negotiated) -> io::Result<T>,
    ) -> io::Result<T> {
        let (device, negotiated) = self.connection.take().ok_or(io::ErrorKind::NotFound)?;
        give(device.as_fd(), negotiated)
    }

    /// Where the mount is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// How it is shown, and why so.
    pub fn shown(&self) -> &Shown {
        &self.shown
    }

    /// Leaves the seed in an overlay at `overlay` alone, which keeps it: it shows at its own place no more.
    pub(super) fn only_below(mut self, overlay: &Path) -> Result<Self, MountError> {
        let failed = |source| MountError::Unmount { directory: self.directory.clone(), source };
        unmount_lazily(&self.directory).map_err(failed)?;
        overlay.clone_into(&mut self.directory);
        Ok(self)
    }

    /// The seed that is mounted.
    pub fn fs(&self) -> Option<&Arc<SeedFs>> {
        self.server.as_ref().map(Server::fs)
    }

    /// Waits until somebody takes the mount away.
    pub fn wait(mut self) -> Result<(), MountError> {
        self.server.take().map_or(Ok(()), Server::wait)
    }

    /// Takes the mount away, unless it is in use, and waits for its server.
    pub fn unmount(mut self) -> Result<(), MountError> {
        let failed = |source| MountError::Unmount { directory: self.directory.clone(), source };
        device::unmount_idle(&self.directory).map_err(failed)?;
        self.server.take().map_or(Ok(()), Server::wait)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // After `wait` and `unmount` there is neither a server nor a mount of ours.
        let gone = self.server.as_ref().is_none_or(Server::is_finished);
        if !gone && let Err(error) = unmount_lazily(&self.directory) {
            tracing::warn!(directory = %self.directory.display(), %error, "cannot unmount");
        }
    }
}
