//! Who runs inside.
//!
//! The sandbox is *set up* by root: the machine's, or that of a user namespace where the caller is an
//! ordinary user. What runs inside it never is: it lives in a further user namespace in which there is
//! one user, [`USER`], without capabilities.
//!
//! Outside, that user is the caller. Where the caller is root it is the owner of the workspace, or
//! [`NOBODY`] if that is root too: a process that is root outside may write to most of `/proc/sys`, even
//! from a user namespace and without any capability, and `/proc` cannot be covered, since Nix could not
//! mount one for its builds then.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;

use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, Signal, WaitOptions, getgid, getuid, kill_process,
    set_dumpable_behavior, set_parent_process_death_signal, setrlimit, waitpid,
};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, Gid, Uid, capabilities,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_capabilities_secure_bits, set_keep_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

use super::{During, Failure, namespaces, syscalls};
use crate::error::Step;
use crate::protocol::Plan;
use crate::spec::USER;

/// The user and group that own nothing, by convention (the kernel's overflow number).
pub(super) const NOBODY: u32 = 65534;

/// The whole of the numbers that a namespace can map, as `/proc/self/uid_map` says it.
const EVERYONE: &str = "0 0 4294967295";

/// Who sets up the sandbox, and as whom its inside runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    /// Whether the caller is the machine's root, with the capability to mount.
    root: bool,
    /// Whether the workspace belongs to root and must be shown as [`NOBODY`]'s.
    map_workspace: bool,
    /// The inside's user, as the process that sets up the sandbox sees it.
    uid: u32,
    /// The inside's group.
    gid: u32,
}

impl Identity {
    /// Chooses by what the process may do and by whom the workspace belongs to.
    pub(super) fn choose(plan: &Plan) -> io::Result<Self> {
        let may_mount = capabilities(None)?.effective.contains(CapabilitySet::SYS_ADMIN);
        let map = fs::read_to_string("/proc/self/uid_map")?;
        let initial_namespace = map.split_ascii_whitespace().eq(EVERYONE.split_ascii_whitespace());
        if !(may_mount && initial_namespace) {
            return Ok(Self { root: false, map_workspace: false, uid: 0, gid: 0 });
        }
        let (owner, group) = match &plan.workspace {
            Some(workspace) => {
                let metadata = fs::metadata(&workspace.source)?;
                (metadata.uid(), metadata.gid())
            }
            None => (NOBODY, NOBODY),
        };
        let unless_root = |number: u32| if number == 0 { NOBODY } else { number };
        Ok(Self { root: true, map_workspace: owner == 0, uid: unless_root(owner), gid: unless_root(group) })
    }

    /// Whether a user namespace must be made before anything can be mounted.
    pub(super) fn needs_user_namespace(&self) -> bool {
        !self.root
    }

    /// The inside's user and group, as the process that sets up the sandbox sees them.
    pub(super) fn owner(&self) -> (u32, u32) {
        (self.uid, self.gid)
    }

    /// A user namespace that shows files of root as [`NOBODY`]'s, for mapping a mount by; `None` where the
    /// workspace needs no mapping. Called before the process namespace is made, since it needs `/proc`.
    pub(super) fn workspace_mapping(&self) -> io::Result<Option<OwnedFd>> {
        self.map_workspace.then(|| mapping_namespace(0, NOBODY)).transpose()
    }

    /// Becomes the unprivileged user, for good: a user namespace with that one user, no capability in any
    /// set, `no_new_privs`, no core dumps, and not to be traced by what will run inside.
    pub(super) fn assume(&self) -> Result<(), Failure> {
        if self.root {
            become_ordinary(self.uid, self.gid).during(Step::Identity)?;
        }
        syscalls::unshare(libc::CLONE_NEWUSER).during(Step::Identity)?;
        namespaces::map_single(USER.0, self.uid, USER.0, self.gid).during(Step::Identity)?;
        drop_capabilities().during(Step::Capabilities)?;
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
            .during(Step::Capabilities)?;
        set_dumpable_behavior(DumpableBehavior::NotDumpable).during(Step::Capabilities)?;
        // A change of credentials takes the death signal away.
        set_parent_process_death_signal(Some(Signal::KILL)).during(Step::Identity)
    }
}

/// Changes the numbers of the process, and keeps its capabilities for one more step: where the kernel
/// lets only privileged processes make user namespaces, this one still may.
fn become_ordinary(uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_keep_capabilities(true)?;
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    debug_assert_eq!((getuid(), getgid()), (uid, gid));
    let kept = capabilities(None)?;
    set_capabilities(None, CapabilitySets { effective: kept.permitted, ..kept })?;
    // The change made /proc/self root's; the maps are written there next.
    Ok(set_dumpable_behavior(DumpableBehavior::Dumpable)?)
}

fn drop_capabilities() -> io::Result<()> {
    set_capabilities_secure_bits(
        CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED
            | CapabilitiesSecureBits::NO_SETUID_FIXUP
            | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
            | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED,
    )?;
    clear_ambient_capability_set()?;
    for number in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // The kernel's last capability lies behind.
            Err(rustix::io::Errno::INVAL) if number > 0 => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(set_no_new_privs(true)?)
}

/// Makes a user namespace in which `from` is shown as `to`, by way of a child that lives just long
/// enough to be asked for it.
fn mapping_namespace(from: u32, to: u32) -> io::Result<OwnedFd> {
    let (here, there) = UnixStream::pair()?;
    let child = syscalls::fork(|| hold_user_namespace(&there))?;
    let asked = ask_user_namespace(&here, child, from, to);
    kill_process(child, Signal::KILL)?;
    rustix::io::retry_on_intr(|| waitpid(Some(child), WaitOptions::empty()))?;
    asked
}

fn ask_user_namespace(mut child_says: &UnixStream, child: Pid, from: u32, to: u32) -> io::Result<OwnedFd> {
    let mut errno = [0; 4];
    child_says.read_exact(&mut errno)?;
    match i32::from_le_bytes(errno) {
        0 => {}
        errno => return Err(io::Error::from_raw_os_error(errno)),
    }
    let process = format!("/proc/{}", child.as_raw_nonzero());
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("{process}/{map}"), format!("{from} {to} 1"))?;
    }
    Ok(fs::File::open(format!("{process}/ns/user"))?.into())
}

/// In the child: says how making the namespace went, then waits to be killed.
fn hold_user_namespace(mut parent: &UnixStream) -> i32 {
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    let made = syscalls::unshare(libc::CLONE_NEWUSER);
    let errno = made.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0);
    let said = parent.write_all(&errno.to_le_bytes());
    // Nothing is sent: only the kill ends this.
    said.and_then(|()| parent.read_exact(&mut [0])).map_or(1, |()| 0)
}
