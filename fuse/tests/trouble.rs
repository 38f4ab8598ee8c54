//! A seed whose registry is in trouble: it corrupts some answers, fails some, stalls, or is gone. What is read is
//! right, and comes as soon as it can. `./soak` makes all of it longer.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

#[path = "../../image/tests/transport/support/hostile.rs"]
#[allow(dead_code, reason = "the transport's tests use more of it")]
mod hostile;
mod support;

use std::fs;
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use hostile::{Hostile, Request, reply, reply_blob};
use seed_fuse::fetch;
use seed_fuse::mount::{OpenOptions, SeedFs, open_seed};
use seed_fuse::tree::{Ino, ROOT, Tree};
use seed_image::reference::Reference;
use seed_image::transport::{self, TransportOptions};
use support::noise::noise;
use support::{Seed, pack};

const PATH: &str = "00000000000000000000000000000000-in-trouble";
const FILES: usize = 40;

fn content(n: usize) -> Vec<u8> {
    noise(n as u64, 5000 + n)
}

/// How much of something the soak does; without it, `usual`.
fn amount(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().map_or(usual, |text| text.parse().unwrap())
}

struct World {
    directory: tempfile::TempDir,
    seed: Seed,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("store");
        fs::create_dir_all(store.join(PATH)).unwrap();
        for n in 0..FILES {
            fs::write(store.join(PATH).join(n.to_string()), content(n)).unwrap();
        }
        let seed = pack(&store, &[vec![PATH.to_owned()]], &[], &directory.path().join("layout"), 4096);
        Self { directory, seed }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A registry, or a mirror of one, of which `answer` gives the blobs of files.
    fn registry(
        &self,
        answer: impl Fn(&Request, &[u8], &mut TcpStream) -> io::Result<bool> + Send + Sync + 'static,
    ) -> Hostile {
        let blobs = self.path("layout/blobs/sha256");
        let files = self.seed.manifest.layers[0].digest.hex();
        Hostile::start(move |request: &Request, _, to: &mut TcpStream| {
            let path = request.target.split('?').next().unwrap_or_default();
            let name = path.rsplit([':', '/']).next().unwrap_or_default().to_owned();
            let Ok(blob) = fs::read(blobs.join(&name)) else { return reply(to, 404, &[], b"") };
            match path {
                _ if name == files => answer(request, &blob, to),
                path if path.contains("/manifests/") => {
                    reply(to, 200, &[("Content-Type", "application/vnd.oci.image.manifest.v1+json")], &blob)
                }
                _ => reply_blob(request, to, &blob),
            }
        })
    }

    fn open(&self, address: &str, cache: Option<&Path>, options: &TransportOptions) -> Arc<SeedFs> {
        let reference: Reference = format!("{address}/app").parse().unwrap();
        let place = transport::open(&reference.location, options).unwrap();
        // Each read asks for what it needs and nothing else.
        let fetch = fetch::Config { fill: false, neighbours: false, ..fetch::Config::default() };
        let cache = cache.map(Path::to_owned);
        // Nothing is kept in memory: with no cache each read is a request.
        let options = OpenOptions { cache, keep_free: Some(0), memory: 0, fetch, ..OpenOptions::default() };
        open_seed(place, &self.seed.digest, &options).unwrap()
    }
}

fn files(tree: &Tree) -> Vec<Ino> {
    let path = tree.lookup(ROOT, PATH.as_bytes()).unwrap().unwrap();
    (0..FILES).map(|n| tree.lookup(path.ino, n.to_string().as_bytes()).unwrap().unwrap().ino).collect()
}

/// A part of a file of which the first byte is at `offset`: within one chunk, so one request.
fn check(tree: &Tree, files: &[Ino], n: usize, offset: usize) {
    let wanted = content(n);
    let data =
        tree.read_wait(files[n], offset as u64, 64).unwrap_or_else(|error| panic!("file {n}: {error:?}"));
    data.with(|bytes| assert!(*bytes == wanted[offset..(offset + 64).min(wanted.len())], "file {n}"));
}

#[test]
fn one_answer_in_twenty_is_corrupt_and_no_byte_is_wrong() {
    let reads = amount("SEED_TEST_READS", 3000);
    let world = World::new();
    let (answers, corrupt) = (AtomicU64::new(0), Arc::new(AtomicU64::new(0)));
    let corrupted = Arc::clone(&corrupt);
    let registry = world.registry(move |request, blob, to| {
        if answers.fetch_add(1, Ordering::SeqCst) % 20 != 19 {
            return reply_blob(request, to, blob);
        }
        corrupted.fetch_add(1, Ordering::SeqCst);
        let (start, end) = request.range().unwrap();
        let mut wrong = blob.to_vec();
        // Noise is kept as it is: no byte in the middle of a frame is without meaning.
        wrong[start.midpoint(end.unwrap())] ^= 0x20;
        reply_blob(request, to, &wrong)
    });
    let fs = world.open(&registry.address, None, &TransportOptions::default());
    let tree = fs.tree(b"nix/store").unwrap();
    let files = files(&tree);
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..reads {
        check(&tree, &files, random.usize(..FILES), random.usize(..4000));
    }
    let (stats, corrupt) = (fs.stats(), corrupt.load(Ordering::SeqCst));
    assert!(corrupt >= reads / 20, "{corrupt} of {reads}");
    assert_eq!((stats.mismatches, stats.failed_reads, stats.demand_misses), (corrupt, 0, reads));
    // What is late on a busy machine is asked for twice; what then comes for nobody is not asked for again.
    let answers = reads + stats.retries;
    assert!(stats.retries <= corrupt && stats.retries + stats.hedges >= corrupt, "{stats:?}");
    assert!((answers..=answers + answers / 10 + 10).contains(&stats.requests), "{stats:?}");
}

