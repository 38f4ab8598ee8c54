//! Where metrics are sent, as OpenTelemetry's own environment variables say it.
//!
//! Source of the variables: "OpenTelemetry Protocol Exporter", "Environment Variable Specification" of
//! OpenTelemetry 1.x. One that is empty is as one that is not set; of two, the one for metrics alone wins.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ureq::http::{HeaderName, HeaderValue};
use url::Url;

use super::endpoint::{Endpoint, ExportError, Post};
use super::metrics::Snapshot;
use super::{otlp, protobuf};
use crate::transport::TransportOptions;

/// How often metrics are sent where nothing else is said.
const INTERVAL: Duration = Duration::from_secs(60);
/// More often nobody may ask for them.
const SHORTEST: Duration = Duration::from_millis(10);
/// Longest time that sending may take where nothing else is said.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends metrics to a collector.
#[derive(Debug)]
pub struct Push {
    url: Url,
    encoding: Encoding,
    headers: Vec<(HeaderName, HeaderValue)>,
    timeout: Duration,
    ca_file: Option<PathBuf>,
    resource: Vec<(String, String)>,
    interval: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Protobuf,
    Json,
}

/// A variable has a value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable} {why}")]
pub struct PushError {
    /// The variable.
    pub variable: &'static str,
    /// What is wrong with it. Values of headers, which may be secret, are not in it.
    pub why: String,
}

impl Push {
    /// As this process's environment wants it: nothing, unless it names an endpoint.
    pub fn from_env(service: &str, instance: &str) -> Result<Option<Self>, PushError> {
        Self::from(service, instance, &|name| std::env::var(name).ok())
    }

    fn from(
        service: &str,
        instance: &str,
        variables: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, PushError> {
        let get = |variable: &'static str| {
            let value = variables(variable).map(|text| text.trim().to_owned());
            value.filter(|text| !text.is_empty()).map(|text| (variable, text))
        };
        let first = |own, general| get(own).or_else(|| get(general));
        let exporters = get("OTEL_METRICS_EXPORTER").map_or_else(|| "otlp".into(), |(_, text)| text);
        let disabled = get("OTEL_SDK_DISABLED").is_some_and(|(_, text)| text.eq_ignore_ascii_case("true"));
        if disabled || !exporters.split(',').any(|exporter| exporter.trim() == "otlp") {
            return Ok(None);
        }
        let own = get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT").map(|(variable, text)| (variable, text, ""));
        let general =
            || get("OTEL_EXPORTER_OTLP_ENDPOINT").map(|(variable, text)| (variable, text, "/v1/metrics"));
        let Some((variable, text, below)) = own.or_else(general) else { return Ok(None) };
        let why = |error: super::EndpointError| PushError { variable, why: format!("is not valid: {error}") };
        let mut url = Endpoint::from_str(&text).map_err(why)?.into_url();
        // Only below a root of all signals is anything added.
        match below {
            "" => {}
            below => url.set_path(&format!("{}{below}", url.path().trim_end_matches('/'))),
        }
        let protocol = first("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL");
        let encoding = match protocol {
            None => Encoding::Protobuf,
            Some((variable, text)) => match text.as_str() {
                "http/protobuf" => Encoding::Protobuf,
                "http/json" => Encoding::Json,
                _ => {
                    let why =
                        format!("is {text:?}, and metrics are sent by http/protobuf or http/json alone");
                    return Err(PushError { variable, why });
                }
            },
        };
        let headers = first("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS");
        let timeout = first("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT");
        let ca_file = first("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE");
        let interval = get("OTEL_METRIC_EXPORT_INTERVAL");
        let attributes = get("OTEL_RESOURCE_ATTRIBUTES");
        Ok(Some(Self {
            url,
            encoding,
            headers: headers
                .map_or_else(|| Ok(Vec::new()), |(variable, text)| headers_of(variable, &text))?,
            timeout: timeout.map_or(Ok(PATIENCE), |(variable, text)| milliseconds(variable, &text))?,
            ca_file: ca_file.map(|(_, text)| text.into()),
            resource: resource(service, instance, attributes, get("OTEL_SERVICE_NAME"))?,
            interval: interval
                .map_or(Ok(INTERVAL), |(variable, text)| milliseconds(variable, &text))?
                .max(SHORTEST),
        }))
    }

    /// How often to send.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Sends a snapshot, within the time that the environment allows, and `at_most`. What was not taken is
    /// not sent again: the next snapshot has all of it.
    pub fn send(
        &self,
        snapshot: &Snapshot,
        at_most: Duration,
        options: &TransportOptions,
    ) -> Result<(), ExportError> {
        let (kind, body) = match self.encoding {
            Encoding::Protobuf => ("application/x-protobuf", protobuf::request(&self.resource, snapshot)),
            Encoding::Json => {
                ("application/json", otlp::metrics(&self.resource, snapshot).to_string().into_bytes())
            }
        };
        let post = Post { kind, body, headers: &self.headers, patience: self.timeout.min(at_most) };
        let ca_file = self.ca_file.as_deref().or(options.ca_file.as_deref());
        post.to(&self.url, ca_file, options)
    }
}

