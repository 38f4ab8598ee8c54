//! Where a seed is: `oci:DIR[:TAG][@sha256:…]` or `HOST[:PORT]/REPOSITORY[:TAG][@sha256:…]`.
//!
//! The grammar of hosts, repositories and tags is that of the OCI distribution specification, "Pulling
//! manifests", with one difference: the host is never guessed. `alpine` alone names no registry.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use seed_format::Digest;
use seed_format::digest::DigestError;

/// Longest text that is read as a reference, in bytes.
const MAX_REFERENCE: usize = 8192;
/// Longest repository name: `HOST/REPOSITORY` must fit in 255 bytes in most registries.
const MAX_REPOSITORY: usize = 255;
/// Longest tag (distribution specification).
const MAX_TAG: usize = 128;

/// A place that holds images, without saying which image.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// An OCI image layout: a directory.
    Layout(PathBuf),
    /// A repository of an OCI registry.
    Registry {
        /// `HOST` or `HOST:PORT`, in lower case; an IPv6 address is in brackets.
        host: String,
        /// Components separated by `/`.
        repository: String,
    },
}

/// A [`Location`] and the image there that is meant.
///
/// A tag is only a way to find a digest: where both are given, the digest decides.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Where the image is.
    pub location: Location,
    /// The tag, without `:`.
    pub tag: Option<String>,
    /// The digest of the image's manifest or index.
    pub digest: Option<Digest>,
}

/// Why a text is not a [`Reference`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The text is empty, or nothing is left where a part must be.
    #[error("{text:?}: the {part} is empty")]
    Empty {
        /// The whole text.
        text: String,
        /// The part that is missing.
        part: &'static str,
    },
    /// The text is too long to be a reference.
    #[error("a reference of {len} bytes is longer than the {limit} allowed")]
    TooLong {
        /// Bytes of the text.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The text names no registry.
    #[error(
        "{0:?} names no registry: write HOST/REPOSITORY, where HOST has a dot or a port or is \
         \"localhost\", or oci:DIR for a directory"
    )]
    NoHost(String),
    /// The text begins with a scheme of another tool.
    #[error("{text:?} begins with {scheme:?}: write HOST/REPOSITORY or oci:DIR")]
    Scheme {
        /// The whole text.
        text: String,
        /// What it begins with.
        scheme: &'static str,
    },
    /// A directory's name holds a NUL byte.
    #[error("a directory's name cannot hold a NUL byte")]
    Nul,
    /// The host is malformed.
    #[error("{0:?} is not a registry host")]
    Host(String),
    /// The repository is malformed.
    #[error(
        "{0:?} is not a repository: lower-case letters and digits, in components separated by \"/\", \
         which may have single \".\", \"_\", \"__\" or dashes inside"
    )]
    Repository(String),
    /// The tag is malformed.
    #[error("{0:?} is not a tag: at most 128 of A-Z a-z 0-9 _ . - and no \".\" or \"-\" at its start")]
    Tag(String),
    /// What follows `@` is not a digest.
    #[error("the part after \"@\" is not a digest")]
    Digest(#[from] DigestError),
}

impl Reference {
    /// The same place and image, named by `digest` alone.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { location: self.location.clone(), tag: None, digest: Some(digest) }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.len() > MAX_REFERENCE {
            return Err(ReferenceError::TooLong { len: text.len(), limit: MAX_REFERENCE });
        }
        if text.is_empty() {
            return Err(ReferenceError::Empty { text: String::new(), part: "reference" });
        }
        for scheme in ["docker://", "http://", "https://", "oci://"] {
            if text.starts_with(scheme) {
                return Err(ReferenceError::Scheme { text: excerpt(text), scheme });
            }
        }
        match text.strip_prefix("oci:") {
            Some(rest) => parse_layout(text, rest),
            None => parse_registry(text),
        }
    }
}

/// `DIR[:TAG][@DIGEST]`. What follows the last `:` is a tag unless it has a `/` in it, so a directory
/// whose last component has a `:` is written with a `/` at its end.
fn parse_layout(text: &str, rest: &str) -> Result<Reference, ReferenceError> {
    let (rest, digest) = match rest.rfind("@sha256:") {
        Some(at) => (&rest[..at], Some(rest[at + 1..].parse()?)),
        None => (rest, None),
    };
    let (directory, tag) = match rest.rsplit_once(':') {
        Some((directory, tag)) if !tag.contains('/') => (directory, Some(tag)),
        _ => (rest, None),
    };
    if directory.is_empty() {
        return Err(ReferenceError::Empty { text: excerpt(text), part: "directory" });
    }
    if directory.contains('\0') {
        return Err(ReferenceError::Nul);
    }
    let tag = tag.map(check_tag).transpose()?;
    Ok(Reference { location: Location::Layout(PathBuf::from(directory)), tag, digest })
}

