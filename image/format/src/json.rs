//! JSON from untrusted places: limited in size, and refused when an object names a key twice.
//!
//! `serde_json` keeps the last of two equal keys when it reads maps, and other readers keep the first,
//! so a text with duplicates means different things to different tools. Such a text means nothing here.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Why a text was refused.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// The text is longer than its reader allows.
    #[error("the JSON text has {len} bytes, more than the {limit} allowed")]
    TooLong {
        /// Bytes of the text.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The text is not JSON, names a key twice, or does not have the expected shape.
    #[error("not the expected JSON")]
    Syntax(#[from] serde_json::Error),
}

/// Reads a `T` from at most `limit` bytes of JSON without duplicate keys.
pub fn from_slice<T: DeserializeOwned>(text: &[u8], limit: usize) -> Result<T, JsonError> {
    if text.len() > limit {
        return Err(JsonError::TooLong { len: text.len(), limit });
    }
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    UniqueKeys.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(serde_json::from_slice(text)?)
}

/// Walks any JSON value and fails at the first object with two equal keys.
///
/// Depth is bounded by `serde_json` (128 levels).
struct UniqueKeys;

impl<'de> DeserializeSeed<'de> for UniqueKeys {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for UniqueKeys {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(UniqueKeys)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if keys.contains(&key) {
                return Err(serde::de::Error::custom(format_args!("the key {key:?} appears twice")));
            }
            keys.insert(key);
            map.next_value_seed(UniqueKeys)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_duplicates_at_any_depth() {
        for text in [r#"{"a":1,"a":2}"#, r#"[{"x":{"a":1,"b":2,"a":3}}]"#, r#"{"a":1,"\u0061":2}"#] {
            let error = from_slice::<serde_json::Value>(text.as_bytes(), 100).unwrap_err();
            assert!(format!("{:?}", error).contains("appears twice"), "{text}: {error:?}");
        }
    }

    #[test]
    fn reads_what_is_well_formed() {
        let value: serde_json::Value =
            from_slice(br#" {"a":[1,-2,2.5,null,true,"x",{}],"b":{"a":1}} "#, 100).unwrap();
        assert_eq!(value["b"]["a"], 1);
    }

    #[test]
    fn refuses_what_is_too_long_too_deep_or_trailed() {
        assert!(matches!(
            from_slice::<serde_json::Value>(b"[1,2]", 4),
            Err(JsonError::TooLong { len: 5, limit: 4 })
        ));
        let deep = "[".repeat(100_000);
        assert!(from_slice::<serde_json::Value>(deep.as_bytes(), 1 << 20).is_err());
        assert!(from_slice::<serde_json::Value>(b"{} {}", 100).is_err());
    }
}
