//! Mounts that outlive their servers: killed, replaced, without their registry. Needs root, and Linux 6.9.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
#![allow(clippy::print_stdout, reason = "pauses are told, not judged: other work shares the processors")]

mod support;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use rustix::process::Signal;
use seed_fuse::mount::MountState;
use support::program::{NAME, World, alive, is_mounted, send, state_files, wait_until};
use support::{in_private_namespace, noise, pack};

/// Threads that read all the time.
const READERS: u64 = 3;
const FILES: u64 = 40;
/// A store path that nobody reads before the end.
const LATE: &str = "11111111111111111111111111111111-late";
/// What is in each file that the readers leave alone.
const FRESH: u64 = 10;

/// How often the server is killed: more often by `./soak`.
fn kills() -> u32 {
    std::env::var("SEED_TAKEOVER_KILLS").map_or(6, |kills| kills.parse().unwrap())
}

/// A seed of files whose bytes follow from their number: 9 MB in chunks of 64 KiB.
fn world() -> World {
    let mut world = World::new();
    let store = world.path("many");
    let directory = store.join(NAME);
    fs::create_dir_all(directory.join("files")).unwrap();
    for number in 0..FILES {
        fs::write(directory.join("files").join(number.to_string()), contents(number)).unwrap();
        std::os::unix::fs::symlink(format!("files/{number}"), directory.join(format!("link-{number}")))
            .unwrap();
    }
    for number in 0..kills() {
        fs::write(directory.join(format!("fresh-{number}")), contents(FRESH)).unwrap();
    }
    // In a layer of its own, which the kernel does not read ahead of need.
    fs::create_dir(store.join(LATE)).unwrap();
    fs::write(store.join(LATE).join("file"), contents(FRESH)).unwrap();
    world.seed = pack(
        &store,
        &[vec![NAME.to_owned()], vec![LATE.to_owned()]],
        &[],
        &world.path("many-layout"),
        64 << 10,
    );
    world
}

/// A file that nobody has read.
fn fresh(mnt: &Path, number: u32) -> PathBuf {
    mnt.join(NAME).join(format!("fresh-{number}"))
}

fn contents(number: u64) -> Vec<u8> {
    noise::noise(number, usize::try_from(1 + number * 11_000).unwrap())
}

/// Reads a file's bytes from the server, not from the kernel's memory.
fn read_anew(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads all the time until `test` has ended; each file and each listing must be as it was packed. Gives the
/// number of files that were read.
fn under_load<T>(mnt: &Path, test: impl FnOnce() -> T) -> (T, u64) {
    let (ended, files) = (AtomicBool::new(false), AtomicU64::new(0));
    let reader = |seed: u64| {
        let mut random = fastrand::Rng::with_seed(seed);
        while !ended.load(Ordering::Relaxed) {
            let number = random.u64(0..FILES);
            let link = mnt.join(NAME).join(format!("link-{number}"));
            let bytes = read_anew(&link).unwrap_or_else(|error| panic!("file {number}: {error}"));
            assert!(bytes == contents(number), "file {number} is not what was packed");
            let listed = fs::read_dir(mnt.join(NAME).join("files")).unwrap();
            assert_eq!(listed.map(Result::unwrap).count() as u64, FILES);
            files.fetch_add(1, Ordering::Relaxed);
        }
    };
    let result = thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|seed| scope.spawn(move || reader(seed))).collect();
        let result = catch_unwind(AssertUnwindSafe(test));
        ended.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        result.unwrap_or_else(|panic| resume_unwind(panic))
    });
    (result, files.into_inner())
}

/// The state of the one mount, as it is now.
fn state() -> MountState {
    let states = seed_fuse::mount::mounts(Path::new("/run/nix-seed")).unwrap();
    assert_eq!(states.len(), 1);
    states.into_iter().next().unwrap()
}

/// Kills the server, and waits until another serves.
fn kill_server() {
    let before = state();
    send(before.server, Signal::KILL);
    wait_until("a new server", || {
        let now = state();
        now.server != before.server && alive(now.server)
    });
}

