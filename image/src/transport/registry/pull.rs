//! Reading from a registry: tags, manifests, ranges of blobs, whole blobs.

use std::io::{self, Read};
use std::ops::Range;
use std::time::Instant;

use seed_format::Digest;
use url::Url;

use super::auth::Intent;
use super::endpoint::Call;
use super::http::http::{HeaderName, HeaderValue, Method, header};
use super::http::{Answer, Body, HttpError, sanitize};
use super::{MAX_MANIFESTS, Registry, Route, http_error};
use crate::manifest::{Descriptor, MAX_MANIFEST, media_type};
use crate::transport::verified::Verified;
use crate::transport::{TransportError, describe};

/// Longest range that is read at once, in bytes.
const MAX_RANGE: u64 = 1 << 30;
/// Whether the way that led to a blob is the one to go from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Remembered,
    /// Gone once, while the usual one is late.
    Other,
}

/// Largest blob that is used whole when a server ignores the range, in bytes.
const MAX_WHOLE: u64 = 16 << 20;

impl Registry {
    /// What a tag names now. Its manifest is kept, since it is asked for next.
    pub(super) fn pull_tag(&self, tag: &str) -> Result<Descriptor, TransportError> {
        let order = self.order(|can| can.resolve, &Route::default());
        let what = || format!("tag {tag:?}");
        self.with_endpoints(&order, "resolve", self.deadline(), |index, until| {
            let (bytes, kind) = self.get_manifest(index, tag, &what, until)?;
            let descriptor = describe(&bytes, kind.as_deref(), &|| self.place())?;
            self.keep_manifest(descriptor.digest, bytes);
            Ok(descriptor)
        })
    }

    pub(super) fn pull_manifest(&self, digest: &Digest) -> Result<Vec<u8>, TransportError> {
        if let Some(bytes) = self.kept_manifest(digest) {
            return Ok(bytes);
        }
        let order = self.order(|can| can.pull, &Route::default());
        let what = || format!("manifest {digest}");
        let bytes = self.with_endpoints(&order, "pull", self.deadline(), |index, until| {
            let (bytes, _) = self.get_manifest(index, &digest.to_string(), &what, until)?;
            let actual = Digest::of(&bytes);
            if actual != *digest {
                return Err(TransportError::WrongDigest { place: self.place(), expected: *digest, actual });
            }
            Ok(bytes)
        })?;
        self.keep_manifest(*digest, bytes.clone());
        Ok(bytes)
    }

    fn kept_manifest(&self, digest: &Digest) -> Option<Vec<u8>> {
        let kept = self.manifests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        kept.iter().find(|(kept, _)| kept == digest).map(|(_, bytes)| bytes.clone())
    }

    fn keep_manifest(&self, digest: Digest, bytes: Vec<u8>) {
        let mut kept = self.manifests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if kept.iter().all(|(kept, _)| *kept != digest) {
            kept.truncate(MAX_MANIFESTS - 1);
            kept.insert(0, (digest, bytes));
        }
    }

    /// A manifest's bytes, unverified, and its media type by the server.
    fn get_manifest(
        &self,
        index: usize,
        name: &str,
        what: &dyn Fn() -> String,
        deadline: Instant,
    ) -> Result<(Vec<u8>, Option<String>), TransportError> {
        let endpoint = &self.endpoints[index];
        let url = endpoint.url(&format!("manifests/{name}"));
        let failed = |source| http_error(&Method::GET, &url, source);
        let accept = media_type::ACCEPTED.join(", ");
        let accept = HeaderValue::try_from(accept).expect("media types are fit for a header");
        let headers = [(header::ACCEPT, accept)];
        let (answer, _) = endpoint
            .follow(Call::bare(Method::GET, &url, &headers, Intent::Pull, deadline))
            .map_err(failed)?;
        match answer.status {
            200 => {}
            404 => return Err(self.not_found(what())),
            _ => return Err(failed(answer.into_error())),
        }
        let kind = answer.header(header::CONTENT_TYPE);
        let kind = kind.map(|kind| kind.split(';').next().unwrap_or(kind).trim().to_owned());
        Ok((answer.at_most(MAX_MANIFEST as u64).map_err(failed)?, kind))
    }

