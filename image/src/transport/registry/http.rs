//! One HTTP exchange: sent once, within a deadline, with a bounded answer.
//!
//! Redirects, credentials and repetition are decided by the callers; see [`super::endpoint`].

mod answer;
mod error;
mod resolver;
mod tls;

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ureq::config::AutoHeaderValue;
use ureq::http::{HeaderName, HeaderValue, Method, Request as HttpRequest, header};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Proxy, SendBody};
use url::Url;

pub(super) use self::answer::{Answer, Body, sanitize, shown};
pub use self::error::{HttpError, RedirectProblem};
use self::resolver::CachingResolver;
pub(super) use self::tls::ClientFiles;
pub use self::tls::PemError;
pub(crate) use self::tls::Trust;
use crate::transport::{BlobContent, Counters, TransportOptions};

pub(super) use ureq::http;

/// Largest header section of an answer, in bytes.
const MAX_HEADERS: usize = 64 << 10;
/// How long an idle connection is kept: less than servers and load balancers usually do (60 s).
const IDLE: Duration = Duration::from_secs(45);

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

impl Client {
    pub(super) fn new(
        options: &TransportOptions,
        trust: &Trust,
        connect_timeout: Duration,
        proxy: Option<Proxy>,
        tally: Arc<Tally>,
    ) -> Result<Self, PemError> {
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
            .tls_config(trust.config(options.ca_file.as_deref())?)
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
                let body = Body::new(body.into_reader(), self.tally.clone(), deadline);
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
