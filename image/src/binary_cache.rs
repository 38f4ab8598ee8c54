//! Whether a binary cache lets us in: asked before something is built for it.
//!
//! Nix takes a cache that refuses access for one that is empty, and then says that it is no cache.

use std::thread;
use std::time::Duration;

use data_encoding::BASE64;
use ureq::Agent;
use ureq::http::header;
use url::Url;

use crate::transport::TransportOptions;
use crate::transport::registry::http::{HttpError, PemError, Trust};

/// Longest time for one question.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits after passing failures.
const WAITS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];

/// Why nothing can be put into a cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The text is no address.
    #[error("that is no address of a binary cache")]
    Address,
    /// The trusted certificates cannot be read.
    #[error("the trusted certificates cannot be read")]
    Certificates(#[from] PemError),
    /// The server cannot be asked.
    #[error("it cannot be asked")]
    Unreachable(#[source] HttpError),
    /// The server wants other credentials.
    #[error("it refuses access (401){}", if *.known { ": other credentials are needed" } else { ": it needs credentials" })]
    Denied {
        /// Whether credentials for it were sent.
        known: bool,
    },
}

/// Asks the binary cache at `url`, `http` or `https`, with the credentials that `netrc` has for it.
///
/// An error means that nothing can be put there. A cache that is empty, or does not let its `nix-cache-info` be
/// read, is fine.
pub fn ask(url: &str, netrc: Option<&str>, options: &TransportOptions) -> Result<(), CacheError> {
    let mut url = Url::parse(url).map_err(|_| CacheError::Address)?;
    let host = url.host_str().ok_or(CacheError::Address)?.to_owned();
    url.set_query(None);
    url.set_path(&format!("{}/nix-cache-info", url.path().trim_end_matches('/')));
    let credentials = netrc.and_then(|netrc| credentials(netrc, host.trim_matches(['[', ']'])));
    let agent = agent(&host, options)?;
    let mut waits = WAITS.into_iter();
    let status = loop {
        let mut request = agent.get(url.as_str());
        if let Some((login, password)) = &credentials {
            let value = BASE64.encode(format!("{login}:{password}").as_bytes());
            request = request.header(header::AUTHORIZATION, format!("Basic {value}"));
        }
        match request.call().map_err(HttpError::from) {
            Ok(answer) => break answer.status().as_u16(),
            Err(error) => match waits.next().filter(|_| error.is_passing()) {
                Some(wait) => thread::sleep(wait),
                None => return Err(CacheError::Unreachable(error)),
            },
        }
    };
    if status == 401 { Err(CacheError::Denied { known: credentials.is_some() }) } else { Ok(()) }
}

fn agent(host: &str, options: &TransportOptions) -> Result<Agent, PemError> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .proxy(options.proxy_for(host))
        .tls_config(Trust::default().config(options.ca_file.as_deref())?)
        .timeout_connect(Some(options.connect_timeout))
        .timeout_global(Some(PATIENCE))
        .build();
    Ok(config.into())
}

/// Login and password of a host in a netrc file, read as curl reads it for Nix: the first entry of the host, or
/// the default one.
fn credentials(netrc: &str, host: &str) -> Option<(String, String)> {
    let mut words = words(netrc).into_iter();
    let (mut matches, mut login, mut password) = (false, None, None);
    while let Some(word) = words.next() {
        match word.as_str() {
            "machine" | "default" => {
                if matches {
                    break;
                }
                matches = word == "default" || words.next()?.eq_ignore_ascii_case(host);
            }
            "login" if matches => login = words.next(),
            "password" if matches => password = words.next(),
            "login" | "password" | "account" => drop(words.next()),
            _ => {}
        }
    }
    matches.then(|| (login.unwrap_or_default(), password.unwrap_or_default()))
}

/// The words of a netrc file: separated by blanks, or in quotes, where a backslash makes a character usual. A
/// line may be a comment; macros end with an empty line.
fn words(netrc: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut lines = netrc.lines();
    while let Some(line) = lines.next() {
        if line.trim_start().starts_with('#') {
            continue;
        }
        let before = words.len();
        let mut letters = line.chars().peekable();
        while let Some(&first) = letters.peek() {
            if first.is_whitespace() {
                letters.next();
                continue;
            }
            let mut word = String::new();
            if first == '"' {
                letters.next();
                while let Some(letter) = letters.next().filter(|letter| *letter != '"') {
                    word.push(if letter == '\\' { letters.next().unwrap_or('\\') } else { letter });
                }
            } else {
                while let Some(letter) = letters.next_if(|letter| !letter.is_whitespace()) {
                    word.push(letter);
                }
            }
            words.push(word);
        }
        if words[before..].first().is_some_and(|word| word == "macdef") {
            words.truncate(before);
            lines.by_ref().take_while(|line| !line.trim().is_empty()).for_each(drop);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_netrc() {
        let file = "# machine a login no password no\nmachine a login one password 1\nmachine b\n  password \"2 \\\"\"\n\
                    login two account x\nmacdef init\nmachine d login no\n\nmachine A login other password 3\n\
                    default login any password 4";
        for (host, expected) in
            [("a", ("one", "1")), ("B", ("two", "2 \"")), ("c", ("any", "4")), ("d", ("any", "4"))]
        {
            let found = credentials(file, host).unwrap();
            assert_eq!((found.0.as_str(), found.1.as_str()), expected, "{host}");
        }
        assert_eq!(credentials("machine a login one password 1", "b"), None);
        assert_eq!(credentials("machine", "b"), None);
        assert_eq!(credentials("", "b"), None);
        assert_eq!(credentials("default login", "b"), Some(Default::default()));
    }

    #[test]
    fn what_cannot_be_asked_is_an_error() {
        let options = TransportOptions::default();
        for (url, address) in [("", true), ("https://", true), ("http://127.0.0.1:1", false)] {
            let error = ask(url, None, &options).unwrap_err();
            assert_eq!(matches!(error, CacheError::Address), address, "{url}: {error:?}");
        }
    }
}