/// `HOST/REPOSITORY[:TAG][@DIGEST]`.
fn parse_registry(text: &str) -> Result<Reference, ReferenceError> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse()?)),
        None => (text, None),
    };
    let Some((host, rest)) = rest.split_once('/') else {
        return Err(ReferenceError::NoHost(excerpt(text)));
    };
    if host.is_empty() {
        return Err(ReferenceError::Empty { text: excerpt(text), part: "host" });
    }
    if !host.contains(['.', ':']) && !host.eq_ignore_ascii_case("localhost") {
        return Err(ReferenceError::NoHost(excerpt(text)));
    }
    let host = check_host(host)?;
    let (repository, tag) = match rest.split_once(':') {
        Some((repository, tag)) => (repository, Some(check_tag(tag)?)),
        None => (rest, None),
    };
    let completed = match host.as_str() {
        "docker.io" if !repository.contains('/') => format!("library/{repository}"),
        _ => repository.to_owned(),
    };
    // Both: an empty name must not become "library/", nor a completed one grow too long.
    if !is_repository(repository) || !is_repository(&completed) {
        return Err(ReferenceError::Repository(excerpt(repository)));
    }
    let repository = completed;
    Ok(Reference { location: Location::Registry { host, repository }, tag, digest })
}

/// A DNS name, an IPv4 address or an IPv6 address in brackets, with or without a port.
fn check_host(host: &str) -> Result<String, ReferenceError> {
    let malformed = || ReferenceError::Host(excerpt(host));
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or_else(malformed)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| malformed())?;
            (&host[..address.len() + 2], port)
        }
        None => {
            let (name, port) = host.find(':').map_or((host, ""), |at| host.split_at(at));
            if !is_dns_name(name) {
                return Err(malformed());
            }
            (name, port)
        }
    };
    if !port.is_empty() {
        let digits = port.strip_prefix(':').ok_or_else(malformed)?;
        let valid =
            digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse().is_ok_and(|port: u16| port > 0);
        if !valid {
            return Err(malformed());
        }
    }
    Ok(format!("{}{port}", name.to_ascii_lowercase()))
}

fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// Whether `text` is a repository name: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, again after each `/`.
pub(crate) fn is_repository(text: &str) -> bool {
    let is_component = |component: &str| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(component.bytes().next())
            && edge(component.bytes().next_back())
            && component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).all(|separator| {
                matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
            })
    };
    text.len() <= MAX_REPOSITORY && text.split('/').all(is_component)
}

/// Whether `text` is a tag: `[A-Za-z0-9_][A-Za-z0-9._-]{0,127}`.
pub(crate) fn is_tag(text: &str) -> bool {
    (1..=MAX_TAG).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && !text.starts_with(['.', '-'])
}

fn check_tag(text: &str) -> Result<String, ReferenceError> {
    if is_tag(text) { Ok(text.to_owned()) } else { Err(ReferenceError::Tag(excerpt(text))) }
}

