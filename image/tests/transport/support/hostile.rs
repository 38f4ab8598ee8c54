//! A server that answers as a test says: with anything.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The range asked for, `start..end`.
    pub(crate) fn range(&self) -> Option<(usize, Option<usize>)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().unwrap(), last.parse::<usize>().ok().map(|last| last + 1)))
    }
}

/// What answers a request: it is given the request, how many came before, and the connection. `false`
/// closes the connection.
pub(crate) trait Handler:
    Fn(&Request, usize, &mut TcpStream) -> io::Result<bool> + Send + Sync + 'static
{
}
impl<F: Fn(&Request, usize, &mut TcpStream) -> io::Result<bool> + Send + Sync + 'static> Handler for F {}

pub(crate) struct Hostile {
    /// `127.0.0.1:PORT`.
    pub(crate) address: String,
    requests: Arc<Mutex<Vec<Request>>>,
    stopped: Arc<AtomicBool>,
}

impl Hostile {
    pub(crate) fn start(handler: impl Handler) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stopped = Arc::new(AtomicBool::new(false));
        let (handler, seen, stop) = (Arc::new(handler), requests.clone(), stopped.clone());
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (handler, seen) = (handler.clone(), seen.clone());
                std::thread::spawn(move || serve(connection, &*handler, &seen));
            }
        });
        Self { address, requests, stopped }
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(&self.address);
    }
}

fn serve(mut connection: TcpStream, handler: &impl Handler, seen: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    while let Ok(Some(request)) = read_request(&mut reader) {
        let before = {
            let mut seen = seen.lock().unwrap();
            seen.push(request.clone());
            seen.len() - 1
        };
        if !handler(&request, before, &mut connection).unwrap_or(false) {
            break;
        }
    }
    let _ = connection.shutdown(Shutdown::Both);
}

fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, target) =
        (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut request = Request { method, target, headers, body: Vec::new() };
    let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    request.body = vec![0; length];
    reader.read_exact(&mut request.body)?;
    Ok(Some(request))
}

/// Sends an answer with these headers and a body of the length that it has.
pub(crate) fn reply(
    to: &mut TcpStream,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<bool> {
    let length = body.len().to_string();
    reply_raw(to, status, &[headers, &[("Content-Length", &length)]].concat(), body)
}

/// Sends an answer with just these headers.
pub(crate) fn reply_raw(
    to: &mut TcpStream,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<bool> {
    let mut text = format!("HTTP/1.1 {status} Answer\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    to.write_all(&[text.as_bytes(), b"\r\n", body].concat())?;
    Ok(true)
}

/// The honest answer to a request for a blob or a range of it.
pub(crate) fn reply_blob(request: &Request, to: &mut TcpStream, blob: &[u8]) -> io::Result<bool> {
    match request.range() {
        None => reply(to, 200, &[], blob),
        Some((start, end)) => {
            let end = end.unwrap_or(blob.len());
            let range = format!("bytes {start}-{}/{}", end - 1, blob.len());
            reply(to, 206, &[("Content-Range", &range)], &blob[start..end])
        }
    }
}

/// Says nothing more until the client gives up.
pub(crate) fn stall(to: &mut TcpStream) -> io::Result<bool> {
    to.set_read_timeout(Some(Duration::from_secs(60)))?;
    let _ = to.read(&mut [0; 64]);
    Ok(false)
}

/// Sends `piece` again and again, with a pause before each, until the client gives up.
pub(crate) fn drip(to: &mut TcpStream, piece: &[u8], pause: Duration) -> io::Result<bool> {
    to.set_read_timeout(Some(pause))?;
    loop {
        match to.read(&mut [0; 64]) {
            Ok(_) => return Ok(false),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
        to.write_all(piece)?;
    }
}
