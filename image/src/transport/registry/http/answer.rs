//! What comes back: status, headers, and a body that is read within bounds.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ureq::Timeout;
use ureq::http::{HeaderMap, HeaderName, header};
use url::Url;

use super::{HttpError, Tally};

/// Most of a failed request's answer that is read to say why it failed, in bytes.
const MAX_ERROR_BODY: u64 = 64 << 10;

/// The answer to a request, its body still unread.
#[derive(Debug)]
pub(in crate::transport::registry) struct Answer {
    pub(in crate::transport::registry) status: u16,
    pub(in crate::transport::registry) headers: HeaderMap,
    pub(in crate::transport::registry) body: Body,
}

impl Answer {
    /// A header's text.
    pub(in crate::transport::registry) fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// How long the body says it is.
    pub(in crate::transport::registry) fn content_length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH).and_then(|text| text.parse().ok())
    }

    pub(in crate::transport::registry) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub(in crate::transport::registry) fn is_redirect(&self) -> bool {
        matches!(self.status, 301 | 302 | 303 | 307 | 308)
    }

    /// Fails if the body would have to be decoded.
    pub(in crate::transport::registry) fn check_encoding(&self) -> Result<(), HttpError> {
        match self.header(header::CONTENT_ENCODING) {
            None | Some("identity" | "") => Ok(()),
            Some(encoding) => Err(HttpError::Encoded(sanitize(encoding))),
        }
    }

    /// The whole body, which must have exactly `len` bytes.
    pub(in crate::transport::registry) fn exactly(mut self, len: u64) -> Result<Vec<u8>, HttpError> {
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
    pub(in crate::transport::registry) fn at_most(mut self, limit: u64) -> Result<Vec<u8>, HttpError> {
        self.check_encoding()?;
        if self.content_length().is_some_and(|len| len > limit) {
            return Err(HttpError::LongBody(limit));
        }
        let mut bytes = Vec::new();
        (&mut self.body).take(limit + 1).read_to_end(&mut bytes).map_err(HttpError::from_io)?;
        if bytes.len() as u64 > limit { Err(HttpError::LongBody(limit)) } else { Ok(bytes) }
    }

    /// The error that an answer without success stands for.
    pub(in crate::transport::registry) fn into_error(self) -> HttpError {
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
    pub(in crate::transport::registry) fn discard(self) {
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
pub(in crate::transport::registry) fn sanitize(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// A URL as it may be shown: the query of a signed URL is as good as a password.
pub(in crate::transport::registry) fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    sanitize(shown.as_str())
}

/// The body of an answer.
pub(in crate::transport::registry) struct Body {
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
    pub(super) fn new(inner: ureq::BodyReader<'static>, tally: Arc<Tally>, deadline: Instant) -> Self {
        Self { inner, tally, deadline }
    }

    /// As [`Read::read`], with this module's errors.
    pub(in crate::transport::registry) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, HttpError> {
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
