//! A registry that lies, stalls and breaks: the right bytes come, or a clear error, in time.

mod faults;

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seed_format::Digest;
use seed_image::manifest::{MAX_MANIFEST, media_type};
use seed_image::transport::registry::http::HttpError;
use seed_image::transport::{Transport, TransportError, TransportOptions};

use self::faults::{CASES, Case, Fault, Outcome};
use crate::support::hostile::{Hostile, Request, reply, reply_blob, reply_raw};
use crate::support::{chain, describe, noise, open, options, put, read_all};

/// A deadline that stalling servers reach.
const PATIENCE: Duration = Duration::from_millis(1500);
/// What a deadline may be overrun by on a busy machine.
const GRACE: Duration = Duration::from_millis(700);

fn quick() -> TransportOptions {
    TransportOptions {
        stall_timeout: Duration::from_millis(300),
        operation_timeout: PATIENCE,
        retries: 2,
        ..options()
    }
}

fn check(name: &str, way: &str, outcome: Outcome, result: Result<Vec<u8>, TransportError>, right: &[u8]) {
    let fits = match (outcome, &result) {
        (Outcome::Skip, _) => true,
        (Outcome::Right, Ok(bytes)) => bytes == right,
        (Outcome::Http(fits), Err(TransportError::Http { source, .. })) => fits(source),
        (Outcome::Error(fits), Err(error)) => fits(error),
        _ => false,
    };
    let got = result
        .as_ref()
        .map_or_else(|error| format!("{}: {error:?}", chain(error)), |bytes| bytes.len().to_string());
    assert!(fits, "{name}, {way}: {got}");
    assert!(result.is_err() || matches!(outcome, Outcome::Skip) || result.unwrap() == right, "{name}, {way}");
}

/// Reads a range and the whole blob, and checks what came of it and when.
fn try_case(case: &Case, faulty: usize, range: Outcome, whole: Outcome) {
    let blob = Arc::new(noise(42, 10_000));
    let descriptor = describe(&blob);
    for (way, outcome) in [("range", range), ("whole", whole)] {
        let (served, fault) = (blob.clone(), case.fault);
        let server = Hostile::start(move |request: &Request, before, to: &mut TcpStream| {
            if before < faulty { fault(request, &served, to) } else { reply_blob(request, to, &served) }
        });
        let place = open(&format!("{}/app", server.address), &quick());
        let begin = Instant::now();
        let (result, right) = match way {
            "range" => {
                (place.read_range(&descriptor.digest, 4500..5500, begin + PATIENCE), &blob[4500..5500])
            }
            _ => (read_all(&*place, &descriptor), &blob[..]),
        };
        let took = begin.elapsed();
        check(case.name, way, outcome, result, right);
        assert!(took < PATIENCE + GRACE, "{}, {way}: took {took:?}", case.name);
    }
}

fn in_parallel(test: impl Fn(&Case) + Sync) {
    std::thread::scope(|scope| {
        let test = &test;
        let threads: Vec<_> = CASES.iter().map(|case| (case.name, scope.spawn(move || test(case)))).collect();
        for (name, thread) in threads {
            assert!(thread.join().is_ok(), "{name}");
        }
    });
}

#[test]
fn faults_that_stay_are_errors_in_time() {
    in_parallel(|case| try_case(case, usize::MAX, case.range, case.whole));
}

#[test]
fn faults_that_pass_do_no_harm() {
    in_parallel(|case| {
        if case.passes {
            try_case(case, 1, Outcome::Right, Outcome::Right);
        }
    });
}