#[test]
fn one_answer_in_twenty_fails_and_no_read_does() {
    let world = World::new();
    let answers = AtomicU64::new(0);
    let registry =
        world.registry(move |request, blob, to| match answers.fetch_add(1, Ordering::SeqCst) % 40 {
            19 => reply(to, 503, &[], b"come back later"),
            39 => Ok(false),
            _ => reply_blob(request, to, blob),
        });
    let fs = world.open(&registry.address, None, &TransportOptions::default());
    let tree = fs.tree(b"nix/store").unwrap();
    let files = files(&tree);
    let mut random = fastrand::Rng::with_seed(8);
    for _ in 0..amount("SEED_TEST_READS", 3000) / 5 {
        check(&tree, &files, random.usize(..FILES), random.usize(..4000));
    }
    assert_eq!((fs.stats().failed_reads, fs.stats().mismatches), (0, 0));
}

#[test]
fn a_registry_that_stands_still_for_a_while_fails_no_read() {
    let stall = Duration::from_millis(amount("SEED_TEST_STALL_MS", 1500));
    let world = World::new();
    let stopped = Arc::new(Mutex::new(None::<Instant>));
    let until = Arc::clone(&stopped);
    let (never, wake) = (Mutex::new(()), Condvar::new());
    let registry = world.registry(move |request, blob, to| {
        let until = *until.lock().unwrap();
        let left = until.map(|until| until.saturating_duration_since(Instant::now())).unwrap_or_default();
        // What stands still is the server: nobody wakes it.
        let guard = never.lock().unwrap();
        drop(wake.wait_timeout_while(guard, left, |()| true).unwrap());
        reply_blob(request, to, blob)
    });
    let fs = world.open(&registry.address, None, &TransportOptions::default());
    let tree = fs.tree(b"nix/store").unwrap();
    let files = files(&tree);
    check(&tree, &files, 0, 0);
    *stopped.lock().unwrap() = Some(Instant::now() + stall);
    std::thread::scope(|scope| {
        for n in 0..FILES {
            let (tree, files) = (&tree, &files);
            scope.spawn(move || check(tree, files, n, 100));
        }
    });
    assert_eq!(fs.stats().failed_reads, 0);
}

#[test]
fn what_is_cached_needs_no_registry() {
    let world = World::new();
    let cache = world.path("cache");
    let registry = world.registry(|request, blob, to| reply_blob(request, to, blob));
    let fs = world.open(&registry.address, Some(&cache), &TransportOptions::default());
    let mut told = 0;
    fs.fetch_all(&mut |fetched, total| told = fetched.min(total)).unwrap();
    let tree = fs.tree(b"nix/store").unwrap();
    let files = files(&tree);
    let requests = fs.stats().requests;
    drop(registry);
    let begin = Instant::now();
    for n in 0..FILES {
        check(&tree, &files, n, 4000);
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(fs.stats().requests, requests);
    drop((tree, fs));

    // The cache of another machine, or of an image: it is read and not written to, beside an own one.
    let before = names_in(&cache.join("chunks"));
    let registry = world.registry(|_, _, to| reply(to, 404, &[], b"gone"));
    let reference: Reference = format!("{}/app", registry.address).parse().unwrap();
    let place = transport::open(&reference.location, &TransportOptions::default()).unwrap();
    let options = OpenOptions {
        cache: Some(world.path("own")),
        read_also: vec![world.path("nowhere"), cache.clone()],
        fetch: fetch::Config { fill: false, neighbours: false, ..fetch::Config::default() },
        ..OpenOptions::default()
    };
    let fs = open_seed(place, &world.seed.digest, &options).unwrap();
    let tree = fs.tree(b"nix/store").unwrap();
    for n in 0..FILES {
        check(&tree, &files, n, 0);
    }
    assert_eq!(fs.stats().requests, 0);
    assert!(fs.fetch_all(&mut |_, _| ()).is_ok(), "all of it is here");
    assert_eq!(names_in(&cache.join("chunks")), before);
    assert_eq!(names_in(&world.path("own/chunks")), Vec::<String>::new());
}

fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// One answer in five stands still for as long as the test runs; the next endpoint has it.
#[test]
fn a_late_answer_comes_from_the_next_mirror() {
    let world = World::new();
    let answers = AtomicU64::new(0);
    let mirror = world.registry(move |request, blob, to| {
        if answers.fetch_add(1, Ordering::SeqCst) % 5 == 4 {
            return hostile::stall(to);
        }
        reply_blob(request, to, blob)
    });
    let upstream = world.registry(|request, blob, to| reply_blob(request, to, blob));
    let directory = world.path("hosts").join(&upstream.address);
    fs::create_dir_all(&directory).unwrap();
    let text = format!("[host.\"http://{}\"]\ncapabilities = [\"pull\"]", mirror.address);
    fs::write(directory.join("hosts.toml"), text).unwrap();
    let options = TransportOptions { hosts_dirs: vec![world.path("hosts")], ..TransportOptions::default() };
    let fs = world.open(&upstream.address, None, &options);
    let tree = fs.tree(b"nix/store").unwrap();
    let files = files(&tree);
    let begin = Instant::now();
    for n in 0..FILES {
        check(&tree, &files, n, 0);
    }
    let stats = fs.stats();
    assert!(stats.hedges > 0 && stats.failed_reads == 0, "{stats:?}");
    // Each of eight late answers waited for, or the first endpoint given up, would be far longer.
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    assert!(mirror.requests().len() > FILES / 2, "it is still asked first");
}
