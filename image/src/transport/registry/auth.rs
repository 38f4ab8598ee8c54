//! Showing a registry who asks: Basic credentials and bearer tokens.
//!
//! Source: Docker's "Token Authentication Specification" and "OAuth 2.0 token authentication". Nothing is
//! sent before the registry asks for it. Tokens are kept until shortly before they expire, fetched by one
//! thread for all that wait, and fetched anew once when the registry refuses one.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use serde::Deserialize;
use url::Url;
use url::form_urlencoded::Serializer;

use super::challenge::Challenge;
use super::credentials::{Credential, CredentialOptions, Secret};
use super::http::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use super::http::{Client, Exchange, HttpError, Payload, shown};
use crate::reference::is_loopback;

/// Largest answer of a token server, in bytes.
const MAX_TOKEN: usize = 1 << 20;
/// How long a token lives when its server does not say (token authentication specification).
const SHORT_LIFE: u64 = 60;
/// Longest life that is believed, in seconds.
const LONG_LIFE: u64 = 24 * 3600;

/// What a request wants to do with the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intent<'a> {
    /// Read.
    Pull,
    /// Read and write.
    Push,
    /// Write, and take a blob from this other repository of the registry.
    Mount(&'a str),
}

impl Intent<'_> {
    /// The scopes that a token must have.
    fn scopes(self, repository: &str) -> Vec<String> {
        match self {
            Self::Pull => vec![format!("repository:{repository}:pull")],
            Self::Push => vec![format!("repository:{repository}:pull,push")],
            Self::Mount(from) => {
                vec![format!("repository:{repository}:pull,push"), format!("repository:{from}:pull")]
            }
        }
    }
}

/// Whom this endpoint belongs to, and what may be sent to it.
#[derive(Debug)]
pub(super) struct Identity {
    /// The host under which its credentials are filed.
    pub(super) host: String,
    pub(super) repository: String,
    /// Whether the user named it, rather than the configuration of mirrors.
    pub(super) named: bool,
    /// Whether credentials may be sent to it: it speaks TLS, or plain HTTP is allowed.
    pub(super) private: bool,
    /// Hosts that may be spoken to in plain HTTP.
    pub(super) insecure_hosts: Vec<String>,
}

/// The credentials and tokens for one endpoint.
pub(super) struct Authenticator {
    identity: Identity,
    options: CredentialOptions,
    state: Mutex<State>,
    fetched: Condvar,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("identity", &self.identity).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    /// What the registry asked for, once it has.
    challenge: Option<Challenge>,
    /// What was found for it, once that was looked for.
    credential: Option<Option<Credential>>,
    tokens: HashMap<Vec<String>, Token>,
    /// Whether a thread is fetching a token; the others wait.
    fetching: bool,
    serial: u64,
}

#[derive(Clone)]
struct Token {
    proof: Proof,
    /// When it is to be replaced.
    stale: Instant,
}

/// What is sent with a request to show who asks.
#[derive(Clone)]
pub(super) struct Proof {
    pub(super) header: HeaderValue,
    serial: u64,
}

