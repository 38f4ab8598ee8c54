//! A mount of a seed in a registry that lies, stalls, drops and refuses: never a wrong byte, an error in time,
//! and the right bytes where the fault passes. Needs root and /dev/fuse.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

#[path = "../../image/tests/transport/support/hostile.rs"]
#[allow(dead_code, reason = "the transport's tests use more of it")]
mod hostile;
mod support;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use hostile::{Hostile, Request, reply, reply_blob, reply_raw, stall};
use seed_fuse::fetch;
use seed_fuse::mount::{Mode, Mounted, OpenOptions, mount, open_seed};
use seed_image::reference::Reference;
use seed_image::transport::{self, TransportOptions};
use support::noise::noise;
use support::{Seed, in_private_namespace, pack};

const PATH: &str = "00000000000000000000000000000000-lied-about";
const FILES: usize = 60;
/// How long a read may wait here.
const DEADLINE: Duration = Duration::from_secs(3);

/// One way to answer a request for a range of a blob.
type Fault = fn(&Request, &[u8], &mut TcpStream) -> io::Result<bool>;

fn range(request: &Request, blob: &[u8]) -> (usize, usize) {
    let (start, end) = request.range().unwrap_or((0, None));
    (start, end.unwrap_or(blob.len()))
}

fn content_range(request: &Request, blob: &[u8]) -> String {
    let (start, end) = range(request, blob);
    format!("bytes {start}-{}/{}", end - 1, blob.len())
}

fn altered(blob: &[u8]) -> Vec<u8> {
    blob.iter().map(|byte| byte ^ 0x10).collect()
}

/// What is sent, and whether a mount can serve right bytes although it always is.
const FAULTS: &[(&str, Fault, bool)] = &[
    (
        "a bit is flipped",
        |request, blob, to| {
            let mut wrong = blob.to_vec();
            let (start, end) = range(request, blob);
            (start..end).step_by(97).for_each(|at| wrong[at] ^= 1);
            reply_blob(request, to, &wrong)
        },
        false,
    ),
    ("another blob", |request, blob, to| reply_blob(request, to, &altered(blob)), false),
    ("the whole blob for a range", |_, blob, to| reply(to, 200, &[], blob), true),
    ("the whole of another blob for a range", |_, blob, to| reply(to, 200, &[], &altered(blob)), false),
    (
        "a shorter range",
        |request, blob, to| {
            let (start, end) = range(request, blob);
            reply(to, 206, &[("Content-Range", &content_range(request, blob))], &blob[start..end - 1])
        },
        false,
    ),
    (
        "a longer range",
        |request, blob, to| {
            let (start, end) = range(request, blob);
            let body = [&blob[start..end], b"+".as_slice()].concat();
            reply(to, 206, &[("Content-Range", &content_range(request, blob))], &body)
        },
        false,
    ),
    (
        "another range",
        |request, blob, to| {
            let (start, end) = range(request, blob);
            let said = format!("bytes {}-{}/{}", start + 1, end, blob.len());
            reply(to, 206, &[("Content-Range", &said)], &blob[start..end])
        },
        false,
    ),
    (
        "the connection drops in the body",
        |request, blob, to| {
            let (start, end) = range(request, blob);
            let length = (end - start).to_string();
            let headers = [("Content-Range", &*content_range(request, blob)), ("Content-Length", &length)];
            reply_raw(to, 206, &headers, &blob[start..start + (end - start) / 2])?;
            Ok(false)
        },
        false,
    ),
    ("the connection drops at once", |_, _, _| Ok(false), false),
    ("429", |_, _, to| reply(to, 429, &[("Retry-After", "0")], b""), false),
    ("503", |_, _, to| reply(to, 503, &[], b"come back later"), false),
    ("500", |_, _, to| reply(to, 500, &[], b""), false),
    ("a redirect to itself", |request, _, to| reply(to, 307, &[("Location", &request.target)], b""), false),
    (
        "no HTTP",
        |_, _, to| {
            io::Write::write_all(to, b"SSH-2.0-no\r\n")?;
            Ok(false)
        },
        false,
    ),
    ("silence", |_, _, to| stall(to), false),
];

struct World {
    _directory: tempfile::TempDir,
    root: PathBuf,
    seed: Seed,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        let store = root.join("store");
        fs::create_dir_all(store.join(PATH)).unwrap();
        for n in 0..FILES {
            fs::write(store.join(PATH).join(n.to_string()), content(n)).unwrap();
        }
        let seed = pack(&store, &[vec![PATH.to_owned()]], &[], &root.join("layout"), 4096);
        Self { _directory: directory, root, seed }
    }

    /// A registry of the seed, of which `answer` gives the blobs of files.
    fn registry(
        &self,
        answer: impl Fn(&Request, &[u8], &mut TcpStream) -> io::Result<bool> + Send + Sync + 'static,
    ) -> Hostile {
        let blobs = self.root.join("layout/blobs/sha256");
        let files = self.seed.manifest.layers[0].digest.hex();
        Hostile::start(move |request: &Request, _, to: &mut TcpStream| {
            let path = request.target.split('?').next().unwrap_or_default();
            let name = path.rsplit([':', '/']).next().unwrap_or_default().to_owned();
            let Ok(blob) = fs::read(blobs.join(&name)) else {
                // The token that a challenge told of, or the question whether this is a registry.
                return reply(to, 200, &[], format!("{{\"token\":\"{name}\"}}").as_bytes());
            };
            match path {
                _ if name == files => answer(request, &blob, to),
                path if path.contains("/manifests/") => {
                    reply(to, 200, &[("Content-Type", "application/vnd.oci.image.manifest.v1+json")], &blob)
                }
                _ => reply_blob(request, to, &blob),
            }
        })
    }

    fn mount(&self, registry: &Hostile, at: &Path) -> Mounted {
        let reference: Reference = format!("{}/app", registry.address).parse().unwrap();
        let place = transport::open(&reference.location, &TransportOptions::default()).unwrap();
        let fetch = fetch::Config { read_deadline: DEADLINE, fill: false, ..fetch::Config::default() };
        let options = OpenOptions { fetch, ..OpenOptions::default() };
        let fs = open_seed(place, &self.seed.digest, &options).unwrap();
        fs::create_dir_all(at).unwrap();
        mount(fs, at, b"nix/store", Mode::Auto).unwrap()
    }
}