/// Pairs `key=value` with commas between them, the values percent-encoded (W3C Baggage).
fn pairs(variable: &'static str, text: &str) -> Result<Vec<(String, String)>, PushError> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let pair = |item: &str| {
        let (key, value) = item.split_once('=')?;
        let value = decoded(value.trim())?;
        Some((key.trim().to_owned(), value)).filter(|(key, _)| !key.is_empty())
    };
    let malformed = || PushError { variable, why: "is not a list of KEY=VALUE, with commas between".into() };
    items.map(|item| pair(item).ok_or_else(malformed)).collect()
}

/// Text whose `%XX` stand for bytes.
fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let code = part.get(..2).filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

fn headers_of(variable: &'static str, text: &str) -> Result<Vec<(HeaderName, HeaderValue)>, PushError> {
    let header = |(key, value): (String, String)| {
        let mut value = HeaderValue::try_from(value).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::try_from(key).ok()?, value))
    };
    let malformed = || PushError { variable, why: "has what cannot be a header".into() };
    pairs(variable, text)?.into_iter().map(|pair| header(pair).ok_or_else(malformed)).collect()
}

fn milliseconds(variable: &'static str, text: &str) -> Result<Duration, PushError> {
    let malformed = |_| PushError { variable, why: format!("is {text:?}, and no number of milliseconds") };
    text.parse::<u32>().map(|number| Duration::from_millis(number.into())).map_err(malformed)
}

/// What the numbers are about, the attributes of the environment before our own.
fn resource(
    service: &str,
    instance: &str,
    attributes: Option<(&'static str, String)>,
    name: Option<(&'static str, String)>,
) -> Result<Vec<(String, String)>, PushError> {
    let mut resource = match attributes {
        Some((variable, text)) => pairs(variable, &text)?,
        None => Vec::new(),
    };
    if let Some((_, name)) = name {
        resource.retain(|(key, _)| key != "service.name");
        resource.push(("service.name".to_owned(), name));
    }
    for (key, text) in
        [("service.name", service), ("service.version", otlp::VERSION), ("service.instance.id", instance)]
    {
        if resource.iter().all(|(known, _)| known != key) {
            resource.push((key.to_owned(), text.to_owned()));
        }
    }
    Ok(resource)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn push(variables: &[(&'static str, &str)]) -> Result<Option<Push>, PushError> {
        let variables: HashMap<_, _> = variables.iter().copied().collect();
        Push::from("seed-mount", "one", &|name| variables.get(name).map(|text| (*text).to_owned()))
    }

    const ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    const OWN: &str = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT";

    #[test]
    fn endpoints_follow_the_variables() {
        let here = "http://127.0.0.1:4318";
        for (variables, url) in [
            (&[(ALL, here)][..], Some("http://127.0.0.1:4318/v1/metrics")),
            (&[(ALL, "https://a.example/otlp/")], Some("https://a.example/otlp/v1/metrics")),
            (&[(ALL, here), (OWN, "http://b/push")], Some("http://b/push")),
            (&[(OWN, "http://b")], Some("http://b/")),
            (&[(ALL, here), (OWN, " ")], Some("http://127.0.0.1:4318/v1/metrics")),
            (&[], None),
            (&[(ALL, "")], None),
            (&[(ALL, here), ("OTEL_SDK_DISABLED", "TRUE")], None),
            (&[(ALL, here), ("OTEL_METRICS_EXPORTER", "none")], None),
            (
                &[(ALL, here), ("OTEL_METRICS_EXPORTER", "console, otlp")],
                Some("http://127.0.0.1:4318/v1/metrics"),
            ),
        ] {
            let push = push(variables).unwrap();
            assert_eq!(push.map(|push| push.url.to_string()).as_deref(), url, "{variables:?}");
        }
    }

    #[test]
    fn the_rest_follows_the_variables() {
        let plain = push(&[(ALL, "http://a")]).unwrap().unwrap();
        assert_eq!((plain.encoding, plain.interval, plain.timeout), (Encoding::Protobuf, INTERVAL, PATIENCE));
        let names = ["service.name", "service.version", "service.instance.id"];
        let expected =
            names.map(str::to_owned).into_iter().zip(["seed-mount", otlp::VERSION, "one"].map(str::to_owned));
        assert_eq!(plain.resource, expected.collect::<Vec<_>>());

        let full = push(&[
            (ALL, "http://a"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Basic%20eDp5, x-scope=1,"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
            ("OTEL_SERVICE_NAME", "ci"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=no,ci.job=a%2Cb"),
        ]);
        let full = full.unwrap().unwrap();
        assert_eq!((full.encoding, full.interval), (Encoding::Json, SHORTEST));
        assert_eq!(full.timeout, Duration::from_millis(1500));
        let headers: Vec<_> =
            full.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(headers, [("authorization", &b"Basic eDp5"[..]), ("x-scope", b"1")]);
        let resource: HashMap<_, _> = full.resource.into_iter().collect();
        assert_eq!((resource["service.name"].as_str(), resource["ci.job"].as_str()), ("ci", "a,b"));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (variable, text) in [
            (ALL, "a:4318"),
            (OWN, "grpc://a"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=secret"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=secret%0d%0a"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=secret%+1"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "1s"),
            ("OTEL_RESOURCE_ATTRIBUTES", "=x"),
        ] {
            let variables = [(ALL, "http://a"), (variable, text)];
            let error = push(&variables).unwrap_err();
            assert_eq!(error.variable, variable);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
