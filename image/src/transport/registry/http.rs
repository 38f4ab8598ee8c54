//! One HTTP exchange: sent once, within a deadline, with a bounded answer.
//!
//! Redirects, credentials and repetition are decided by the callers; see [`super::endpoint`].

mod error;
mod resolver;

use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ureq::config::AutoHeaderValue;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Method, Request as HttpRequest, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Proxy, SendBody, Timeout};
use url::Url;

pub use self::error::{HttpError, RedirectProblem};
use self::resolver::CachingResolver;
use crate::transport::{BlobContent, Counters, TransportOptions};

pub(super) use ureq::http;

/// Largest header section of an answer, in bytes.
const MAX_HEADERS: usize = 64 << 10;
/// How long an idle connection is kept: less than servers and load balancers usually do (60 s).
const IDLE: Duration = Duration::from_secs(45);
/// Most of a failed request's answer that is read to say why it failed, in bytes.
const MAX_ERROR_BODY: u64 = 64 << 10;
/// Where systems keep their bundle of trusted roots.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Counts what all connections of a transport transfer.
#[derive(Debug, Default)]
pub(super) struct Tally {
    requests: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    retries: AtomicU64,
}

impl Tally {
    pub(super) fn retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn counters(&self) -> Counters {
        Counters {
            requests: self.requests.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
        }
    }
}

/// What is sent with a request.
pub(super) enum Payload<'a> {
    /// Nothing; a method that needs a body sends one without bytes.
    Empty,
    /// Bytes.
    Bytes(&'a [u8]),
    /// Part of a blob.
    Content { content: &'a mut dyn BlobContent, offset: u64, len: u64 },
}

impl Payload<'_> {
    /// The same payload, to be sent once more.
    pub(super) fn again(&mut self) -> Payload<'_> {
        match self {
            Self::Empty => Payload::Empty,
            Self::Bytes(bytes) => Payload::Bytes(bytes),
            Self::Content { content, offset, len } => {
                Payload::Content { content: &mut **content, offset: *offset, len: *len }
            }
        }
    }
}

/// A request that is sent once.
pub(super) struct Exchange<'a> {
    pub(super) method: Method,
    pub(super) url: &'a Url,
    pub(super) headers: &'a [(HeaderName, HeaderValue)],
    pub(super) authorization: Option<HeaderValue>,
    pub(super) payload: Payload<'a>,
    /// The answer's body is read by then, too.
    pub(super) deadline: Instant,
}

/// Connections to a registry and to where it redirects.
pub(super) struct Client {
    agent: Agent,
    resolver: CachingResolver,
    tally: Arc<Tally>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// How a client trusts the servers that it speaks TLS to.
pub(super) struct Trust {
    /// PEM files whose certificates are trusted besides the system's.
    pub(super) extra: Vec<std::path::PathBuf>,
    /// Trusts any certificate.
    pub(super) anyone: bool,
}

impl Client {
    pub(super) fn new(
        options: &TransportOptions,
        trust: &Trust,
        connect_timeout: Duration,
        proxied: bool,
        tally: Arc<Tally>,
    ) -> io::Result<Self> {
        let proxy = if proxied && options.proxy_from_env { Proxy::try_from_env() } else { None };
        let tls = TlsConfig::builder()
            .root_certs(roots(options.ca_file.as_deref(), &trust.extra)?)
            .disable_verification(trust.anyone)
            .build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(AutoHeaderValue::Provided(Arc::new(user_agent())))
            .accept_encoding(AutoHeaderValue::Provided(Arc::new("identity".into())))
            .max_response_header_size(MAX_HEADERS)
            .output_buffer_size(64 << 10)
            .max_idle_connections(options.connections.saturating_mul(2))
            .max_idle_connections_per_host(options.connections)
            .max_idle_age(IDLE)
            .proxy(proxy)
            .tls_config(tls)
            .timeout_connect(Some(connect_timeout))
            .timeout_per_read(Some(options.stall_timeout))
            .timeout_per_write(Some(options.stall_timeout))
            .build();
        let resolver = CachingResolver::default();
        let agent = Agent::with_parts(config, DefaultConnector::default(), resolver.clone());
        Ok(Self { agent, resolver, tally })
    }

