//! Host names to addresses, remembered for a while.
//!
//! The client asks before each request, even when it then uses an open connection, and each lookup with a
//! timeout costs a thread.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;
use url::Url;

/// How long an answer is used: well below the time to live that load balancers change addresses in.
const FRESH: Duration = Duration::from_secs(30);
/// Names that are remembered.
const MAX_NAMES: usize = 64;

#[derive(Debug, Clone, Default)]
pub(super) struct CachingResolver {
    known: Arc<Mutex<HashMap<String, Known>>>,
}

#[derive(Debug, Clone)]
struct Known {
    since: Instant,
    addresses: Vec<SocketAddr>,
}

impl CachingResolver {
    /// Looks the host of `url` up anew next time: it could not be reached at the address known.
    pub(super) fn forget(&self, url: &Url) {
        let name = (url.host_str(), url.port_or_known_default());
        if let (Some(host), Some(port)) = name {
            self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&format!("{host}:{port}"));
        }
    }
}

impl Resolver for CachingResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let name = uri.scheme().zip(uri.authority());
        let name = name.and_then(|(scheme, authority)| DefaultResolver::host_and_port(scheme, authority));
        let Some(name) = name else { return DefaultResolver::default().resolve(uri, config, timeout) };
        if let Some(address) = literal(&name) {
            let mut addresses = self.empty();
            addresses.push(address);
            return Ok(addresses);
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
        if let Some(known) = known.filter(|known| known.since.elapsed() < FRESH) {
            let mut addresses = self.empty();
            known.addresses.into_iter().for_each(|address| addresses.push(address));
            return Ok(addresses);
        }
        let addresses = DefaultResolver::default().resolve(uri, config, timeout)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_NAMES {
            known.clear();
        }
        known.insert(name, Known { since: Instant::now(), addresses: addresses.iter().copied().collect() });
        Ok(addresses)
    }
}

/// The address that `HOST:PORT` is, if HOST is an address.
fn literal(name: &str) -> Option<SocketAddr> {
    let (host, port) = name.rsplit_once(':')?;
    let host: IpAddr = host.trim_matches(['[', ']']).parse().ok()?;
    Some(SocketAddr::new(host, port.parse().ok()?))
}
