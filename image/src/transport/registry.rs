//! A repository of an OCI registry, and its mirrors.
//!
//! Source: OCI distribution specification 1.1. What a registry says of itself is never trusted: manifests
//! and blobs are hashed here, whatever its headers claim.

mod auth;
mod breaker;
mod challenge;
pub mod credentials;
mod endpoint;
pub mod hosts;
pub mod http;
mod pull;
mod push;
mod referrers;

use std::collections::HashMap;
use std::io::Read;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use seed_format::Digest;
use url::Url;

use self::auth::{Authenticator, Identity, authority, is_plain_allowed};
use self::breaker::Admission;
use self::endpoint::Endpoint;
use self::hosts::{Capabilities, HostConfig, HostsError};
use self::http::http::{HeaderName, HeaderValue, Method};
use self::http::{Client, HttpError, Tally, Trust, shown};
use super::{BlobContent, Counters, Transport, TransportError, TransportOptions};
use crate::manifest::Descriptor;
use crate::reference::{Location, is_tag};

/// Longest wait between two attempts that the server did not ask for.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Slowest transfer of a whole blob that is not given up, in bytes a second.
const LEAST_RATE: u64 = 16 << 10;
/// Blobs whose way is remembered.
const MAX_ROUTES: usize = 4096;
/// Manifests that are kept: the one that a tag was resolved to is asked for next.
const MAX_MANIFESTS: usize = 4;

/// A repository of an OCI registry.
#[derive(Debug)]
pub struct Registry {
    location: Location,
    host: String,
    repository: String,
    options: TransportOptions,
    /// Mirrors in their order, the registry itself last.
    endpoints: Vec<Endpoint>,
    tally: Arc<Tally>,
    routes: Mutex<HashMap<Digest, Route>>,
    manifests: Mutex<Vec<(Digest, Vec<u8>)>>,
    /// Held by the thread that writes a list of referrers under a tag.
    fallback_turn: Mutex<()>,
}

/// How a blob was reached the last time.
#[derive(Debug, Clone, Default)]
struct Route {
    endpoint: Option<usize>,
    /// Where that endpoint redirected to.
    url: Option<Url>,
    /// Endpoints that gave wrong bytes.
    distrusted: Vec<usize>,
}

impl Registry {
    /// The repository `repository` of `host` (`HOST` or `HOST:PORT`). Nothing is sent yet.
    pub fn new(host: &str, repository: &str, options: &TransportOptions) -> Result<Self, TransportError> {
        let tally = Arc::new(Tally::default());
        let endpoints = endpoints(host, repository, options, &tally)?;
        Ok(Self {
            location: Location::Registry { host: host.into(), repository: repository.into() },
            host: host.into(),
            repository: repository.into(),
            options: options.clone(),
            endpoints,
            tally,
            routes: Mutex::default(),
            manifests: Mutex::default(),
            fallback_turn: Mutex::default(),
        })
    }

    fn place(&self) -> String {
        self.location.to_string()
    }

    fn not_found(&self, what: String) -> TransportError {
        TransportError::NotFound { place: self.place(), what }
    }

    /// When an operation must be done that moves no blob.
    fn deadline(&self) -> Instant {
        Instant::now() + self.options.operation_timeout
    }

    /// When the transfer of `size` bytes must be done.
    fn transfer_deadline(&self, size: u64) -> Instant {
        // Enough for any blob, and far from where an instant would overflow.
        let seconds = (size / LEAST_RATE).min(30 * 24 * 3600);
        self.deadline() + Duration::from_secs(seconds)
    }

