//! What is mounted: a directory with a state file and a socket for each mount that has a process of its own.
//!
//! A state file is written before its mount is made and removed after it is gone. So whatever is killed when,
//! each mount of ours has a state file, and [`sweep`] can take away those whose server is dead. A mount is
//! known as ours by its source in the mount table, which is the state's id; it touches no other.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use seed_format::Digest;
use seed_format::json;
use seed_image::whole_file;
use serde::{Deserialize, Serialize};

use super::device::{self, MountLine, mount_table, unmount_lazily};
use super::{MountError, SeedFs, Shown, telling};
use crate::stats::Stats;

/// Largest state or status that is read, in bytes.
const MAX_JSON: usize = 64 << 10;
/// How long a server may take to end after its mount is gone.
const END_WITHIN: Duration = Duration::from_secs(10);
/// How long a new server may take to go on with a mount.
const REPLACED_WITHIN: Duration = Duration::from_secs(20);
/// How often it is looked whether it does.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How long a server may take to answer for its status.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What is known of one mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountState {
    /// Name of the state, and the mount's source in the mount table.
    pub id: String,
    /// The seed's digest.
    pub digest: Digest,
    /// Where the seed was found.
    pub reference: String,
    /// Where it is mounted.
    pub directory: PathBuf,
    /// What of the image is mounted.
    pub subtree: String,
    /// Where changes go, if it is writable.
    pub writable: Option<PathBuf>,
    /// Which tree it shows, and why: what is asked for, until it is mounted.
    #[serde(flatten)]
    pub shown: Shown,
    /// The keeper's process, which lives as long as the mount: SIGTERM ends both.
    pub pid: i32,
    /// When that started, in clock ticks after boot: tells it from a later one of that number.
    pub start_time: u64,
    /// The process that serves the mount now.
    #[serde(default)]
    pub server: i32,
    /// How many have before it.
    #[serde(default)]
    pub takeovers: u32,
    /// Whether a service manager holds the mount when the keeper dies, and starts a new one for it.
    #[serde(default)]
    pub managed: bool,
    /// Whether another server can go on with the mount when this one dies: from Linux 6.9 on.
    #[serde(default)]
    pub outlives_server: bool,
    /// The mount namespace, by its inode number.
    pub namespace: u64,
    /// The server's log.
    pub log: PathBuf,
    /// Where metrics are offered, besides the runtime directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
}

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The mount.
    pub state: MountState,
    /// Its counters.
    pub stats: Stats,
    /// Resident memory of the server, in bytes.
    pub resident: u64,
}

/// What [`sweep`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Swept {
    /// Mounts of dead servers that were taken away.
    pub unmounted: Vec<PathBuf>,
    /// State files of dead servers that were removed.
    pub states: usize,
}

/// `/run/nix-seed` for root; `$XDG_RUNTIME_DIR/nix-seed`, or one in the temporary directory, for others.
pub fn runtime_directory() -> PathBuf {
    let user = rustix::process::geteuid();
    if user.is_root() && rustix::process::getuid().is_root() && is_initial_user_namespace() {
        return PathBuf::from("/run/nix-seed");
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty()) {
        Some(directory) => PathBuf::from(directory).join("nix-seed"),
        None => std::env::temp_dir().join(format!("nix-seed-{}", user.as_raw())),
    }
}

/// Root of another user namespace cannot write to `/run`, nor set trusted attributes.
pub(super) fn is_initial_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().collect::<Vec<_>>() == ["0", "0", "4294967295"]
}

