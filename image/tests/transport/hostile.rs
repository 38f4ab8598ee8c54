//! A registry that lies, stalls and breaks: the right bytes come, or a clear error, in time.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seed_format::Digest;
use seed_image::manifest::{MAX_MANIFEST, media_type};
use seed_image::transport::registry::http::{HttpError, RedirectProblem};
use seed_image::transport::{Transport, TransportError, TransportOptions};

use crate::support::hostile::{Hostile, Request, drip, reply, reply_blob, reply_raw, stall};
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

/// One way to answer wrongly.
type Fault = fn(&Request, &[u8], &mut TcpStream) -> io::Result<bool>;

/// What comes of it when each answer is wrong.
#[derive(Clone, Copy)]
enum Outcome {
    /// The right bytes, all the same.
    Right,
    /// An error of the connection.
    Http(fn(&HttpError) -> bool),
    /// Another error.
    Error(fn(&TransportError) -> bool),
    /// This way of reading is not the subject.
    Skip,
}

struct Case {
    name: &'static str,
    fault: Fault,
    /// Reading 1000 bytes of the blob.
    range: Outcome,
    /// Reading all of it.
    whole: Outcome,
    /// Whether the right bytes come when only the first answer was wrong.
    passes: bool,
}

fn denied(error: &HttpError) -> bool {
    matches!(error, HttpError::Denied { .. })
}

fn wrong_length(error: &HttpError) -> bool {
    matches!(error, HttpError::WrongLength { .. } | HttpError::Connection(_))
}

fn stalled(error: &HttpError) -> bool {
    matches!(error, HttpError::Stalled | HttpError::Deadline)
}

fn broken(error: &HttpError) -> bool {
    matches!(error, HttpError::Connection(_))
}

fn not_http(error: &HttpError) -> bool {
    matches!(error, HttpError::Protocol(_) | HttpError::Connection(_))
}

fn status<const STATUS: u16>(error: &HttpError) -> bool {
    matches!(error, HttpError::Status { status, .. } if *status == STATUS)
}

