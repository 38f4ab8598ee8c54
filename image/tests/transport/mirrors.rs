//! Mirrors by containerd's `hosts.toml`, and TLS with a certificate authority of one's own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use seed_format::Digest;
use seed_image::manifest::media_type;
use seed_image::reference::Reference;
use seed_image::transport::registry::http::HttpError;
use seed_image::transport::{self, TransportError, TransportOptions};

use crate::support::hostile::{Hostile, Request, reply, reply_blob, stall};
use crate::support::servers::{Kind, Server, Setup};
use crate::support::{chain, describe, noise, open, options, put_image, read_all, soon};

/// Options with a `hosts.toml` for `host`.
fn with_hosts(home: &Path, host: &str, text: &str) -> TransportOptions {
    let directory = home.join("certs.d").join(host);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("hosts.toml"), text).unwrap();
    TransportOptions {
        hosts_dirs: vec![home.join("certs.d")],
        stall_timeout: Duration::from_millis(300),
        retries: 2,
        ..options()
    }
}

/// An address at which nobody listens.
fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn what_a_mirror_cannot_give_comes_from_the_registry() {
    let blob = noise(30, 5000);
    let manifest =
        br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let digest = Digest::of(manifest);
    let served = blob.clone();
    let upstream = Hostile::start(move |request: &Request, _, to: &mut TcpStream| {
        assert!(!request.target.contains("ns="));
        match request.target.contains("/manifests/") {
            true => reply(to, 200, &[("Content-Type", media_type::INDEX)], manifest),
            false => reply_blob(request, to, &served),
        }
    });
    type Answer = fn(&Request, usize, &mut TcpStream) -> std::io::Result<bool>;
    let cases: &[(&str, Answer)] = &[
        ("lacks it", |_, _, to| reply(to, 404, &[], b"")),
        ("refuses", |_, _, to| reply(to, 403, &[], b"")),
        ("fails", |_, _, to| reply(to, 500, &[], b"")),
        ("is busy", |_, _, to| reply(to, 429, &[("Retry-After", "600")], b"")),
        ("stalls", |_, _, to| stall(to)),
        ("hangs up", |_, _, _| Ok(false)),
        ("ignores ranges", |_, _, to| reply(to, 200, &[], b"other")),
        ("lies", |request, _, to| reply(to, if request.range().is_some() { 206 } else { 200 }, &[], b"lie")),
        ("redirects in circles", |request, _, to| reply(to, 307, &[("Location", &request.target)], b"")),
    ];
    for (name, answer) in cases {
        let mirror = Hostile::start(*answer);
        let home = tempfile::tempdir().unwrap();
        let text = format!("[host.\"http://{}/cache\"]\n[host.\"http://{}\"]", mirror.address, nobody());
        let options = with_hosts(home.path(), &upstream.address, &text);
        let place = open(&format!("{}/app", upstream.address), &options);
        let begin = Instant::now();
        assert_eq!(
            place.read_range(&describe(&blob).digest, 10..20, soon()).unwrap(),
            blob[10..20],
            "{name}"
        );
        assert_eq!(place.manifest(&digest).unwrap(), manifest, "{name}");
        assert_eq!(read_all(&*place, &describe(&blob)).unwrap(), blob, "{name}");
        assert!(begin.elapsed() < Duration::from_secs(5), "{name}: {:?}", begin.elapsed());

        // What served the blob is asked for it first from then on.
        let asked = mirror.requests().len();
        assert!(asked > 0 && mirror.requests()[0].target.starts_with("/cache/v2/app/blobs/"), "{name}");
        assert!(
            mirror.requests()[0].target.ends_with(&format!("?ns={}", upstream.address.replace(':', "%3A")))
        );
        place.read_range(&describe(&blob).digest, 10..20, soon()).unwrap();
        assert_eq!(mirror.requests().len(), asked, "{name}");
    }
}

