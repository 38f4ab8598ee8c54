//! Writing to a registry: blobs that it lacks, manifests by digest and by tag.
//!
//! Source: OCI distribution specification 1.1, "Push".

use std::time::Instant;

use seed_format::Digest;
use url::Url;

use super::auth::Intent;
use super::endpoint::{Call, Endpoint};
use super::http::http::{HeaderName, HeaderValue, Method, header};
use super::http::{Answer, HttpError, Payload, sanitize};
use super::{Registry, http_error};
use crate::manifest::{Descriptor, ManifestKind};
use crate::transport::{BlobContent, TransportError};

/// What the registry says it stored.
const STORED: HeaderName = HeaderName::from_static("docker-content-digest");
/// Smallest part of a blob that the registry takes, except for the last.
const LEAST_CHUNK: HeaderName = HeaderName::from_static("oci-chunk-min-length");
/// That the registry lists the manifest among the referrers of this subject.
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// Largest part that a registry can ask for, in bytes.
const MAX_CHUNK: u64 = 1 << 30;

/// An upload under way.
struct Upload {
    /// Where the next part goes; `None` before the registry was asked, and after it lost the upload.
    session: Option<Url>,
    /// Bytes that the registry has.
    offset: u64,
    /// Bytes of one part.
    chunk: u64,
    /// Whether the registry refused parts, so that the blob goes in one piece.
    whole: bool,
}

impl Registry {
    /// The endpoint that is written to: the first that may be.
    fn push_endpoint(&self) -> Result<&Endpoint, TransportError> {
        let found = self.endpoints.iter().find(|endpoint| endpoint.capabilities.push);
        found.ok_or_else(|| TransportError::NoEndpoint { host: self.host.clone(), capability: "push" })
    }

    pub(super) fn ask_for_blob(&self, descriptor: &Descriptor) -> Result<bool, TransportError> {
        // Where one could write is where it matters; else the registry itself is asked, the last endpoint.
        let endpoint = self.push_endpoint().or_else(|error| self.endpoints.last().ok_or(error))?;
        let intent = if endpoint.auth.can_push() { Intent::Push } else { Intent::Pull };
        self.head_blob(endpoint, descriptor, intent)
    }

    fn head_blob(
        &self,
        endpoint: &Endpoint,
        descriptor: &Descriptor,
        intent: Intent<'_>,
    ) -> Result<bool, TransportError> {
        let url = endpoint.url(&format!("blobs/{}", descriptor.digest));
        let deadline = self.deadline();
        self.persist(self.options.retries, deadline, || {
            let failed = |source| http_error(&Method::HEAD, &url, source);
            let answer =
                endpoint.send(Call::bare(Method::HEAD, &url, &[], intent, deadline)).map_err(failed)?;
            match answer.status {
                // Only what is there is redirected to; the target often refuses HEAD.
                _ if answer.is_redirect() => Ok(true),
                200 => Ok(answer.content_length().is_none_or(|len| len == descriptor.size)),
                404 => Ok(false),
                _ => Err(failed(answer.into_error())),
            }
        })
    }

