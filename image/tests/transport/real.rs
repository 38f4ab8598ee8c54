//! Pushing to and pulling from real registries.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use seed_format::Digest;
use seed_image::manifest::{Descriptor, Manifest, media_type};
use seed_image::reference::{Location, Reference};
use seed_image::transport::{self, BlobContent, BytesContent, Transport, TransportError};

use crate::support::servers::{ALL, Kind, Server, crane};
use crate::support::{chain, describe, noise, open, options, part, put, put_image, read_all, soon};

#[test]
fn what_is_pushed_is_pulled() {
    for kind in ALL {
        let server = Server::start(kind);
        let place = open(&format!("{}/team/app", server.address), &options());
        // One layer in one request, one in many parts, one without bytes.
        let layers = vec![noise(1, 1000), noise(2, 1_500_000), Vec::new()];
        let (digest, manifest) = put_image(&*place, &layers, Some("v1"), None);

        let fresh = open(&format!("{}/team/app", server.address), &options());
        let resolved = fresh.resolve("v1").unwrap();
        assert_eq!(
            resolved,
            Descriptor::new(media_type::MANIFEST, digest, manifest.len() as u64),
            "{kind:?}"
        );
        let requests = fresh.counters().requests;
        assert_eq!(fresh.manifest(&digest).unwrap(), manifest);
        assert_eq!(fresh.counters().requests, requests, "what was resolved is not fetched twice");
        let reference: Reference = format!("{}/team/app@{digest}", server.address).parse().unwrap();
        assert_eq!(transport::resolve(&*fresh, &reference).unwrap(), resolved);

        let read = Manifest::parse(&manifest).unwrap();
        for (layer, descriptor) in layers.iter().zip(&read.layers) {
            assert_eq!(read_all(&*fresh, descriptor).unwrap(), *layer, "{kind:?}");
            assert!(fresh.has_blob(descriptor).unwrap());
        }
        let big = &read.layers[1].digest;
        for range in [0..1, 0..1_500_000, 1_499_999..1_500_000, 70_000..900_001, 5..5] {
            let expected = part(&layers[1], range.clone());
            assert_eq!(fresh.read_range(big, range, soon()).unwrap(), expected, "{kind:?}");
        }

        // Another client agrees.
        let name = format!("{}/team/app:v1", server.address);
        assert_eq!(crane(&["digest", "--insecure", &name]), digest.to_string());
        crane(&["manifest", "--insecure", &name]);

        let sent = place.counters().sent;
        put(&*place, &layers[1]);
        assert_eq!(place.counters().sent, sent, "{kind:?}: what is there is not sent");
    }
}

#[test]
fn what_is_missing_is_not_found() {
    for kind in ALL {
        let server = Server::start(kind);
        let place = open(&format!("{}/team/app", server.address), &options());
        let absent = describe(b"absent");
        let before = Instant::now();
        assert!(!place.has_blob(&absent).unwrap());
        for error in [
            place.resolve("none").unwrap_err(),
            place.resolve_default().unwrap_err(),
            place.manifest(&absent.digest).unwrap_err(),
            place.read_range(&absent.digest, 0..1, soon()).unwrap_err(),
            read_all(&*place, &absent).unwrap_err(),
        ] {
            assert!(error.is_not_found(), "{kind:?}: {}", chain(&error));
        }
        assert_eq!(place.counters().retries, 0);
        assert!(before.elapsed() < options().operation_timeout);
    }
}

