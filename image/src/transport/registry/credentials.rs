//! Where credentials for a registry come from.
//!
//! Sources of the formats: `containers-auth.json(5)`, Docker's `config.json`, and the protocol of Docker's
//! credential helpers (`docker-credential-NAME get`).

mod helper;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use seed_format::json::{self, JsonError};
use serde::Deserialize;

pub use self::helper::HelperError;

/// Largest credentials file that is read, in bytes.
const MAX_FILE: usize = 1 << 20;

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes a text that must not be printed.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, to be sent to whom it is for.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Where credentials are looked for: first `user`, then the files in their order, then the GitHub token.
#[derive(Debug, Clone, Default)]
pub struct CredentialOptions {
    /// User and password for the registry that a reference names, but not for its mirrors.
    pub user: Option<(String, Secret)>,
    /// `auth.json` of podman or `config.json` of Docker. A file that is missing is no error.
    pub files: Vec<PathBuf>,
    /// A token for `ghcr.io`.
    pub github_token: Option<Secret>,
}

impl CredentialOptions {
    /// What the environment says: `REGISTRY_USER` and `REGISTRY_PASS`, `REGISTRY_AUTH_FILE`, else the files
    /// of podman and Docker in `XDG_RUNTIME_DIR`, `XDG_CONFIG_HOME`, `DOCKER_CONFIG` and `HOME`, and
    /// `GITHUB_TOKEN`.
    pub fn from_env() -> Self {
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let path = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let files = match path("REGISTRY_AUTH_FILE") {
            Some(file) => vec![file],
            None => {
                let home = path("HOME");
                let below_home = |name| home.as_ref().map(|home| home.join(name));
                let podman = path("XDG_RUNTIME_DIR").map(|directory| directory.join("containers/auth.json"));
                let config = path("XDG_CONFIG_HOME").or_else(|| below_home(".config"));
                let config = config.map(|directory| directory.join("containers/auth.json"));
                let docker = path("DOCKER_CONFIG").or_else(|| below_home(".docker"));
                let docker = docker.map(|directory| directory.join("config.json"));
                [podman, config, docker].into_iter().flatten().collect()
            }
        };
        Self {
            user: text("REGISTRY_USER").zip(text("REGISTRY_PASS").map(Secret)),
            files,
            github_token: text("GITHUB_TOKEN").map(Secret),
        }
    }

    /// The credentials for a repository of a host; `None` if there are none, and access is anonymous.
    ///
    /// `named` says whether the user named this host, rather than the configuration of mirrors.
    pub(super) fn find(
        &self,
        host: &str,
        repository: &str,
        named: bool,
    ) -> Result<Option<Credential>, CredentialError> {
        if let Some((user, password)) = self.user.as_ref().filter(|_| named) {
            return Ok(Some(Credential::Password { user: user.clone(), password: password.clone() }));
        }
        for file in &self.files {
            if let Some(found) =
                AuthFile::read(file)?.map(|auths| auths.find(host, repository)).transpose()?.flatten()
            {
                return Ok(Some(found));
            }
        }
        let github = self.github_token.as_ref().filter(|_| host == "ghcr.io" && named);
        // GitHub looks at the token alone, but wants a user.
        Ok(github
            .map(|token| Credential::Password { user: "x-access-token".into(), password: token.clone() }))
    }
}

/// What proves to a registry who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Credential {
    /// A user and a password or an access token.
    Password { user: String, password: Secret },
    /// A refresh token, which a token server turns into bearer tokens.
    Identity(Secret),
}

/// Why credentials could not be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is malformed.
    #[error("{} is malformed", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why; without the text, which holds secrets.
        source: JsonError,
    },
    /// The `auth` of an entry is not base64 of `USER:PASSWORD`.
    #[error("{}: the \"auth\" of {key:?} is not base64 of USER:PASSWORD", path.display())]
    Auth {
        /// The file.
        path: PathBuf,
        /// The entry.
        key: String,
    },
    /// The credential helper failed.
    #[error("the credential helper docker-credential-{name} failed")]
    Helper {
        /// The helper's name.
        name: String,
        /// Why.
        source: HelperError,
    },
}

