//! Why a request failed.

use std::fmt;
use std::io;
use std::time::Duration;

use ureq::Timeout;

use super::MAX_HEADERS;
use crate::transport::registry::credentials::CredentialError;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The connection could not be made, or broke.
    #[error("the connection failed")]
    Connection(#[source] io::Error),
    /// The host's name is unknown.
    #[error("the host is not known")]
    UnknownHost,
    /// No bytes came or went for too long.
    #[error("the server stalled")]
    Stalled,
    /// The time allowed is over.
    #[error("the time allowed is over")]
    Deadline,
    /// The server's certificate is not trusted, or TLS failed in another way.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The answer is not HTTP.
    #[error("the answer is not HTTP: {0}")]
    Protocol(String),
    /// The answer's header section is too large.
    #[error("the answer's headers are larger than {MAX_HEADERS} bytes")]
    LargeHeaders,
    /// The server answered with an error.
    #[error("the answer is {status}{detail}")]
    Status {
        /// The status.
        status: u16,
        /// What the server said about it, with a separator before it; or nothing.
        detail: String,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// The server refuses access.
    #[error("access is refused ({status}{detail}){hint}")]
    Denied {
        /// 401 or 403.
        status: u16,
        /// What the server said about it, with a separator before it; or nothing.
        detail: String,
        /// What to do.
        hint: &'static str,
    },
    /// The server asks for credentials in a way that is not understood.
    #[error("the server asks for credentials, but neither Basic nor Bearer: {0:?}")]
    Challenge(String),
    /// Credentials would go over the network in plain text.
    #[error("credentials are not sent in plain HTTP to {0}: name the host insecure to allow it")]
    PlainCredentials(String),
    /// No token could be had.
    #[error("no token from {realm}")]
    Token {
        /// The token server, without the query.
        realm: String,
        /// Why.
        source: Box<HttpError>,
    },
    /// Credentials could not be had.
    #[error("the credentials cannot be read")]
    Credentials(#[source] Box<CredentialError>),
    /// A redirect is not followed.
    #[error("the redirect {0}")]
    Redirect(RedirectProblem),
    /// A range was asked for, and something else was sent.
    #[error("the server ignores ranges: it sent {}", Length(*.0))]
    RangeIgnored(Option<u64>),
    /// The answer is about another range than was asked for.
    #[error("bytes {start}..{end} were asked for, and {got:?} was sent")]
    WrongRange {
        /// First byte asked for.
        start: u64,
        /// Byte after the last asked for.
        end: u64,
        /// The answer's `Content-Range`.
        got: String,
    },
    /// The body is not as long as it must be.
    #[error("the body has {}, not {expected} bytes", Length(*.actual))]
    WrongLength {
        /// Bytes that it must have.
        expected: u64,
        /// Bytes that it has or says it has; `None` if more than it must.
        actual: Option<u64>,
    },
    /// The body is encoded, though plain bytes were asked for.
    #[error("the body is encoded as {0:?}")]
    Encoded(String),
    /// The body is longer than can be used.
    #[error("the body is longer than {0} bytes")]
    LongBody(u64),
    /// The answer lacks a header, or has one that makes no sense.
    #[error("the answer's {0} is missing or makes no sense")]
    Header(&'static str),
    /// The registry stored something else than was sent.
    #[error("the registry says that it stored {0:?}")]
    StoredOther(String),
    /// Other writers replaced what was written, each time.
    #[error("others write it at the same time")]
    Contended,
    /// The answer's body is malformed.
    #[error("the answer's body is malformed")]
    Body(#[from] seed_format::json::JsonError),
    /// The bytes to be sent could not be read.
    #[error("the bytes to be sent cannot be read")]
    Content(#[source] io::Error),
}

/// Why a redirect is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RedirectProblem {
    /// It has no usable `Location`.
    #[error("says nowhere to go")]
    NoLocation,
    /// It leads to plain HTTP.
    #[error("leads from https to plain http")]
    Downgrade,
    /// It leads back, or to too many others.
    #[error("leads in circles")]
    Loop,
    /// It leads to something that is not HTTP.
    #[error("leads to something that is not http or https")]
    Scheme,
}

/// A number of bytes that may be unknown.
struct Length(Option<u64>);

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(len) => write!(f, "{len} bytes"),
            None => f.write_str("an unknown number of bytes"),
        }
    }
}

impl HttpError {
    /// Whether the server refused access.
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Denied { .. } => true,
            Self::Token { source, .. } => source.is_denied(),
            _ => false,
        }
    }

    /// Whether the same request may succeed a moment later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Connection(_) | Self::Stalled | Self::Protocol(_) => true,
            Self::RangeIgnored(_) | Self::WrongRange { .. } | Self::WrongLength { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500 | 502..=504),
            Self::Token { source, .. } => source.is_passing(),
            _ => false,
        }
    }

    /// Whether the server could not be reached or did not answer at all.
    pub(in crate::transport) fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Connection(_) | Self::UnknownHost | Self::Stalled | Self::Deadline | Self::Tls(_)
        )
    }

    /// How long the server asks to wait before the next request.
    pub(in crate::transport::registry) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Token { source, .. } => source.retry_after(),
            _ => None,
        }
    }

    pub(super) fn from_io(error: io::Error) -> Self {
        // ureq hides its own errors in those of `Read`.
        match error.downcast::<ureq::Error>() {
            Ok(error) => error.into(),
            Err(error) => Self::from_plain_io(error),
        }
    }

    fn from_plain_io(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::Stalled,
            // rustls reports what the peer did wrong in this way.
            io::ErrorKind::InvalidData => Self::Tls(error.to_string()),
            _ => Self::Connection(error),
        }
    }
}

impl From<ureq::Error> for HttpError {
    /// The URL, which ureq puts into some of its errors, is left out: its query may be a secret.
    fn from(error: ureq::Error) -> Self {
        use ureq::Error as E;
        match error {
            E::Timeout(Timeout::Global) => Self::Deadline,
            E::Timeout(_) => Self::Stalled,
            E::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<ureq::Error>()) => {
                Self::from_io(error)
            }
            E::Io(error) => Self::from_plain_io(error),
            E::HostNotFound => Self::UnknownHost,
            E::LargeResponseHeader(..) => Self::LargeHeaders,
            E::Tls(what) => Self::Tls(what.to_owned()),
            E::Rustls(error) => Self::Tls(error.to_string()),
            E::Pem(error) => Self::Tls(error.to_string()),
            E::Protocol(error) => Self::Protocol(error.to_string()),
            E::ConnectionFailed => Self::Connection(io::ErrorKind::NotConnected.into()),
            E::ConnectProxyFailed(_) => Self::Connection(io::Error::other("the proxy refuses to connect")),
            _ => Self::Protocol("the client could not make sense of it".into()),
        }
    }
}