    /// Sends a request and reads the answer's headers. Any status is an answer.
    pub(super) fn send(&self, exchange: Exchange<'_>) -> Result<Answer, HttpError> {
        let Exchange { method, url, headers, authorization, payload, deadline } = exchange;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(HttpError::Deadline);
        }
        let mut request = HttpRequest::builder().method(method.clone()).uri(url.as_str());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        let len = match &payload {
            Payload::Empty if matches!(method, Method::GET | Method::HEAD | Method::DELETE) => None,
            Payload::Empty => Some(0),
            Payload::Bytes(bytes) => Some(bytes.len() as u64),
            Payload::Content { len, .. } => Some(*len),
        };
        if let Some(len) = len {
            request = request.header(header::CONTENT_LENGTH, len);
        }
        self.tally.requests.fetch_add(1, Ordering::Relaxed);
        let response = match payload {
            Payload::Empty => self.run(request, SendBody::none(), left),
            Payload::Bytes(mut bytes) => self.run(request, SendBody::from_reader(&mut bytes), left),
            Payload::Content { content, offset, len } => {
                let mut failed = None;
                let inner = content.open(offset).map_err(HttpError::Content)?.take(len);
                let mut reader = Recorded { inner, failed: &mut failed };
                let response = self.run(request, SendBody::from_reader(&mut reader), left);
                match failed {
                    Some(error) => Err(HttpError::Content(error)),
                    None => response,
                }
            }
        };
        match response {
            Ok(response) => {
                self.tally.sent.fetch_add(len.unwrap_or(0), Ordering::Relaxed);
                let (parts, body) = response.into_parts();
                let body = Body { inner: body.into_reader(), tally: self.tally.clone(), deadline };
                Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
            }
            Err(error) => {
                if error.is_unreachable() {
                    self.resolver.forget(url);
                }
                Err(error)
            }
        }
    }

    fn run(
        &self,
        request: http::request::Builder,
        body: SendBody<'_>,
        left: Duration,
    ) -> Result<http::Response<ureq::Body>, HttpError> {
        let request = request.body(body).map_err(|error| HttpError::Protocol(error.to_string()))?;
        let request = self.agent.configure_request(request).timeout_global(Some(left)).build();
        Ok(self.agent.run(request)?)
    }
}

fn user_agent() -> String {
    format!("nix-seed/{}", env!("CARGO_PKG_VERSION"))
}

/// The certificates that TLS trusts: the configured or the system's bundle, and `extra`.
fn roots(bundle: Option<&Path>, extra: &[std::path::PathBuf]) -> io::Result<RootCerts> {
    let mut certificates = match bundle {
        Some(path) => certificates_in(path)?,
        None => {
            SYSTEM_ROOTS.iter().find_map(|path| certificates_in(Path::new(path)).ok()).unwrap_or_default()
        }
    };
    if certificates.is_empty() && bundle.is_none() && extra.is_empty() {
        return Ok(RootCerts::WebPki);
    }
    for path in extra {
        certificates.extend(certificates_in(path)?);
    }
    Ok(RootCerts::Specific(Arc::new(certificates)))
}

/// The certificates of a PEM file, of which it must have one.
fn certificates_in(path: &Path) -> io::Result<Vec<Certificate<'static>>> {
    let text = std::fs::read(path)?;
    let certificates: Vec<_> = parse_pem(&text)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "there is no certificate in it"));
    }
    Ok(certificates)
}

/// Keeps the error of what is being sent apart from those of the connection.
struct Recorded<'a, R> {
    inner: R,
    failed: &'a mut Option<io::Error>,
}

impl<R: Read> Read for Recorded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| {
            let kind = error.kind();
            *self.failed = Some(error);
            kind.into()
        })
    }
}

/// The answer to a request, its body still unread.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

