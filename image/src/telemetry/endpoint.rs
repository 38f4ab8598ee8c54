//! Where traces are sent, and how anything is.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use ureq::Agent;
use ureq::http::{HeaderName, HeaderValue};
use url::Url;

use crate::transport::TransportOptions;
use crate::transport::registry::http::{HttpError, PemError, Trust};

/// Longest time that sending a trace may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where traces are sent: the root of a collector's API, below which `/v1/traces` lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint(Url);

/// The text is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the URL of a collector, such as http://127.0.0.1:4318")]
pub struct EndpointError(String);

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let malformed = || EndpointError(text.chars().take(200).collect());
        let mut url = Url::parse(text).map_err(|_| malformed())?;
        let plain = url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() || !plain {
            return Err(malformed());
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Ok(Self(url))
    }
}

impl TryFrom<String> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: String) -> Result<Self, EndpointError> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

impl Endpoint {
    /// Sends a trace, within two seconds.
    pub(super) fn send(&self, trace: &Value, options: &TransportOptions) -> Result<(), ExportError> {
        let mut url = self.0.clone();
        url.set_path(&format!("{}/v1/traces", url.path().trim_end_matches('/')));
        let body = trace.to_string().into_bytes();
        let post = Post { kind: "application/json", body, headers: &[], patience: PATIENCE };
        post.to(&url, options.ca_file.as_deref(), options)
    }

    /// The endpoint as it was given, without a slash at its end.
    pub(super) fn into_url(self) -> Url {
        self.0
    }
}

/// A request of a collector's API.
pub(super) struct Post<'a> {
    /// The media type of the body.
    pub(super) kind: &'static str,
    pub(super) body: Vec<u8>,
    pub(super) headers: &'a [(HeaderName, HeaderValue)],
    /// Longest time that it may take.
    pub(super) patience: Duration,
}

impl Post<'_> {
    /// Sends it. `ca_file` has the roots of trust, where they are not the system's.
    pub(super) fn to(
        self,
        url: &Url,
        ca_file: Option<&Path>,
        options: &TransportOptions,
    ) -> Result<(), ExportError> {
        let host = url.host_str().unwrap_or_default();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(options.proxy_for(host))
            .tls_config(Trust::default().config(ca_file)?)
            .timeout_global(Some(self.patience))
            .build();
        let request = Agent::new_with_config(config).post(url.as_str()).header("Content-Type", self.kind);
        let request = self.headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        let status = request.send(self.body).map_err(HttpError::from)?.status().as_u16();
        if (200..300).contains(&status) { Ok(()) } else { Err(ExportError::Status(status)) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

/// Why a trace, or metrics, were not taken.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The roots of trust for TLS cannot be read.
    #[error("the roots of trust cannot be read")]
    Trust(#[from] PemError),
    /// The collector could not be asked.
    #[error("the collector cannot be reached")]
    Http(#[from] HttpError),
    /// The collector refused.
    #[error("the collector answers {0}")]
    Status(u16),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for (text, shown) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318"),
            ("https://otel.example/", "https://otel.example"),
            ("https://otel.example/api/otlp/", "https://otel.example/api/otlp"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "127.0.0.1:4318",
            "grpc://a:4317",
            "http://a?b",
            "http://user@a",
            "http://:word@a",
            "http://",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