impl Authenticator {
    pub(super) fn new(identity: Identity, options: CredentialOptions) -> Self {
        Self { identity, options, state: Mutex::default(), fetched: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to send with a request. `None` as long as the registry asked for nothing, and where there is
    /// nothing to send.
    pub(super) fn proof(
        &self,
        client: &Client,
        intent: Intent<'_>,
        deadline: Instant,
    ) -> Result<Option<Proof>, HttpError> {
        let challenge = self.state().challenge.clone();
        match challenge {
            None => Ok(None),
            Some(Challenge::Basic) => match self.credential()? {
                Some(Credential::Password { user, password }) => {
                    Ok(Some(Proof { header: basic(&user, &password), serial: 0 }))
                }
                _ => Ok(None),
            },
            Some(Challenge::Bearer { realm, service, scope }) => {
                let ours = intent.scopes(&self.identity.repository);
                let scopes = match (intent, scope) {
                    // The registry knows best: a mirror may call the repository something else.
                    (Intent::Pull, Some(asked)) => vec![asked],
                    (_, asked) => ours.into_iter().chain(asked).collect(),
                };
                self.token(client, &realm, service.as_deref(), scopes, deadline).map(Some)
            }
        }
    }

    /// Takes note of a refusal, and says whether another attempt may fare better. `used` is what was sent.
    pub(super) fn challenged(&self, headers: &HeaderMap, used: Option<&Proof>) -> Result<bool, HttpError> {
        let challenge = Challenge::of(headers)?;
        let is_basic = challenge == Challenge::Basic;
        let mut state = self.state();
        if let Some(used) = used {
            state.tokens.retain(|_, token| token.proof.serial != used.serial);
        }
        state.challenge = Some(challenge);
        drop(state);
        if is_basic {
            return Ok(used.is_none() && self.credential()?.is_some());
        }
        Ok(true)
    }

    /// Forgets credentials that were refused: a helper may have better ones next time.
    pub(super) fn refused(&self) {
        self.state().credential = None;
    }

    /// Whether a token for pushing is at hand, so that reading needs no other.
    pub(super) fn can_push(&self) -> bool {
        self.state().tokens.keys().flatten().any(|scope| scope.ends_with(":pull,push"))
    }

    fn credential(&self) -> Result<Option<Credential>, HttpError> {
        if let Some(known) = self.state().credential.clone() {
            return Ok(known);
        }
        let Identity { host, repository, named, private, .. } = &self.identity;
        let found = self.options.find(host, repository, *named);
        let found = found.map_err(|error| HttpError::Credentials(Box::new(error)))?;
        if found.is_some() && !private {
            return Err(HttpError::PlainCredentials(host.clone()));
        }
        self.state().credential = Some(found.clone());
        Ok(found)
    }

    /// The token for `scopes`: the one at hand, or a new one.
    fn token(
        &self,
        client: &Client,
        realm: &Url,
        service: Option<&str>,
        scopes: Vec<String>,
        deadline: Instant,
    ) -> Result<Proof, HttpError> {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            if let Some(token) = state.tokens.get(&scopes).filter(|token| now < token.stale) {
                return Ok(token.proof.clone());
            }
            if !state.fetching {
                break;
            }
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                return Err(HttpError::Deadline);
            }
            state = self.fetched.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.fetching = true;
        drop(state);
        let result = self.fetch(client, realm, service, &scopes, deadline);

        let mut state = self.state();
        state.fetching = false;
        state.serial += 1;
        let serial = state.serial;
        self.fetched.notify_all();
        let (header, life) = result?;
        let proof = Proof { header, serial };
        // Far enough ahead that a request under way does not outlive its token.
        let stale = Instant::now() + life - (life / 4).min(Duration::from_secs(30));
        state.tokens.insert(scopes, Token { proof: proof.clone(), stale });
        Ok(proof)
    }

    /// Asks the token server.
    fn fetch(
        &self,
        client: &Client,
        realm: &Url,
        service: Option<&str>,
        scopes: &[String],
        deadline: Instant,
    ) -> Result<(HeaderValue, Duration), HttpError> {
        let host = authority(realm);
        if realm.scheme() != "https" && !is_plain_allowed(&host, &self.identity.insecure_hosts) {
            return Err(HttpError::PlainCredentials(host));
        }
        let failed = |source| HttpError::Token { realm: shown(realm), source: Box::new(source) };
        let answer = match self.credential()? {
            Some(Credential::Identity(token)) => refresh(client, realm, service, scopes, &token, deadline),
            credential => {
                let authorization = credential.and_then(|credential| match credential {
                    Credential::Password { user, password } => Some(basic(&user, &password)),
                    Credential::Identity(_) => None,
                });
                ask(client, realm, service, scopes, authorization, deadline)
            }
        };
        read_token(&answer.map_err(failed)?).map_err(failed)
    }
}

/// Asks for a token with user and password, or anonymously.
fn ask(
    client: &Client,
    realm: &Url,
    service: Option<&str>,
    scopes: &[String],
    authorization: Option<HeaderValue>,
    deadline: Instant,
) -> Result<Vec<u8>, HttpError> {
    let mut url = realm.clone();
    let service = service.map(|service| ("service", service));
    let scopes = scopes.iter().map(|scope| ("scope", scope.as_str()));
    url.query_pairs_mut().extend_pairs(service.into_iter().chain(scopes));
    let payload = Payload::Empty;
    exchange(
        client,
        Exchange { method: Method::GET, url: &url, headers: &[], authorization, payload, deadline },
    )
}

/// Turns a refresh token into a bearer token.
fn refresh(
    client: &Client,
    realm: &Url,
    service: Option<&str>,
    scopes: &[String],
    token: &Secret,
    deadline: Instant,
) -> Result<Vec<u8>, HttpError> {
    let mut form = Serializer::new(String::new());
    form.append_pair("grant_type", "refresh_token").append_pair("client_id", "nix-seed");
    form.extend_pairs(service.map(|service| ("service", service)));
    form.append_pair("scope", &scopes.join(" ")).append_pair("refresh_token", token.expose());
    let form = form.finish();
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
    let headers: [(HeaderName, HeaderValue); 1] = [(header::CONTENT_TYPE, kind)];
    let payload = Payload::Bytes(form.as_bytes());
    exchange(
        client,
        Exchange {
            method: Method::POST,
            url: realm,
            headers: &headers,
            authorization: None,
            payload,
            deadline,
        },
    )
}

/// Redirects are not followed: what is sent here is for this server alone.
fn exchange(client: &Client, exchange: Exchange<'_>) -> Result<Vec<u8>, HttpError> {
    let answer = client.send(exchange)?;
    if !answer.is_success() {
        return Err(answer.into_error());
    }
    answer.at_most(MAX_TOKEN as u64)
}

/// The `Authorization` header of a token server's answer, and how long it is good for.
fn read_token(answer: &[u8]) -> Result<(HeaderValue, Duration), HttpError> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<Secret>,
        access_token: Option<Secret>,
        expires_in: Option<u64>,
    }
    let Answer { token, access_token, expires_in } = seed_format::json::from_slice(answer, MAX_TOKEN)?;
    let token = token.or(access_token).ok_or(HttpError::Header("token"))?;
    let header = sensitive(format!("Bearer {}", token.expose())).ok_or(HttpError::Header("token"))?;
    // A life of nothing would mean a token for each request; registries that say 0 mean the default.
    let life = expires_in.filter(|life| *life > 0).unwrap_or(SHORT_LIFE).min(LONG_LIFE);
    Ok((header, Duration::from_secs(life)))
}

fn basic(user: &str, password: &Secret) -> HeaderValue {
    let pair = BASE64.encode(format!("{user}:{}", password.expose()).as_bytes());
    sensitive(format!("Basic {pair}")).expect("base64 is fit for a header")
}

/// A header that is left out of debug output.
fn sensitive(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// `HOST` or `HOST:PORT` of a URL, without the port that goes without saying.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether a host may be spoken to in plain HTTP.
pub(super) fn is_plain_allowed(host: &str, insecure_hosts: &[String]) -> bool {
    is_loopback(host) || insecure_hosts.iter().any(|insecure| insecure.eq_ignore_ascii_case(host))
}