    fn route(&self, blob: &Digest) -> Route {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).get(blob).cloned().unwrap_or_default()
    }

    fn set_route(&self, blob: &Digest, change: impl FnOnce(&mut Route)) {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if routes.len() >= MAX_ROUTES && !routes.contains_key(blob) {
            routes.clear();
        }
        change(routes.entry(*blob).or_default());
    }

    /// The endpoints with a capability, in the order in which they are asked.
    fn order(&self, has: impl Fn(&Capabilities) -> bool, route: &Route) -> Vec<usize> {
        let mut order: Vec<usize> =
            (0..self.endpoints.len()).filter(|index| has(&self.endpoints[*index].capabilities)).collect();
        let is_known = |index: &usize| route.endpoint == Some(*index);
        order.sort_by_key(|index| {
            (route.distrusted.contains(index), self.endpoints[*index].breaker.rests(), !is_known(index))
        });
        order
    }

    /// Does something with the first endpoint that can: each is asked again after passing failures, the
    /// last most often, and each but the last has half of the time that is left. Endpoints that rest are
    /// passed over; where all do, this waits until one may be tried.
    fn with_endpoints<T>(
        &self,
        order: &[usize],
        capability: &'static str,
        deadline: Instant,
        mut operation: impl FnMut(usize, Instant) -> Result<T, TransportError>,
    ) -> Result<T, TransportError> {
        let mut failure = None;
        loop {
            let mut asked = false;
            for (position, &index) in order.iter().enumerate() {
                let breaker = &self.endpoints[index].breaker;
                let now = Instant::now();
                let admission = breaker.admit(now);
                if admission == Admission::Resting {
                    continue;
                }
                asked = true;
                let is_last = position + 1 == order.len();
                let until =
                    if is_last { deadline } else { now + deadline.saturating_duration_since(now) / 2 };
                let tried = admission == Admission::Try;
                let retries = match (tried, is_last) {
                    (true, _) => 0,
                    (false, true) => self.options.retries,
                    (false, false) => self.options.retries.min(1),
                };
                match self.persist(retries, until, || operation(index, until)) {
                    Ok(done) => {
                        breaker.succeeded();
                        return Ok(done);
                    }
                    Err(error) => {
                        tracing::debug!(endpoint = index, %error, "endpoint failed");
                        match &error {
                            TransportError::Http { source, .. } if source.is_unreachable() => {
                                breaker.failed(Instant::now(), true, tried);
                            }
                            error if error.is_unavailable() => {
                                breaker.failed(Instant::now(), false, tried);
                            }
                            // It answered.
                            _ => breaker.succeeded(),
                        }
                        // What the registry itself says explains most; it is the last endpoint.
                        if failure.is_none() || index + 1 == self.endpoints.len() || !error.is_not_found() {
                            failure = Some(error);
                        }
                    }
                }
            }
            if asked || order.is_empty() {
                let none = || TransportError::NoEndpoint { host: self.host.clone(), capability };
                return Err(failure.unwrap_or_else(none));
            }
            self.wait_for_one(order, deadline)?;
        }
    }

    /// Waits until one of the endpoints, all of which rest, may be tried. Fails at once if they have not worked
    /// for longer than any operation may take: waiting has been tried.
    fn wait_for_one(&self, order: &[usize], deadline: Instant) -> Result<(), TransportError> {
        let now = Instant::now();
        let breakers = || order.iter().map(|index| &self.endpoints[*index].breaker);
        let down = breakers().filter_map(|breaker| breaker.down_for(now)).min().unwrap_or_default();
        if now >= deadline || down > self.options.operation_timeout {
            return Err(TransportError::LeftAlone { host: self.host.clone(), down });
        }
        if let Some(last) = breakers().last() {
            last.wait(deadline);
        }
        Ok(())
    }

    /// Repeats an operation after passing failures: at once after a broken connection, which may have been
    /// idle for too long, then with growing, random waits, or after the wait that the server asks for.
    fn persist<T>(
        &self,
        retries: u32,
        deadline: Instant,
        mut operation: impl FnMut() -> Result<T, TransportError>,
    ) -> Result<T, TransportError> {
        let mut attempt = 0;
        loop {
            let error = match operation() {
                Err(error) if attempt < retries && is_passing(&error) => error,
                result => return result,
            };
            let wait = self.backoff(attempt, &error);
            if wait >= deadline.saturating_duration_since(Instant::now()) {
                return Err(error);
            }
            tracing::debug!(attempt, ?wait, %error, "will be tried again");
            std::thread::sleep(wait);
            self.tally.retry();
            attempt += 1;
        }
    }

    fn backoff(&self, attempt: u32, error: &TransportError) -> Duration {
        if let TransportError::Http { source, .. } = error {
            if let Some(wait) = source.retry_after() {
                return wait;
            }
            if attempt == 0 && matches!(source, HttpError::Connection(_)) {
                return Duration::ZERO;
            }
        }
        let longest = self.options.backoff.saturating_mul(1 << attempt.min(10)).min(MAX_BACKOFF);
        longest.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

/// Whether the same operation may succeed a moment later. Wrong bytes count: a proxy may have damaged them.
fn is_passing(error: &TransportError) -> bool {
    match error {
        TransportError::Http { source, .. } => source.is_passing(),
        error => error.is_integrity(),
    }
}

fn http_error(method: &Method, url: &Url, source: HttpError) -> TransportError {
    let method = match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PATCH" => "PATCH",
        "PUT" => "PUT",
        _ => "DELETE",
    };
    TransportError::Http { method, url: shown(url), source }
}

