//! The configuration: files, then environment variables, one table of keys for both.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use seed_fuse::mount::Mode;
use seed_image::telemetry::Endpoint;
use seed_policy::keys::{self, UnknownKey};
use serde::{Deserialize, Serialize};

mod size;

pub(crate) use size::ByteSize;

/// Longest file, in bytes.
const MAX_LEN: u64 = 1024 * 1024;

/// The configuration of the machine.
const SYSTEM_FILE: &str = "/etc/nix-seed/config.toml";

/// What a key holds, and so how an environment variable spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Taken as it is.
    Text,
    /// Separated by commas.
    List,
    /// Written as in the file.
    Toml,
}

/// Every key, `section.key`, and what it holds.
const KEYS: &[(&str, Kind)] = &[
    ("cache.dir", Kind::Text),
    ("cache.from", Kind::List),
    ("cache.keep-free", Kind::Text),
    ("cache.records-days", Kind::Toml),
    ("cache.records-size", Kind::Text),
    ("cache.size", Kind::Text),
    ("image.repository", Kind::Text),
    ("mount.mode", Kind::Text),
    ("network.connections", Kind::Toml),
    ("network.metered", Kind::Toml),
    ("network.rate", Kind::Text),
    ("network.timeout", Kind::Toml),
    ("otlp.endpoint", Kind::Text),
    ("registry.ca-file", Kind::Text),
    ("registry.hosts-dirs", Kind::List),
    ("registry.insecure", Kind::List),
    ("runtime.dir", Kind::Text),
    ("sandbox.results", Kind::Text),
    ("sandbox.scratch", Kind::Text),
];

/// Everything that can be configured. Keys that are not set have their defaults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Config {
    pub(crate) cache: Cache,
    pub(crate) image: Image,
    pub(crate) mount: Mount,
    pub(crate) network: Network,
    pub(crate) otlp: Otlp,
    pub(crate) registry: Registry,
    pub(crate) runtime: Runtime,
    pub(crate) sandbox: Sandbox,
}

/// `[cache]`: the chunks that were fetched, and what else is kept to be fast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Cache {
    /// Its directory.
    pub(crate) dir: PathBuf,
    /// Further caches, which are only read.
    pub(crate) from: Vec<PathBuf>,
    /// Bytes that stay free on its disk; `None` for the usual reserve.
    pub(crate) keep_free: Option<ByteSize>,
    /// How large the chunks may become.
    pub(crate) size: ByteSize,
    /// How large the records of packed layers may become, and the indexes of mounted seeds.
    pub(crate) records_size: ByteSize,
    /// Days after which a record or an index that was not used goes.
    pub(crate) records_days: u32,
}

/// `[image]`: the project's own seed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Image {
    /// Where the seed of the project is kept, where the command line does not say.
    pub(crate) repository: Option<String>,
}

/// `[mount]`: how seeds are shown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Mount {
    /// By whom: the kernel or FUSE.
    pub(crate) mode: Mode,
}

/// `[network]`: how registries are asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Network {
    /// Connections that are kept open to one host.
    pub(crate) connections: u16,
    /// Seconds until an operation fails, retries included.
    pub(crate) timeout: u32,
    /// Bytes a second for what no read waits for; `None` for no limit.
    pub(crate) rate: Option<ByteSize>,
    /// Nothing is fetched but what is read.
    pub(crate) metered: bool,
}

/// `[otlp]`: the OpenTelemetry collector.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Otlp {
    /// Where traces are sent; nowhere, if it is not set.
    pub(crate) endpoint: Option<Endpoint>,
}

/// `[registry]`: which registries, and how.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Registry {
    /// A PEM file with the roots of trust for TLS.
    pub(crate) ca_file: Option<PathBuf>,
    /// Directories of `<host>/hosts.toml`, which name mirrors, as containerd reads them.
    pub(crate) hosts_dirs: Option<Vec<PathBuf>>,
    /// Hosts that are asked over plain HTTP. Loopback hosts always may be.
    pub(crate) insecure: Vec<String>,
}

/// `[runtime]`: sockets and state of live mounts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Runtime {
    /// The directory of the sockets and leases; `None` for the one that every program of ours uses.
    pub(crate) dir: Option<PathBuf>,
}

/// `[sandbox]`: offline builds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Sandbox {
    /// Where the copies lie that `--out-link` links to; `None` for a directory of the machine or the user.
    pub(crate) results: Option<PathBuf>,
    /// Where what a build writes goes until it ends; `None` for a directory in the cache's.
    pub(crate) scratch: Option<PathBuf>,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            dir: directory("/var/cache", "XDG_CACHE_HOME", ".cache"),
            from: Vec::new(),
            keep_free: None,
            size: ByteSize::gib(20),
            records_size: ByteSize::gib(1),
            records_days: 60,
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self { connections: 32, timeout: 60, rate: None, metered: false }
    }
}

impl Config {
    /// Where the copies lie that `--out-link` links to. Not in the cache, which may be deleted at any time.
    pub(crate) fn results(&self) -> PathBuf {
        let default = || directory("/var/lib", "XDG_STATE_HOME", ".local/state").join("results");
        self.sandbox.results.clone().unwrap_or_else(default)
    }
}

