//! A reverse proxy in front of the registry that lets some of the requests fail, as registries do: with a 503,
//! or with a connection that is reset, before the answer or in its midst.
//!
//! It speaks as much HTTP/1.1 as is needed to tell where a message ends (RFC 9112, section 6.3), so that
//! connections stay open over many requests, as without it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result};

use crate::link::Namespace;

/// The longest head of a message.
const MAX_HEAD: u64 = 64 * 1024;

/// How many requests fail, and how many have.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Of 1,000 requests so many fail.
    per_mille: AtomicU64,
    requests: AtomicU64,
    failed: AtomicU64,
}

impl Faults {
    /// From now on `per_mille` of 1,000 requests fail.
    fn set(&self, per_mille: u64) {
        self.per_mille.store(per_mille, Ordering::Relaxed);
    }

    /// Requests so far, and how many of them failed.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }

    /// What happens to the next request. Failures are spread evenly and their kinds take turns, so that runs
    /// can be compared.
    fn next(&self) -> Option<Fault> {
        let request = self.requests.fetch_add(1, Ordering::Relaxed);
        let per_mille = self.per_mille.load(Ordering::Relaxed);
        if (request + 1) * per_mille / 1000 == request * per_mille / 1000 {
            return None;
        }
        Some(match self.failed.fetch_add(1, Ordering::Relaxed) % 3 {
            0 => Fault::Unavailable,
            1 => Fault::Reset,
            _ => Fault::Cut,
        })
    }
}

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// 503.
    Unavailable,
    /// The connection is reset instead of an answer.
    Reset,
    /// The connection is reset in the midst of the answer's body.
    Cut,
}

/// Starts the proxy; it ends with this process. Connections to `address` reach `upstream`, and of 1,000 requests
/// `per_mille` fail.
pub(crate) fn start(
    namespace: &Namespace,
    address: SocketAddrV4,
    upstream: SocketAddrV4,
    per_mille: u64,
) -> Result<Arc<Faults>> {
    let faults = Arc::new(Faults::default());
    faults.set(per_mille);
    let listener = namespace
        .run(|| TcpListener::bind(address))?
        .with_context(|| format!("cannot listen on {address}"))?;
    let shared = Arc::clone(&faults);
    namespace.run(move || {
        // Threads start in the namespace of the thread that starts them.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let faults = Arc::clone(&shared);
                thread::spawn(move || {
                    // A connection that fails ends; the client sees that.
                    let _ = serve(&client, upstream, &faults);
                });
            }
        });
    })?;
    Ok(faults)
}

/// Serves one connection until one of the sides ends it.
fn serve(client: &TcpStream, upstream: SocketAddrV4, faults: &Faults) -> io::Result<()> {
    let server = TcpStream::connect(upstream)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let mut requests = BufReader::new(client);
    let mut responses = BufReader::with_capacity(256 * 1024, &server);
    while let Some(request) = Head::read(&mut requests)? {
        let fault = faults.next();
        match fault {
            Some(Fault::Unavailable) => {
                (&*client).write_all(
                    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                )?;
                return client.shutdown(Shutdown::Write);
            }
            Some(Fault::Reset) => return reset(client),
            Some(Fault::Cut) | None => {}
        }
        (&server).write_all(&request.bytes)?;
        copy(&mut requests, &mut &server, request.body_of_request())?;

        let mut head;
        loop {
            head = Head::read(&mut responses)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            (&*client).write_all(&head.bytes)?;
            // 100 Continue and its like come before the answer.
            if !head.first_line().split(' ').nth(1).is_some_and(|status| status.starts_with('1')) {
                break;
            }
        }
        let body = head.body_of_response(request.first_line());
        if fault == Some(Fault::Cut) {
            if let Body::Length(length) = body {
                copy(&mut responses, &mut &*client, Body::Length(length / 2))?;
            }
            return reset(client);
        }
        copy(&mut responses, &mut &*client, body)?;
        if body == Body::UntilClose {
            return Ok(());
        }
    }
    Ok(())
}

/// Closes a connection so that the other side sees a reset.
fn reset(stream: &TcpStream) -> io::Result<()> {
    // Without lingering, closing discards what is unsent and sends a reset.
    rustix::net::sockopt::set_socket_linger(stream, Some(std::time::Duration::ZERO))?;
    Ok(())
}

/// Where a message's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    Length(u64),
    Chunked,
    UntilClose,
}

/// The first line and the fields of a message, with the empty line after them.
struct Head {
    bytes: Vec<u8>,
}

