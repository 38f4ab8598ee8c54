//! Unknown keys of a configuration file are refused, with the known one that was probably meant.

use std::fmt;

/// A key that a file has and its reader does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKey {
    /// The key with the tables that it lies in, joined by dots.
    pub key: String,
    /// The known key that is spelled most like it, if one is close.
    pub nearest: Option<String>,
}

impl fmt::Display for UnknownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown key `{}`", self.key)?;
        match &self.nearest {
            Some(nearest) => write!(f, ": did you mean `{nearest}`?"),
            None => Ok(()),
        }
    }
}

/// The first key of `table`, in depth-first order, that is not among the dotted `known` keys.
///
/// A known key that ends in `.*` stands for any one name, as in `mirrors.*`.
pub fn unknown(table: &toml::Table, known: &[&str]) -> Option<UnknownKey> {
    first_unknown(table, "", known)
}

fn first_unknown(table: &toml::Table, prefix: &str, known: &[&str]) -> Option<UnknownKey> {
    table.iter().find_map(|(name, value)| {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let wildcard = format!("{prefix}.*");
        if known.contains(&key.as_str()) || known.contains(&wildcard.as_str()) {
            return None;
        }
        match value {
            toml::Value::Table(inner) if known.iter().any(|k| k.starts_with(&format!("{key}."))) => {
                first_unknown(inner, &key, known)
            }
            _ => Some(UnknownKey { nearest: nearest(&key, known).map(str::to_owned), key }),
        }
    })
}

/// The one of `known` that is spelled most like `key`, if it is close enough to be meant.
pub fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let score = |candidate: &str| {
        let last = |text: &str| text.rsplit('.').next().unwrap_or(text).to_owned();
        let whole = strsim::normalized_damerau_levenshtein(key, candidate);
        // A key that was put in the wrong table has the right last part.
        whole.max(strsim::normalized_damerau_levenshtein(&last(key), &last(candidate)) * 0.99)
    };
    known
        .iter()
        .map(|candidate| (score(candidate), *candidate))
        .filter(|(score, _)| *score >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["level", "cache.size", "cache.dir", "mirrors.*"];

    #[test]
    fn finds_the_first_unknown_key() {
        let cases = [
            ("level = 1\n[cache]\nsize = 1\n[mirrors]\n\"a.example\" = []", None),
            ("levle = 1", Some(("levle", Some("level")))),
            ("[cache]\nsizes = 1", Some(("cache.sizes", Some("cache.size")))),
            ("size = 1", Some(("size", Some("cache.size")))),
            ("[cahce]\nsize = 1", Some(("cahce", None))),
            ("zzz = 1", Some(("zzz", None))),
        ];
        for (text, expected) in cases {
            let found = unknown(&text.parse().unwrap(), KNOWN);
            let found = found.as_ref().map(|u| (u.key.as_str(), u.nearest.as_deref()));
            assert_eq!(found, expected, "{text}");
        }
    }
}
