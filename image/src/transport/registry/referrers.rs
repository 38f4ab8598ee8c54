//! Manifests that refer to others: the referrers API, or the tag that stands in for it.
//!
//! Source: OCI distribution specification 1.1, "Listing Referrers" and "Referrers Tag Schema".

use std::time::Instant;

use seed_format::Digest;
use url::Url;

use super::auth::Intent;
use super::endpoint::{Call, Endpoint};
use super::http::http::{Method, header};
use super::http::{Answer, HttpError};
use super::{Registry, Route, http_error};
use crate::manifest::{Descriptor, Index, MAX_MANIFEST, ManifestKind, media_type};
use crate::transport::TransportError;

/// Most pages of a list that are read.
const MAX_PAGES: usize = 64;
/// How often the list under a tag is written again because another writer wrote it at the same time.
const MAX_REWRITES: u32 = 8;

impl Registry {
    pub(super) fn pull_referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, TransportError> {
        let order = self.order(|can| can.resolve, &Route::default());
        self.with_endpoints(&order, "resolve", self.deadline(), |index, until| {
            let endpoint = &self.endpoints[index];
            match self.ask_api(endpoint, subject, until)? {
                Some(found) => Ok(found),
                None => Ok(self
                    .fallback_list(endpoint, subject, until)?
                    .map(|index| index.manifests)
                    .unwrap_or_default()),
            }
        })
    }

    /// The list by the API; `None` if the registry has no such API.
    fn ask_api(
        &self,
        endpoint: &Endpoint,
        subject: &Digest,
        deadline: Instant,
    ) -> Result<Option<Vec<Descriptor>>, TransportError> {
        let mut url = endpoint.url(&format!("referrers/{subject}"));
        let mut found = Vec::new();
        for page in 0..MAX_PAGES {
            let failed = |source| http_error(&Method::GET, &url, source);
            let call = Call::bare(Method::GET, &url, &[], Intent::Pull, deadline);
            let answer = endpoint.send(call).map_err(failed)?;
            let kind =
                answer.header(header::CONTENT_TYPE).map(|kind| kind.split(';').next().unwrap_or(kind).trim());
            if answer.status != 200 || kind != Some(media_type::INDEX) {
                let error = answer.into_error();
                // Refusals and passing failures are what they are; all else is the lack of the API.
                return match error {
                    HttpError::Status { .. } if !error.is_passing() && page == 0 => Ok(None),
                    error => Err(failed(error)),
                };
            }
            let next = next_page(&answer, &url).filter(|next| endpoint.owns(next));
            let bytes = answer.at_most(MAX_MANIFEST as u64).map_err(failed)?;
            found.extend(self.read_list(&bytes, subject)?.manifests);
            match next {
                Some(next) => url = next,
                None => break,
            }
        }
        Ok(Some(found))
    }

    /// The list under the tag that stands in for the API; `None` if there is none.
    fn fallback_list(
        &self,
        endpoint: &Endpoint,
        subject: &Digest,
        deadline: Instant,
    ) -> Result<Option<Index>, TransportError> {
        let url = endpoint.url(&format!("manifests/{}", fallback_tag(subject)));
        let failed = |source| http_error(&Method::GET, &url, source);
        let accept = header::HeaderValue::from_static(media_type::INDEX);
        let headers = [(header::ACCEPT, accept)];
        let call = Call::bare(Method::GET, &url, &headers, Intent::Pull, deadline);
        let (answer, _) = endpoint.follow(call).map_err(failed)?;
        match answer.status {
            200 => {}
            404 => return Ok(None),
            _ => return Err(failed(answer.into_error())),
        }
        let bytes = answer.at_most(MAX_MANIFEST as u64).map_err(failed)?;
        self.read_list(&bytes, subject).map(Some)
    }

    fn read_list(&self, bytes: &[u8], subject: &Digest) -> Result<Index, TransportError> {
        Index::parse(bytes).map_err(|source| TransportError::Manifest {
            place: self.place(),
            what: format!("list of referrers of {subject}"),
            source,
        })
    }

    /// Adds a manifest to the list under the tag.
    ///
    /// Registries have no lock for it. Writers of this process wait for each other; against the others, the
    /// list is read again after writing, and written again if another version took its place.
    pub(super) fn add_to_fallback(
        &self,
        endpoint: &Endpoint,
        bytes: &[u8],
        kind: &str,
        subject: &Digest,
    ) -> Result<(), TransportError> {
        let _turn = self.fallback_turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let entry = self.referrer(bytes, kind)?;
        let deadline = self.deadline();
        for attempt in 0..=MAX_REWRITES {
            let mut list =
                self.fallback_list(endpoint, subject, deadline)?.unwrap_or_else(|| Index::of(Vec::new()));
            if list.manifests.iter().any(|listed| listed.digest == entry.digest) {
                return Ok(());
            }
            // Random, so that writers at the same time do not meet again.
            std::thread::sleep(self.options.backoff.mul_f64(fastrand::f64() * f64::from(attempt)));
            list.manifests.push(entry.clone());
            let bytes = list.to_bytes();
            let digest = Digest::of(&bytes);
            self.put_manifest_as(endpoint, &bytes, media_type::INDEX, &digest, &fallback_tag(subject))?
                .discard();
        }
        let url = endpoint.url(&format!("manifests/{}", fallback_tag(subject)));
        Err(http_error(&Method::PUT, &url, HttpError::Contended))
    }

    /// The entry of a list of referrers for a manifest.
    fn referrer(&self, bytes: &[u8], kind: &str) -> Result<Descriptor, TransportError> {
        let digest = Digest::of(bytes);
        let parsed = ManifestKind::parse(bytes, Some(kind)).map_err(|source| TransportError::Manifest {
            place: self.place(),
            what: format!("manifest {digest}"),
            source,
        })?;
        let (artifact_type, annotations) = match parsed {
            ManifestKind::Manifest(manifest) => {
                (Some(manifest.artifact_type.unwrap_or(manifest.config.media_type)), manifest.annotations)
            }
            ManifestKind::Index(index) => (index.artifact_type, index.annotations),
        };
        Ok(Descriptor { artifact_type, annotations, ..Descriptor::new(kind, digest, bytes.len() as u64) })
    }
}

fn fallback_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

/// The next page of a list, by `Link: <URL>; rel="next"` (RFC 8288).
fn next_page(answer: &Answer, url: &Url) -> Option<Url> {
    let link = answer.header(header::LINK)?;
    let (target, parameters) = link.strip_prefix('<')?.split_once('>')?;
    let is_next =
        parameters.split(';').any(|parameter| matches!(parameter.trim(), "rel=\"next\"" | "rel=next"));
    if is_next { url.join(target).ok() } else { None }
}