#[test]
fn no_read_by_fuse_fails_while_servers_are_killed() {
    no_read_fails_while_servers_are_killed("fuse");
}

#[test]
fn no_read_by_the_kernel_fails_while_servers_are_killed() {
    no_read_fails_while_servers_are_killed("kernel");
}

fn no_read_fails_while_servers_are_killed(mode: &'static str) {
    in_private_namespace(move || {
        let world = world();
        let mnt = world.path("mnt");
        let ready = world.mount("mnt", &["--mode", mode]);
        assert!(ready.state.outlives_server);
        let ((), files) = under_load(&mnt, || {
            let mut random = fastrand::Rng::with_seed(7);
            let mut pauses = Vec::new();
            for kill in 0..kills() {
                // Any moment will do: one between two takeovers, for a server that dies at once cannot serve.
                thread::sleep(Duration::from_millis(random.u64(500..900)));
                let since = Instant::now();
                kill_server();
                assert_eq!(fs::read(fresh(&mnt, kill)).unwrap(), contents(FRESH));
                pauses.push(since.elapsed());
            }
            pauses.sort();
            println!("{mode}: pauses of {} takeovers: {pauses:?}", pauses.len());
        });
        assert!(files > u64::from(kills()), "the readers read");
        assert_eq!(fs::read(mnt.join(LATE).join("file")).unwrap(), contents(FRESH));
        let status = &world.statuses()[0];
        println!("{mode}: {files} files, {} reads of the last server", status.stats.fuse_reads);
        assert!(status.stats.fuse_reads > 0);
        assert_eq!((status.state.pid, status.state.takeovers), (ready.state.pid, kills()));
        world.unmount("mnt");
        assert!(!alive(ready.state.pid) && !is_mounted(&mnt));
        assert_eq!(state_files(), 0, "nothing is left");
    });
}

#[test]
fn a_writable_mount_outlives_its_server() {
    in_private_namespace(|| {
        let world = world();
        world.mount("mnt", &["--rw", "rw"]);
        let file = world.path("mnt").join(NAME).join("files/9");
        kill_server();
        assert_eq!(fs::read(&file).unwrap(), contents(9));
        fs::write(&file, "changed").unwrap();
        kill_server();
        assert_eq!(fs::read(&file).unwrap(), b"changed");
        send(state().pid, Signal::TERM);
        wait_until("the end", || state_files() == 0);
        assert!(!is_mounted(&world.path("mnt")));
    });
}

/// What a takeover needs is with the keeper: not the registry, not even a cache.
#[test]
fn names_outlive_server_and_registry() {
    in_private_namespace(|| {
        let world = world();
        world.mount("mnt", &[]);
        let directory = world.path("mnt").join(NAME);
        assert_eq!(read_anew(&directory.join("files/20")).unwrap(), contents(20));
        wait_until("the keeper's index", || holds_index(state().pid));
        for blob in fs::read_dir(world.seed.layout.join("blobs/sha256")).unwrap() {
            fs::remove_file(blob.unwrap().path()).unwrap();
        }
        for kept in ["cache/index", "cache/documents"] {
            // Of a layout, neither is kept.
            let _ = fs::remove_dir_all(world.path(kept));
        }
        for _ in 0..2 {
            kill_server();
            // The names of nothing are in the kernel's memory, of this directory's.
            assert!(!directory.join(format!("no-{}", state().server)).exists());
            assert_eq!(fs::read_dir(directory.join("files")).unwrap().count() as u64, FILES);
            assert_eq!(read_anew(&directory.join("files/20")).unwrap(), contents(20), "from the cache");
        }
        world.unmount("mnt");
    });
}

fn holds_index(keeper: i32) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{keeper}/fd")).unwrap().flatten();
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.into_iter().any(|target| target.to_string_lossy().contains("seed-index"))
}

