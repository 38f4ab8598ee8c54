//! How registries are reached. Nothing here is read from the environment unless asked for.

use std::path::PathBuf;
use std::time::Duration;

use ureq::Proxy;

use super::registry::credentials::CredentialOptions;
use crate::reference::is_loopback;

/// How registries are reached. An image layout on disk needs none of it.
#[derive(Debug, Clone)]
pub struct TransportOptions {
    /// `HOST` or `HOST:PORT` of registries that are spoken to in plain HTTP, or by TLS without knowing them
    /// where a `hosts.toml` has `skip_verify`. Loopback hosts are, anyway.
    pub insecure_hosts: Vec<String>,
    /// containerd's `certs.d` directories, with `HOST/hosts.toml` or docker's certificates in them; the first
    /// that has the host decides.
    pub hosts_dirs: Vec<PathBuf>,
    /// Where credentials are looked for.
    pub credentials: CredentialOptions,
    /// A PEM file with the roots of trust for TLS; else the system's bundle, else Mozilla's roots.
    pub ca_file: Option<PathBuf>,
    /// Whether `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` are obeyed.
    pub proxy_from_env: bool,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for the next bytes, in either direction, before a request counts as stalled.
    pub stall_timeout: Duration,
    /// Longest time for an operation other than the transfer of a whole blob, retries included.
    pub operation_timeout: Duration,
    /// How often a request is repeated after a passing failure.
    pub retries: u32,
    /// Shortest wait before the first repetition; each further one may wait twice as long.
    pub backoff: Duration,
    /// Connections that are kept open to one host.
    pub connections: usize,
    /// Caches in which documents of registries are looked for as well, and which are only read.
    pub read_also: Vec<PathBuf>,
    /// Largest blob that is sent in one request; of larger ones, so much is sent in each. Bytes.
    pub upload_chunk: u64,
}

impl Default for TransportOptions {
    fn default() -> Self {
        Self {
            insecure_hosts: Vec::new(),
            hosts_dirs: Vec::new(),
            credentials: CredentialOptions::default(),
            ca_file: None,
            proxy_from_env: false,
            connect_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(10),
            operation_timeout: Duration::from_secs(60),
            retries: 5,
            backoff: Duration::from_millis(100),
            connections: 32,
            read_also: Vec::new(),
            upload_chunk: 32 << 20,
        }
    }
}

impl TransportOptions {
    /// The proxy for a host; none for this machine itself.
    pub(crate) fn proxy_for(&self, host: &str) -> Option<Proxy> {
        if self.proxy_from_env && !is_loopback(host) { Proxy::try_from_env() } else { None }
    }

    /// The defaults, with what the environment says of credentials, proxies, roots of trust
    /// (`SSL_CERT_FILE`) and mirrors (`/etc/containerd/certs.d`, `/etc/docker/certs.d`).
    pub fn from_env() -> Self {
        Self {
            hosts_dirs: vec!["/etc/containerd/certs.d".into(), "/etc/docker/certs.d".into()],
            credentials: CredentialOptions::from_env(),
            ca_file: std::env::var_os("SSL_CERT_FILE").map(PathBuf::from),
            proxy_from_env: true,
            ..Self::default()
        }
    }
}