impl Answer {
    /// A header's text.
    pub(super) fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// How long the body says it is.
    pub(super) fn content_length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH).and_then(|text| text.parse().ok())
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub(super) fn is_redirect(&self) -> bool {
        matches!(self.status, 301 | 302 | 303 | 307 | 308)
    }

    /// Fails if the body would have to be decoded.
    pub(super) fn check_encoding(&self) -> Result<(), HttpError> {
        match self.header(header::CONTENT_ENCODING) {
            None | Some("identity" | "") => Ok(()),
            Some(encoding) => Err(HttpError::Encoded(sanitize(encoding))),
        }
    }

    /// The whole body, which must have exactly `len` bytes.
    pub(super) fn exactly(mut self, len: u64) -> Result<Vec<u8>, HttpError> {
        self.check_encoding()?;
        if let Some(actual) = self.content_length().filter(|actual| *actual != len) {
            return Err(HttpError::WrongLength { expected: len, actual: Some(actual) });
        }
        let size = usize::try_from(len).map_err(|_| HttpError::LongBody(len))?;
        let mut bytes = vec![0; size];
        let mut filled = 0;
        while filled < size {
            match self.body.fill(&mut bytes[filled..])? {
                0 => return Err(HttpError::WrongLength { expected: len, actual: Some(filled as u64) }),
                got => filled += got,
            }
        }
        // Also what lets the connection be used again.
        match self.body.fill(&mut [0])? {
            0 => Ok(bytes),
            _ => Err(HttpError::WrongLength { expected: len, actual: None }),
        }
    }

    /// The whole body, at most `limit` bytes.
    pub(super) fn at_most(mut self, limit: u64) -> Result<Vec<u8>, HttpError> {
        self.check_encoding()?;
        if self.content_length().is_some_and(|len| len > limit) {
            return Err(HttpError::LongBody(limit));
        }
        let mut bytes = Vec::new();
        (&mut self.body).take(limit + 1).read_to_end(&mut bytes).map_err(HttpError::from_io)?;
        if bytes.len() as u64 > limit { Err(HttpError::LongBody(limit)) } else { Ok(bytes) }
    }

    /// The error that an answer without success stands for.
    pub(super) fn into_error(self) -> HttpError {
        let status = self.status;
        let retry_after = self.header(header::RETRY_AFTER).and_then(retry_after);
        let body = self.at_most(MAX_ERROR_BODY).unwrap_or_default();
        let detail = detail(&body);
        match status {
            401 => HttpError::Denied {
                status,
                detail,
                hint: ": log in, for example with \"podman login\", or set REGISTRY_USER and REGISTRY_PASS",
            },
            403 => HttpError::Denied { status, detail, hint: "" },
            _ => HttpError::Status { status, detail, retry_after },
        }
    }

    /// Reads the rest of an answer that says nothing, so that the connection can be used again.
    pub(super) fn discard(self) {
        let _ = self.at_most(MAX_ERROR_BODY);
    }
}

/// The wait that `Retry-After` asks for: seconds, or a date.
fn retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds.min(24 * 3600)));
    }
    let date = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    let seconds = date.as_second().saturating_sub(jiff::Timestamp::now().as_second());
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0).min(24 * 3600)))
}

/// What a registry says about an error (distribution specification, "Error Codes"), made fit to print.
fn detail(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        code: String,
        #[serde(default)]
        message: Option<String>,
    }
    let limit = usize::try_from(MAX_ERROR_BODY).unwrap_or(usize::MAX);
    match seed_format::json::from_slice::<Errors>(body, limit) {
        Ok(Errors { errors }) if !errors.is_empty() => {
            let Entry { code, message } = &errors[0];
            sanitize(&format!(", {code}: {}", message.as_deref().unwrap_or("no message")))
        }
        _ => String::new(),
    }
}

/// A text of an adversary's, without control characters and cut.
pub(super) fn sanitize(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// A URL as it may be shown: the query of a signed URL is as good as a password.
pub(super) fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    sanitize(shown.as_str())
}

/// The body of an answer.
pub(super) struct Body {
    inner: ureq::BodyReader<'static>,
    tally: Arc<Tally>,
    deadline: Instant,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").finish_non_exhaustive()
    }
}

impl Body {
    /// As [`Read::read`], with this module's errors.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, HttpError> {
        self.read(buffer).map_err(HttpError::from_io)
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // ureq looks at the clock only when it has to wait for the network.
        if Instant::now() >= self.deadline {
            return Err(ureq::Error::Timeout(Timeout::Global).into_io());
        }
        let got = self.inner.read(buffer)?;
        self.tally.received.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms_of_retry_after() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("99999999"), Some(Duration::from_secs(86_400)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(100);
        let soon = soon.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let wait = retry_after(&soon).unwrap();
        assert!((Duration::from_secs(95)..=Duration::from_secs(100)).contains(&wait), "{wait:?}");
        for text in ["", "-1", "soon", "1.5"] {
            assert_eq!(retry_after(text), None, "{text:?}");
        }
    }

    #[test]
    fn shows_no_secrets_and_no_control_characters() {
        let url = Url::parse("https://user:pw@example.org/a?X-Amz-Signature=secret#f").unwrap();
        assert_eq!(shown(&url), "https://example.org/a");
        assert_eq!(detail(br#"{"errors":[{"code":"X\u001b[2J","message":"m"}]}"#), ", X[2J: m");
        for body in ["", "<html>", r#"{"errors":[]}"#, "{}"] {
            assert_eq!(detail(body.as_bytes()), "");
        }
    }
}