impl Head {
    /// Reads the head of the next message; `None` when the connection ended before it.
    fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        let mut from = from.take(MAX_HEAD);
        loop {
            let start = bytes.len();
            if from.read_until(b'\n', &mut bytes)? == 0 {
                return if start == 0 { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            if matches!(&bytes[start..], b"\r\n" | b"\n") {
                return Ok(Some(Self { bytes }));
            }
        }
    }

    fn lines(&self) -> impl Iterator<Item = &str> {
        self.bytes.split(|byte| *byte == b'\n').map(|line| str::from_utf8(line).unwrap_or("").trim())
    }

    fn first_line(&self) -> &str {
        self.lines().next().unwrap_or("")
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }

    fn declared_body(&self) -> Option<Body> {
        if self.field("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return Some(Body::Chunked);
        }
        self.field("content-length").and_then(|value| value.parse().ok()).map(Body::Length)
    }

    fn body_of_request(&self) -> Body {
        self.declared_body().unwrap_or(Body::Length(0))
    }

    /// Of an answer to the request with this first line.
    fn body_of_response(&self, request: &str) -> Body {
        let status = self.first_line().split(' ').nth(1).unwrap_or("");
        if request.starts_with("HEAD ") || matches!(status, "204" | "304") {
            return Body::Length(0);
        }
        self.declared_body().unwrap_or(Body::UntilClose)
    }
}

/// Copies a body as it is, its framing included.
fn copy(from: &mut impl BufRead, to: &mut impl Write, body: Body) -> io::Result<()> {
    match body {
        Body::Length(length) => exactly(from, to, length),
        Body::UntilClose => io::copy(from, to).map(drop),
        Body::Chunked => loop {
            let size = line(from, to)?;
            let digits = size.split(';').next().unwrap_or("").trim();
            let size = u64::from_str_radix(digits, 16).map_err(|_| io::ErrorKind::InvalidData)?;
            exactly(from, to, size)?;
            if size == 0 {
                // Trailing fields, which end with an empty line.
                while !line(from, to)?.trim().is_empty() {}
                return Ok(());
            }
            line(from, to)?;
        },
    }
}

fn exactly(from: &mut impl Read, to: &mut impl Write, length: u64) -> io::Result<()> {
    if io::copy(&mut from.take(length), to)? == length {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// Copies one line and gives it.
fn line(from: &mut impl BufRead, to: &mut impl Write) -> io::Result<String> {
    let mut line = String::new();
    if from.take(MAX_HEAD).read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    to.write_all(line.as_bytes())?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decisions(per_mille: u64, requests: usize) -> Vec<Option<Fault>> {
        let faults = Faults::default();
        faults.set(per_mille);
        (0..requests).map(|_| faults.next()).collect()
    }

    #[test]
    fn as_many_requests_fail_as_were_asked_for() {
        let fifty = decisions(50, 1000);
        assert_eq!(fifty.iter().flatten().count(), 50);
        for kind in [Fault::Unavailable, Fault::Reset, Fault::Cut] {
            assert!(fifty.iter().flatten().filter(|fault| **fault == kind).count() >= 16);
        }
        assert_eq!(decisions(0, 100).iter().flatten().count(), 0);
        assert_eq!(decisions(1000, 100).iter().flatten().count(), 100);
    }

    #[test]
    fn bodies_end_where_http_says() {
        let head = |text: &str| Head::read(&mut text.as_bytes()).unwrap().unwrap();
        for (request, response, expected) in [
            ("GET / HTTP/1.1", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Body::Length(5)),
            ("HEAD / HTTP/1.1", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Body::Length(0)),
            ("GET / HTTP/1.1", "HTTP/1.1 304 Not Modified\r\n\r\n", Body::Length(0)),
            ("GET / HTTP/1.1", "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n", Body::Chunked),
            ("GET / HTTP/1.1", "HTTP/1.1 200 OK\r\n\r\n", Body::UntilClose),
        ] {
            assert_eq!(head(response).body_of_response(request), expected, "{request} {response}");
        }
        assert!(Head::read(&mut "".as_bytes()).unwrap().is_none());
        assert!(Head::read(&mut "GET / HTTP/1.1\r\nHost".as_bytes()).is_err());
    }

    #[test]
    fn chunked_bodies_pass_unchanged() {
        let body = "4\r\nabcd\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n";
        let mut copied = Vec::new();
        copy(&mut format!("{body}next").as_bytes(), &mut copied, Body::Chunked).unwrap();
        assert_eq!(copied, body.as_bytes());
        assert!(copy(&mut "4\r\nab".as_bytes(), &mut Vec::new(), Body::Chunked).is_err());
    }

    /// A server that answers every request with its own path, over kept connections.
    fn echo() -> SocketAddrV4 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(address) = listener.local_addr().unwrap() else { unreachable!() };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut requests = BufReader::new(&stream);
                    while let Ok(Some(head)) = Head::read(&mut requests) {
                        let path = head.first_line().split(' ').nth(1).unwrap_or("").to_owned();
                        let answer =
                            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len());
                        (&stream).write_all(answer.as_bytes()).unwrap();
                    }
                });
            }
        });
        address
    }

    #[test]
    fn requests_pass_or_fail_as_decided() {
        let upstream = echo();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let faults = Arc::new(Faults::default());
        let shared = Arc::clone(&faults);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let _ = serve(&client, upstream, &shared);
            }
        });
        let ask = |stream: &TcpStream, path: &str| -> io::Result<String> {
            (&mut &*stream).write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())?;
            let mut reader = BufReader::new(stream);
            let head = Head::read(&mut reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let mut body = Vec::new();
            copy(&mut reader, &mut body, head.body_of_response("GET"))?;
            Ok(format!("{} {}", head.first_line(), String::from_utf8_lossy(&body)))
        };

        let stream = TcpStream::connect(address).unwrap();
        for path in ["/a", "/b"] {
            assert_eq!(ask(&stream, path).unwrap(), format!("HTTP/1.1 200 OK {path}"));
        }
        drop(stream);
        faults.set(1000);
        let outcome = || ask(&TcpStream::connect(address).unwrap(), "/long");
        assert_eq!(outcome().unwrap(), "HTTP/1.1 503 Service Unavailable ");
        assert_eq!(outcome().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(outcome().is_err(), "the answer is cut in its midst");
        assert_eq!(faults.counts(), (5, 3));
    }
}