#[test]
fn mirrors_are_asked_for_what_they_may_do() {
    let blob = noise(31, 5000);
    let (first, second) = (blob.clone(), blob.clone());
    let mirror = Hostile::start(move |request: &Request, _, to: &mut TcpStream| {
        assert_eq!(request.header("x-cluster"), Some("a"));
        reply_blob(request, to, &first)
    });
    let upstream = Hostile::start(move |request: &Request, _, to: &mut TcpStream| {
        assert_eq!(request.header("x-cluster"), None);
        match request.method.as_str() {
            "GET" if request.target.contains("/blobs/") => reply_blob(request, to, &second),
            "HEAD" => reply(to, 404, &[], b""),
            "POST" => reply(to, 202, &[("Location", "/upload")], b""),
            "PUT" => reply(to, 201, &[], b""),
            _ => reply(
                to,
                200,
                &[("Content-Type", media_type::INDEX)],
                br#"{"schemaVersion":2,"manifests":[]}"#,
            ),
        }
    });
    let home = tempfile::tempdir().unwrap();
    let text = format!(
        "[host.\"http://{0}/api\"]\ncapabilities = [\"pull\"]\noverride_path = true\n[host.\"http://{0}/api\".header]\nx-cluster = \"a\"",
        mirror.address
    );
    let options = with_hosts(home.path(), &upstream.address, &text);
    let place = open(&format!("{}/app", upstream.address), &options);
    place.resolve("v1").unwrap();
    crate::support::put(&*place, b"pushed");
    assert_eq!(mirror.requests().len(), 0);
    let before = upstream.requests().len();
    assert_eq!(place.read_range(&describe(&blob).digest, 10..20, soon()).unwrap(), blob[10..20]);
    assert_eq!(upstream.requests().len(), before);
    assert!(mirror.requests()[0].target.starts_with("/api/app/blobs/"));

    // After wrong bytes, the next read asks elsewhere.
    assert!(place.distrust(&describe(&blob).digest));
    place.read_range(&describe(&blob).digest, 10..20, soon()).unwrap();
    assert_eq!((mirror.requests().len(), upstream.requests().len()), (1, before + 1));
    assert!(!place.distrust(&describe(&blob).digest), "there is nobody else to ask");
    place.read_range(&describe(&blob).digest, 10..20, soon()).unwrap();
}

#[test]
fn a_wrong_file_is_an_error_at_once() {
    let home = tempfile::tempdir().unwrap();
    let options =
        with_hosts(home.path(), "example.org", "[host.\"https://mirror.example\"]\nskip_verify = true");
    let reference: Reference = "example.org/app".parse().unwrap();
    let error = transport::open(&reference.location, &options).unwrap_err();
    assert!(
        matches!(error, TransportError::Hosts { .. }) && chain(&error).contains("skip_verify"),
        "{}",
        chain(&error)
    );
    let options = with_hosts(home.path(), "example.org", "ca = \"missing.pem\"");
    let error = transport::open(&reference.location, &options).unwrap_err();
    assert!(chain(&error).contains("missing.pem"), "{}", chain(&error));
}

/// A certificate authority, and certificates by it for 127.0.0.1 and for a client, with their keys.
struct Authority {
    certificate: PathBuf,
    server: (PathBuf, PathBuf),
    client: (PathBuf, PathBuf),
}

fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().expect("openssl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn authority(home: &Path, name: &str) -> Authority {
    let path = |part: &str| home.join(format!("{name}-{part}"));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (ca, ca_key) = (path("ca.pem"), path("ca.key"));
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let subject = format!("/CN={name}");
    let new =
        ["req", "-x509", "-days", "2", "-subj", &subject, "-keyout", &text(&ca_key), "-out", &text(&ca)];
    openssl(&[&new[..], &curve[..]].concat());
    let issue = |role: &str, extensions: &str| {
        let part = |end: &str| path(&format!("{role}.{end}"));
        let (certificate, key, request, file) = (part("pem"), part("key"), part("csr"), part("ext"));
        let subject = format!("/CN={role}");
        let new = ["req", "-subj", &subject, "-keyout", &text(&key), "-out", &text(&request)];
        openssl(&[&new[..], &curve[..]].concat());
        fs::write(&file, extensions).unwrap();
        let sign = ["x509", "-req", "-days", "2", "-CAcreateserial", "-in", &text(&request)];
        let by = ["-CA", &text(&ca), "-CAkey", &text(&ca_key)];
        openssl(&[&sign[..], &by, &["-extfile", &text(&file), "-out", &text(&certificate)]].concat());
        (certificate, key)
    };
    let server = issue("server", "subjectAltName=IP:127.0.0.1\n");
    let client = issue("client", "extendedKeyUsage=clientAuth\n");
    Authority { certificate: ca, server, client }
}