/// Makes the runtime directory, for its owner only, and refuses one of somebody else.
pub(super) fn prepare(runtime: &Path) -> Result<(), MountError> {
    let failed = |source| MountError::Runtime { path: runtime.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(runtime).map_err(failed)?;
    let owner = fs::symlink_metadata(runtime).map_err(failed)?;
    if owner.uid() != rustix::process::geteuid().as_raw() || !owner.is_dir() {
        return Err(failed(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to somebody else")));
    }
    Ok(())
}

/// The mounts whose state is in `runtime`, whether their servers live or not.
pub fn mounts(runtime: &Path) -> Result<Vec<MountState>, MountError> {
    let entries = match fs::read_dir(runtime) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(MountError::Runtime { path: runtime.to_owned(), source }),
    };
    let mut states: Vec<_> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|file| file.extension().is_some_and(|extension| extension == "json"))
        .filter_map(|file| read_state(&file))
        .collect();
    states.sort_by(|a, b| a.directory.cmp(&b.directory).then_with(|| a.id.cmp(&b.id)));
    Ok(states)
}

/// Takes away the mounts whose keepers were killed, and their states. Called at the start of each command.
/// Those that a service manager holds are left to it, and to [`unmount`].
pub fn sweep(runtime: &Path) -> Result<Swept, MountError> {
    sweep_those(runtime, |state| !state.managed)
}

/// Takes away what dead keepers have left at this directory, whoever holds it.
pub(super) fn sweep_at(runtime: &Path, directory: &Path) -> Result<Swept, MountError> {
    sweep_those(runtime, |state| state.directory == directory)
}

fn sweep_those(runtime: &Path, which: impl Fn(&MountState) -> bool) -> Result<Swept, MountError> {
    let mut swept = Swept::default();
    for state in mounts(runtime)? {
        if is_alive(&state) || !which(&state) {
            continue;
        }
        if take_away(runtime, &state)? {
            swept.unmounted.push(state.directory.clone());
        }
        if namespace() != Some(state.namespace) && namespace_lives(state.namespace) {
            // Its mount can only be taken away there.
            continue;
        }
        remove(runtime, &state.id);
        swept.states += 1;
    }
    Ok(swept)
}

/// Takes away what is mounted for a state, also while it is in use. Says whether there was anything.
pub(super) fn take_away(runtime: &Path, state: &MountState) -> Result<bool, MountError> {
    let mut found = false;
    for place in [state.directory.clone(), below(runtime, &state.id)] {
        for _ in ours(&place, &state.id)? {
            found = true;
            if let Err(source) = unmount_lazily(&place)
                // Somebody else was faster.
                && !ours(&place, &state.id)?.is_empty()
            {
                return Err(MountError::Unmount { directory: place, source });
            }
        }
    }
    Ok(found)
}

/// Where the seed is mounted until an overlay of it is laid.
pub(super) fn below(runtime: &Path, id: &str) -> PathBuf {
    // As the mount table writes it.
    let runtime = runtime.canonicalize().unwrap_or_else(|_| runtime.to_owned());
    runtime.join(format!("{id}.below"))
}

/// The mounts of a state at this place. Only those that can be reached there, with nothing of somebody else
/// on top.
fn ours(place: &Path, id: &str) -> Result<Vec<MountLine>, MountError> {
    let table = mount_table();
    let table =
        table.map_err(|source| MountError::Runtime { path: "/proc/thread-self/mountinfo".into(), source })?;
    let here = table.into_iter().rev().filter(|mount| mount.directory == place);
    Ok(here.take_while(|mount| mount.source == id).collect())
}

/// The live mount that shows at `directory`: of several that lie there, the topmost.
pub(super) fn shown_at(runtime: &Path, directory: &Path) -> Result<Option<MountState>, MountError> {
    for state in mounts(runtime)? {
        if state.directory == directory && is_alive(&state) && !ours(directory, &state.id)?.is_empty() {
            return Ok(Some(state));
        }
    }
    Ok(None)
}

/// Takes the mount at `directory` away and waits until its server has ended. With `lazy`, even if it is in
/// use: then the server goes on for those who use it, and this does not wait.
pub fn unmount(runtime: &Path, directory: &Path, lazy: bool) -> Result<(), MountError> {
    let wanted = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    // Nothing shows of a mount that lies below that of somebody else.
    let state = match shown_at(runtime, &wanted)? {
        Some(state) => Some(state),
        None => mounts(runtime)?.into_iter().find(|state| state.directory == wanted),
    };
    let state = state.ok_or_else(|| MountError::NotMounted(directory.to_owned()))?;
    let pid = Pid::from_raw(state.pid).filter(|_| is_alive(&state));
    let server = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    for _ in ours(&state.directory, &state.id)? {
        let taken =
            if lazy { unmount_lazily(&state.directory) } else { device::unmount_idle(&state.directory) };
        taken.map_err(|source| MountError::Unmount { directory: state.directory.clone(), source })?;
    }
    let Some(server) = server else {
        remove(runtime, &state.id);
        return Ok(());
    };
    if lazy {
        return Ok(());
    }
    let deadline = Instant::now() + END_WITHIN;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = rustix::time::Timespec::try_from(left).ok();
        let mut fds = [PollFd::new(&server, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) => return Err(MountError::ServerStays { directory: state.directory, pid: state.pid }),
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => return Ok(()),
        }
    }
}

