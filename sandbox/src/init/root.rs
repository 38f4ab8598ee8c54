//! The sandbox's root: the seed below, a throw-away layer above, and nothing of the host.

use std::ffi::CString;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{chdir, pivot_root};

use super::binds::{Sources, attach};
use super::fetcher_cache;
use super::identity::Identity;
use super::{During, Failure, devices};
use crate::channel::Channel;
use crate::error::Step;
use crate::protocol::{Note, Plan, PlanLower, PlanScratch, Reply, Request};
use crate::spec::{HOME, USER};

/// Where the pieces are put together, in the sandbox's own mount namespace: the first of these that is a
/// directory. Whatever it holds on the host is covered, and gone with the old root.
const BASES: [&str; 5] = ["/tmp", "/run", "/mnt", "/var", "/usr"];

/// Makes the root and enters it.
pub(super) fn enter(
    channel: &Channel,
    plan: &Plan,
    identity: Identity,
    mut sources: Sources,
) -> Result<Vec<Note>, Failure> {
    let mut notes = std::mem::take(&mut sources.notes);
    let base = private_base().during(Step::Base)?;
    mount_seed(channel, &plan.lower, &base.join("seed"), &sources)?;
    notes.extend(mount_overlay(&base, &plan.scratch, &sources, identity).during(Step::Overlay)?);

    // The old root stays mounted on top of the new one, out of reach of every path but ".", until /proc
    // is there: the kernel lets a process without privileges mount one only beside another.
    chdir(base.join("root")).and_then(|()| pivot_root(".", ".")).during(Step::Root)?;
    mount_proc().during(Step::Proc)?;
    devices::make(&sources)?;
    sources.attach_binds()?;
    unmount(".", UnmountFlags::DETACH).and_then(|()| chdir("/")).during(Step::Root)?;

    own_nix(identity).during_with(Step::Files, "/nix")?;
    own_files(plan, identity)?;
    Ok(notes)
}

fn private_base() -> io::Result<PathBuf> {
    let base = BASES.into_iter().map(Path::new).find(|path| path.is_dir()).ok_or(io::ErrorKind::NotFound)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount(c"tmpfs", base, c"tmpfs", flags, c"mode=0755,size=64k")?;
    for name in ["seed", "scratch", "root"] {
        fs::create_dir(base.join(name))?;
    }
    Ok(base.to_owned())
}

fn mount_seed(channel: &Channel, plan: &PlanLower, target: &Path, sources: &Sources) -> Result<(), Failure> {
    let (source, far_ahead) = match (plan, &sources.lower) {
        (PlanLower::Seed { source, far_ahead }, _) => (source, *far_ahead),
        (PlanLower::Directory(_), Some(tree)) => return attach(tree.as_fd(), target).during(Step::Seed),
        (PlanLower::Directory(_), None) => {
            return Err(io::Error::from_raw_os_error(libc::EBADF)).during(Step::Seed);
        }
    };
    let device = seed_fuse::mount::mount_fd(target, source).during(Step::Seed)?;
    channel.send(&Reply::Seed, &[device.as_fd()]).during(Step::Seed)?;
    match channel.receive::<Request>().during(Step::Seed)? {
        Some((Request::SeedServed, _)) => {
            if far_ahead {
                // A matter of speed, which an ordinary user must do without.
                seed_fuse::mount::raise_read_ahead(target);
            }
            Ok(())
        }
        _ => Err(io::Error::from_raw_os_error(libc::EPIPE)).during(Step::Seed),
    }
}

/// Puts the throw-away layer over the seed: on the disk where it can be, in memory otherwise.
fn mount_overlay(
    base: &Path,
    scratch: &PlanScratch,
    sources: &Sources,
    identity: Identity,
) -> io::Result<Option<Note>> {
    let layer = base.join("scratch");
    if let Some(directory) = &sources.scratch {
        attach(directory.as_fd(), &layer)?;
        match overlay(base, identity) {
            Ok(()) => return Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                unmount(&layer, UnmountFlags::DETACH)?
            }
            Err(error) => return Err(error),
        }
    }
    let options = format!("mode=0755,size={}", scratch.memory);
    let options = CString::new(options)?;
    mount(c"tmpfs", &layer, c"tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())?;
    overlay(base, identity)?;
    Ok(sources.scratch.is_some().then_some(Note::ScratchInMemory { limit: scratch.memory }))
}