/// Root has the machine's directory, everybody else one of their own.
fn directory(system: &str, variable: &str, below_home: &str) -> PathBuf {
    let user = || {
        let set = env::var_os(variable).map(PathBuf::from).filter(|dir| dir.is_absolute());
        set.or_else(|| env::home_dir().map(|home| home.join(below_home)))
    };
    let base = if rustix::process::geteuid().is_root() { None } else { user() };
    base.unwrap_or_else(|| system.into()).join("nix-seed")
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read {}", file.display())]
    Read { file: PathBuf, source: io::Error },
    #[error("{} has {len} bytes, more than the {MAX_LEN} allowed", file.display())]
    TooLong { file: PathBuf, len: u64 },
    #[error("{} is not valid", file.display())]
    Syntax { file: PathBuf, source: toml::de::Error },
    #[error("{}: {key}", file.display())]
    UnknownKey { file: PathBuf, key: UnknownKey },
    #[error("the environment variable {variable} sets no key{}", nearest.as_ref().map(|n| format!(": did you mean {n}?")).unwrap_or_default())]
    UnknownVariable { variable: String, nearest: Option<String> },
    #[error("the environment variable {variable} is not valid")]
    Variable { variable: String, source: toml::de::Error },
    #[error("the environment variable {variable} is not UTF-8")]
    Encoding { variable: String },
}

impl Config {
    /// Reads `only`, or the files of the machine and of the user; then the environment.
    pub(crate) fn load(only: Option<&Path>) -> Result<Self, ConfigError> {
        let mut table = toml::Table::new();
        match only {
            Some(file) => merge(&mut table, read(file)?),
            None => {
                let user = env::var_os("XDG_CONFIG_HOME")
                    .map(PathBuf::from)
                    .filter(|dir| dir.is_absolute())
                    .or_else(|| env::home_dir().map(|home| home.join(".config")))
                    .map(|dir| dir.join("nix-seed/config.toml"));
                for file in std::iter::once(PathBuf::from(SYSTEM_FILE)).chain(user) {
                    match read(&file) {
                        Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                        }
                        other => merge(&mut table, other?),
                    }
                }
            }
        }
        Self::from_parts(table, env::vars_os())
    }

    /// Overlays the environment. Every value of `table` has been checked, file by file.
    fn from_parts(
        mut table: toml::Table,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut config = Self::try_from_table(&table)
            .map_err(|source| ConfigError::Syntax { file: "the configuration".into(), source })?;
        for (variable, value) in variables {
            let Some(variable) = variable.to_str().filter(|name| names_a_section(name)) else { continue };
            let Some((key, kind)) = KEYS.iter().find(|(key, _)| variable_of(key) == variable) else {
                let known: Vec<_> = KEYS.iter().map(|(key, _)| variable_of(key)).collect();
                let known: Vec<_> = known.iter().map(String::as_str).collect();
                let nearest = keys::nearest(variable, &known).map(str::to_owned);
                return Err(ConfigError::UnknownVariable { variable: variable.to_owned(), nearest });
            };
            let Some(value) = value.to_str() else {
                return Err(ConfigError::Encoding { variable: variable.to_owned() });
            };
            let invalid = |source| ConfigError::Variable { variable: variable.to_owned(), source };
            set(&mut table, key, kind.read(value).map_err(invalid)?);
            config = Self::try_from_table(&table).map_err(invalid)?;
        }
        Ok(config)
    }

    fn try_from_table(table: &toml::Table) -> Result<Self, toml::de::Error> {
        Self::deserialize(table.clone())
    }
}

impl Kind {
    fn read(self, value: &str) -> Result<toml::Value, toml::de::Error> {
        match self {
            Self::Text => Ok(toml::Value::String(value.to_owned())),
            Self::List => {
                let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
                Ok(toml::Value::Array(items.map(|item| toml::Value::String(item.to_owned())).collect()))
            }
            Self::Toml => {
                let mut table: toml::Table = format!("value = {value}").parse()?;
                match (table.remove("value"), table.is_empty()) {
                    (Some(value), true) => Ok(value),
                    _ => Err(serde::de::Error::custom("more than one value")),
                }
            }
        }
    }
}

/// `SEED_<SECTION>_<KEY>`.
fn variable_of(key: &str) -> String {
    format!("SEED_{}", key.replace(['.', '-'], "_").to_ascii_uppercase())
}

/// Whether a variable's name begins as one that sets a key: other variables that begin with `SEED_` are
/// not ours to judge.
fn names_a_section(variable: &str) -> bool {
    KEYS.iter().filter_map(|(key, _)| key.split_once('.')).any(|(section, _)| {
        variable
            .strip_prefix("SEED_")
            .is_some_and(|rest| rest.starts_with(&format!("{}_", section.to_ascii_uppercase())))
    })
}

fn read(file: &Path) -> Result<toml::Table, ConfigError> {
    let failed = |source| ConfigError::Read { file: file.into(), source };
    let len = fs::metadata(file).map_err(failed)?.len();
    if len > MAX_LEN {
        return Err(ConfigError::TooLong { file: file.into(), len });
    }
    let text = fs::read_to_string(file).map_err(failed)?;
    let invalid = |source| ConfigError::Syntax { file: file.into(), source };
    let table: toml::Table = text.parse().map_err(invalid)?;
    let known: Vec<_> = KEYS.iter().map(|(key, _)| *key).collect();
    if let Some(key) = keys::unknown(&table, &known) {
        return Err(ConfigError::UnknownKey { file: file.into(), key });
    }
    // From the text, not the table: so that errors show the line.
    toml::from_str::<Config>(&text).map_err(invalid)?;
    Ok(table)
}

/// Keys of `over` win; sections are merged key by key.
fn merge(base: &mut toml::Table, over: toml::Table) {
    for (name, value) in over {
        match (base.get_mut(&name), value) {
            (Some(toml::Value::Table(section)), toml::Value::Table(more)) => section.extend(more),
            (_, value) => {
                base.insert(name, value);
            }
        }
    }
}

fn set(table: &mut toml::Table, key: &str, value: toml::Value) {
    let (section, name) = key.split_once('.').expect("every key of the table is in a section");
    let section = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    if let toml::Value::Table(section) = section {
        section.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
#[path = "config/tests.rs"]
mod tests;
