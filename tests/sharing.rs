//! Several servers with one cache, while it is collected and while one of them is killed. Needs root, /dev/fuse
//! and Debian's docker-registry.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use program::Program;
use program::registry::Registry;
use program::seeds::Seeds;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Bytes that do not compress, other ones for each digit.
fn content(digit: char) -> Vec<u8> {
    let word = |n: u32| (n ^ (u32::from(digit) << 24)).wrapping_mul(2_654_435_761).rotate_left(7);
    (0..900_000).map(word).flat_map(u32::to_le_bytes).collect()
}

/// A seed in the registry: what it is called, where it is mounted, and what is in it.
struct Shared {
    reference: String,
    dir: PathBuf,
    paths: [char; 2],
}

impl Shared {
    /// Packs a seed of these paths and copies it to the registry.
    fn new(program: &Program, registry: &Registry, name: &str, paths: [char; 2]) -> Self {
        let seeds = Seeds::below(program.home());
        let contents = paths.map(content);
        let of = |at: usize| (paths[at], "data", contents[at].as_slice());
        let packed = seeds.pack(name, &[of(0), of(1)]);
        let reference = format!("{}/{name}@{}", registry.host, packed.digest);
        let from = seeds.reference(&format!("@{}", packed.digest));
        program.run(["copy", &from, &format!("{}/{name}:main", registry.host)]).ended_with(0);
        let dir = program.home().join(name);
        fs::create_dir(&dir).unwrap();
        Self { reference, dir, paths }
    }

    fn mount(&self, program: &Program) {
        program.run(["mount", &self.reference, self.dir.to_str().unwrap()]).ended_with(0);
    }

    fn unmount(&self, program: &Program) {
        program.run(["unmount", self.dir.to_str().unwrap()]).ended_with(0);
    }

    /// Every byte is there and right.
    fn check(&self) {
        for digit in self.paths {
            let file = self.dir.join(Seeds::path(digit, "data").base_name()).join("content");
            let read = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            assert!(read == content(digit), "{} has wrong bytes", file.display());
        }
    }
}

/// Takes all mounts away, however the test ends.
struct Mounts<'a>(&'a Program);

impl Drop for Mounts<'_> {
    fn drop(&mut self) {
        let _ = self.0.command(["unmount", "--all", "--lazy"]).output();
    }
}

fn kill_server_of(program: &Program, dir: &Path) {
    let status = program.run(["status", "--json"]).ended_with(0).json();
    let mount = status.iter().find(|mount| mount["directory"] == dir.to_str().unwrap()).unwrap();
    let pid = Pid::from_raw(i32::try_from(mount["pid"].as_i64().unwrap()).unwrap()).unwrap();
    let server = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    pidfd_send_signal(&server, Signal::KILL).unwrap();
    poll(&mut [PollFd::new(&server, PollFlags::IN)], None).unwrap();
}

#[test]
fn a_cache_is_shared_collected_and_outlives_its_users() {
    let program = Program::new();
    let registry = Registry::start(&program);
    let one = Shared::new(&program, &registry, "one", ['1', '2']);
    let two = Shared::new(&program, &registry, "two", ['2', '3']);
    let _mounts = Mounts(&program);

    // Both fetch what they have in common at the same time, and more than the cache is let keep.
    let collecting = AtomicBool::new(true);
    thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut freed = 0;
            while collecting.load(Ordering::Relaxed) {
                let run = program.run(["gc", "--size", "1MiB", "--json"]).ended_with(0);
                freed += run.json()[0]["freed"].as_u64().unwrap();
            }
            freed
        });
        for _ in 0..4 {
            let readers = [&one, &two].map(|seed| {
                let program = &program;
                scope.spawn(move || {
                    seed.mount(program);
                    seed.check();
                    seed.unmount(program);
                })
            });
            // Not a panic here: the collector has to be told first.
            let failed = readers.into_iter().map(|reader| reader.join().is_err()).collect::<Vec<_>>();
            if failed.contains(&true) {
                collecting.store(false, Ordering::Relaxed);
                panic!("a reader failed");
            }
        }
        collecting.store(false, Ordering::Relaxed);
        assert!(collector.join().unwrap() > 0, "nothing was collected meanwhile");
    });

    // One is killed in the middle of its fetches: the other goes on, and what is cached stays good.
    one.mount(&program);
    two.mount(&program);
    thread::scope(|scope| {
        let reader = scope.spawn(|| two.check());
        kill_server_of(&program, &one.dir);
        reader.join().unwrap();
    });
    two.unmount(&program);
    for seed in [&one, &two] {
        program.run(["pull", &seed.reference]).ended_with(0);
    }
    for seed in [&one, &two] {
        seed.mount(&program);
        seed.check();
        let stats = &program.run(["status", "--json"]).ended_with(0).json()[0]["stats"];
        assert_eq!((&stats["requests"], &stats["mismatches"]), (&0.into(), &0.into()), "{stats}");
        seed.unmount(&program);
    }
}
