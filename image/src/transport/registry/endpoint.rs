//! One server that gives a registry's API: the registry itself, or a mirror.

use std::time::Instant;

use url::Url;

use super::auth::{Authenticator, Intent};
use super::breaker::Breaker;
use super::hosts::Capabilities;
use super::http::http::{HeaderName, HeaderValue, Method, header};
use super::http::{Answer, Client, Exchange, HttpError, Payload, RedirectProblem};

/// Most redirects that are followed for one request.
const MAX_REDIRECTS: usize = 5;

/// One server that gives a registry's API.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// The root of the API, with a slash at its end.
    base: Url,
    repository: String,
    /// The registry that a mirror is to stand for.
    namespace: Option<String>,
    pub(super) capabilities: Capabilities,
    pub(super) auth: Authenticator,
    client: Client,
    /// Headers that the configuration adds to each request.
    headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) breaker: Breaker,
}

/// A request to an endpoint.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) url: &'a Url,
    pub(super) headers: &'a [(HeaderName, HeaderValue)],
    pub(super) payload: Payload<'a>,
    pub(super) intent: Intent<'a>,
    pub(super) deadline: Instant,
}

impl<'a> Call<'a> {
    /// A request without payload.
    pub(super) fn bare(
        method: Method,
        url: &'a Url,
        headers: &'a [(HeaderName, HeaderValue)],
        intent: Intent<'a>,
        deadline: Instant,
    ) -> Self {
        Self { method, url, headers, payload: Payload::Empty, intent, deadline }
    }
}

impl Endpoint {
    pub(super) fn new(
        base: Url,
        repository: &str,
        namespace: Option<String>,
        capabilities: Capabilities,
        auth: Authenticator,
        client: Client,
        headers: Vec<(HeaderName, HeaderValue)>,
    ) -> Self {
        let repository = repository.to_owned();
        Self { base, repository, namespace, capabilities, auth, client, headers, breaker: Breaker::default() }
    }

    /// The URL of something in the repository: `manifests/TAG`, `blobs/DIGEST`, `blobs/uploads/`.
    pub(super) fn url(&self, what: &str) -> Url {
        let path = format!("{}{}/{what}", self.base.path(), self.repository);
        let mut url = self.base.clone();
        url.set_path(&path);
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }

    /// Whether a URL leads to this very server, which then may see credentials.
    pub(super) fn owns(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// Sends a request, with credentials if it asks for them. Redirects are answers.
    pub(super) fn send(&self, mut call: Call<'_>) -> Result<Answer, HttpError> {
        if !self.owns(call.url) {
            let Call { method, url, headers, payload, deadline, .. } = call;
            return self.client.send(Exchange {
                method,
                url,
                headers,
                authorization: None,
                payload,
                deadline,
            });
        }
        let proof = self.auth.proof(&self.client, call.intent, call.deadline)?;
        let answer = self.send_once(&mut call, proof.as_ref().map(|proof| proof.header.clone()))?;
        if answer.status != 401 {
            return Ok(answer);
        }
        if !self.auth.challenged(&answer.headers, proof.as_ref())? {
            self.auth.refused();
            return Err(answer.into_error());
        }
        answer.discard();
        let proof = self.auth.proof(&self.client, call.intent, call.deadline)?;
        let answer = self.send_once(&mut call, proof.map(|proof| proof.header))?;
        if answer.status == 401 {
            self.auth.refused();
        }
        Ok(answer)
    }

    fn send_once(
        &self,
        call: &mut Call<'_>,
        authorization: Option<HeaderValue>,
    ) -> Result<Answer, HttpError> {
        let headers: Vec<_> = self.headers.iter().chain(call.headers).cloned().collect();
        self.client.send(Exchange {
            method: call.method.clone(),
            url: call.url,
            headers: &headers,
            authorization,
            payload: call.payload.again(),
            deadline: call.deadline,
        })
    }

    /// Sends a request without payload and follows redirects. Also gives the URL that answered.
    pub(super) fn follow(&self, call: Call<'_>) -> Result<(Answer, Url), HttpError> {
        let mut url = call.url.clone();
        let mut visited = vec![url.clone()];
        loop {
            let answer = self.send(Call {
                method: call.method.clone(),
                url: &url,
                headers: call.headers,
                payload: Payload::Empty,
                intent: call.intent,
                deadline: call.deadline,
            })?;
            if !answer.is_redirect() {
                return Ok((answer, url));
            }
            let next = self.redirected(&answer, &url)?;
            answer.discard();
            if visited.len() > MAX_REDIRECTS || visited.contains(&next) {
                return Err(HttpError::Redirect(RedirectProblem::Loop));
            }
            visited.push(next.clone());
            url = next;
        }
    }

    /// Where an answer leads.
    pub(super) fn redirected(&self, answer: &Answer, from: &Url) -> Result<Url, HttpError> {
        let location = answer.header(header::LOCATION);
        let next = location.and_then(|location| from.join(location).ok());
        let next = next.ok_or(HttpError::Redirect(RedirectProblem::NoLocation))?;
        match (from.scheme(), next.scheme()) {
            ("https", "http") => Err(HttpError::Redirect(RedirectProblem::Downgrade)),
            (_, "http" | "https") if next.host_str().is_some() => Ok(next),
            _ => Err(HttpError::Redirect(RedirectProblem::Scheme)),
        }
    }
}