    pub(super) fn pull_range(
        &self,
        blob: &Digest,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Vec<u8>, TransportError> {
        self.range_from(self.order(|can| can.pull, &self.route(blob)), blob, range, Way::Remembered, deadline)
    }

    /// The same, while the endpoint that is asked first is late: it is asked last.
    pub(super) fn pull_range_beside(
        &self,
        blob: &Digest,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Vec<u8>, TransportError> {
        let mut order = self.order(|can| can.pull, &self.route(blob));
        let others = order.iter().filter(|index| !self.endpoints[**index].breaker.rests()).count();
        if others > 1 {
            order.rotate_left(1);
        }
        self.range_from(order, blob, range, Way::Other, deadline)
    }

    fn range_from(
        &self,
        order: Vec<usize>,
        blob: &Digest,
        range: Range<u64>,
        way: Way,
        deadline: Instant,
    ) -> Result<Vec<u8>, TransportError> {
        let Range { start, end } = range;
        if checked_len(&range)? == 0 {
            return Ok(Vec::new());
        }
        self.with_endpoints(&order, "pull", deadline, |index, until| {
            let (answer, url) = self.get_blob(index, blob, Some((start, Some(end))), way, until)?;
            range_of(answer, blob, start, end).map_err(|source| http_error(&Method::GET, &url, source))
        })
    }

    /// A range as it comes. If the connection breaks, it is read on where that was.
    pub(super) fn pull_range_as_stream(
        &self,
        blob: &Digest,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Box<dyn Read + Send + '_>, TransportError> {
        if checked_len(&range)? == 0 {
            return Ok(Box::new(io::empty()));
        }
        let (body, url) = self.open_range(blob, range.clone(), deadline)?;
        let Range { start, end } = range;
        let want = Want::Range { end };
        let (body, registry, digest) = (Some(body), self, *blob);
        Ok(Box::new(Stream { registry, digest, want, offset: start, body, url, failures: 0, deadline }))
    }

    fn open_range(
        &self,
        blob: &Digest,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<(Source, Url), TransportError> {
        let Range { start, end } = range;
        let order = self.order(|can| can.pull, &self.route(blob));
        self.with_endpoints(&order, "pull", deadline, |index, _| {
            let (answer, url) =
                self.get_blob(index, blob, Some((start, Some(end))), Way::Remembered, deadline)?;
            let source = if answer.status == 206 {
                answer
                    .check_encoding()
                    .and_then(|()| check_range(&answer, start, end, None))
                    .map(|()| answer.body.into())
            } else {
                range_of(answer, blob, start, end).map(|bytes| Source::Here(io::Cursor::new(bytes)))
            };
            source
                .map(|source| (source, url.clone()))
                .map_err(|source| http_error(&Method::GET, &url, source))
        })
    }

    /// Asks one endpoint for a blob or a range of it, `(first, end)`; the way that led to it is remembered.
    fn get_blob(
        &self,
        index: usize,
        blob: &Digest,
        range: Option<(u64, Option<u64>)>,
        way: Way,
        deadline: Instant,
    ) -> Result<(Answer, Url), TransportError> {
        let endpoint = &self.endpoints[index];
        let headers: Vec<(HeaderName, HeaderValue)> = range
            .map(|(start, end)| {
                let last = end.map(|end| (end - 1).to_string()).unwrap_or_default();
                let value = HeaderValue::try_from(format!("bytes={start}-{last}"));
                (header::RANGE, value.expect("digits are fit for a header"))
            })
            .into_iter()
            .collect();
        let route = self.route(blob);
        if let Some(url) = route.url.filter(|_| route.endpoint == Some(index)) {
            let answer = endpoint
                .send(Call::bare(Method::GET, &url, &headers, Intent::Pull, deadline))
                .map_err(|source| http_error(&Method::GET, &url, source));
            match answer {
                Ok(answer) if answer.is_success() => return Ok((answer, url)),
                // Not now, but the address is still good.
                Ok(answer) if answer.status == 429 || answer.status >= 500 => {
                    return Err(http_error(&Method::GET, &url, answer.into_error()));
                }
                // It expired, or was never meant to be used twice: the registry is asked for a new one.
                Ok(_) | Err(_) => self.set_route(blob, |route| route.url = None),
            }
        }

        let url = endpoint.url(&format!("blobs/{blob}"));
        let result = endpoint.follow(Call::bare(Method::GET, &url, &headers, Intent::Pull, deadline));
        let (answer, final_url) = result.map_err(|source| http_error(&Method::GET, &url, source))?;
        match answer.status {
            200 | 206 => {}
            404 => return Err(self.not_found(format!("blob {blob}"))),
            _ => return Err(http_error(&Method::GET, &final_url, answer.into_error())),
        }
        let redirected = (final_url != url).then(|| final_url.clone());
        if way == Way::Remembered && (route.endpoint != Some(index) || redirected.is_some()) {
            self.set_route(blob, |route| {
                route.endpoint = Some(index);
                route.url = redirected;
            });
        }
        Ok((answer, final_url))
    }

    pub(super) fn pull_blob(
        &self,
        descriptor: &Descriptor,
    ) -> Result<Box<dyn Read + Send + '_>, TransportError> {
        let Descriptor { digest, size, .. } = *descriptor;
        let deadline = self.transfer_deadline(size);
        let (body, url) = self.open_blob(&digest, size, 0, deadline)?;
        let (body, want) = (Some(body.into()), Want::Blob { size });
        let stream = Stream { registry: self, digest, want, offset: 0, body, url, failures: 0, deadline };
        Ok(Box::new(Verified::new(stream, self.place(), digest, size)))
    }

    /// The blob from `offset` to its end, and the URL that it comes from.
    fn open_blob(
        &self,
        blob: &Digest,
        size: u64,
        offset: u64,
        deadline: Instant,
    ) -> Result<(Body, Url), TransportError> {
        let order = self.order(|can| can.pull, &self.route(blob));
        self.with_endpoints(&order, "pull", deadline, |index, _| {
            let range = (offset > 0).then_some((offset, None));
            let (answer, url) = self.get_blob(index, blob, range, Way::Remembered, deadline)?;
            match rest_of(answer, size, offset) {
                Ok(body) => Ok((body, url)),
                Err(source) => Err(http_error(&Method::GET, &url, source)),
            }
        })
    }
}

/// The range `start..end` of `blob`, out of the answer to the request for it.
fn range_of(answer: Answer, blob: &Digest, start: u64, end: u64) -> Result<Vec<u8>, HttpError> {
    match answer.status {
        206 => {
            check_range(&answer, start, end, None)?;
            answer.exactly(end - start)
        }
        _ => {
            // The whole blob is as good, if it is the whole blob.
            let len = answer.content_length();
            if len.is_some_and(|len| len > MAX_WHOLE || len < end) {
                return Err(HttpError::RangeIgnored(len));
            }
            let bytes = match answer.at_most(MAX_WHOLE) {
                Err(HttpError::LongBody(_)) => return Err(HttpError::RangeIgnored(len)),
                bytes => bytes?,
            };
            let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
            let part = range.and_then(|(start, end)| bytes.get(start..end));
            match part {
                Some(part) if Digest::of(&bytes) == *blob => Ok(part.to_vec()),
                _ => Err(HttpError::RangeIgnored(Some(bytes.len() as u64))),
            }
        }
    }
}

/// The body of a blob from `offset` on, out of the answer to the request for it.
fn rest_of(mut answer: Answer, size: u64, offset: u64) -> Result<Body, HttpError> {
    answer.check_encoding()?;
    let (expected, skip) = match answer.status {
        206 => {
            check_range(&answer, offset, size, Some(size))?;
            (size - offset, 0)
        }
        _ => (size, offset),
    };
    if let Some(actual) = answer.content_length().filter(|actual| *actual != expected) {
        return Err(HttpError::WrongLength { expected, actual: Some(actual) });
    }
    let mut left = skip;
    let mut buffer = vec![0; 64 << 10];
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        match answer.body.fill(&mut buffer[..want])? {
            0 => return Err(HttpError::WrongLength { expected, actual: Some(skip - left) }),
            got => left -= got as u64,
        }
    }
    Ok(answer.body)
}

/// Checks that a partial answer is about `start..end`, of `size` bytes if that is known.
fn check_range(answer: &Answer, start: u64, end: u64, size: Option<u64>) -> Result<(), HttpError> {
    let got = answer.header(header::CONTENT_RANGE).unwrap_or_default();
    let is_right = content_range(got).is_some_and(|(first, last, total)| {
        let total_fits = total.is_none_or(|total| total >= end && size.is_none_or(|size| size == total));
        first == start && last == end - 1 && total_fits
    });
    if is_right { Ok(()) } else { Err(HttpError::WrongRange { start, end, got: sanitize(got) }) }
}

/// `bytes FIRST-LAST/TOTAL`, where TOTAL may be `*` (RFC 9110, section 14.4).
fn content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u64>().ok().filter(|_| is_number)
    };
    let (range, total) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(number(total)?) };
    Some((number(first)?, number(last)?, total))
}