/// Lets a new server, of the program as it lies on the disk now, go on with the mount at `directory`. Waits
/// until it does; if it cannot, the old one stays, and the log says why.
pub fn replace(runtime: &Path, directory: &Path) -> Result<(), MountError> {
    let wanted = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let state = shown_at(runtime, &wanted)?.ok_or_else(|| MountError::NotMounted(directory.to_owned()))?;
    let stays = || MountError::ServerStays { directory: state.directory.clone(), pid: state.server };
    let keeper = Pid::from_raw(state.pid).ok_or_else(stays)?;
    let deadline = Instant::now() + REPLACED_WITHIN;
    rustix::process::kill_process(keeper, rustix::process::Signal::HUP)
        .map_err(|error| MountError::Spawn(error.into()))?;
    let file = state_file(runtime, &state.id);
    // The new server says so in the state, after the old one has ended.
    while read_state(&file).is_some_and(|now| now.server == state.server) {
        if Instant::now() >= deadline {
            return Err(stays());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    read_state(&file).map(drop).ok_or_else(|| MountError::NotMounted(directory.to_owned()))
}

/// Asks the server of a mount.
pub fn status(runtime: &Path, state: &MountState) -> Result<Status, MountError> {
    let socket = runtime.join(format!("{}.sock", state.id));
    let failed = |source| MountError::Runtime { path: socket.clone(), source };
    let stream = UnixStream::connect(&socket).map_err(failed)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(failed)?;
    let mut text = Vec::new();
    stream.take(MAX_JSON as u64 + 1).read_to_end(&mut text).map_err(failed)?;
    json::from_slice(&text, MAX_JSON)
        .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))
}

/// Answers [`status`] until the process ends.
pub(super) fn answer_status(runtime: &Path, state: MountState, fs: Arc<SeedFs>) -> Result<(), MountError> {
    telling::tell(runtime, &state, &fs)?;
    let path = runtime.join(format!("{}.sock", state.id));
    let listener = UnixListener::bind(&path).map_err(|source| MountError::Runtime { path, source })?;
    let answer = move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let status = Status { state: state.clone(), stats: fs.stats(), resident: resident() };
            let sent = stream
                .set_write_timeout(Some(ANSWER_WITHIN))
                .and_then(|()| stream.write_all(&serde_json::to_vec(&status).unwrap_or_default()));
            if let Err(error) = sent {
                tracing::debug!(%error, "nobody waited for the status");
            }
        }
    };
    thread::Builder::new().name("status".into()).spawn(answer).map_err(MountError::Thread)?;
    Ok(())
}

/// Writes a state file, whole or not at all.
pub(super) fn write_state(runtime: &Path, state: &MountState) -> Result<(), MountError> {
    let path = state_file(runtime, &state.id);
    let text = serde_json::to_vec(state).unwrap_or_default();
    whole_file::write(&path, &text).map_err(|source| MountError::Runtime { path, source })
}

/// Removes the socket of a server that is no more.
pub(super) fn remove_socket(runtime: &Path, id: &str) {
    // There may be none; that another cannot be made is an error of its own.
    let _ = fs::remove_file(runtime.join(format!("{id}.sock")));
}

/// Removes all files of a mount.
pub(super) fn remove(runtime: &Path, id: &str) {
    for extension in ["sock", telling::SOCKET, "json"] {
        let file = runtime.join(format!("{id}.{extension}"));
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = %file.display(), %error, "cannot remove");
            }
            _ => {}
        }
    }
    let _ = fs::remove_file(runtime.join(format!("{id}.log")));
    let _ = fs::remove_dir(below(runtime, id));
}

fn state_file(runtime: &Path, id: &str) -> PathBuf {
    runtime.join(format!("{id}.json"))
}