/// The endpoints that a registry has by the configuration.
fn endpoints(
    host: &str,
    repository: &str,
    options: &TransportOptions,
    tally: &Arc<Tally>,
) -> Result<Vec<Endpoint>, TransportError> {
    let upstream_host = if host == "docker.io" { "registry-1.docker.io" } else { host };
    let scheme = if is_plain_allowed(host, &options.insecure_hosts) { "http" } else { "https" };
    let upstream = Url::parse(&format!("{scheme}://{upstream_host}/v2/"));
    let upstream =
        upstream.map_err(|_| TransportError::NoEndpoint { host: host.into(), capability: "pull" })?;
    let file = hosts::find(&options.hosts_dirs, host);
    let wrong = |source| TransportError::Hosts { path: file.clone().unwrap_or_default(), source };
    let configs = match &file {
        Some(file) => hosts::read(file, &upstream, &options.insecure_hosts).map_err(wrong)?,
        None => vec![HostConfig::plain(upstream.clone())],
    };
    configs
        .into_iter()
        .map(|config| endpoint(host, &upstream, repository, options, config, tally).map_err(wrong))
        .collect()
}

fn endpoint(
    host: &str,
    upstream: &Url,
    repository: &str,
    options: &TransportOptions,
    config: HostConfig,
    tally: &Arc<Tally>,
) -> Result<Endpoint, HostsError> {
    let HostConfig { base, capabilities, ca, client, skip_verify, headers, dial_timeout } = config;
    let base_host = authority(&base);
    let named = base_host == authority(upstream);
    let identity = Identity {
        host: if named { host.to_owned() } else { base_host.clone() },
        repository: repository.to_owned(),
        named,
        private: base.scheme() == "https" || is_plain_allowed(&base_host, &options.insecure_hosts),
        insecure_hosts: options.insecure_hosts.clone(),
    };
    let auth = Authenticator::new(identity, options.credentials.clone());
    let trust = Trust { extra: ca, anyone: skip_verify, client };
    let proxy = options.proxy_for(&base_host);
    let connect_timeout = dial_timeout.unwrap_or(options.connect_timeout);
    let client = Client::new(options, &trust, connect_timeout, proxy, tally.clone())?;
    let headers = headers.into_iter().map(|(name, value)| {
        let header = HeaderName::try_from(&name).ok().zip(HeaderValue::try_from(value).ok());
        header.ok_or(HostsError::Header(name))
    });
    let headers = headers.collect::<Result<_, _>>()?;
    let namespace = (!named).then(|| host.to_owned());
    Ok(Endpoint::new(base, repository, namespace, capabilities, auth, client, headers))
}

fn check_tag(tag: &str) -> Result<(), TransportError> {
    if is_tag(tag) { Ok(()) } else { Err(TransportError::BadTag(tag.chars().take(200).collect())) }
}

impl Transport for Registry {
    fn location(&self) -> &Location {
        &self.location
    }

    fn resolve(&self, tag: &str) -> Result<Descriptor, TransportError> {
        check_tag(tag)?;
        self.pull_tag(tag)
    }

    fn resolve_default(&self) -> Result<Descriptor, TransportError> {
        self.pull_tag("latest")
    }

    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, TransportError> {
        self.pull_manifest(digest)
    }

    fn read_range(
        &self,
        blob: &Digest,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Vec<u8>, TransportError> {
        self.pull_range(blob, range, deadline)
    }

    fn stream_range(
        &self,
        blob: &Digest,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Box<dyn Read + Send + '_>, TransportError> {
        self.pull_range_as_stream(blob, range, deadline)
    }

    fn read_range_beside(
        &self,
        blob: &Digest,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Vec<u8>, TransportError> {
        self.pull_range_beside(blob, range, deadline)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>, TransportError> {
        self.pull_blob(descriptor)
    }

    fn has_blob(&self, descriptor: &Descriptor) -> Result<bool, TransportError> {
        self.ask_for_blob(descriptor)
    }

    fn put_blob(&self, descriptor: &Descriptor, content: &mut dyn BlobContent) -> Result<(), TransportError> {
        self.push_blob(descriptor, content)
    }

    fn mount_blob(&self, descriptor: &Descriptor, from: &Location) -> Result<bool, TransportError> {
        match from {
            Location::Registry { host, repository }
                if *host == self.host && *repository != self.repository =>
            {
                self.mount(descriptor, repository)
            }
            _ => Ok(false),
        }
    }

    fn put_manifest(
        &self,
        bytes: &[u8],
        media_type: &str,
        tag: Option<&str>,
    ) -> Result<Digest, TransportError> {
        tag.map_or(Ok(()), check_tag)?;
        self.push_manifest(bytes, media_type, tag)
    }

    fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, TransportError> {
        self.pull_referrers(subject)
    }

    fn distrust(&self, blob: &Digest) -> bool {
        let mut elsewhere = false;
        self.set_route(blob, |route| {
            if let Some(index) = route.endpoint.take() {
                route.distrusted.push(index);
                route.url = None;
            }
            elsewhere = route.distrusted.len() < self.endpoints.len();
        });
        elsewhere
    }

    fn counters(&self) -> Counters {
        self.tally.counters()
    }
}