#[test]
fn damaged_blobs_are_found_out() {
    let server = Server::start(Kind::Docker);
    let place = open(&format!("{}/app", server.address), &options());
    let layer = noise(3, 300_000);
    let (digest, _) = put_image(&*place, std::slice::from_ref(&layer), Some("v"), None);
    let descriptor = describe(&layer);

    let file = server.blob_file(&descriptor.digest.hex());
    let mut damaged = layer.clone();
    damaged[299_999] ^= 1;
    fs::write(&file, &damaged).unwrap();
    let fresh = open(&format!("{}/app", server.address), &options());
    let error = read_all(&*fresh, &descriptor).unwrap_err();
    assert!(matches!(error, TransportError::WrongDigest { .. }), "{}", chain(&error));

    fs::write(&file, &layer[..200_000]).unwrap();
    let error = read_all(&*fresh, &descriptor).unwrap_err();
    assert!(!error.is_not_found(), "{}", chain(&error));

    let file = server.blob_file(&digest.hex());
    let damaged =
        fs::read_to_string(&file).unwrap().replace("amd64", "arm64").replace("\"size\":3", "\"size\":4");
    fs::write(&file, damaged + " ").unwrap();
    let fresh = open(&format!("{}/app", server.address), &options());
    let error = fresh.manifest(&digest).unwrap_err();
    assert!(!error.is_not_found(), "{}", chain(&error));
}

#[test]
fn blobs_are_taken_over_from_another_repository() {
    let server = Server::start(Kind::Docker);
    let layer = noise(4, 500_000);
    let from = open(&format!("{}/from", server.address), &options());
    let descriptor = put(&*from, &layer);

    let to = open(&format!("{}/to", server.address), &options());
    assert!(!to.has_blob(&descriptor).unwrap());
    assert!(to.mount_blob(&descriptor, from.location()).unwrap());
    assert_eq!(to.counters().sent, 0);
    assert_eq!(read_all(&*to, &descriptor).unwrap(), layer);

    // What the other repository lacks cannot be taken over, nor what is elsewhere.
    assert!(!to.mount_blob(&describe(b"absent"), from.location()).unwrap());
    let elsewhere = Location::Registry { host: "example.org".into(), repository: "from".into() };
    let requests = to.counters().requests;
    assert!(!to.mount_blob(&descriptor, &elsewhere).unwrap());
    assert_eq!(to.counters().requests, requests);
}

#[test]
fn referrers_are_found_by_the_api_and_by_the_tag() {
    for kind in ALL {
        let server = Server::start(kind);
        let place = open(&format!("{}/app", server.address), &options());
        let (digest, manifest) = put_image(&*place, &[noise(5, 100)], Some("v"), None);
        assert_eq!(place.referrers(&digest).unwrap(), [], "{kind:?}");

        let subject = Descriptor::new(media_type::MANIFEST, digest, manifest.len() as u64);
        let mut expected: Vec<Digest> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|writer| {
                    let (place, subject) = (&place, subject.clone());
                    scope
                        .spawn(move || put_image(&**place, &[noise(100 + writer, 50)], None, Some(subject)).0)
                })
                .collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        let mut found: Vec<_> =
            place.referrers(&digest).unwrap().into_iter().map(|found| found.digest).collect();
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "{kind:?}");
    }
}

#[test]
fn uploads_go_on_after_a_break() {
    let layer = noise(6, 1_500_000);
    for kind in ALL {
        // In the middle of a part: distribution cannot go on from there and loses the upload ("upload resumed
        // at wrong offset"), so it begins anew. Before a part: it goes on where it stopped.
        for (break_at, most) in [(Break::AtByte(700_000), 3_000_000), (Break::BeforePatch(3), 1_600_000)] {
            let server = Server::start(kind);
            let breaker = Breaker::start(&server.address, break_at);
            let place = open(&format!("{}/app", breaker.address), &options());
            let descriptor = put(&*place, &layer);
            assert!(breaker.state.broke.load(Ordering::SeqCst), "{kind:?} {break_at:?}");
            assert!(place.counters().retries > 0);
            let direct = open(&format!("{}/app", server.address), &options());
            assert_eq!(read_all(&*direct, &descriptor).unwrap(), layer, "{kind:?}");
            // go-containerregistry's server does not say how much it has.
            let sent = breaker.state.sent.load(Ordering::SeqCst);
            let most = if kind == Kind::Referrers { 3_000_000 } else { most };
            assert!(sent < most, "{kind:?} {break_at:?}: {sent} bytes for 1500000");
        }
    }
}

