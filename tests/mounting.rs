//! Mounts by the command: made, looked at, used up, killed, taken away. Needs root and /dev/fuse.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use std::fs;
use std::path::PathBuf;

use program::seeds::Seeds;
use program::{Program, Run};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A mount point that is free again when the test ends, however it ends.
struct MountPoint<'a> {
    program: &'a Program,
    dir: PathBuf,
}

impl<'a> MountPoint<'a> {
    fn new(program: &'a Program, name: &str) -> Self {
        let dir = program.home().join(name);
        fs::create_dir_all(&dir).unwrap();
        Self { program, dir }
    }

    fn mount(&self, reference: &str, more: &[&str]) -> Run {
        self.program.run([&["mount", reference, self.dir.to_str().unwrap()], more].concat())
    }

    fn is_mounted(&self) -> bool {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().any(|line| line.split(' ').nth(4) == self.dir.to_str())
    }
}

impl Drop for MountPoint<'_> {
    fn drop(&mut self) {
        let _ = self.program.command(["unmount", "--all", "--lazy"]).output();
    }
}

#[test]
fn a_mount_shows_the_store_until_it_is_taken_away() {
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    let packed = seeds.pack("main", &[('1', "one", b"content of one"), ('2', "two", &[7; 100_000])]);
    let point = MountPoint::new(&program, "mnt");
    let run = point.mount(&seeds.reference(":main"), &["--allow-tag", "--json"]).ended_with(0);
    assert_eq!(run.json()[0]["digest"], packed.digest.to_string());
    let one = point.dir.join(Seeds::path('1', "one").base_name());
    assert_eq!(fs::read(one.join("content")).unwrap(), b"content of one");
    assert_eq!(
        fs::read(point.dir.join(Seeds::path('2', "two").base_name()).join("content")).unwrap(),
        [7; 100_000]
    );
    assert!(fs::write(one.join("content"), "x").is_err(), "the store is read-only");

    let status = program.run(["status", "--json"]).ended_with(0).json();
    assert_eq!(status.len(), 1);
    assert_eq!(status[0]["directory"], point.dir.to_str().unwrap());
    assert!(status[0]["stats"]["chunks_fetched"].as_u64().unwrap() > 0, "{status:?}");
    let run = program.run(["status"]).ended_with(0);
    assert!(run.stdout.contains("fetched"), "{}", run.stdout);

    program.run(["unmount", point.dir.to_str().unwrap()]).ended_with(0);
    assert!(!point.is_mounted());
    assert_eq!(program.run(["status", "--json"]).ended_with(0).stdout, "");
    program.run(["unmount", point.dir.to_str().unwrap()]).ended_with(1).says("is not a mounted seed");
}

#[test]
fn a_mount_that_no_policy_approves_is_not_made() {
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    seeds.pack("main", &[('1', "one", b"1")]);
    let point = MountPoint::new(&program, "mnt");
    point.mount(&seeds.reference(":main"), &[]).ended_with(3);
    let other = seed_format::Digest::of(b"other");
    point.mount(&seeds.reference(&format!("@{other}")), &[]).ended_with(1);
    let packed = seeds.pack_with("arm", &[('1', "one", b"1")], "riscv64-linux", Default::default());
    point.mount(&seeds.reference(&format!("@{}", packed.digest)), &[]).ended_with(3).says("riscv64-linux");
    assert!(!point.is_mounted());
    point.mount(&seeds.reference(":main"), &["--allow-tag", "--part", "root"]).ended_with(0);
    assert!(point.dir.join("nix/store").is_dir() && point.dir.join("nix/var/nix/db/db.sqlite").is_file());
}

/// The next command takes away what a killed server has left.
#[test]
fn a_dead_mount_is_cleaned_up() {
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    seeds.pack("main", &[('1', "one", b"1")]);
    let point = MountPoint::new(&program, "mnt");
    point.mount(&seeds.reference(":main"), &["--allow-tag"]).ended_with(0);
    let status = program.run(["status", "--json"]).ended_with(0).json();
    let pid = i32::try_from(status[0]["pid"].as_i64().unwrap()).unwrap();
    let server = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
    pidfd_send_signal(&server, Signal::KILL).unwrap();
    poll(&mut [PollFd::new(&server, PollFlags::IN)], None).unwrap();
    program.run(["status"]).ended_with(0).says("no seed is mounted");
    assert!(!point.is_mounted());
    assert_eq!(fs::read_dir(&point.dir).unwrap().count(), 0);
    point.mount(&seeds.reference(":main"), &["--allow-tag"]).ended_with(0);
}

/// What was pulled is there when the seed's place has lost it.
#[test]
fn a_pulled_seed_needs_its_place_no_more() {
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    let packed = seeds.pack("main", &[('1', "one", b"one"), ('2', "two", &[9; 3_000_000])]);
    let reference = seeds.reference(&format!("@{}", packed.digest));
    let first = program.run(["pull", &reference, "--json"]).ended_with(0).json();
    assert!(first[0]["bytes_fetched"].as_u64().unwrap() > 0);
    let second = program.run(["pull", &reference, "--json"]).ended_with(0).json();
    assert_eq!(second[0]["bytes_fetched"], 0);

    for layer in packed.layers.iter().take(packed.layers.len() - 1) {
        fs::remove_file(seeds.blob(&layer.descriptor.digest)).unwrap();
    }
    let point = MountPoint::new(&program, "mnt");
    point.mount(&reference, &[]).ended_with(0);
    let two = point.dir.join(Seeds::path('2', "two").base_name()).join("content");
    assert_eq!(fs::read(two).unwrap(), [9; 3_000_000]);
    program.run(["unmount", "--all"]).ended_with(0);

    let collected = program.run(["gc", "--size", "0", "--json"]).ended_with(0).json();
    assert!(collected[0]["freed"].as_u64().unwrap() > 0, "{collected:?}");
    program.run(["pull", &reference]).ended_with(1);
}

#[test]
fn a_chunk_with_wrong_bytes_is_never_served() {
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    let content: Vec<u8> =
        (0..200_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let packed = seeds.pack("main", &[('1', "one", &content)]);
    let reference = seeds.reference(&format!("@{}", packed.digest));
    let layer = packed.layers.iter().find(|layer| !layer.paths.is_empty()).unwrap();
    seeds.corrupt(&layer.descriptor.digest, 400_000);
    program.run(["pull", &reference]).ended_with(4);
    let point = MountPoint::new(&program, "mnt");
    point.mount(&reference, &["--no-fill"]).ended_with(0);
    let file = point.dir.join(Seeds::path('1', "one").base_name()).join("content");
    assert_eq!(fs::read(file).unwrap_err().raw_os_error(), Some(5));
    let status = program.run(["status", "--json"]).ended_with(0).json();
    assert!(status[0]["stats"]["mismatches"].as_u64().unwrap() > 0, "{status:?}");
}
