//! containerd's `hosts.toml`: mirrors of a registry, in order, and how each is spoken to.
//!
//! Source of the format: containerd's "Registry Configuration" (`docs/hosts.md`). A directory `HOST` (or
//! `HOST_PORT_`, or `_default`) below a `certs.d` holds the file, or where it has none, certificates as
//! docker wants them: `*.crt` of authorities, and `NAME.cert` with `NAME.key` of the client. What they say
//! and this program cannot do is an error, not a surprise.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::de::DeTable;
use url::Url;

use super::auth::{authority, is_plain_allowed};
use super::http::{ClientFiles, PemError};

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Most mirrors of one registry.
const MAX_HOSTS: usize = 16;

/// What is wrong in a hosts file.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// It is longer than is read.
    #[error("it has more than {MAX_FILE} bytes")]
    TooLarge,
    /// It is not TOML, or has unknown keys.
    #[error("it is not what is expected: {0}")]
    Syntax(String),
    /// A host or server is not an `http` or `https` URL.
    #[error("{0:?} is not an http or https URL")]
    Url(String),
    /// A capability is unknown.
    #[error("{0:?} is not a capability: there are \"pull\", \"resolve\" and \"push\"")]
    Capability(String),
    /// There are too many mirrors.
    #[error("it has {0} hosts, more than the {MAX_HOSTS} allowed")]
    TooMany(usize),
    /// `skip_verify` is set for a host that is not named insecure.
    #[error(
        "skip_verify of {0} would trust anyone: name the host insecure (registry.insecure), or give the certificate of its authority as ca"
    )]
    SkipVerify(String),
    /// `client` is not a certificate with its key.
    #[error("client is a file, a list with a file, or a list with a pair of files: certificate and key")]
    Client,
    /// There are several client certificates for one host.
    #[error("it has {0} client certificates for one host, and only one can be shown: leave one")]
    ManyClients(usize),
    /// `dial_timeout` is not a duration such as `3s`.
    #[error("{0:?} is not a duration such as \"500ms\" or \"3s\"")]
    Duration(String),
    /// A header cannot be sent.
    #[error("{0:?} is not a header that can be sent")]
    Header(String),
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Pem(#[from] PemError),
}

/// What an endpoint may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capabilities {
    pub(super) pull: bool,
    pub(super) resolve: bool,
    pub(super) push: bool,
}

impl Capabilities {
    pub(super) const ALL: Self = Self { pull: true, resolve: true, push: true };
}

/// One endpoint of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostConfig {
    /// The root of the API, with `/v2/` or what stands for it, and a slash at its end.
    pub(super) base: Url,
    pub(super) capabilities: Capabilities,
    pub(super) ca: Vec<PathBuf>,
    pub(super) client: Option<ClientFiles>,
    pub(super) skip_verify: bool,
    pub(super) headers: Vec<(String, String)>,
    pub(super) dial_timeout: Option<Duration>,
}

impl HostConfig {
    /// A registry that nothing is said about.
    pub(super) fn plain(base: Url) -> Self {
        Self {
            base,
            capabilities: Capabilities::ALL,
            ca: Vec::new(),
            client: None,
            skip_verify: false,
            headers: Vec::new(),
            dial_timeout: None,
        }
    }
}

/// The tables of the file: the upstream server's at its root, a mirror's below `host`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Table {
    server: Option<String>,
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    skip_verify: bool,
    override_path: bool,
    header: std::collections::BTreeMap<String, OneOrMany>,
    dial_timeout: Option<String>,
    host: std::collections::BTreeMap<String, Table>,
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// `client`: `"FILE"`, `["FILE"]` or `[["CERTIFICATE", "KEY"]]`. An empty key, or none, is in the same file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Client {
    One(String),
    Many(Vec<OneOrMany>),
}

impl Client {
    fn files(self, directory: &Path) -> Result<ClientFiles, HostsError> {
        let pair = match self {
            Self::One(file) => vec![file],
            Self::Many(many) => match <[OneOrMany; 1]>::try_from(many) {
                Ok([pair]) => pair.into_vec(),
                Err(none) if none.is_empty() => return Err(HostsError::Client),
                Err(many) => return Err(HostsError::ManyClients(many.len())),
            },
        };
        let (certificate, key) = match pair.as_slice() {
            [certificate] => (certificate, certificate),
            [certificate, key] if key.is_empty() => (certificate, certificate),
            [certificate, key] => (certificate, key),
            _ => return Err(HostsError::Client),
        };
        Ok(ClientFiles { certificate: directory.join(certificate), key: directory.join(key) })
    }
}

/// The file, or the directory of certificates, that speaks of `host`, if there is one: in the first
/// directory that has one, by the host's own name before the default.
pub(super) fn find(directories: &[PathBuf], host: &str) -> Option<PathBuf> {
    let with_port = host.rsplit_once(':').map(|(name, port)| format!("{name}_{port}_"));
    let names: Vec<&str> =
        [Some(host), with_port.as_deref(), Some("_default")].into_iter().flatten().collect();
    let candidates = directories.iter().flat_map(|directory| names.iter().map(|name| directory.join(name)));
    candidates.into_iter().find_map(|directory| {
        let file = directory.join("hosts.toml");
        if file.is_file() { Some(file) } else { (!certificates(&directory).is_empty()).then_some(directory) }
    })
}

/// The certificates in a directory without a `hosts.toml`, by name.
fn certificates(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "crt" || end == "cert"))
        .collect();
    files.sort();
    files
}