    pub(super) fn push_blob(
        &self,
        descriptor: &Descriptor,
        content: &mut dyn BlobContent,
    ) -> Result<(), TransportError> {
        let endpoint = self.push_endpoint()?;
        if self.head_blob(endpoint, descriptor, Intent::Push)? {
            return Ok(());
        }
        let mut upload =
            Upload { session: None, offset: 0, chunk: self.options.upload_chunk.max(1), whole: false };
        let overall = self.transfer_deadline(descriptor.size.saturating_mul(2));
        let mut failures = 0;
        loop {
            let before = upload.offset;
            let error = match self.advance(endpoint, descriptor, content, &mut upload) {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    failures = 0;
                    continue;
                }
                Err(error) => error,
            };
            if let TransportError::Http { source: HttpError::Content(_), .. } = error {
                return Err(content_error(error, descriptor));
            }
            if upload.offset > before {
                failures = 0;
            }
            let passing = super::is_passing(&error) || recoverable(&mut upload, &error);
            let wait = self.backoff(failures, &error);
            let left = overall.saturating_duration_since(Instant::now());
            if !passing || failures >= self.options.retries || wait >= left {
                return Err(error);
            }
            tracing::debug!(digest = %descriptor.digest, offset = upload.offset, %error, "upload goes on");
            std::thread::sleep(wait);
            self.tally.retry();
            failures += 1;
            self.find_offset(endpoint, descriptor, &mut upload);
        }
    }

    /// Takes the next step of an upload; says whether it was the last.
    fn advance(
        &self,
        endpoint: &Endpoint,
        descriptor: &Descriptor,
        content: &mut dyn BlobContent,
        upload: &mut Upload,
    ) -> Result<bool, TransportError> {
        let Descriptor { digest, size, .. } = *descriptor;
        let Some(session) = upload.session.clone() else {
            let session = self.begin(endpoint, None)?;
            let (answer, url) = session;
            if let Some(least) = answer.header(LEAST_CHUNK).and_then(|text| text.parse::<u64>().ok()) {
                upload.chunk = upload.chunk.max(least.min(MAX_CHUNK));
            }
            upload.session = Some(location(endpoint, &answer, &url)?);
            upload.offset = 0;
            answer.discard();
            return Ok(false);
        };
        let left = size - upload.offset;
        if upload.offset == 0 && (left <= upload.chunk || upload.whole) {
            let payload = Payload::Content { content, offset: 0, len: size };
            self.finish(endpoint, digest, &session, payload, size)?;
            return Ok(true);
        }
        if left == 0 {
            self.finish(endpoint, digest, &session, Payload::Empty, 0)?;
            return Ok(true);
        }

        let len = left.min(upload.chunk);
        let range = format!("{}-{}", upload.offset, upload.offset + len - 1);
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
            (header::CONTENT_RANGE, HeaderValue::try_from(range).expect("digits are fit for a header")),
        ];
        let payload = Payload::Content { content, offset: upload.offset, len };
        let failed = |source| http_error(&Method::PATCH, &session, source);
        let deadline = self.transfer_deadline(len);
        let call = Call {
            method: Method::PATCH,
            url: &session,
            headers: &headers,
            payload,
            intent: Intent::Push,
            deadline,
        };
        let answer = endpoint.send(call).map_err(failed)?;
        if !answer.is_success() {
            return Err(failed(answer.into_error()));
        }
        let expected = upload.offset + len;
        upload.session = Some(location(endpoint, &answer, &session)?);
        upload.offset = received(&answer).unwrap_or(expected).min(expected);
        answer.discard();
        Ok(false)
    }

    /// Begins an upload. `mount` names the blob and the repository that may have it.
    fn begin(
        &self,
        endpoint: &Endpoint,
        mount: Option<(&Digest, &str)>,
    ) -> Result<(Answer, Url), TransportError> {
        let mut url = endpoint.url("blobs/uploads/");
        let mut intent = Intent::Push;
        if let Some((digest, from)) = mount {
            url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from);
            intent = Intent::Mount(from);
        }
        let deadline = self.deadline();
        let failed = |source| http_error(&Method::POST, &url, source);
        let answer = endpoint.send(Call::bare(Method::POST, &url, &[], intent, deadline)).map_err(failed)?;
        match answer.status {
            201 | 202 => Ok((answer, url)),
            _ => Err(failed(answer.into_error())),
        }
    }

    /// Ends an upload with its last bytes, which may be all.
    fn finish(
        &self,
        endpoint: &Endpoint,
        digest: Digest,
        session: &Url,
        mut payload: Payload<'_>,
        len: u64,
    ) -> Result<(), TransportError> {
        let mut url = session.clone();
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let headers = [(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))];
        let deadline = self.transfer_deadline(len);
        let failed = |source| http_error(&Method::PUT, &url, source);
        let payload = payload.again();
        let call = Call {
            method: Method::PUT,
            url: &url,
            headers: &headers,
            payload,
            intent: Intent::Push,
            deadline,
        };
        let answer = endpoint.send(call).map_err(failed)?;
        if !answer.is_success() {
            return Err(failed(answer.into_error()));
        }
        check_stored(&answer, &digest).map_err(failed)?;
        answer.discard();
        Ok(())
    }

    /// After a failure: how much of the upload the registry has. If it does not say, all begins anew.
    fn find_offset(&self, endpoint: &Endpoint, descriptor: &Descriptor, upload: &mut Upload) {
        let Some(session) = upload.session.take() else { return };
        upload.offset = 0;
        let call = Call::bare(Method::GET, &session, &[], Intent::Push, self.deadline());
        let Ok(answer) = endpoint.send(call) else { return };
        if !answer.is_success() || descriptor.size <= upload.chunk || upload.whole {
            return;
        }
        let Some(offset) = received(&answer).filter(|offset| *offset <= descriptor.size) else { return };
        upload.offset = offset;
        // A registry may answer without a new address: the old one is good, then.
        upload.session = Some(location(endpoint, &answer, &session).unwrap_or(session));
        answer.discard();
    }

    pub(super) fn mount(&self, descriptor: &Descriptor, from: &str) -> Result<bool, TransportError> {
        let endpoint = self.push_endpoint()?;
        let digest = &descriptor.digest;
        let (answer, url) = match self.begin(endpoint, Some((digest, from))) {
            // A registry that knows no mounting, or does not let us read there.
            Err(TransportError::Http {
                source: HttpError::Status { .. } | HttpError::Denied { .. }, ..
            }) => {
                return Ok(false);
            }
            begun => begun?,
        };
        if answer.status == 201 {
            check_stored(&answer, digest).map_err(|source| http_error(&Method::POST, &url, source))?;
            answer.discard();
            return Ok(true);
        }
        // Not mounted, but an upload was begun, which nobody will go on with.
        if let Ok(session) = location(endpoint, &answer, &url) {
            answer.discard();
            let call = Call::bare(Method::DELETE, &session, &[], Intent::Push, self.deadline());
            if let Ok(answer) = endpoint.send(call) {
                answer.discard();
            }
        }
        Ok(false)
    }

    pub(super) fn push_manifest(
        &self,
        bytes: &[u8],
        media_type: &str,
        tag: Option<&str>,
    ) -> Result<Digest, TransportError> {
        let endpoint = self.push_endpoint()?;
        let digest = Digest::of(bytes);
        let kind = ManifestKind::parse(bytes, Some(media_type)).map_err(|source| {
            TransportError::Manifest { place: self.place(), what: format!("manifest {digest}"), source }
        })?;
        let answer = self.put_manifest_as(endpoint, bytes, media_type, &digest, &digest.to_string())?;
        let subject = match kind {
            ManifestKind::Manifest(manifest) => manifest.subject,
            ManifestKind::Index(index) => index.subject,
        };
        if let Some(subject) = subject
            && answer.header(SUBJECT).is_none()
        {
            self.list_referrer(bytes, media_type, &subject.digest)?;
        }
        answer.discard();
        if let Some(tag) = tag {
            self.put_manifest_as(endpoint, bytes, media_type, &digest, tag)?.discard();
        }
        Ok(digest)
    }

    /// Stores a manifest under one name, its digest or a tag.
    pub(super) fn put_manifest_as(
        &self,
        endpoint: &Endpoint,
        bytes: &[u8],
        media_type: &str,
        digest: &Digest,
        name: &str,
    ) -> Result<Answer, TransportError> {
        let url = endpoint.url(&format!("manifests/{name}"));
        let failed = |source| http_error(&Method::PUT, &url, source);
        let kind = HeaderValue::try_from(media_type).map_err(|_| failed(HttpError::Header("media type")))?;
        let headers = [(header::CONTENT_TYPE, kind)];
        let deadline = self.deadline();
        self.persist(self.options.retries, deadline, || {
            let call = Call {
                method: Method::PUT,
                url: &url,
                headers: &headers,
                payload: Payload::Bytes(bytes),
                intent: Intent::Push,
                deadline,
            };
            let answer = endpoint.send(call).map_err(failed)?;
            if !answer.is_success() {
                return Err(failed(answer.into_error()));
            }
            check_stored(&answer, digest).map_err(failed)?;
            Ok(answer)
        })
    }

    /// Adds a manifest to the list of its subject's referrers that is kept under a tag.
    fn list_referrer(&self, bytes: &[u8], media_type: &str, subject: &Digest) -> Result<(), TransportError> {
        self.add_to_fallback(self.push_endpoint()?, bytes, media_type, subject)
    }
}