#[test]
fn manifests_are_hashed_whatever_the_server_says() {
    let right =
        br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let digest = Digest::of(right);
    type Check = fn(&TransportError) -> bool;
    let cases: &[(&str, Fault, Check)] = &[
        (
            "another manifest under a lying header",
            |_, right, to| {
                let claimed = Digest::of(right).to_string();
                let other = br#"{"schemaVersion":2,"manifests":[]}"#;
                reply(
                    to,
                    200,
                    &[("Docker-Content-Digest", &claimed), ("Content-Type", media_type::INDEX)],
                    other,
                )
            },
            |e| matches!(e, TransportError::WrongDigest { .. }),
        ),
        (
            "a page",
            |_, _, to| reply(to, 200, &[("Content-Type", "text/html")], b"<html>log in</html>"),
            |e| matches!(e, TransportError::WrongDigest { .. }),
        ),
        (
            "endless",
            |_, _, to| {
                reply_raw(to, 200, &[("Transfer-Encoding", "chunked")], b"")?;
                while to.write_all(&[b"1000\r\n", &[b' '; 4096][..], b"\r\n"].concat()).is_ok() {}
                Ok(false)
            },
            |e| matches!(e, TransportError::Http { source: HttpError::LongBody(_), .. }),
        ),
        (
            "too long",
            |_, _, to| reply(to, 200, &[], &vec![b' '; MAX_MANIFEST + 1]),
            |e| matches!(e, TransportError::Http { source: HttpError::LongBody(_), .. }),
        ),
    ];
    for (name, fault, check) in cases {
        let fault = *fault;
        let server =
            Hostile::start(move |request: &Request, _, to: &mut TcpStream| fault(request, right, to));
        let place = open(&format!("{}/app", server.address), &quick());
        let error = place.manifest(&digest).unwrap_err();
        assert!(check(&error), "{name}: {error:?}");
    }

    // The descriptor of a tag is made from the bytes.
    let server = Hostile::start(move |_: &Request, _, to: &mut TcpStream| {
        let lie = Digest::of(b"lie").to_string();
        reply(to, 200, &[("Docker-Content-Digest", &lie), ("Content-Type", media_type::INDEX)], right)
    });
    let resolved = open(&format!("{}/app", server.address), &quick()).resolve("v1").unwrap();
    assert_eq!((resolved.digest, resolved.size), (digest, right.len() as u64));

    let server = Hostile::start(|_: &Request, _, to: &mut TcpStream| {
        reply(to, 200, &[("Content-Type", "text/html")], b"<html>log in</html>")
    });
    let error = open(&format!("{}/app", server.address), &quick()).resolve("v1").unwrap_err();
    assert!(matches!(error, TransportError::Manifest { .. }), "{error:?}");
}

/// A signed URL that is good for two requests.
#[test]
fn redirects_are_remembered_and_renewed() {
    let blob = Arc::new(noise(43, 100_000));
    let descriptor = describe(&blob);
    let stored = blob.clone();
    let storage = Hostile::start(move |request: &Request, before, to: &mut TcpStream| {
        assert_eq!(request.header("authorization"), None);
        let signature = request.target.split("signature=").nth(1).unwrap();
        // The number of the URL is what the registry counted.
        if request.method != "GET" || before >= 2 && signature == "0" {
            return reply(to, 403, &[], b"expired");
        }
        reply_blob(request, to, &stored)
    });
    let target = storage.address.clone();
    let registry = Hostile::start(move |_: &Request, before, to: &mut TcpStream| {
        let location = format!("http://{target}/data?signature={before}");
        reply(to, 307, &[("Location", &location)], b"")
    });
    let place = open(&format!("{}/app", registry.address), &quick());
    for start in [0, 1000, 2000, 3000, 4000] {
        let range = start..start + 1000;
        let expected = crate::support::part(&blob, range.clone());
        assert_eq!(place.read_range(&descriptor.digest, range, Instant::now() + PATIENCE).unwrap(), expected);
    }
    assert_eq!(registry.requests().len(), 2, "asked once at first, once when the address expired");
    assert_eq!(storage.requests().len(), 6);
    assert_eq!(place.counters().retries, 0);
    assert_eq!(read_all(&*place, &descriptor).unwrap(), *blob);
    // HEAD is for the registry alone; what is redirected is there.
    assert!(place.has_blob(&descriptor).unwrap());
    assert!(storage.requests().iter().all(|request| request.method == "GET"));
}

/// A registry that loses the connection in the middle of a part and knows how much it has.
#[test]
fn uploads_go_on_in_the_middle_of_a_part() {
    let blob = noise(44, 1_000_000);
    let stored = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = stored.clone();
    let server = Hostile::start(move |request: &Request, before, to: &mut TcpStream| {
        let mut kept = kept.lock().unwrap();
        let range = format!("0-{}", kept.len().max(1) - 1);
        let location = [("Location", "/v2/app/blobs/uploads/1?state=a"), ("Range", &range)];
        match request.method.as_str() {
            "HEAD" => reply_raw(to, 404, &[("Content-Length", "0")], b""),
            "POST" => reply(to, 202, &location[..1], b""),
            "GET" => reply(to, 204, &location, b""),
            "PATCH" => {
                let first: usize =
                    request.header("content-range").unwrap().split('-').next().unwrap().parse().unwrap();
                if first != kept.len() {
                    return reply(to, 416, &location, b"");
                }
                if before == 3 {
                    kept.extend_from_slice(&request.body[..100_000]);
                    return Ok(false);
                }
                kept.extend_from_slice(&request.body);
                let range = format!("0-{}", kept.len() - 1);
                reply(to, 202, &[location[0], ("Range", &range)], b"")
            }
            "PUT" => {
                kept.extend_from_slice(&request.body);
                assert!(request.target.starts_with("/v2/app/blobs/uploads/1?state=a&digest=sha256%3A"));
                reply(to, 201, &[], b"")
            }
            _ => reply(to, 405, &[], b""),
        }
    });
    let place = open(&format!("{}/app", server.address), &quick());
    put(&*place, &blob);
    assert!(*stored.lock().unwrap() == blob);
    let sent: usize = server.requests().iter().map(|request| request.body.len()).sum();
    assert_eq!(sent, 1_000_000 + (256 << 10) - 100_000, "only what was lost is sent again");
}