/// The length of a range that may be asked for.
fn checked_len(range: &Range<u64>) -> Result<u64, TransportError> {
    let &Range { start, end } = range;
    let len = end.checked_sub(start).filter(|len| *len <= MAX_RANGE);
    len.ok_or(TransportError::BadRange { start, end })
}

/// What a stream is to give.
#[derive(Clone, Copy)]
enum Want {
    /// A whole blob.
    Blob { size: u64 },
    /// A part of one, up to this byte.
    Range { end: u64 },
}

impl Want {
    fn end(self) -> u64 {
        match self {
            Self::Blob { size } => size,
            Self::Range { end } => end,
        }
    }
}

/// Where bytes come from.
enum Source {
    Network(Body),
    /// Out of a blob that came whole.
    Here(io::Cursor<Vec<u8>>),
}

impl From<Body> for Source {
    fn from(body: Body) -> Self {
        Self::Network(body)
    }
}

impl Source {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, HttpError> {
        match self {
            Self::Network(body) => body.fill(buffer),
            Self::Here(bytes) => bytes.read(buffer).map_err(HttpError::Connection),
        }
    }
}

/// A blob, or a range of one, that is read on after the connection broke.
struct Stream<'a> {
    registry: &'a Registry,
    digest: Digest,
    want: Want,
    offset: u64,
    body: Option<Source>,
    url: Url,
    failures: u32,
    deadline: Instant,
}

