//! Many seeds and many readers on one machine at once, with one cache: all are served, in little memory, at rest
//! for nothing, and nothing is left behind. Needs root. `./soak` makes the crowd larger.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
#![allow(clippy::print_stdout, reason = "figures are told besides being judged")]

mod support;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use seed_fuse::mount::MountState;
use support::program::{World, alive, is_mounted, state_files};
use support::{in_private_namespace, noise, pack};

/// Files of each seed: small ones, so that the readers of a seed meet in chunks, and a large one.
const FILES: u64 = 60;
/// Bytes that a server and its keeper may take, in memory of their own and their part of what they share.
const MEMORY: u64 = 4 << 20;
/// Processor time of all servers and keepers together in a second of rest.
const AT_REST: Duration = Duration::from_millis(5);
const SECOND: Duration = Duration::from_secs(1);

/// How many of something; `./soak` sets more.
fn amount(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |text| text.parse().unwrap())
}

#[test]
fn a_crowd_reads_many_seeds_by_fuse() {
    a_crowd_reads_many_seeds("fuse");
}

#[test]
fn a_crowd_reads_many_seeds_of_the_kernel() {
    a_crowd_reads_many_seeds("kernel");
}

fn a_crowd_reads_many_seeds(mode: &'static str) {
    let (seeds, readers) = (amount("SEED_TEST_SEEDS", 10), amount("SEED_TEST_READERS", 60));
    in_private_namespace(move || {
        let mut world = World::new();
        let mounts: Vec<_> = (0..seeds).map(|number| mount(&mut world, number, mode)).collect();
        let processes: Vec<_> = mounts.iter().flat_map(|state| [state.pid, state.server]).collect();
        tell(mode, "mounted", &processes);

        let begin = Instant::now();
        let waiting: Vec<_> = (0..readers).map(|number| Reader::start(&world, number, seeds)).collect();
        let reading: Vec<_> = waiting.into_iter().map(Reader::go).collect();
        for (number, reader) in reading.into_iter().enumerate() {
            let output = reader.wait_with_output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            assert!(output.status.success(), "reader {number}: {}", String::from_utf8_lossy(&said));
        }
        println!("{mode}: {readers} processes have read {seeds} seeds in {:?}", begin.elapsed());

        let statuses = world.statuses();
        assert_eq!(statuses.len(), seeds);
        for status in &statuses {
            let stats = &status.stats;
            assert_eq!((stats.failed_reads, stats.mismatches), (0, 0), "{stats:?}");
            assert!(stats.fuse_reads > 0, "{stats:?}");
            assert_eq!(status.state.takeovers, 0, "no server has died");
        }
        tell(mode, "after that", &processes);
        at_rest(mode, &processes);

        for number in 0..seeds {
            world.unmount(&point(number));
        }
        assert!(processes.into_iter().all(|pid| !alive(pid)), "a process is left");
        assert!((0..seeds).all(|number| !is_mounted(&world.path(&point(number)))));
        assert_eq!(state_files(), 0);
    });
}

fn point(number: usize) -> String {
    format!("mnt-{number}")
}

fn store(number: usize) -> String {
    format!("store-{number}")
}

/// Packs a seed that has nothing in common with the others, and mounts it.
fn mount(world: &mut World, number: usize, mode: &str) -> MountState {
    let store = world.path(&store(number));
    let name = format!("{number:032}-crowded");
    fs::create_dir_all(store.join(&name).join("files")).unwrap();
    for file in 0..FILES {
        let len = if file == 0 { 900_000 } else { 400 * file };
        let bytes = noise::noise(number as u64 * FILES + file, usize::try_from(len).unwrap());
        fs::write(store.join(&name).join("files").join(file.to_string()), bytes).unwrap();
        let target = format!("files/{file}");
        std::os::unix::fs::symlink(target, store.join(&name).join(format!("link-{file}"))).unwrap();
    }
    let layout = world.path(&format!("layout-{number}"));
    world.seed = pack(&store, &[vec![name]], &[], &layout, 64 << 10);
    fs::create_dir(world.path(&point(number))).unwrap();
    world.mount(&point(number), &["--mode", mode]).state
}

/// A process that compares a seed, and those after it, with what they were packed from, once it is told to.
struct Reader(Child);

impl Reader {
    fn start(world: &World, number: usize, seeds: usize) -> Self {
        let script = "read -r go
            while [ $# -gt 0 ]; do diff --recursive --no-dereference \"$1\" \"$2\"; shift 2; done";
        let mut command = Command::new("sh");
        command.args(["-euc", script, "reader"]).current_dir(world.root.path());
        for seed in (number..number + 3).map(|seed| seed % seeds) {
            command.args([store(seed), point(seed)]);
        }
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(piped.spawn().unwrap())
    }

    fn go(mut self) -> Child {
        let gate = self.0.stdin.take().unwrap();
        std::io::Write::write_all(&mut &gate, b"go\n").unwrap();
        self.0
    }
}

/// What processes take of memory, in bytes.
struct Memory {
    /// Memory of their own, and their part of what they share with each other and with others.
    own: u64,
    /// Of it, what is of no file.
    anonymous: u64,
    /// The largest of them, with all that it shares.
    largest: u64,
}

impl Memory {
    fn of(processes: &[i32]) -> Self {
        let mut memory = Self { own: 0, anonymous: 0, largest: 0 };
        for pid in processes {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
            let bytes = |key: &str| {
                let line = rollup.lines().find_map(|line| line.strip_prefix(key)).unwrap();
                first_number(line) << 10
            };
            memory.own += bytes("Pss:");
            memory.anonymous += bytes("Pss_Anon:");
            memory.largest = memory.largest.max(bytes("Rss:"));
        }
        memory
    }
}

fn tell(mode: &str, when: &str, processes: &[i32]) {
    let Memory { own, anonymous, largest } = Memory::of(processes);
    let [own, anonymous, largest] = [own, anonymous, largest].map(megabytes);
    let seeds = processes.len() / 2;
    println!(
        "{mode}, {when}: {seeds} seeds take {own:.1} MB (Pss; {anonymous:.1} MB of no file), the largest process shows {largest:.1} MB"
    );
}

#[allow(clippy::cast_precision_loss, reason = "a figure to look at")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Waits until nothing is done and little is held.
fn at_rest(mode: &str, processes: &[i32]) {
    let (seeds, deadline) = (processes.len() as u64 / 2, Instant::now() + Duration::from_secs(60));
    loop {
        let before = processor_time(processes);
        // What is measured is time that passes.
        std::thread::sleep(SECOND);
        let spent = processor_time(processes) - before;
        let memory = Memory::of(processes);
        let rests = spent <= AT_REST && memory.own <= MEMORY * seeds;
        if rests || Instant::now() > deadline {
            println!("{mode}: {spent:?} of processor time in a second of rest");
            tell(mode, "at rest", processes);
            assert!(rests, "{spent:?}, {} bytes for {seeds} seeds", memory.own);
            return;
        }
    }
}

fn processor_time(processes: &[i32]) -> Duration {
    let tasks = processes.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten());
    // A thread that has just ended has none.
    let ran = tasks.map(|task| fs::read_to_string(task.path().join("schedstat")).unwrap_or_default());
    ran.map(|text| Duration::from_nanos(first_number(&text))).sum()
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace().next().map_or(0, |number| number.parse().unwrap())
}
