//! Showing who asks: passwords, helpers, tokens; and to whom nothing is shown.

use std::collections::HashMap;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use seed_image::transport::registry::credentials::{CredentialOptions, Secret};
use seed_image::transport::registry::http::HttpError;
use seed_image::transport::{Transport, TransportError, TransportOptions};

use crate::support::hostile::{Hostile, Request, reply, reply_blob, reply_raw};
use crate::support::servers::{Kind, Server, Setup};
use crate::support::{chain, describe, noise, open, options, put, put_image, read_all, soon};

const PASSWORD: &str = "correct-horse-battery";

fn with_user(user: &str, password: &str) -> TransportOptions {
    let credentials =
        CredentialOptions { user: Some((user.into(), Secret::new(password))), ..Default::default() };
    TransportOptions { credentials, ..options() }
}

fn with_file(path: &Path) -> TransportOptions {
    let credentials = CredentialOptions { files: vec![path.to_owned()], ..Default::default() };
    TransportOptions { credentials, ..options() }
}

/// That neither an error nor a transport shows what it must not.
fn keeps_secret(place: &dyn Transport, error: &TransportError) {
    for shown in [format!("{place:?}"), format!("{error:?}"), chain(error)] {
        for secret in [PASSWORD, &BASE64.encode(format!("user:{PASSWORD}").as_bytes()), "secret-token"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}

#[test]
fn passwords_of_a_real_registry() {
    let setup = Setup { user: Some(("user", PASSWORD)), ..Setup::default() };
    let server = Server::start_with(Kind::Docker, &setup);
    let name = format!("{}/team/app", server.address);
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("auth.json");
    let pair = BASE64.encode(format!("user:{PASSWORD}").as_bytes());
    fs::write(&file, format!(r#"{{"auths":{{"{}/team":{{"auth":"{pair}"}}}}}}"#, server.address)).unwrap();

    let layer = noise(20, 600_000);
    for options in [with_user("user", PASSWORD), with_file(&file)] {
        let place = open(&name, &options);
        put_image(&*place, std::slice::from_ref(&layer), Some("v1"), None);
        assert_eq!(read_all(&*place, &describe(&layer)).unwrap(), layer);
        assert_eq!(place.counters().retries, 0);
    }

    let other = format!(r#"{{"auths":{{"{}/other":{{"auth":"{pair}"}}}}}}"#, server.address);
    fs::write(&file, other).unwrap();
    for options in [options(), with_user("user", "wrong"), with_user("nobody", PASSWORD), with_file(&file)] {
        let place = open(&name, &options);
        for error in [
            place.resolve("v1").unwrap_err(),
            place.has_blob(&describe(&layer)).unwrap_err(),
            read_all(&*place, &describe(&layer)).unwrap_err(),
            place
                .put_manifest(
                    br#"{"schemaVersion":2,"manifests":[]}"#,
                    "application/vnd.oci.image.index.v1+json",
                    None,
                )
                .unwrap_err(),
        ] {
            assert!(error.is_denied(), "{}", chain(&error));
            keeps_secret(&*place, &error);
        }
    }
    let error = open(&name, &options()).resolve("v1").unwrap_err();
    assert!(chain(&error).contains("log in"), "{}", chain(&error));
}

/// The helper is found on PATH, so a process with another PATH looks for it.
#[test]
fn helpers_are_asked() {
    const MARK: &str = "SEED_TEST_HELPER_REGISTRY";
    if let Ok(address) = std::env::var(MARK) {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("config.json");
        for (text, allowed) in [
            (format!(r#"{{"credHelpers":{{"{address}":"test"}}}}"#), true),
            (r#"{"auths":{"x":{}},"credsStore":"test"}"#.into(), true),
            (r#"{"credsStore":"empty"}"#.into(), false),
        ] {
            fs::write(&file, text).unwrap();
            let result = open(&format!("{address}/app"), &with_file(&file)).resolve("none");
            let error = result.unwrap_err();
            assert_eq!((error.is_not_found(), error.is_denied()), (allowed, !allowed), "{}", chain(&error));
        }
        for broken in ["broken", "garbage", "missing"] {
            fs::write(&file, format!(r#"{{"credsStore":"{broken}"}}"#)).unwrap();
            let place = open(&format!("{address}/app"), &with_file(&file));
            let error = place.resolve("none").unwrap_err();
            assert!(chain(&error).contains(&format!("docker-credential-{broken}")), "{}", chain(&error));
            keeps_secret(&*place, &error);
        }
        return;
    }
    let setup = Setup { user: Some(("user", PASSWORD)), ..Setup::default() };
    let server = Server::start_with(Kind::Docker, &setup);
    let home = tempfile::tempdir().unwrap();
    let answer = format!(r#"{{"ServerURL":"x","Username":"user","Secret":"{PASSWORD}"}}"#);
    for (name, script) in [
        ("test", format!("[ \"$1\" = get ] && [ \"$(cat)\" = {} ] && echo '{answer}'", server.address)),
        ("empty", "echo credentials not found in native keychain; exit 1".into()),
        ("broken", format!("echo {PASSWORD}; exit 3")),
        ("garbage", format!("echo {PASSWORD}")),
    ] {
        let path = home.path().join(format!("docker-credential-{name}"));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "auth::helpers_are_asked", "--nocapture"])
        .env(MARK, &server.address)
        .env("PATH", format!("{}:{}", home.path().display(), std::env::var("PATH").unwrap()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

/// A registry and its token server.
struct TokenRegistry {
    server: Hostile,
    state: Arc<TokenState>,
}

#[derive(Default)]
struct TokenState {
    issued: AtomicUsize,
    /// When each token was issued, and how often it was used.
    tokens: Mutex<HashMap<String, (Instant, usize)>>,
    /// Requests with a token that was good no more.
    refused: AtomicUsize,
}

impl TokenRegistry {
    /// Tokens are good for `uses` requests and for `life`; `admits` says which token requests are granted.
    fn start(uses: usize, life: Duration, blob: Vec<u8>, admits: fn(&Request) -> bool) -> Self {
        let state = Arc::new(TokenState::default());
        let shared = state.clone();
        let server = Hostile::start(move |request: &Request, _, to: &mut TcpStream| {
            if request.target.starts_with("/token") {
                if !admits(request) {
                    return reply(to, 401, &[], br#"{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}"#);
                }
                let token = format!("secret-token-{}", shared.issued.fetch_add(1, Ordering::SeqCst));
                shared.tokens.lock().unwrap().insert(token.clone(), (Instant::now(), 0));
                let answer = format!(r#"{{"token":"{token}","expires_in":{}}}"#, life.as_secs());
                return reply(to, 200, &[], answer.as_bytes());
            }
            let token = request.header("authorization").and_then(|header| header.strip_prefix("Bearer "));
            let good = token.is_some_and(|token| {
                let mut tokens = shared.tokens.lock().unwrap();
                tokens.get_mut(token).is_some_and(|(issued, used)| {
                    *used += 1;
                    *used <= uses && issued.elapsed() <= life
                })
            });
            if !good {
                shared.refused.fetch_add(usize::from(token.is_some()), Ordering::SeqCst);
                let host = request.header("host").unwrap();
                let challenge = format!(
                    r#"Bearer realm="http://{host}/token?a=b",service="test registry",scope="repository:app:pull""#
                );
                return reply(to, 401, &[("WWW-Authenticate", &challenge)], b"");
            }
            match request.method.as_str() {
                "GET" => reply_blob(request, to, &blob),
                "HEAD" => reply_raw(to, 404, &[("Content-Length", "0")], b""),
                "POST" => reply(to, 202, &[("Location", "/upload")], b""),
                _ => reply(to, 201, &[], b""),
            }
        });
        Self { server, state }
    }

    fn token_requests(&self) -> Vec<Request> {
        self.server.requests().into_iter().filter(|request| request.target.starts_with("/token")).collect()
    }
}

const LONG: Duration = Duration::from_secs(300);

#[test]
fn one_token_serves_many_threads() {
    let blob = noise(21, 64_000);
    let registry = TokenRegistry::start(usize::MAX, LONG, blob.clone(), |_| true);
    let place = open(&format!("{}/app", registry.server.address), &options());
    std::thread::scope(|scope| {
        for thread in 0..16_usize {
            let (place, blob) = (&place, &blob);
            scope.spawn(move || {
                let (start, end) = (thread * 4000, thread * 4000 + 4000);
                let bytes =
                    place.read_range(&describe(blob).digest, start as u64..end as u64, soon()).unwrap();
                assert_eq!(bytes, blob[start..end]);
            });
        }
    });
    let tokens = registry.token_requests();
    assert_eq!(tokens.len(), 1);
    // The query that the realm has stays, and all that was asked for is named.
    assert_eq!(tokens[0].target, "/token?a=b&service=test+registry&scope=repository%3Aapp%3Apull");
    assert_eq!(tokens[0].header("authorization"), None);
    assert_eq!(place.counters().retries, 0);
}

#[test]
fn a_refused_token_is_replaced_once() {
    let blob = noise(22, 10_000);
    let descriptor = describe(&blob);
    let registry = TokenRegistry::start(3, LONG, blob.clone(), |_| true);
    let place = open(&format!("{}/app", registry.server.address), &options());
    for _ in 0..9 {
        assert_eq!(place.read_range(&descriptor.digest, 0..100, soon()).unwrap(), blob[..100]);
    }
    assert_eq!(registry.token_requests().len(), 3);
    assert_eq!(registry.state.refused.load(Ordering::SeqCst), 2);

    let registry = TokenRegistry::start(0, LONG, blob, |_| true);
    let place = open(&format!("{}/app", registry.server.address), &options());
    let error = place.read_range(&descriptor.digest, 0..100, soon()).unwrap_err();
    assert!(error.is_denied(), "{}", chain(&error));
    assert_eq!(registry.token_requests().len(), 1, "no token is good: asking goes on no further");
    keeps_secret(&*place, &error);
}

#[test]
fn tokens_are_replaced_before_they_expire() {
    let blob = noise(23, 10_000);
    let registry = TokenRegistry::start(usize::MAX, Duration::from_secs(1), blob.clone(), |_| true);
    let place = open(&format!("{}/app", registry.server.address), &options());
    let begin = Instant::now();
    while registry.token_requests().len() < 3 {
        place.read_range(&describe(&blob).digest, 0..100, soon()).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(10), "the token was never replaced");
    }
    assert_eq!(registry.state.refused.load(Ordering::SeqCst), 0);
}

#[test]
fn tokens_are_for_what_is_done() {
    let registry = TokenRegistry::start(usize::MAX, LONG, noise(24, 100), |request| {
        request.header("authorization")
            == Some(&format!("Basic {}", BASE64.encode(format!("user:{PASSWORD}").as_bytes())))
    });
    let name = format!("{}/app", registry.server.address);
    let place = open(&name, &with_user("user", PASSWORD));
    put(&*place, b"blob");
    let other = seed_image::reference::Location::Registry {
        host: registry.server.address.clone(),
        repository: "other/from".into(),
    };
    place.mount_blob(&describe(b"blob"), &other).unwrap();
    let scopes: Vec<_> = registry.token_requests().iter().map(|request| request.target.clone()).collect();
    assert!(scopes[0].contains("scope=repository%3Aapp%3Apull%2Cpush"), "{scopes:?}");
    assert!(scopes[1].contains("scope=repository%3Aother%2Ffrom%3Apull"), "{scopes:?}");
    assert_eq!(scopes.len(), 2);

    let place = open(&name, &with_user("user", "wrong"));
    let error = place.read_range(&describe(b"blob").digest, 0..1, soon()).unwrap_err();
    assert!(error.is_denied() && chain(&error).contains("no token from"), "{}", chain(&error));
    assert_eq!(place.counters().retries, 0);
    keeps_secret(&*place, &error);
}

#[test]
fn refresh_tokens_become_bearer_tokens() {
    let blob = noise(25, 1000);
    let registry = TokenRegistry::start(usize::MAX, LONG, blob.clone(), |request| {
        let form = String::from_utf8_lossy(&request.body);
        request.method == "POST"
            && form.contains("refresh_token=long%2Flived")
            && form.contains("grant_type=refresh_token")
    });
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("config.json");
    let address = &registry.server.address;
    fs::write(&file, format!(r#"{{"auths":{{"{address}":{{"identitytoken":"long/lived"}}}}}}"#)).unwrap();
    let place = open(&format!("{address}/app"), &with_file(&file));
    assert_eq!(read_all(&*place, &describe(&blob)).unwrap(), blob);
}

#[test]
fn token_servers_that_fail() {
    type Answer = fn(usize, &mut TcpStream) -> std::io::Result<bool>;
    type Check = fn(&HttpError) -> bool;
    let cases: &[(&str, Answer, Option<Check>)] = &[
        (
            "503 once",
            |n, to| {
                if n == 0 {
                    reply(to, 503, &[], b"")
                } else {
                    reply(to, 200, &[], br#"{"access_token":"x"}"#)
                }
            },
            None,
        ),
        ("a page", |_, to| reply(to, 200, &[], b"<html>"), Some(|e| matches!(e, HttpError::Body(_)))),
        ("no token", |_, to| reply(to, 200, &[], b"{}"), Some(|e| matches!(e, HttpError::Header("token")))),
        (
            "a token with a line end",
            |_, to| reply(to, 200, &[], br#"{"token":"a\r\nX: y"}"#),
            Some(|e| matches!(e, HttpError::Header("token"))),
        ),
        (
            "a redirect",
            |_, to| reply(to, 307, &[("Location", "http://127.0.0.1:1/")], b""),
            Some(|e| matches!(e, HttpError::Status { status: 307, .. })),
        ),
    ];
    for (name, answer, expected) in cases {
        let (answer, count) = (*answer, AtomicUsize::new(0));
        let server = Hostile::start(move |request: &Request, _, to: &mut TcpStream| {
            if request.target.starts_with("/token") {
                return answer(count.fetch_add(1, Ordering::SeqCst), to);
            }
            if request.header("authorization").is_some() {
                return reply_blob(request, to, b"blob");
            }
            let challenge = format!("Bearer realm=\"http://{}/token\"", request.header("host").unwrap());
            reply(to, 401, &[("WWW-Authenticate", &challenge)], b"")
        });
        let result = open(&format!("{}/app", server.address), &options()).read_range(
            &describe(b"blob").digest,
            0..4,
            soon(),
        );
        match (expected, result) {
            (None, Ok(bytes)) => assert_eq!(bytes, b"blob"),
            (Some(check), Err(TransportError::Http { source: HttpError::Token { source, .. }, .. })) => {
                assert!(check(&source), "{name}: {source:?}");
            }
            (_, result) => panic!("{name}: {result:?}"),
        }
    }
}

#[test]
fn credentials_go_to_nobody_else() {
    let pair = format!("Basic {}", BASE64.encode(format!("user:{PASSWORD}").as_bytes()));
    let blob = noise(26, 1000);
    let (stored, expected) = (blob.clone(), pair.clone());
    let storage =
        Hostile::start(move |request: &Request, _, to: &mut TcpStream| reply_blob(request, to, &stored));
    let target = storage.address.clone();
    let registry = Hostile::start(move |request: &Request, _, to: &mut TcpStream| {
        if request.header("authorization") != Some(&expected) {
            return reply(to, 401, &[("WWW-Authenticate", "Basic realm=\"x\"")], b"");
        }
        reply(to, 307, &[("Location", &format!("http://{target}/data?X-Signature=secret-token"))], b"")
    });
    let place = open(&format!("{}/app", registry.address), &with_user("user", PASSWORD));
    for _ in 0..2 {
        assert_eq!(read_all(&*place, &describe(&blob)).unwrap(), blob);
        place.read_range(&describe(&blob).digest, 0..10, soon()).unwrap();
    }
    for request in storage.requests() {
        assert_eq!(request.header("authorization"), None);
    }
    assert!(registry.requests()[1..].iter().all(|request| request.header("authorization") == Some(&pair)));

    // A signed URL is a secret, too.
    let gone = Hostile::start(|_: &Request, _, to: &mut TcpStream| {
        reply(to, 307, &[("Location", "http://127.0.0.1:1/data?X-Signature=secret-token")], b"")
    });
    let place = open(&format!("{}/app", gone.address), &options());
    let error = place.read_range(&describe(&blob).digest, 0..10, soon()).unwrap_err();
    keeps_secret(&*place, &error);

    // A token server in plain HTTP somewhere else gets nothing: it is not even asked.
    let lures = Hostile::start(|_: &Request, _, to: &mut TcpStream| {
        reply(to, 401, &[("WWW-Authenticate", "Bearer realm=\"http://192.0.2.1/token\"")], b"")
    });
    let place = open(&format!("{}/app", lures.address), &with_user("user", PASSWORD));
    let error = place.read_range(&describe(&blob).digest, 0..10, soon()).unwrap_err();
    let is_plain = matches!(&error, TransportError::Http { source: HttpError::PlainCredentials(host), .. } if host == "192.0.2.1");
    assert!(is_plain, "{error:?}");

    // Nor does a registry in plain HTTP; 0.0.0.0 leads here but is no loopback address.
    let port = registry.address.rsplit(':').next().unwrap();
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("example.org");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("hosts.toml"), format!("server = \"http://0.0.0.0:{port}\"")).unwrap();
    let file = home.path().join("auth.json");
    let encoded = pair.strip_prefix("Basic ").unwrap();
    fs::write(&file, format!(r#"{{"auths":{{"0.0.0.0:{port}":{{"auth":"{encoded}"}}}}}}"#)).unwrap();
    let options = TransportOptions { hosts_dirs: vec![home.path().to_owned()], ..with_file(&file) };
    let error =
        open("example.org/app", &options).read_range(&describe(&blob).digest, 0..10, soon()).unwrap_err();
    assert!(
        matches!(&error, TransportError::Http { source: HttpError::PlainCredentials(_), .. }),
        "{error:?}"
    );
    assert_eq!(registry.requests().last().unwrap().header("authorization"), None);
    let options = TransportOptions { insecure_hosts: vec![format!("0.0.0.0:{port}")], ..options };
    let place = open("example.org/app", &options);
    assert_eq!(place.read_range(&describe(&blob).digest, 0..10, soon()).unwrap(), blob[..10]);
}