fn overlay(base: &Path, identity: Identity) -> io::Result<()> {
    let layer = base.join("scratch");
    for name in ["upper", "work"] {
        match fs::create_dir(layer.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    fs::set_permissions(layer.join("upper"), Permissions::from_mode(0o755))?;
    // `volatile`: what is written is thrown away, so nothing needs to reach the disk. In a user namespace
    // only attributes of the "user." kind can be written.
    let attributes = if identity.needs_user_namespace() { ",userxattr" } else { "" };
    let base = base.display();
    let options = format!(
        "lowerdir={base}/seed,upperdir={base}/scratch/upper,workdir={base}/scratch/work,volatile,index=off,metacopy=off{attributes}"
    );
    let options = CString::new(options)?;
    let target = format!("{base}/root");
    // The source is the word that Nix's own overlay store looks for in the mount table.
    Ok(mount(c"overlay", target, c"overlay", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())?)
}

fn mount_proc() -> io::Result<()> {
    directory("/proc", 0o555)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount(c"proc", "/proc", c"proc", flags, None)?)
}

/// Gives the store's directory, and its database with all of it, to the user inside. What lies in the
/// store stays as it is: Nix adds paths and never changes one.
fn own_nix(identity: Identity) -> io::Result<()> {
    let (uid, gid) = identity.owner();
    for path in ["/nix", "/nix/store", "/nix/var", "/nix/var/nix"] {
        directory(path, 0o755)?;
        lchown(path, Some(uid), Some(gid))?;
        fs::set_permissions(path, Permissions::from_mode(0o755))?;
    }
    own_tree(Path::new("/nix/var"), uid, gid)
}

fn own_tree(directory: &Path, uid: u32, gid: u32) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        lchown(&path, Some(uid), Some(gid))?;
        if kind.is_dir() {
            fs::set_permissions(&path, Permissions::from_mode(0o755))?;
            own_tree(&path, uid, gid)?;
        } else if kind.is_file() {
            fs::set_permissions(&path, Permissions::from_mode(0o644))?;
        }
    }
    Ok(())
}

/// The files and directories that every sandbox has of its own.
fn own_files(plan: &Plan, identity: Identity) -> Result<(), Failure> {
    let (uid, gid) = identity.owner();
    for path in ["/tmp", "/var/tmp"] {
        directory(path, 0o1777).during_with(Step::Files, path)?;
        fs::set_permissions(path, Permissions::from_mode(0o1777)).during_with(Step::Files, path)?;
    }
    directory(HOME, 0o700)
        .and_then(|()| lchown(HOME, Some(uid), Some(gid)))
        .during_with(Step::Files, HOME)?;
    let git = Path::new(HOME).join(".gitconfig");
    replace(&git, GIT_CONFIG).during_with(Step::Files, git.display())?;
    if let Some(cache) = &plan.fetcher_cache {
        fetcher_cache::bring(Path::new(cache), identity).during_with(Step::Files, cache)?;
    }

    let (number, name) = USER;
    let etc = [
        (
            "passwd",
            format!(
                "root:x:0:0:root:/:/bin/sh\n\
                 {name}:x:{number}:{number}:{name}:{HOME}:/bin/sh\n\
                 nobody:x:65534:65534:nobody:/:/bin/sh\n"
            ),
        ),
        ("group", format!("root:x:0:\n{name}:x:{number}:\nnogroup:x:65534:\n")),
        ("hosts", "127.0.0.1 localhost\n::1 localhost\n".to_owned()),
        ("resolv.conf", String::new()),
    ];
    let theirs = plan.etc.iter().map(|(name, content)| (name.as_str(), content));
    for (name, content) in etc.iter().map(|(name, content)| (*name, content)).chain(theirs) {
        let path = Path::new("/etc").join(name);
        replace(&path, content).during_with(Step::Files, path.display())?;
    }
    rustix::system::sethostname(b"localhost").during_with(Step::Files, "the host name")
}

/// Git refuses to read a repository that belongs to another user. Inside there is one user, and the one
/// repository was named by whoever asked for the build.
const GIT_CONFIG: &str = "[safe]\n\tdirectory = *\n";

/// Makes `path` a directory, and each directory above it that is missing. What is there and is none, a
/// link included, is replaced: a seed must not choose where the sandbox's own files are written.
pub(super) fn directory(path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
    let path = path.as_ref();
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                directory(parent, 0o755)?;
            }
        }
        Err(error) => return Err(error),
    }
    DirBuilder::new().mode(mode).create(path)
}

/// Writes a new file in the place of whatever lies at `path`.
fn replace(path: &Path, content: &str) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        directory(parent, 0o755)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path)?,
        Ok(_) => fs::remove_file(path)?,
        Err(_) => {}
    }
    let mut file = fs::File::create_new(path)?;
    io::Write::write_all(&mut file, content.as_bytes())?;
    file.set_permissions(Permissions::from_mode(0o644))
}