#[test]
fn content_that_cannot_be_read_is_not_the_registrys_fault() {
    struct Failing;
    impl BlobContent for Failing {
        fn open(&mut self, _: u64) -> std::io::Result<Box<dyn Read + '_>> {
            struct Reader;
            impl Read for Reader {
                fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                    Err(std::io::Error::other("the disk is gone"))
                }
            }
            Ok(Box::new(Reader))
        }
    }
    let server = Server::start(Kind::Docker);
    let place = open(&format!("{}/app", server.address), &options());
    for size in [1000, 1_000_000] {
        let descriptor = Descriptor::new(media_type::LAYER_TAR, Digest::of(b"x"), size);
        let error = place.put_blob(&descriptor, &mut Failing).unwrap_err();
        assert!(matches!(error, TransportError::Content { .. }), "{}", chain(&error));
        assert!(chain(&error).contains("the disk is gone"));
        assert_eq!(place.counters().retries, 0);
    }
    // The registry finds out content that is not what it is called.
    let descriptor = Descriptor::new(media_type::LAYER_TAR, Digest::of(b"x"), 5);
    let error = place.put_blob(&descriptor, &mut BytesContent(b"other")).unwrap_err();
    assert!(matches!(error, TransportError::Http { .. }), "{}", chain(&error));
    assert!(!place.has_blob(&descriptor).unwrap());
}

#[test]
fn ranges_share_connections() {
    let server = Server::start(Kind::Docker);
    let place = open(&format!("{}/app", server.address), &options());
    let layer = noise(7, 1 << 20);
    let descriptor = put(&*place, &layer);
    let counted = Breaker::start(&server.address, Break::Never);
    let place = open(&format!("{}/app", counted.address), &options());
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (place, layer, digest) = (&place, &layer, descriptor.digest);
            scope.spawn(move || {
                for n in 0..50_u64 {
                    let start = (thread * 50 + n) * 5000;
                    let range = start..start + 4096;
                    let expected = part(layer, range.clone());
                    assert_eq!(place.read_range(&digest, range, soon()).unwrap(), expected);
                }
            });
        }
    });
    assert_eq!(place.counters().requests, 200);
    assert_eq!(place.counters().received, 200 * 4096);
    let connections = counted.state.connections.load(Ordering::SeqCst);
    assert!(connections <= 8, "{connections} connections for 4 threads");
}

/// When a connection breaks.
#[derive(Debug, Clone, Copy)]
enum Break {
    Never,
    /// When so many bytes were sent.
    AtByte(usize),
    /// Instead of the n-th PATCH request, of which the server sees nothing.
    BeforePatch(usize),
}

/// A way to a server that breaks once.
struct Breaker {
    address: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    connections: AtomicUsize,
    patches: AtomicUsize,
    sent: AtomicUsize,
    broke: AtomicBool,
}

impl Breaker {
    fn start(target: &str, break_at: Break) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State::default());
        let (target, shared) = (target.to_owned(), state.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(&target) else { return };
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let state = shared.clone();
                std::thread::spawn(move || forward(from, to, |bytes| state.breaks(break_at, bytes)));
                std::thread::spawn(move || forward(server, client, |_| false));
            }
        });
        Self { address, state }
    }
}

impl State {
    fn breaks(&self, break_at: Break, bytes: &[u8]) -> bool {
        let sent = self.sent.fetch_add(bytes.len(), Ordering::SeqCst) + bytes.len();
        let now = match break_at {
            Break::Never => false,
            Break::AtByte(at) => sent > at,
            Break::BeforePatch(n) => {
                bytes.starts_with(b"PATCH ") && self.patches.fetch_add(1, Ordering::SeqCst) + 1 == n
            }
        };
        now && !self.broke.swap(true, Ordering::SeqCst)
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, breaks: impl Fn(&[u8]) -> bool) {
    let mut buffer = [0; 8192];
    while let Ok(got) = from.read(&mut buffer) {
        if got == 0 || breaks(&buffer[..got]) || to.write_all(&buffer[..got]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// A transport is used from many threads.
#[test]
fn transports_can_be_shared() {
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&open("localhost/a", &options()));
    let _: &dyn Transport = &*open("oci:/nonexistent", &options());
}
