//! Where a project's source is kept, in one spelling.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

/// Longest URI, in bytes.
const MAX_LEN: usize = 2048;

/// The URI of a source repository, normalised so that equal repositories have equal texts.
///
/// The form is that of Nix flake references, `git+<scheme>://<host>/<path>`, without credentials,
/// query, fragment, default port, trailing slash or trailing `.git`. A clone over `git@host:path`,
/// `ssh://git@host/path` and `git://host/path` is the repository `git+https://host/path`: a CI job and
/// a developer, who reach one repository by different protocols, speak of the same source.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceUri(String);

/// Why a text does not name a source repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Neither a URL, nor `host:path`, nor an absolute path.
    #[error("{0:?} does not name a git repository: expected a URL, host:path or an absolute path")]
    Syntax(String),
    /// The protocol is not one that git speaks.
    #[error(
        "{uri:?} cannot be a git repository: the protocol {scheme:?} is not https, http, ssh, git or file"
    )]
    Scheme {
        /// The text.
        uri: String,
        /// Its protocol.
        scheme: String,
    },
    /// The URL carries a query or fragment, which would name something inside the repository.
    #[error("{0:?} must name a repository only: remove what follows \"?\" or \"#\"")]
    Inside(String),
    /// The text is a repository, but not in the normalised spelling that is required where it stands.
    #[error("{found:?} must be spelled {normalised:?}")]
    Spelling {
        /// The text.
        found: String,
        /// How it must be written.
        normalised: String,
    },
}

impl SourceUri {
    /// Reads what `git remote get-url`, a flake reference or a person gives.
    ///
    /// A text without one spelling is refused: `https://host/a/..git` would be `https://host/a/.`, and that
    /// `https://host/a`.
    pub fn normalise(text: &str) -> Result<Self, SourceError> {
        let source = Self::read(text)?;
        if Self::read(&source.0).as_ref() == Ok(&source) {
            Ok(source)
        } else {
            Err(SourceError::Syntax(without_credentials(text)))
        }
    }

    fn read(text: &str) -> Result<Self, SourceError> {
        let shown = || without_credentials(text);
        if text.len() > MAX_LEN || text.chars().any(|c| c.is_control() || matches!(c, ' ' | '\\')) {
            return Err(SourceError::Syntax(shown()));
        }
        if text.starts_with('/') {
            return Self::from_url(&format!("file://{text}"));
        }
        let text = text.strip_prefix("git+").unwrap_or(text);
        if text.contains("://") {
            return Self::from_url(text);
        }
        match text.split_once(':') {
            Some(("github", path)) => Self::from_url(&format!("https://github.com/{path}")),
            Some(("gitlab", path)) => Self::from_url(&format!("https://gitlab.com/{path}")),
            Some((host, path)) if !host.is_empty() && !host.contains('/') && !path.is_empty() => {
                Self::from_url(&format!("ssh://{host}/{}", path.trim_start_matches('/')))
            }
            _ => Err(SourceError::Syntax(shown())),
        }
    }

    fn from_url(text: &str) -> Result<Self, SourceError> {
        let shown = || without_credentials(text);
        let url = Url::parse(text).map_err(|_| SourceError::Syntax(shown()))?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(SourceError::Inside(shown()));
        }
        let path = url.path().trim_end_matches('/');
        let path = path.strip_suffix(".git").unwrap_or(path).trim_end_matches('/');
        if path.is_empty() {
            return Err(SourceError::Syntax(shown()));
        }
        let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let normalised = match url.scheme() {
            "file" => format!("git+file://{path}"),
            _ if !plain_host(&host) => return Err(SourceError::Syntax(shown())),
            scheme @ ("https" | "http") => format!("git+{scheme}://{host}{port}{path}"),
            // Forges serve the same repositories to the user `git` and to browsers. Parsed once more: a web
            // URL has its own spelling of hosts, `0` is `0.0.0.0`.
            "ssh" if matches!(url.username(), "git" | "") && matches!(url.port(), None | Some(22)) => {
                return Self::from_url(&format!("https://{host}{path}"));
            }
            "git" if matches!(url.port(), None | Some(9418)) => {
                return Self::from_url(&format!("https://{host}{path}"));
            }
            "ssh" if url.username().is_empty() => format!("git+ssh://{host}{port}{path}"),
            "ssh" => format!("git+ssh://{}@{host}{port}{path}", url.username()),
            "git" => format!("git+git://{host}{port}{path}"),
            scheme => return Err(SourceError::Scheme { uri: shown(), scheme: scheme.to_owned() }),
        };
        Ok(Self(normalised))
    }

    /// The normalised text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last component of the path: the project's name as its forge shows it.
    pub fn project(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

/// The host of an `ssh` or `git` URL is whatever stands there, and may be anything: what no host has is
/// refused.
fn plain_host(host: &str) -> bool {
    !host.is_empty() && host.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._:[]".contains(&c))
}

/// What a message may show: tokens in URLs must not reach a log.
fn without_credentials(text: &str) -> String {
    let text: String = text.chars().take(256).collect();
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => format!("{}://{}", &text[..scheme], &text[at + 1..]),
        _ => text,
    }
}