/// Things that were given out by number, and how often each was used.
#[derive(Default)]
struct Uses {
    given: AtomicUsize,
    used: Mutex<HashMap<String, u32>>,
}

impl Uses {
    fn next(&self) -> usize {
        self.given.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn used(&self, number: &str) -> u32 {
        let mut used = self.used.lock().unwrap();
        let count = used.entry(number.to_owned()).or_default();
        *count += 1;
        *count
    }
}

/// Of each file other bytes.
fn content(n: usize) -> Vec<u8> {
    noise(n as u64, 5000 + n)
}

fn read(at: &Path, n: usize) -> io::Result<Vec<u8>> {
    fs::read(at.join(PATH).join(n.to_string()))
}

fn all_is_right(at: &Path, why: &str) {
    for n in 0..FILES {
        assert_eq!(
            read(at, n).unwrap_or_else(|error| panic!("{why}: file {n}: {error}")),
            content(n),
            "{why}"
        );
    }
}

#[test]
fn faults_that_pass_do_no_harm() {
    in_private_namespace(|| {
        let world = World::new();
        for (name, fault, _) in FAULTS.iter().filter(|(name, ..)| *name != "silence") {
            let met = Mutex::new(HashSet::new());
            let registry = world.registry(move |request, blob, to| {
                if met.lock().unwrap().insert(request.range()) {
                    fault(request, blob, to)
                } else {
                    reply_blob(request, to, blob)
                }
            });
            let at = world.root.join("once");
            let mounted = world.mount(&registry, &at);
            all_is_right(&at, name);
            mounted.unmount().unwrap();
        }
    });
}

#[test]
fn faults_that_stay_are_errors_in_time() {
    // Most of the time of each is spent waiting.
    thread::scope(|scope| {
        for fault in FAULTS {
            scope.spawn(|| in_private_namespace(|| stays(fault)));
        }
    });
}

fn stays((name, fault, harmless): &(&str, Fault, bool)) {
    let world = World::new();
    let fault = *fault;
    let honest = Arc::new(AtomicBool::new(false));
    let passed = Arc::clone(&honest);
    let registry = world.registry(move |request, blob, to| {
        if passed.load(Ordering::SeqCst) { reply_blob(request, to, blob) } else { fault(request, blob, to) }
    });
    let at = world.root.join("always");
    let mounted = world.mount(&registry, &at);
    let begin = Instant::now();
    match read(&at, 7) {
        Ok(bytes) => assert!(*harmless && bytes == content(7), "{name}: wrong bytes were served"),
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{name}: {error}");
            assert!(!harmless, "{name}");
        }
    }
    assert!(begin.elapsed() < DEADLINE + Duration::from_secs(5), "{name}: {:?}", begin.elapsed());
    // What is wrong with the registry passes, and the mount goes on.
    honest.store(true, Ordering::SeqCst);
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = read(&at, 7) {
        assert!(Instant::now() < deadline, "{name}: {error}");
    }
    all_is_right(&at, name);
    mounted.unmount().unwrap();
}

#[test]
fn redirects_and_tokens_that_expire_are_asked_for_again() {
    in_private_namespace(|| {
        let world = World::new();
        let at = world.root.join("expiring");
        // A signed address is good for three requests, a token for five.
        let (addresses, tokens) = (Uses::default(), Arc::new(Uses::default()));
        let asked = Arc::clone(&tokens);
        let registry = world.registry(move |request, blob, to| {
            if let Some((_, number)) = request.target.split_once("?signed=") {
                let good = addresses.used(number) <= 3;
                return if good { reply_blob(request, to, blob) } else { reply(to, 403, &[], b"expired") };
            }
            let token = request.header("authorization").and_then(|text| text.strip_prefix("Bearer token-"));
            if token.is_none_or(|number| tokens.used(number) > 5) {
                let host = request.header("host").unwrap();
                let realm = format!("http://{host}/token-{}", tokens.next());
                let challenge = format!("Bearer realm=\"{realm}\",service=\"test\"");
                return reply(to, 401, &[("WWW-Authenticate", &challenge)], b"");
            }
            let location = format!("{}?signed={}", request.target, addresses.next());
            reply(to, 307, &[("Location", &location)], b"")
        });
        let mounted = world.mount(&registry, &at);
        all_is_right(&at, "expiring");
        mounted.unmount().unwrap();
        assert!(asked.next() > 2, "one token was enough for all");
    });
}
