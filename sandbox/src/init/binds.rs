//! What is shown of the host: opened by path while the host's tree is still the root, and attached once
//! the seed's is, so that no link in a seed can lead a mount to another place than the one that was named.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, fstat};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::{During, Failure, devices, root, syscalls};
use crate::error::Step;
use crate::protocol::{Note, Plan, PlanBind, PlanLower};

const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;
const NO_SET_UID: u64 = libc::MOUNT_ATTR_NOSUID;
const NO_DEVICES: u64 = libc::MOUNT_ATTR_NODEV;
const NO_EXECUTION: u64 = libc::MOUNT_ATTR_NOEXEC;

/// Copies of mounts that hang nowhere yet.
#[derive(Debug)]
pub(super) struct Sources {
    /// The tree of the seed, where it lies on the host.
    pub(super) lower: Option<OwnedFd>,
    /// The scratch directory, where there is one.
    pub(super) scratch: Option<OwnedFd>,
    /// The device nodes, by name.
    devices: Vec<(&'static str, OwnedFd)>,
    /// The workspace and what else was named, each with its place inside.
    binds: Vec<(OwnedFd, std::path::PathBuf)>,
    /// What the user should know.
    pub(super) notes: Vec<Note>,
}

impl Sources {
    /// Opens all that the plan names. `mapping` is the namespace to map the workspace's owner by.
    pub(super) fn open(plan: &Plan, mapping: Option<OwnedFd>) -> Result<Self, Failure> {
        let open = |path: &OsStr, attributes| {
            copy_mount(Path::new(path), attributes, None).during_with(Step::Sources, path.display())
        };
        let lower = match &plan.lower {
            PlanLower::Seed { .. } => None,
            PlanLower::Directory(path) => Some(open(path, READ_ONLY | NO_SET_UID | NO_DEVICES)?),
        };
        let scratch =
            plan.scratch.directory.as_ref().map(|path| open(path, NO_SET_UID | NO_DEVICES)).transpose()?;
        let devices = devices::NODES
            .iter()
            .map(|name| Ok((*name, open(OsStr::new(&format!("/dev/{name}")), NO_SET_UID | NO_EXECUTION)?)))
            .collect::<Result<_, Failure>>()?;

        let mut notes = Vec::new();
        let mut binds = Vec::new();
        for bind in &plan.binds {
            binds.push((open(&bind.source, attributes(bind))?, bind.target.clone().into()));
        }
        if let Some(workspace) = &plan.workspace {
            let (tree, note) =
                open_workspace(workspace, mapping).during_with(Step::Sources, workspace.source.display())?;
            binds.push((tree, workspace.target.clone().into()));
            notes.extend(note);
        }
        Ok(Self { lower, scratch, devices, binds, notes })
    }

    /// Attaches the device nodes in `/dev`, and the rest in its places.
    pub(super) fn attach_devices(&self) -> Result<(), Failure> {
        for (name, node) in &self.devices {
            let target = format!("/dev/{name}");
            fs::write(&target, "")
                .and_then(|()| attach(node.as_fd(), &target))
                .during_with(Step::Devices, target)?;
        }
        Ok(())
    }

    /// Attaches the workspace and what else was named. Outer places come before inner ones.
    pub(super) fn attach_binds(mut self) -> Result<(), Failure> {
        self.binds.sort_by(|(_, a), (_, b)| a.cmp(b));
        for (tree, target) in &self.binds {
            place(tree.as_fd(), target)
                .and_then(|()| attach(tree.as_fd(), target))
                .during_with(Step::Binds, target.display())?;
        }
        Ok(())
    }
}

fn attributes(bind: &PlanBind) -> u64 {
    let write = if bind.writable { 0 } else { READ_ONLY };
    write | NO_SET_UID | NO_DEVICES
}

/// Opens the workspace, its owner mapped where that is asked for and possible.
///
/// A writable workspace of root that cannot be mapped is an error, since nobody inside could write to it.
fn open_workspace(workspace: &PlanBind, mapping: Option<OwnedFd>) -> io::Result<(OwnedFd, Option<Note>)> {
    let source = Path::new(&workspace.source);
    let attributes = attributes(workspace);
    let Some(mapping) = mapping else {
        return Ok((copy_mount(source, attributes, None)?, None));
    };
    match copy_mount(source, attributes, Some(mapping.as_fd())) {
        Ok(tree) => Ok((tree, None)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && !workspace.writable => {
            Ok((copy_mount(source, attributes, None)?, Some(Note::WorkspaceNotMapped)))
        }
        Err(error) => Err(error),
    }
}

/// A copy of the mounts at and below `path`, with more restrictive attributes.
fn copy_mount(path: &Path, attributes: u64, mapping: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, path, flags)?;
    syscalls::set_mount_attributes(tree.as_fd(), attributes, mapping)?;
    Ok(tree)
}

/// Attaches a copy at `target`, whose last component is not followed if it is a link.
pub(super) fn attach(tree: BorrowedFd<'_>, target: impl AsRef<Path>) -> io::Result<()> {
    Ok(move_mount(tree, "", CWD, target.as_ref(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Makes an empty directory or file for a copy to be attached at.
fn place(tree: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    if FileType::from_raw_mode(fstat(tree)?.st_mode) == FileType::Directory {
        return root::directory(target, 0o755);
    }
    if let Some(parent) = target.parent() {
        root::directory(parent, 0o755)?;
    }
    match rustix::fs::statat(CWD, target, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile => Ok(()),
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::write(target, ""),
    }
}
