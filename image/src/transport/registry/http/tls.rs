//! Whom TLS trusts, and what it shows of us.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

/// Where systems keep their bundle of trusted roots.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// A PEM file does not give what is wanted of it.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be used", path.display())]
pub struct PemError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// How a client and the servers that it speaks TLS to trust each other.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    /// PEM files whose certificates are trusted besides the system's.
    pub(in crate::transport::registry) extra: Vec<PathBuf>,
    /// Trusts any certificate.
    pub(in crate::transport::registry) anyone: bool,
    /// Who the client is, for servers that ask.
    pub(in crate::transport::registry) client: Option<ClientFiles>,
}

/// A client's certificate, followed by those that lead to a root, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::transport::registry) struct ClientFiles {
    /// PEM file of the certificates.
    pub(in crate::transport::registry) certificate: PathBuf,
    /// PEM file of the key; may be the same.
    pub(in crate::transport::registry) key: PathBuf,
}

impl Trust {
    /// The configuration of TLS. `bundle` stands for the system's roots.
    pub(crate) fn config(&self, bundle: Option<&Path>) -> Result<TlsConfig, PemError> {
        Ok(TlsConfig::builder()
            .root_certs(roots(bundle, &self.extra)?)
            .client_cert(self.client.as_ref().map(ClientFiles::read).transpose()?)
            .disable_verification(self.anyone)
            .build())
    }
}

impl ClientFiles {
    fn read(&self) -> Result<ClientCert, PemError> {
        Ok(ClientCert::new_with_certs(&certificates_in(&self.certificate)?, key_in(&self.key)?))
    }
}

/// The certificates that TLS trusts: the configured or the system's bundle, and `extra`.
fn roots(bundle: Option<&Path>, extra: &[PathBuf]) -> Result<RootCerts, PemError> {
    let mut certificates = match bundle {
        Some(path) => certificates_in(path)?,
        None => {
            SYSTEM_ROOTS.iter().find_map(|path| certificates_in(Path::new(path)).ok()).unwrap_or_default()
        }
    };
    if certificates.is_empty() && bundle.is_none() && extra.is_empty() {
        return Ok(RootCerts::WebPki);
    }
    for path in extra {
        certificates.extend(certificates_in(path)?);
    }
    Ok(RootCerts::Specific(Arc::new(certificates)))
}

/// The certificates of a PEM file, of which it must have one.
fn certificates_in(path: &Path) -> Result<Vec<Certificate<'static>>, PemError> {
    let certificates: Vec<_> = items(path)?
        .into_iter()
        .filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() { Err(lacks(path, "there is no certificate in it")) } else { Ok(certificates) }
}

/// The first private key of a PEM file.
fn key_in(path: &Path) -> Result<PrivateKey<'static>, PemError> {
    let key = items(path)?.into_iter().find_map(|item| match item {
        PemItem::PrivateKey(key) => Some(key),
        _ => None,
    });
    key.ok_or_else(|| lacks(path, "there is no private key in it that needs no password"))
}

/// What a PEM file holds and is understood.
fn items(path: &Path) -> Result<Vec<PemItem<'static>>, PemError> {
    let text = std::fs::read(path).map_err(|source| PemError { path: path.to_owned(), source })?;
    Ok(parse_pem(&text).filter_map(Result::ok).collect())
}

fn lacks(path: &Path, what: &'static str) -> PemError {
    PemError { path: path.to_owned(), source: io::Error::new(io::ErrorKind::InvalidData, what) }
}