impl Stream<'_> {
    fn open(&self) -> Result<(Source, Url), TransportError> {
        match self.want {
            Want::Blob { size } => {
                let (body, url) = self.registry.open_blob(&self.digest, size, self.offset, self.deadline)?;
                Ok((body.into(), url))
            }
            Want::Range { end } => self.registry.open_range(&self.digest, self.offset..end, self.deadline),
        }
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let end = self.want.end();
            let Some(body) = &mut self.body else {
                let (body, url) = self.open()?;
                self.body = Some(body);
                self.url = url;
                continue;
            };
            let failure = match body.fill(buffer) {
                Ok(0) if self.offset < end && !buffer.is_empty() => {
                    HttpError::WrongLength { expected: end, actual: Some(self.offset) }
                }
                // The connection may break after the last byte.
                Err(_) if self.offset == end => return Ok(0),
                Ok(got) => {
                    self.offset += got as u64;
                    return Ok(got);
                }
                Err(error) => error,
            };
            self.failures += 1;
            if !failure.is_passing() || self.failures > self.registry.options.retries {
                return Err(http_error(&Method::GET, &self.url, failure).into());
            }
            tracing::debug!(digest = %self.digest, offset = self.offset, error = %failure, "reads on after a break");
            self.registry.tally.retry();
            self.body = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_content_ranges() {
        for (text, expected) in [
            ("bytes 0-9/10", Some((0, 9, Some(10)))),
            ("bytes 5-9/*", Some((5, 9, None))),
            ("bytes 5-9", None),
            ("bytes */10", None),
            ("bytes 0-9/+10", None),
            ("bytes -9/10", None),
            ("items 0-9/10", None),
            ("bytes 0-99999999999999999999/*", None),
            ("", None),
        ] {
            assert_eq!(content_range(text), expected, "{text:?}");
        }
    }
}