fn read_state(file: &Path) -> Option<MountState> {
    let mut text = Vec::new();
    File::open(file).ok()?.take(MAX_JSON as u64 + 1).read_to_end(&mut text).ok()?;
    let state: MountState = json::from_slice(&text, MAX_JSON).ok()?;
    // The id becomes part of file names.
    (file.file_stem()?.to_str()? == state.id).then_some(state)
}

fn is_alive(state: &MountState) -> bool {
    start_time(state.pid) == Some(state.start_time)
}

/// When a process started, in clock ticks after boot; `None` if there is none, or it is a zombie.
pub(super) fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc(5): the second field is in parentheses and may hold any character; the 22nd is the start time.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let start = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(start)
}

/// The mount namespace of this process.
pub(super) fn namespace() -> Option<u64> {
    fs::metadata("/proc/thread-self/ns/mnt").ok().map(|meta| meta.ino())
}

/// Whether a process that we may look at is in this mount namespace.
fn namespace_lives(namespace: u64) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    let namespaces =
        processes.flatten().filter_map(|process| fs::metadata(process.path().join("ns/mnt")).ok());
    namespaces.into_iter().any(|meta| meta.ino() == namespace)
}

/// Resident memory of this process, in bytes.
pub(super) fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(id: &str, pid: i32, start_time: u64) -> MountState {
        MountState {
            id: id.into(),
            digest: Digest::of(b""),
            reference: "oci:/seeds".into(),
            directory: "/nonexistent/store".into(),
            subtree: "nix/store".into(),
            writable: None,
            shown: Shown::by_fuse("for a test"),
            pid,
            start_time,
            server: pid,
            takeovers: 0,
            managed: false,
            outlives_server: true,
            namespace: namespace().unwrap(),
            log: "/nonexistent/log".into(),
            metrics: None,
        }
    }

    #[test]
    fn only_the_dead_are_swept() {
        let runtime = tempfile::tempdir().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let start = start_time(own).unwrap();
        write_state(runtime.path(), &state("alive", own, start)).unwrap();
        write_state(runtime.path(), &state("other-process-of-that-number", own, start + 1)).unwrap();
        write_state(runtime.path(), &state("dead", i32::MAX, start)).unwrap();
        let managed = MountState { managed: true, ..state("managed", i32::MAX, start) };
        write_state(runtime.path(), &managed).unwrap();
        fs::write(runtime.path().join("broken.json"), b"{").unwrap();
        fs::write(runtime.path().join("other-name.json"), serde_json::to_vec(&state("x", 1, 1)).unwrap())
            .unwrap();

        let swept = sweep(runtime.path()).unwrap();
        assert_eq!((swept.states, swept.unmounted.len()), (2, 0));
        let left: Vec<_> = mounts(runtime.path()).unwrap().into_iter().map(|state| state.id).collect();
        assert_eq!(left, ["alive", "managed"]);
        assert_eq!(sweep_at(runtime.path(), Path::new("/elsewhere")).unwrap().states, 0);
        assert_eq!(sweep_at(runtime.path(), &managed.directory).unwrap().states, 1);
    }

    #[test]
    fn what_is_not_ours_is_not_unmounted() {
        let runtime = tempfile::tempdir().unwrap();
        let mut dead = state("dead", i32::MAX, 1);
        dead.directory = "/proc".into();
        write_state(runtime.path(), &dead).unwrap();
        assert_eq!(sweep(runtime.path()).unwrap().unmounted, Vec::<PathBuf>::new());
        let error = unmount(runtime.path(), Path::new("/proc"), false).unwrap_err();
        assert!(matches!(error, MountError::NotMounted(_)), "{error:?}");
    }

    #[test]
    fn another_owner_is_refused() {
        // Root's own directory is somebody else's only for an ordinary user.
        let directory = if rustix::process::geteuid().is_root() { None } else { Some("/") };
        if let Some(directory) = directory {
            assert!(prepare(Path::new(directory)).is_err());
        }
        let runtime = tempfile::tempdir().unwrap();
        let inside = runtime.path().join("nix-seed");
        prepare(&inside).unwrap();
        assert_eq!(fs::metadata(&inside).unwrap().mode() & 0o777, 0o700);
    }
}