/// Whether `host` (`HOST` or `HOST:PORT`) can only be this machine: plain HTTP is no risk there.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What an error message may show of a text that an adversary chose.
fn excerpt(text: &str) -> String {
    text.chars().take(120).collect()
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout(directory) => {
                let directory = directory.to_string_lossy();
                // Else the end of the name would read as a tag.
                let ambiguous = directory.rsplit('/').next().is_some_and(|name| name.contains(':'));
                write!(f, "oci:{directory}{}", if ambiguous { "/" } else { "" })
            }
            Self::Registry { host, repository } => write!(f, "{host}/{repository}"),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.location)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn layout(directory: &str, tag: Option<&str>, digest: bool) -> Reference {
        Reference {
            location: Location::Layout(directory.into()),
            tag: tag.map(Into::into),
            digest: digest.then(|| DIGEST.parse().unwrap()),
        }
    }

    fn registry(host: &str, repository: &str, tag: Option<&str>, digest: bool) -> Reference {
        Reference {
            location: Location::Registry { host: host.into(), repository: repository.into() },
            tag: tag.map(Into::into),
            digest: digest.then(|| DIGEST.parse().unwrap()),
        }
    }

    #[test]
    fn reads_and_prints() {
        let long_tag = "t".repeat(128);
        for (text, expected) in [
            ("oci:dir", layout("dir", None, false)),
            ("oci:/a/b:v1", layout("/a/b", Some("v1"), false)),
            (&format!("oci:/a/b@{DIGEST}"), layout("/a/b", None, true)),
            (&format!("oci:/a@x/b:v1@{DIGEST}"), layout("/a@x/b", Some("v1"), true)),
            ("oci:/a:b/c", layout("/a:b/c", None, false)),
            ("oci:/a:b/", layout("/a:b/", None, false)),
            ("oci:C:v", layout("C", Some("v"), false)),
            ("ghcr.io/owner/name", registry("ghcr.io", "owner/name", None, false)),
            ("localhost/name:t", registry("localhost", "name", Some("t"), false)),
            ("localhost:5000/a/b/c:t", registry("localhost:5000", "a/b/c", Some("t"), false)),
            ("[::1]:5000/a", registry("[::1]:5000", "a", None, false)),
            (
                &format!("127.0.0.1:1/a-b__c.d--e:{long_tag}@{DIGEST}"),
                registry("127.0.0.1:1", "a-b__c.d--e", Some(&long_tag), true),
            ),
        ] {
            assert_eq!(text.parse::<Reference>().as_ref(), Ok(&expected), "{text}");
            assert_eq!(expected.to_string(), text);
        }
    }

    #[test]
    fn completes_what_has_one_meaning() {
        assert_eq!("GHCR.io/a".parse::<Reference>().unwrap().to_string(), "ghcr.io/a");
        assert_eq!(
            "docker.io/alpine:3".parse::<Reference>().unwrap().to_string(),
            "docker.io/library/alpine:3"
        );
        assert_eq!(Location::Layout("/a:b".into()).to_string(), "oci:/a:b/");
    }

    #[test]
    fn refuses_the_malformed() {
        use ReferenceError as E;
        type Check = fn(&ReferenceError) -> bool;
        let cases: &[(&str, Check)] = &[
            ("", |e| matches!(e, E::Empty { .. })),
            ("oci:", |e| matches!(e, E::Empty { .. })),
            ("oci::tag", |e| matches!(e, E::Empty { .. })),
            ("oci:dir:", |e| matches!(e, E::Tag(_))),
            ("oci:dir:.x", |e| matches!(e, E::Tag(_))),
            ("oci:dir@sha256:00", |e| matches!(e, E::Digest(_))),
            ("oci:a\0b", |e| matches!(e, E::Nul)),
            ("alpine", |e| matches!(e, E::NoHost(_))),
            ("library/alpine", |e| matches!(e, E::NoHost(_))),
            ("/alpine", |e| matches!(e, E::Empty { .. })),
            ("docker://ghcr.io/a", |e| matches!(e, E::Scheme { .. })),
            ("https://ghcr.io/a", |e| matches!(e, E::Scheme { .. })),
            ("ghcr.io/", |e| matches!(e, E::Repository(_))),
            ("ghcr.io/A", |e| matches!(e, E::Repository(_))),
            ("ghcr.io/a//b", |e| matches!(e, E::Repository(_))),
            ("ghcr.io/a/../b", |e| matches!(e, E::Repository(_))),
            ("ghcr.io/a___b", |e| matches!(e, E::Repository(_))),
            ("ghcr.io/-a", |e| matches!(e, E::Repository(_))),
            ("ghcr.io/a:", |e| matches!(e, E::Tag(_))),
            ("ghcr.io/a:b:c", |e| matches!(e, E::Tag(_))),
            ("ghcr.io/a@md5:00", |e| matches!(e, E::Digest(_))),
            ("ghcr.io:0/a", |e| matches!(e, E::Host(_))),
            ("ghcr.io:65536/a", |e| matches!(e, E::Host(_))),
            ("ghcr.io:+1/a", |e| matches!(e, E::Host(_))),
            ("gh_cr.io/a", |e| matches!(e, E::Host(_))),
            ("[::1/a", |e| matches!(e, E::Host(_))),
            ("[::1]x/a", |e| matches!(e, E::Host(_))),
            ("user:pw@ghcr.io/a", |e| matches!(e, E::Digest(_))),
            ("a..b/c", |e| matches!(e, E::Host(_))),
        ];
        for (text, check) in cases {
            let error = text.parse::<Reference>().unwrap_err();
            assert!(check(&error), "{text:?}: {error:?}");
        }
        let long = format!("ghcr.io/{}", "a".repeat(9000));
        assert!(matches!(long.parse::<Reference>(), Err(E::TooLong { .. })));
        let completed = format!("docker.io/{}", "a".repeat(250));
        assert!(matches!(completed.parse::<Reference>(), Err(E::Repository(_))));
        let long = format!("ghcr.io/{}", "a".repeat(256));
        assert!(matches!(long.parse::<Reference>(), Err(E::Repository(_))));
    }

    #[test]
    fn knows_loopback_hosts() {
        for host in ["localhost", "localhost:5000", "127.0.0.1", "127.9.9.9:1", "[::1]", "[::1]:80"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example.org", "128.0.0.1", "[::2]:80", "0.0.0.0", "example.org:80"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_round_trips(text in "(oci:)?[a-z0-9.:/@_\\[\\]-]{0,40}(@sha256:[0-9a-f]{64})?") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in any::<String>()) {
            let _ = text.parse::<Reference>();
            let _ = format!("oci:{text}").parse::<Reference>();
        }
    }
}