#[test]
fn the_program_is_replaced_under_load() {
    in_private_namespace(|| {
        let mut world = world();
        let program = world.path("seed-mount");
        fs::copy(env!("CARGO_BIN_EXE_seed-mount"), &program).unwrap();
        world.program.clone_from(&program);
        let ready = world.mount("mnt", &[]);
        let runs = |pid: i32| fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino();
        let old = runs(ready.state.server);
        let ((), files) = under_load(&world.path("mnt"), || {
            // Another that cannot serve changes nothing.
            install(&program, Path::new("/bin/false"));
            send(ready.state.pid, Signal::HUP);
            let log = || fs::read_to_string(&ready.state.log).unwrap();
            wait_until("its failure", || {
                log().contains("the server stays: the new one ended with exit status: 1")
            });
            assert_eq!(state().server, ready.state.server);
            // Nor is it what goes on after the server's death.
            kill_server();
            assert_eq!(runs(state().server), old);

            install(&program, Path::new(env!("CARGO_BIN_EXE_seed-mount")));
            let before = state();
            let replaced = world.run(&["--replace", "mnt"]);
            assert!(replaced.status.success(), "{}", String::from_utf8_lossy(&replaced.stderr));
            let after = state();
            assert!(!alive(before.server) && after.server != before.server && after.takeovers == 2);
            assert_ne!(runs(after.server), old);
        });
        assert!(files > 0);
        kill_server();
        assert_ne!(runs(state().server), old, "what has proved good is used again");
        world.unmount("mnt");
        assert_eq!(state_files(), 0);
    });
}

/// As package managers do it: whole, by a rename.
fn install(program: &Path, new: &Path) {
    let unfinished = program.with_extension("new");
    fs::copy(new, &unfinished).unwrap();
    fs::rename(unfinished, program).unwrap();
}

#[test]
fn servers_that_die_at_once_end_the_mount() {
    in_private_namespace(|| {
        let world = world();
        let ready = world.mount("mnt", &[]);
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut killed = 0;
        while alive(ready.state.pid) {
            assert!(Instant::now() < deadline, "the keeper goes on after {killed} deaths");
            let server = children(ready.state.pid).into_iter().find(|pid| alive(*pid));
            if let Some(server) = server {
                send_if_alive(server);
                wait_until("its death", || !alive(server));
                killed += 1;
            }
        }
        assert!(killed >= 5, "{killed}");
        let error = read_anew(&world.path("mnt").join(NAME).join("files/3")).unwrap_err();
        // From the kernel tree it is EIO.
        let errors = [Some(libc::ENOTCONN), Some(libc::ECONNABORTED), Some(libc::EIO)];
        assert!(errors.contains(&error.raw_os_error()), "it fails closed: {error}");
        let log = fs::read_to_string(&ready.state.log).unwrap();
        assert!(log.contains("the mount ends"), "{log}");
        assert_eq!(world.statuses(), Vec::new());
        assert!(!is_mounted(&world.path("mnt")), "the next command has cleaned up");
        assert_eq!(state_files(), 0);
    });
}

fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn send_if_alive(pid: i32) {
    // It may just have died of its keeper's end.
    let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::KILL);
}

#[test]
fn keeper_and_server_killed_together() {
    in_private_namespace(|| {
        let world = world();
        let MountState { pid, server, .. } = world.mount("mnt", &[]).state;
        assert_ne!(pid, server);
        send_if_alive(pid);
        send_if_alive(server);
        wait_until("both deaths", || !alive(pid) && !alive(server));
        assert!(read_anew(&world.path("mnt").join(NAME).join("files/3")).is_err());
        assert_eq!(world.statuses(), Vec::new());
        assert!(!is_mounted(&world.path("mnt")));
        assert_eq!(state_files(), 0);
    });
}

#[test]
fn a_keeper_is_small_and_idle() {
    in_private_namespace(|| {
        let world = world();
        let ready = world.mount("mnt", &[]);
        let status = fs::read_to_string(format!("/proc/{}/status", ready.state.pid)).unwrap();
        let kib = |key: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        println!("keeper: {} KiB resident, {} of its own", kib("VmRSS:"), kib("RssAnon:"));
        assert_eq!(kib("Threads:"), 1);
        assert!(kib("RssAnon:") < 1024, "{status}");
        world.unmount("mnt");
    });
}