/// A credentials file of podman or Docker.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AuthFile {
    #[serde(skip)]
    path: PathBuf,
    #[serde(default)]
    auths: BTreeMap<String, AuthEntry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AuthEntry {
    auth: Option<Secret>,
    username: Option<String>,
    password: Option<Secret>,
    identitytoken: Option<Secret>,
}

impl AuthFile {
    fn read(path: &Path) -> Result<Option<Self>, CredentialError> {
        let failed = |source| CredentialError::File { path: path.to_owned(), source };
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut text = Vec::new();
        file.take(MAX_FILE as u64 + 1).read_to_end(&mut text).map_err(failed)?;
        if text.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        let read: Self = json::from_slice(&text, MAX_FILE)
            .map_err(|source| CredentialError::Malformed { path: path.to_owned(), source })?;
        Ok(Some(Self { path: path.to_owned(), ..read }))
    }

    /// The most specific entry decides: `HOST/a/b` before `HOST/a` before `HOST`, a helper before the file
    /// itself, and the store for everything last.
    fn find(&self, host: &str, repository: &str) -> Result<Option<Credential>, CredentialError> {
        for key in keys(host, repository) {
            if let Some(name) = self.cred_helpers.get(&key) {
                if let Some(found) = self.ask(name, &key)? {
                    return Ok(Some(found));
                }
                continue;
            }
            let entry = self.auths.iter().find(|(name, _)| normal(name) == key);
            if let Some(found) =
                entry.map(|(name, entry)| self.credential(name, entry)).transpose()?.flatten()
            {
                return Ok(Some(found));
            }
        }
        match &self.creds_store {
            Some(name) if !name.is_empty() => {
                // The name under which `docker login` stores the credentials of Docker Hub.
                let key = if host == "docker.io" { "https://index.docker.io/v1/" } else { host };
                self.ask(name, key)
            }
            _ => Ok(None),
        }
    }

    fn ask(&self, name: &str, key: &str) -> Result<Option<Credential>, CredentialError> {
        helper::get(name, key).map_err(|source| CredentialError::Helper { name: name.into(), source })
    }

    /// What an entry says. Entries without credentials are written where a store keeps them.
    fn credential(&self, key: &str, entry: &AuthEntry) -> Result<Option<Credential>, CredentialError> {
        if let Some(token) = entry.identitytoken.as_ref().filter(|token| !token.is_empty()) {
            return Ok(Some(Credential::Identity(token.clone())));
        }
        if let Some(auth) = entry.auth.as_ref().filter(|auth| !auth.is_empty()) {
            let malformed = || CredentialError::Auth { path: self.path.clone(), key: key.into() };
            let text = BASE64.decode(auth.expose().trim().as_bytes()).map_err(|_| malformed())?;
            let text = String::from_utf8(text).map_err(|_| malformed())?;
            let (user, password) = text.split_once(':').ok_or_else(malformed)?;
            // Docker pads the password with NUL bytes on some systems.
            let password = Secret::new(password.trim_end_matches('\0'));
            return Ok(Some(Credential::Password { user: user.into(), password }));
        }
        let named = entry.username.as_ref().zip(entry.password.as_ref());
        Ok(named
            .map(|(user, password)| Credential::Password { user: user.clone(), password: password.clone() }))
    }
}

/// The keys under which the credentials of a repository may be filed, most specific first.
fn keys(host: &str, repository: &str) -> Vec<String> {
    let whole = format!("{host}/{repository}");
    let ends = whole.match_indices('/').map(|(at, _)| at).collect::<Vec<_>>();
    let mut keys = vec![whole.clone()];
    keys.extend(ends.into_iter().rev().map(|at| whole[..at].to_owned()));
    keys
}

/// A key as it would be written today: Docker wrote URLs.
fn normal(key: &str) -> &str {
    let url = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let host = url.map_or(key, |rest| rest.split('/').next().unwrap_or(rest));
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;