const CASES: &[Case] = &[
    Case {
        name: "a bit is flipped",
        fault: |request, blob, to| {
            let mut wrong = blob.to_vec();
            wrong[5000] ^= 1;
            reply_blob(request, to, &wrong)
        },
        range: Outcome::Skip,
        whole: Outcome::Error(|e| matches!(e, TransportError::WrongDigest { .. })),
        passes: false,
    },
    Case {
        name: "another blob of the same size",
        fault: |request, blob, to| reply_blob(request, to, &noise(99, blob.len())),
        range: Outcome::Skip,
        whole: Outcome::Error(|e| matches!(e, TransportError::WrongDigest { .. })),
        passes: false,
    },
    Case {
        name: "a shorter blob",
        fault: |request, blob, to| match request.range() {
            None => reply(to, 200, &[], &blob[..9000]),
            Some((start, _)) => {
                reply(to, 206, &[("Content-Range", "bytes 4500-5499/5500")], &blob[start..5400])
            }
        },
        range: Outcome::Http(wrong_length),
        whole: Outcome::Http(wrong_length),
        passes: true,
    },
    Case {
        name: "a longer blob",
        fault: |request, blob, to| match request.range() {
            None => reply(to, 200, &[], &[blob, b"+"].concat()),
            Some((start, _)) => {
                reply(to, 206, &[("Content-Range", "bytes 4500-5499/10000")], &blob[start..6000])
            }
        },
        range: Outcome::Http(wrong_length),
        whole: Outcome::Http(wrong_length),
        passes: true,
    },
    Case {
        name: "a longer blob of unknown length",
        fault: |request, blob, to| {
            let (status, range): (_, &[_]) = match request.range() {
                None => (200, &[]),
                Some(_) => (206, &[("Content-Range", "bytes 4500-5499/10000")]),
            };
            reply_raw(to, status, &[range, &[("Connection", "close")]].concat(), &[blob, b"+"].concat())?;
            Ok(false)
        },
        range: Outcome::Http(wrong_length),
        whole: Outcome::Error(|e| matches!(e, TransportError::WrongSize { .. })),
        passes: false,
    },
    Case {
        name: "the connection drops in the body",
        fault: |request, blob, to| {
            let (status, start, length) =
                request.range().map_or((200, 0, "10000"), |(start, _)| (206, start, "1000"));
            let range = [("Content-Range", "bytes 4500-5499/10000"), ("Content-Length", length)];
            reply_raw(to, status, &range, &blob[start..start + 500])?;
            Ok(false)
        },
        range: Outcome::Http(wrong_length),
        // Each attempt brings it further, until there were too many.
        whole: Outcome::Http(|e| wrong_length(e) || matches!(e, HttpError::WrongRange { .. })),
        passes: true,
    },
    Case {
        name: "the connection drops at once",
        fault: |_, _, _| Ok(false),
        range: Outcome::Http(broken),
        whole: Outcome::Http(broken),
        passes: true,
    },
    Case {
        name: "the whole blob for a range",
        fault: |_, blob, to| reply(to, 200, &[], blob),
        range: Outcome::Right,
        whole: Outcome::Right,
        passes: true,
    },
    Case {
        name: "something else for a range",
        fault: |_, blob, to| reply(to, 200, &[], &noise(98, blob.len())),
        range: Outcome::Http(|e| matches!(e, HttpError::RangeIgnored(Some(10_000)))),
        whole: Outcome::Error(|e| matches!(e, TransportError::WrongDigest { .. })),
        passes: false,
    },
    Case {
        name: "the range alone, as if it were all",
        fault: |request, blob, to| match request.range() {
            Some((start, end)) => reply(to, 200, &[], &blob[start..end.unwrap_or(blob.len())]),
            None => reply_blob(request, to, blob),
        },
        range: Outcome::Http(|e| matches!(e, HttpError::RangeIgnored(Some(1000)))),
        whole: Outcome::Right,
        passes: true,
    },
    Case {
        name: "a terabyte for a range",
        fault: |_, _, to| {
            reply_raw(to, 200, &[("Content-Length", "1099511627776")], b"x")?;
            stall(to)
        },
        range: Outcome::Http(|e| matches!(e, HttpError::RangeIgnored(Some(1_099_511_627_776)))),
        whole: Outcome::Http(wrong_length),
        passes: true,
    },
    Case {
        name: "another range",
        fault: |request, blob, to| match request.range() {
            Some(_) => reply(to, 206, &[("Content-Range", "bytes 0-999/10000")], &blob[..1000]),
            None => reply_blob(request, to, blob),
        },
        range: Outcome::Http(|e| matches!(e, HttpError::WrongRange { start: 4500, end: 5500, .. })),
        whole: Outcome::Right,
        passes: true,
    },
    Case {
        name: "a range without saying which",
        fault: |request, blob, to| match request.range() {
            Some((start, end)) => reply(to, 206, &[], &blob[start..end.unwrap()]),
            None => reply(to, 206, &[("Content-Range", "bytes 0-4999/10000")], &blob[..5000]),
        },
        range: Outcome::Http(|e| matches!(e, HttpError::WrongRange { .. })),
        whole: Outcome::Http(|e| matches!(e, HttpError::WrongRange { .. })),
        passes: true,
    },
    Case {
        name: "several ranges",
        fault: |_, _, to| reply(to, 206, &[("Content-Type", "multipart/byteranges; boundary=x")], b"--x--"),
        range: Outcome::Http(|e| matches!(e, HttpError::WrongRange { .. })),
        whole: Outcome::Http(|e| matches!(e, HttpError::WrongRange { .. })),
        passes: true,
    },
    Case {
        name: "an encoded body",
        fault: |request, blob, to| {
            let (start, end) = request.range().map_or((0, 10_000), |(start, end)| (start, end.unwrap()));
            let headers = [("Content-Encoding", "gzip"), ("Content-Range", "bytes 4500-5499/10000")];
            reply(to, if end < 10_000 { 206 } else { 200 }, &headers, &blob[start..end])
        },
        range: Outcome::Http(|e| matches!(e, HttpError::Encoded(_))),
        whole: Outcome::Http(|e| matches!(e, HttpError::Encoded(_))),
        passes: false,
    },
    Case {
        name: "silence",
        fault: |_, _, to| stall(to),
        range: Outcome::Http(stalled),
        whole: Outcome::Http(stalled),
        passes: true,
    },
    Case {
        name: "silence in the headers",
        fault: |_, _, to| {
            to.write_all(b"HTTP/1.1 206 Partial\r\nContent-Le")?;
            stall(to)
        },
        range: Outcome::Http(stalled),
        whole: Outcome::Http(stalled),
        passes: true,
    },
    Case {
        name: "silence in the body",
        fault: |request, blob, to| {
            let (status, start, length) =
                request.range().map_or((200, 0, "10000"), |(start, _)| (206, start, "1000"));
            let range = [("Content-Range", "bytes 4500-5499/10000"), ("Content-Length", length)];
            reply_raw(to, status, &range, &blob[start..start + 500])?;
            stall(to)
        },
        range: Outcome::Http(stalled),
        whole: Outcome::Http(|e| stalled(e) || matches!(e, HttpError::WrongRange { .. })),
        passes: true,
    },
    Case {
        name: "headers without end, slowly",
        fault: |_, _, to| {
            to.write_all(b"HTTP/1.1 206 Partial\r\n")?;
            drip(to, b"x: y\r\n", Duration::from_millis(20))
        },
        range: Outcome::Http(stalled),
        whole: Outcome::Http(stalled),
        passes: false,
    },
    Case {
        name: "a body without end, slowly",
        fault: |request, blob, to| {
            let (status, start) = request.range().map_or((200, 0), |(start, _)| (206, start));
            let length = if status == 206 { "1000" } else { "10000" };
            let range = [("Content-Range", "bytes 4500-5499/10000"), ("Content-Length", length)];
            reply_raw(to, status, &range, &blob[start..start + 1])?;
            drip(to, b"x", Duration::from_millis(20))
        },
        range: Outcome::Http(stalled),
        whole: Outcome::Http(stalled),
        passes: false,
    },
    Case {
        name: "interim answers without end",
        fault: |_, _, to| drip(to, b"HTTP/1.1 103 Early Hints\r\n\r\n", Duration::from_millis(5)),
        range: Outcome::Http(|e| {
            stalled(e) || not_http(e) || matches!(e, HttpError::Status { status: 103, .. })
        }),
        whole: Outcome::Http(|e| {
            stalled(e) || not_http(e) || matches!(e, HttpError::Status { status: 103, .. })
        }),
        passes: false,
    },
    Case {
        name: "huge headers",
        fault: |_, _, to| {
            to.write_all(b"HTTP/1.1 206 Partial\r\n")?;
            while to.write_all(&[b"x: ", &[b'y'; 4096][..], b"\r\n"].concat()).is_ok() {}
            Ok(false)
        },
        range: Outcome::Http(|e| matches!(e, HttpError::LargeHeaders | HttpError::Protocol(_))),
        whole: Outcome::Http(|e| matches!(e, HttpError::LargeHeaders | HttpError::Protocol(_))),
        passes: false,
    },
    Case {
        name: "a chunked body without end",
        fault: |request, _, to| {
            let (status, range): (_, &[_]) = match request.range() {
                None => (200, &[]),
                Some(_) => (206, &[("Content-Range", "bytes 4500-5499/10000")]),
            };
            reply_raw(to, status, &[range, &[("Transfer-Encoding", "chunked")]].concat(), b"")?;
            while to.write_all(&[b"400\r\n", &[0; 1024][..], b"\r\n"].concat()).is_ok() {}
            Ok(false)
        },
        range: Outcome::Http(wrong_length),
        whole: Outcome::Error(|e| matches!(e, TransportError::WrongSize { .. })),
        passes: false,
    },
    Case {
        name: "a chunked body of garbage",
        fault: |request, _, to| {
            let (status, range): (_, &[_]) = match request.range() {
                None => (200, &[]),
                Some(_) => (206, &[("Content-Range", "bytes 4500-5499/10000")]),
            };
            reply_raw(
                to,
                status,
                &[range, &[("Transfer-Encoding", "chunked")]].concat(),
                b"ZZZ\r\nno chunk\r\n",
            )?;
            Ok(false)
        },
        range: Outcome::Http(not_http),
        whole: Outcome::Http(not_http),
        passes: true,
    },
    Case {
        name: "another protocol",
        fault: |_, _, to| {
            to.write_all(b"SSH-2.0-OpenSSH_9.2\r\n")?;
            Ok(false)
        },
        range: Outcome::Http(not_http),
        whole: Outcome::Http(not_http),
        passes: true,
    },
    Case {
        name: "429, at once again",
        fault: |_, _, to| reply(to, 429, &[("Retry-After", "0")], b""),
        range: Outcome::Http(status::<429>),
        whole: Outcome::Http(status::<429>),
        passes: true,
    },
    Case {
        name: "503, again in an hour",
        fault: |_, _, to| reply(to, 503, &[("Retry-After", "3600")], b""),
        range: Outcome::Http(status::<503>),
        whole: Outcome::Http(status::<503>),
        passes: false,
    },
    Case {
        name: "503 without a word",
        fault: |_, _, to| reply(to, 503, &[], b""),
        range: Outcome::Http(status::<503>),
        whole: Outcome::Http(status::<503>),
        passes: true,
    },
    Case {
        name: "500 with an endless page",
        fault: |_, _, to| {
            reply_raw(to, 500, &[("Transfer-Encoding", "chunked")], b"")?;
            while to.write_all(&[b"400\r\n", &[b'x'; 1024][..], b"\r\n"].concat()).is_ok() {}
            Ok(false)
        },
        range: Outcome::Http(status::<500>),
        whole: Outcome::Http(status::<500>),
        passes: true,
    },
    Case {
        name: "404",
        fault: |_, _, to| reply(to, 404, &[], b"{}"),
        range: Outcome::Error(TransportError::is_not_found),
        whole: Outcome::Error(TransportError::is_not_found),
        passes: false,
    },
    Case {
        name: "403",
        fault: |_, _, to| reply(to, 403, &[], br#"{"errors":[{"code":"DENIED","message":"no"}]}"#),
        range: Outcome::Http(denied),
        whole: Outcome::Http(denied),
        passes: false,
    },
    Case {
        name: "401 that asks for what is not known",
        fault: |_, _, to| reply(to, 401, &[("WWW-Authenticate", "Negotiate")], b""),
        range: Outcome::Http(|e| matches!(e, HttpError::Challenge(_))),
        whole: Outcome::Http(|e| matches!(e, HttpError::Challenge(_))),
        passes: false,
    },
    Case {
        name: "401 that asks for nothing",
        fault: |_, _, to| reply(to, 401, &[], b""),
        range: Outcome::Http(|e| matches!(e, HttpError::Challenge(_))),
        whole: Outcome::Http(|e| matches!(e, HttpError::Challenge(_))),
        passes: false,
    },
    Case {
        name: "416",
        fault: |_, _, to| reply(to, 416, &[("Content-Range", "bytes */10")], b""),
        range: Outcome::Http(status::<416>),
        whole: Outcome::Http(status::<416>),
        passes: false,
    },
    Case {
        name: "204",
        fault: |_, _, to| reply_raw(to, 204, &[], b""),
        range: Outcome::Http(status::<204>),
        whole: Outcome::Http(status::<204>),
        passes: false,
    },
    Case {
        name: "a redirect in circles",
        fault: |request, _, to| reply(to, 307, &[("Location", &request.target)], b""),
        range: Outcome::Http(|e| matches!(e, HttpError::Redirect(RedirectProblem::Loop))),
        whole: Outcome::Http(|e| matches!(e, HttpError::Redirect(RedirectProblem::Loop))),
        passes: false,
    },
    Case {
        name: "redirects without end",
        fault: |request, _, to| reply(to, 302, &[("Location", &format!("{}x", request.target))], b""),
        range: Outcome::Http(|e| matches!(e, HttpError::Redirect(RedirectProblem::Loop))),
        whole: Outcome::Http(|e| matches!(e, HttpError::Redirect(RedirectProblem::Loop))),
        passes: false,
    },
    Case {
        name: "a redirect to nowhere",
        fault: |_, _, to| reply(to, 307, &[], b""),
        range: Outcome::Http(|e| matches!(e, HttpError::Redirect(RedirectProblem::NoLocation))),
        whole: Outcome::Http(|e| matches!(e, HttpError::Redirect(RedirectProblem::NoLocation))),
        passes: false,
    },
    Case {
        name: "a redirect to a file",
        fault: |_, _, to| reply(to, 307, &[("Location", "file:///etc/passwd")], b""),
        range: Outcome::Http(|e| matches!(e, HttpError::Redirect(RedirectProblem::Scheme))),
        whole: Outcome::Http(|e| matches!(e, HttpError::Redirect(RedirectProblem::Scheme))),
        passes: false,
    },
];

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