/// Takes the normalised spelling only.
impl FromStr for SourceUri {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let normalised = Self::normalise(text)?;
        if normalised.0 == text {
            Ok(normalised)
        } else {
            Err(SourceError::Spelling { found: without_credentials(text), normalised: normalised.0 })
        }
    }
}

impl fmt::Display for SourceUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SourceUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for SourceUri {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SourceUri {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_repository_has_one_spelling() {
        let app = "git+https://github.com/acme/app";
        let cases = [
            ("https://github.com/acme/app", app),
            ("https://github.com/acme/app.git", app),
            ("https://github.com/acme/app.git/", app),
            ("https://x-access-token:secret@github.com/acme/app", app),
            ("https://GitHub.com:443/acme/app", app),
            ("git+https://github.com/acme/app", app),
            ("git@github.com:acme/app.git", app),
            ("github.com:acme/app", app),
            ("ssh://git@github.com/acme/app.git", app),
            ("git+ssh://git@github.com:22/acme/app", app),
            ("git://github.com/acme/app.git", app),
            ("github:acme/app", app),
            ("gitlab:acme/app", "git+https://gitlab.com/acme/app"),
            ("http://127.0.0.1:3000/acme/app", "git+http://127.0.0.1:3000/acme/app"),
            ("ssh://deploy@host.example:2222/srv/app.git", "git+ssh://deploy@host.example:2222/srv/app"),
            ("deploy@host.example:srv/app.git", "git+ssh://deploy@host.example/srv/app"),
            ("/srv/git/app.git", "git+file:///srv/git/app"),
            ("file:///srv/git/app", "git+file:///srv/git/app"),
            ("https://host.example/a/../b/./c", "git+https://host.example/b/c"),
        ];
        for (text, expected) in cases {
            let uri = SourceUri::normalise(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(uri.as_str(), expected, "{text}");
            assert_eq!(uri.as_str().parse(), Ok(uri.clone()), "{text}: normalising is idempotent");
        }
        assert_eq!(SourceUri::normalise("git@github.com:acme/app.git").unwrap().project(), "app");
    }

    #[test]
    fn refuses_what_is_not_a_repository() {
        let long = format!("https://host.example/{}", "a".repeat(MAX_LEN));
        for text in [
            "",
            "app",
            "./app",
            ":x",
            "host:",
            "https://",
            "https://host.example",
            "https://host.example/",
            "https://host.example/.git",
            "https://host.example/a/.b/..git/",
            "https://host.example/a/...git",
            "https://host.example/app.git.git",
            "ftp://host.example/app",
            "s3://bucket/app",
            "https://host.example/app?ref=main",
            "https://host.example/app#x",
            "a b:c",
            "host:a\nb",
            &long,
        ] {
            assert!(SourceUri::normalise(text).is_err(), "{text:?}");
        }
        assert!(matches!(
            "https://github.com/acme/app".parse::<SourceUri>(),
            Err(SourceError::Spelling { .. })
        ));
    }

    #[test]
    fn errors_do_not_show_credentials() {
        for text in
            ["https://user:secret@host.example/app?x", "ftp://secret@host.example/app", "https://secret@"]
        {
            let message = SourceUri::normalise(text).unwrap_err().to_string();
            assert!(!message.contains("secret"), "{message}");
        }
    }

    proptest! {
        #[test]
        fn normalising_never_panics_and_is_idempotent(text in "\\PC{0,80}") {
            if let Ok(uri) = SourceUri::normalise(&text) {
                prop_assert_eq!(uri.as_str().parse::<SourceUri>(), Ok(uri.clone()));
            }
        }

        #[test]
        fn urls_are_idempotent(text in "(git\\+)?(https?|ssh|git|file)://([a-z]{1,3}@)?[A-Za-z.]{0,6}(:[0-9]{1,5})?/[a-zA-Z./%@-]{0,20}") {
            if let Ok(uri) = SourceUri::normalise(&text) {
                prop_assert_eq!(uri.as_str().parse::<SourceUri>(), Ok(uri.clone()));
            }
        }
    }
}