#[test]
fn registries_without_parts_get_the_blob_whole() {
    let blob = noise(45, 1_000_000);
    let server = Hostile::start(|request: &Request, _, to: &mut TcpStream| match request.method.as_str() {
        "HEAD" => reply_raw(to, 404, &[("Content-Length", "0")], b""),
        "POST" => reply(to, 202, &[("Location", "/upload")], b""),
        "PUT" if request.body.len() == 1_000_000 => reply(to, 201, &[], b""),
        _ => reply(to, 405, &[], b""),
    });
    put(&*open(&format!("{}/app", server.address), &quick()), &blob);
    assert_eq!(server.requests().last().unwrap().body, blob);
}

#[test]
fn what_the_registry_stored_must_be_what_was_sent() {
    let server = Hostile::start(|request: &Request, _, to: &mut TcpStream| match request.method.as_str() {
        "HEAD" => reply_raw(to, 404, &[("Content-Length", "0")], b""),
        "POST" => reply(to, 202, &[("Location", "/upload")], b""),
        _ => reply(to, 201, &[("Docker-Content-Digest", &Digest::of(b"other").to_string())], b""),
    });
    let place = open(&format!("{}/app", server.address), &quick());
    let descriptor = describe(b"blob");
    let error = place.put_blob(&descriptor, &mut seed_image::transport::BytesContent(b"blob")).unwrap_err();
    let stored_other =
        |e: &TransportError| matches!(e, TransportError::Http { source: HttpError::StoredOther(_), .. });
    assert!(stored_other(&error), "{error:?}");
    let manifest = br#"{"schemaVersion":2,"manifests":[]}"#;
    let error = place.put_manifest(manifest, media_type::INDEX, Some("v1")).unwrap_err();
    assert!(stored_other(&error), "{error:?}");
}

/// Lists of referrers as strange registries give them.
#[test]
fn strange_lists_of_referrers() {
    let entry = |n: u64| {
        let digest = Digest::of(&n.to_le_bytes());
        format!(r#"{{"mediaType":"{}","digest":"{digest}","size":1}}"#, media_type::MANIFEST)
    };
    let list = |n| format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entry(n));
    let subject = Digest::of(b"subject");
    let index = ("Content-Type", media_type::INDEX);

    type Answer = Box<dyn Fn(&Request, usize, &mut TcpStream) -> io::Result<bool> + Send + Sync>;
    let (one, two) = (list(1), list(2));
    let paged: Answer = Box::new(move |request, _, to| match request.target.contains("page=2") {
        false => {
            reply(to, 200, &[index, ("Link", "</v2/app/referrers/x?page=2>; rel=\"next\"")], one.as_bytes())
        }
        true => reply(to, 200, &[index], two.as_bytes()),
    });
    let tagged = list(1);
    let page: Answer = Box::new(move |request, _, to| match request.target.contains("/referrers/") {
        true => reply(to, 200, &[("Content-Type", "text/html")], b"<html>"),
        false => reply(to, 200, &[index], tagged.as_bytes()),
    });
    let see_other: Answer = Box::new(|request, _, to| match request.target.contains("/referrers/") {
        true => reply(to, 303, &[("Location", "/login")], b""),
        false => reply(to, 404, &[], b""),
    });
    let elsewhere = list(1);
    let leads_away: Answer = Box::new(move |_, _, to| {
        reply(to, 200, &[index, ("Link", "<http://192.0.2.1/x>; rel=\"next\"")], elsewhere.as_bytes())
    });
    let forever = list(1);
    let endless: Answer = Box::new(move |_, _, to| {
        reply(to, 200, &[index, ("Link", "</v2/app/referrers/x>; rel=\"next\"")], forever.as_bytes())
    });
    let broken: Answer = Box::new(move |_, _, to| reply(to, 200, &[index], b"{"));
    for (name, answer, expected) in [
        ("pages", paged, Some(2)),
        ("a page instead of the API", page, Some(1)),
        ("303", see_other, Some(0)),
        ("pages that lead away", leads_away, Some(1)),
        ("pages without end", endless, Some(64)),
        ("malformed", broken, None),
    ] {
        let server = Hostile::start(answer);
        let place: Arc<dyn Transport> = open(&format!("{}/app", server.address), &quick());
        let found = place.referrers(&subject);
        assert_eq!(found.as_ref().ok().map(Vec::len), expected, "{name}: {found:?}");
    }
}
