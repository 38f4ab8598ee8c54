//! `WWW-Authenticate`: how a registry wants to be shown who asks.
//!
//! Sources: RFC 9110, section 11.6.1, and Docker's token authentication specification, which registries
//! follow.

use url::Url;

use super::http::{HttpError, http::HeaderMap, http::header, sanitize};

/// Most parameters that are read from one header.
const MAX_PARAMETERS: usize = 64;

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token from a token server.
    Bearer {
        /// The token server.
        realm: Url,
        /// Whom the token is for.
        service: Option<String>,
        /// What the token must allow.
        scope: Option<String>,
    },
}

impl Challenge {
    /// The best of the challenges of an answer: Bearer before Basic.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, HttpError> {
        let texts: Vec<&str> = headers
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        let offers: Vec<Offer<'_>> = texts.iter().flat_map(|text| offers(text)).collect();
        let bearer = offers.iter().filter(|offer| offer.scheme.eq_ignore_ascii_case("bearer"));
        if let Some(bearer) = bearer.filter_map(Offer::bearer).next() {
            return Ok(bearer);
        }
        if offers.iter().any(|offer| offer.scheme.eq_ignore_ascii_case("basic")) {
            return Ok(Self::Basic);
        }
        Err(HttpError::Challenge(sanitize(&texts.join(", "))))
    }
}

/// One challenge as it stands in the header.
struct Offer<'a> {
    scheme: &'a str,
    parameters: Vec<(&'a str, String)>,
}

impl Offer<'_> {
    fn parameter(&self, name: &str) -> Option<String> {
        let found = self.parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone())
    }

    fn bearer(&self) -> Option<Challenge> {
        let realm = Url::parse(&self.parameter("realm")?).ok()?;
        if !matches!(realm.scheme(), "http" | "https") || realm.host_str().is_none() {
            return None;
        }
        Some(Challenge::Bearer { realm, service: self.parameter("service"), scope: self.parameter("scope") })
    }
}

/// Splits a header into challenges. A word before `=` is a parameter, any other begins a challenge; what
/// makes no sense ends the reading.
fn offers(text: &str) -> Vec<Offer<'_>> {
    let mut found: Vec<Offer<'_>> = Vec::new();
    let mut rest = text;
    for _ in 0..MAX_PARAMETERS {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=', '"']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            break;
        }
        match after.trim_start().strip_prefix('=') {
            None => {
                found.push(Offer { scheme: word, parameters: Vec::new() });
                rest = after;
            }
            Some(after) => {
                let Some((value, after)) = value(after.trim_start()) else { break };
                if let Some(offer) = found.last_mut() {
                    offer.parameters.push((word, value));
                }
                rest = after;
            }
        }
    }
    found
}

/// A parameter's value, quoted or not, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(character),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::http::http::HeaderValue;
    use super::*;

    fn challenge(texts: &[&str]) -> Result<Challenge, HttpError> {
        let mut headers = HeaderMap::new();
        for text in texts {
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_str(text).unwrap());
        }
        Challenge::of(&headers)
    }

    #[test]
    fn reads_what_registries_send() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: Url::parse(realm).unwrap(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        };
        for (texts, expected) in [
            (&["Basic realm=\"x\""][..], Challenge::Basic),
            (&["basic"], Challenge::Basic),
            (
                &[
                    "Bearer realm=\"https://auth.example/token\",service=\"registry\",scope=\"repository:a/b:pull,push\"",
                ],
                bearer("https://auth.example/token", Some("registry"), Some("repository:a/b:pull,push")),
            ),
            (
                &["Basic realm=\"a, b\", Bearer  Realm = \"https://x/t\" , service=s"],
                bearer("https://x/t", Some("s"), None),
            ),
            (&["Negotiate abc==", "Bearer realm=\"https://x/\\t\""], bearer("https://x/t", None, None)),
            // A token server that makes no sense leaves the other way.
            (&["Bearer realm=\"/relative\"", "Basic realm=r"], Challenge::Basic),
        ] {
            assert_eq!(challenge(texts).unwrap(), expected, "{texts:?}");
        }
        for texts in [
            &[][..],
            &[""],
            &["Negotiate"],
            &["Bearer"],
            &["Bearer realm=\"file:///etc/passwd\""],
            &["=,=\""],
        ] {
            assert!(matches!(challenge(texts), Err(HttpError::Challenge(_))), "{texts:?}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_refused(text in "[ -~]{0,200}") {
            let _ = challenge(&[&text]);
        }
    }
}