/// Reads what [`find`] found: of a file the mirrors in the order in which it names them, then the server.
/// `upstream` is the registry's own root, the server where the file names none. `skip_verify` is obeyed for
/// hosts that plain HTTP is allowed for.
pub(super) fn read(
    path: &Path,
    upstream: &Url,
    insecure_hosts: &[String],
) -> Result<Vec<HostConfig>, HostsError> {
    if path.is_dir() {
        return Ok(vec![of_certificates(certificates(path), upstream)?]);
    }
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(HostsError::Read)?;
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(HostsError::Read)?;
    if text.len() as u64 > MAX_FILE {
        return Err(HostsError::TooLarge);
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    parse(&text, directory, upstream, insecure_hosts)
}

/// A registry that is known by certificates, and so is spoken to in TLS even where plain HTTP is allowed.
fn of_certificates(files: Vec<PathBuf>, upstream: &Url) -> Result<HostConfig, HostsError> {
    let mut base = upstream.clone();
    base.set_scheme("https").map_err(|()| HostsError::Url(upstream.to_string()))?;
    let (ca, own): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|file| file.extension().is_some_and(|end| end == "crt"));
    let client = match own.as_slice() {
        [] => None,
        [file] => Some(ClientFiles { certificate: file.clone(), key: file.with_extension("key") }),
        many => return Err(HostsError::ManyClients(many.len())),
    };
    Ok(HostConfig { ca, client, ..HostConfig::plain(base) })
}

fn parse(
    text: &str,
    directory: &Path,
    upstream: &Url,
    insecure_hosts: &[String],
) -> Result<Vec<HostConfig>, HostsError> {
    let syntax = |error: toml::de::Error| HostsError::Syntax(error.message().to_owned());
    let mut root: Table = toml::from_str(text).map_err(syntax)?;
    let order = host_order(text).map_err(syntax)?;
    if order.len() > MAX_HOSTS {
        return Err(HostsError::TooMany(order.len()));
    }
    let mut mirrors = std::mem::take(&mut root.host);
    let mut hosts = Vec::new();
    for name in order {
        let table = mirrors.remove(&name).expect("both readers see the same tables");
        if !table.host.is_empty() || table.server.is_some() {
            return Err(HostsError::Syntax(format!(
                "\"host\" and \"server\" make no sense inside host {name:?}"
            )));
        }
        let base = api_root(&name, table.override_path)?;
        hosts.push(host_config(table, base, directory, insecure_hosts)?);
    }
    let server = match &root.server {
        Some(server) => api_root(server, root.override_path)?,
        None => upstream.clone(),
    };
    // A mirror may be the server itself, with other settings: it is not asked twice.
    if hosts.iter().all(|host| host.base != server) {
        hosts.push(host_config(root, server, directory, insecure_hosts)?);
    }
    Ok(hosts)
}

/// The names below `host`, as the file orders them; the deserializer sorts them.
fn host_order(text: &str) -> Result<Vec<String>, toml::de::Error> {
    let table = DeTable::parse(text)?;
    let hosts = table.get_ref().get("host").and_then(|hosts| hosts.get_ref().as_table());
    let mut names: Vec<(usize, String)> = hosts
        .into_iter()
        .flat_map(|hosts| hosts.keys())
        .map(|name| (name.span().start, name.get_ref().to_string()))
        .collect();
    names.sort();
    Ok(names.into_iter().map(|(_, name)| name).collect())
}

/// The root of the API that a host's URL stands for.
fn api_root(text: &str, override_path: bool) -> Result<Url, HostsError> {
    let malformed = || HostsError::Url(text.chars().take(200).collect());
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let mut url = Url::parse(&with_scheme).map_err(|_| malformed())?;
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() || !plain {
        return Err(malformed());
    }
    let path = url.path().trim_end_matches('/').to_owned();
    let path = if override_path || path.ends_with("/v2") { path } else { format!("{path}/v2") };
    url.set_path(&format!("{path}/"));
    url.set_fragment(None);
    Ok(url)
}

fn host_config(
    table: Table,
    base: Url,
    directory: &Path,
    insecure_hosts: &[String],
) -> Result<HostConfig, HostsError> {
    if table.skip_verify && !is_plain_allowed(&authority(&base), insecure_hosts) {
        return Err(HostsError::SkipVerify(base.to_string()));
    }
    let capabilities = match table.capabilities {
        None => Capabilities::ALL,
        Some(names) => {
            let mut found = Capabilities { pull: false, resolve: false, push: false };
            for name in names {
                match name.as_str() {
                    "pull" => found.pull = true,
                    "resolve" => found.resolve = true,
                    "push" => found.push = true,
                    // Which referrers a mirror has is asked like a manifest.
                    "referrers" => {}
                    _ => return Err(HostsError::Capability(name)),
                }
            }
            found
        }
    };
    let ca = table.ca.map(OneOrMany::into_vec).unwrap_or_default();
    let headers = table.header.into_iter();
    let headers = headers
        .flat_map(|(name, values)| values.into_vec().into_iter().map(move |value| (name.clone(), value)));
    Ok(HostConfig {
        base,
        capabilities,
        ca: ca.into_iter().map(|name| directory.join(name)).collect(),
        client: table.client.map(|client| client.files(directory)).transpose()?,
        skip_verify: table.skip_verify,
        headers: headers.collect(),
        dial_timeout: table.dial_timeout.map(|text| duration(&text)).transpose()?,
    })
}

/// A duration as Go writes simple ones: digits and `ms`, `s` or `m`.
fn duration(text: &str) -> Result<Duration, HostsError> {
    let malformed = || HostsError::Duration(text.chars().take(40).collect());
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits);
    let number: u32 = digits.parse().map_err(|_| malformed())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number.into())),
        "s" => Ok(Duration::from_secs(number.into())),
        "m" => Ok(Duration::from_secs(u64::from(number) * 60)),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
#[path = "hosts_tests.rs"]
mod tests;