/// Where an upload goes on: the `Location` of an answer.
fn location(endpoint: &Endpoint, answer: &Answer, url: &Url) -> Result<Url, TransportError> {
    endpoint.redirected(answer, url).map_err(|source| http_error(&Method::POST, url, source))
}

/// How many bytes of an upload the registry has, by its `Range: 0-LAST`.
///
/// `0-0` may mean one byte or none; it is taken for none, and a registry that has one asks for another range.
fn received(answer: &Answer) -> Option<u64> {
    let range = answer.header(header::RANGE)?;
    let last: u64 = range.trim_start_matches("bytes=").strip_prefix("0-")?.parse().ok()?;
    Some(if last == 0 { 0 } else { last.checked_add(1)? })
}

/// Whether an upload that the registry refused can go on in another way, which is prepared here.
fn recoverable(upload: &mut Upload, error: &TransportError) -> bool {
    let TransportError::Http { method, source: HttpError::Status { status, .. }, .. } = error else {
        return false;
    };
    match (*method, status) {
        // It has another part than was thought; it is asked for which.
        ("PATCH", 416) => true,
        // It lost the upload: from the beginning.
        ("PATCH" | "PUT", 404) if upload.offset > 0 => true,
        // It takes no parts.
        ("PATCH", 400 | 404 | 405 | 501) if !upload.whole => {
            upload.whole = true;
            true
        }
        _ => false,
    }
}

fn check_stored(answer: &Answer, digest: &Digest) -> Result<(), HttpError> {
    match answer.header(STORED) {
        Some(stored) if stored != digest.to_string() => Err(HttpError::StoredOther(sanitize(stored))),
        _ => Ok(()),
    }
}

/// The bytes to be sent failed, not the registry.
fn content_error(error: TransportError, descriptor: &Descriptor) -> TransportError {
    match error {
        TransportError::Http { source: HttpError::Content(source), .. } => {
            TransportError::Content { digest: descriptor.digest, source }
        }
        error => error,
    }
}
