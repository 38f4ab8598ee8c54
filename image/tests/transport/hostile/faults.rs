//! Wrong answers, and what must come of each.

use std::io::{self, Write};
use std::net::TcpStream;
use std::time::Duration;

use seed_image::transport::TransportError;
use seed_image::transport::registry::http::{HttpError, RedirectProblem};

use crate::support::hostile::{Request, drip, reply, reply_blob, reply_raw, stall};
use crate::support::noise;

/// One way to answer wrongly.
pub(super) type Fault = fn(&Request, &[u8], &mut TcpStream) -> io::Result<bool>;

/// What comes of it when each answer is wrong.
#[derive(Clone, Copy)]
pub(super) enum Outcome {
    /// The right bytes, all the same.
    Right,
    /// An error of the connection.
    Http(fn(&HttpError) -> bool),
    /// Another error.
    Error(fn(&TransportError) -> bool),
    /// This way of reading is not the subject.
    Skip,
}

pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) fault: Fault,
    /// Reading 1000 bytes of the blob.
    pub(super) range: Outcome,
    /// Reading all of it.
    pub(super) whole: Outcome,
    /// Whether the right bytes come when only the first answer was wrong.
    pub(super) passes: bool,
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

pub(super) const CASES: &[Case] = &[
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
