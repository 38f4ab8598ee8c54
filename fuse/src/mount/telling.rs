//! Answers those who look at a mount: `GET /metrics` for Prometheus, `GET /report` for `seed report`, by HTTP on a
//! socket in the runtime directory, and on a port of this machine where one is wanted.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use seed_format::json;

use super::metrics::{metrics, prometheus};
use super::report::Report;
use super::runtime::resident;
use super::{MountError, MountState, SeedFs};

/// Extension of the socket's file.
pub(super) const SOCKET: &str = "http";
/// Longest request line that is read, in bytes.
const MAX_REQUEST: u64 = 8 << 10;
/// Largest report, in bytes: 16,384 events and 500 paths are 2 MB.
const MAX_REPORT: usize = 16 << 20;
/// How often, and with what pauses, a port is asked for that the server before has had.
const PORT_ATTEMPTS: u32 = 100;
const PORT_PAUSE: Duration = Duration::from_millis(100);
/// How long each side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is told of.
#[derive(Clone)]
struct Subject {
    state: MountState,
    fs: Arc<SeedFs>,
}

/// Answers until the process ends.
pub(super) fn tell(runtime: &Path, state: &MountState, fs: &Arc<SeedFs>) -> Result<(), MountError> {
    let subject = Subject { state: state.clone(), fs: Arc::clone(fs) };
    let path = runtime.join(format!("{}.{SOCKET}", state.id));
    // The id is this mount's alone: what is there is of a server that this one takes the place of.
    let takes_over = std::fs::remove_file(&path).is_ok();
    let socket = UnixListener::bind(&path).map_err(|source| MountError::Runtime { path, source })?;
    if let Some(port) = state.metrics {
        let failed = |source| MountError::Metrics { port, source };
        if !port.ip().is_loopback() {
            return Err(failed(io::Error::other("it can be reached from other machines")));
        }
        let listener = match TcpListener::bind(port) {
            // The server before may still be ending, and nothing about a mount waits for its metrics.
            Err(error) if takes_over => {
                tracing::info!(%port, %error, "the port of the metrics is waited for");
                None
            }
            bound => Some(bound.map_err(failed)?),
        };
        let subject = subject.clone();
        let answer = move || {
            let Some(listener) = listener.or_else(|| wait_for(port)) else { return };
            for stream in listener.incoming().flatten() {
                log(timed(&stream).and_then(|()| subject.answer(&stream, &stream)));
            }
        };
        thread::Builder::new().name("metrics".into()).spawn(answer).map_err(MountError::Thread)?;
    }
    let answer = move || {
        for stream in socket.incoming().flatten() {
            let times = stream.set_read_timeout(Some(PATIENCE)).and(stream.set_write_timeout(Some(PATIENCE)));
            log(times.and_then(|()| subject.answer(&stream, &stream)));
        }
    };
    thread::Builder::new().name("telling".into()).spawn(answer).map_err(MountError::Thread)?;
    Ok(())
}

/// Binds a port that another process lets go of soon.
fn wait_for(port: SocketAddr) -> Option<TcpListener> {
    for _ in 0..PORT_ATTEMPTS {
        match TcpListener::bind(port) {
            Ok(listener) => return Some(listener),
            Err(_) => thread::sleep(PORT_PAUSE),
        }
    }
    tracing::warn!(%port, "metrics are not offered: another process has the port");
    None
}

fn timed(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE)).and(stream.set_write_timeout(Some(PATIENCE)))
}

fn log(result: io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "nobody waited for the answer");
    }
}

impl Subject {
    /// One request, one answer, the end.
    fn answer(&self, from: impl Read, mut to: impl Write) -> io::Result<()> {
        let mut lines = BufReader::new(from.take(MAX_REQUEST));
        let mut line = String::new();
        lines.read_line(&mut line)?;
        // The header is of no interest, but who still writes would be cut off by a close.
        let mut header = String::from("x");
        while !header.trim().is_empty() {
            header.clear();
            lines.read_line(&mut header)?;
        }
        let (status, kind, body) = match line.split(' ').collect::<Vec<_>>()[..] {
            ["GET", "/metrics", ..] => {
                let text = prometheus(&metrics(&self.state, &self.fs));
                ("200 OK", "text/plain; version=0.0.4; charset=utf-8", text.into_bytes())
            }
            ["GET", "/report", ..] => {
                let report = Report::of(&self.state, &self.fs, resident());
                ("200 OK", "application/json", serde_json::to_vec(&report)?)
            }
            ["GET", ..] => ("404 Not Found", "text/plain", b"there are /metrics and /report\n".to_vec()),
            _ => ("405 Method Not Allowed", "text/plain", Vec::new()),
        };
        let len = body.len();
        write!(to, "HTTP/1.0 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\n\r\n")?;
        to.write_all(&body)?;
        to.flush()
    }
}

/// Asks the server of a mount for its report.
pub fn report(runtime: &Path, state: &MountState) -> Result<Report, MountError> {
    let path = runtime.join(format!("{}.{SOCKET}", state.id));
    let failed = |source| MountError::Runtime { path: path.clone(), source };
    let mut stream = UnixStream::connect(&path).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.write_all(b"GET /report HTTP/1.0\r\n\r\n").map_err(failed)?;
    let mut answer = Vec::new();
    stream.take(MAX_REPORT as u64 + 1).read_to_end(&mut answer).map_err(failed)?;
    let malformed = |what: String| failed(io::Error::new(io::ErrorKind::InvalidData, what));
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let body = &answer[end.ok_or_else(|| malformed("no answer in HTTP".into()))? + 4..];
    json::from_slice(body, MAX_REPORT).map_err(|error| malformed(error.to_string()))
}