#[test]
fn tls_with_an_authority_of_ones_own() {
    let home = tempfile::tempdir().unwrap();
    let ours = authority(home.path(), "ours");
    let other = authority(home.path(), "other");
    let setup = Setup { tls: Some(ours.server.clone()), ..Setup::default() };
    let server = Server::start_with(Kind::Docker, &setup);
    let name = format!("{}/app", server.address);
    let hosts = |more: String| {
        with_hosts(home.path(), &server.address, &format!("server = \"https://{}\"\n{more}", server.address))
    };
    let layer = noise(32, 600_000);

    let place = open(&name, &hosts(format!("ca = {:?}", ours.certificate)));
    let (digest, _) = put_image(&*place, std::slice::from_ref(&layer), Some("v1"), None);
    assert_eq!(place.resolve("v1").unwrap().digest, digest);
    assert_eq!(read_all(&*place, &describe(&layer)).unwrap(), layer);
    assert_eq!(place.read_range(&describe(&layer).digest, 5..500_000, soon()).unwrap(), layer[5..500_000]);
    assert_eq!(place.counters().retries, 0);

    let with_bundle = TransportOptions { ca_file: Some(ours.certificate.clone()), ..hosts(String::new()) };
    assert_eq!(open(&name, &with_bundle).resolve("v1").unwrap().digest, digest);
    let trusting = hosts("skip_verify = true".into());
    assert_eq!(open(&name, &trusting).resolve("v1").unwrap().digest, digest);

    let not_tls = |error: TransportError| {
        assert!(matches!(&error, TransportError::Http { source: HttpError::Tls(_), .. }), "{error:?}");
    };
    not_tls(open(&name, &hosts(format!("ca = {:?}", other.certificate))).resolve("v1").unwrap_err());
    not_tls(open(&name, &hosts(String::new())).resolve("v1").unwrap_err());
    // A certificate for another name.
    let elsewhere = server.address.replace("127.0.0.1", "localhost");
    let text = format!("server = \"https://{elsewhere}\"\nca = {:?}", ours.certificate);
    let options = with_hosts(home.path(), &elsewhere, &text);
    not_tls(open(&format!("{elsewhere}/app"), &options).resolve("v1").unwrap_err());
    // A TLS server that is spoken to in plain HTTP is an error, not a hang.
    assert!(open(&name, &options_without_hosts()).resolve("v1").is_err());
}

#[test]
fn a_registry_that_asks_who_the_client_is() {
    let home = tempfile::tempdir().unwrap();
    let (ours, clients) = (authority(home.path(), "ours"), authority(home.path(), "clients"));
    let (certificate, key) = &clients.client;
    let setup = Setup {
        tls: Some(ours.server.clone()),
        client_authority: Some(clients.certificate.clone()),
        ..Setup::default()
    };
    let server = Server::start_with(Kind::Distribution, &setup);
    let name = format!("{}/app", server.address);
    let hosts = |client: String| {
        let text = format!("server = \"https://{}\"\nca = {:?}\n{client}", server.address, ours.certificate);
        with_hosts(home.path(), &server.address, &text)
    };
    let layer = noise(33, 600_000);

    let place = open(&name, &hosts(format!("client = [[{certificate:?}, {key:?}]]")));
    let (digest, _) = put_image(&*place, std::slice::from_ref(&layer), Some("v1"), None);
    assert_eq!(place.resolve("v1").unwrap().digest, digest);
    assert_eq!(read_all(&*place, &describe(&layer)).unwrap(), layer);
    assert_eq!(place.read_range(&describe(&layer).digest, 5..500_000, soon()).unwrap(), layer[5..500_000]);
    assert_eq!(place.counters().retries, 0);

    // Both in one file.
    let both = home.path().join("both.pem");
    fs::write(&both, [fs::read(key).unwrap(), fs::read(certificate).unwrap()].concat()).unwrap();
    assert_eq!(open(&name, &hosts(format!("client = {both:?}"))).resolve("v1").unwrap().digest, digest);

    // As docker has them.
    let directory = home.path().join("docker").join(&server.address);
    fs::create_dir_all(&directory).unwrap();
    for (from, to) in [(&ours.certificate, "ca.crt"), (certificate, "client.cert"), (key, "client.key")] {
        fs::copy(from, directory.join(to)).unwrap();
    }
    let docker = TransportOptions { hosts_dirs: vec![home.path().join("docker")], ..options() };
    assert_eq!(open(&name, &docker).resolve("v1").unwrap().digest, digest);

    // Without a certificate, and with one that others signed, the registry hangs up.
    let (stranger, strangers_key) = &ours.client;
    for client in [String::new(), format!("client = [[{stranger:?}, {strangers_key:?}]]")] {
        let error = open(&name, &hosts(client)).resolve("v1").unwrap_err();
        assert!(matches!(&error, TransportError::Http { source: HttpError::Tls(_), .. }), "{error:?}");
    }
    // A certificate without a key is an error at once.
    let reference: Reference = name.parse().unwrap();
    let error =
        transport::open(&reference.location, &hosts(format!("client = {certificate:?}"))).unwrap_err();
    assert!(chain(&error).contains("no private key"), "{}", chain(&error));
}

fn options_without_hosts() -> TransportOptions {
    TransportOptions { retries: 1, ..options() }
}

/// A transport is told apart from another by nothing but its place.
#[test]
fn the_place_is_what_was_asked_for() {
    let place = open("docker.io/alpine", &options());
    assert_eq!(place.location().to_string(), "docker.io/library/alpine");
    assert!(format!("{place:?}").contains("registry-1.docker.io"));
}
