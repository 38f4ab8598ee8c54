use std::collections::BTreeMap;

use seed_format::StorePath;

/// Largest `.drv` file that is read, in bytes.
pub const MAX_DERIVATION_LEN: usize = 64 << 20;

/// Why a text is not a derivation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutputsError {
    /// The text is too long.
    #[error("it has {0} bytes, more than {MAX_DERIVATION_LEN}")]
    TooLong(usize),
    /// The text has something else at a place.
    #[error("{expected} expected at byte {at}")]
    Syntax {
        /// What should have come.
        expected: &'static str,
        /// Where.
        at: usize,
    },
}

/// The outputs of a derivation, by name, as far as it says where they will be; a floating output of a
/// content-addressed derivation has no place yet.
///
/// Source of the format: the Nix manual, "Derivation `ATerm` format". Only the list of outputs, which comes
/// first, is read: `Derive([("out","/nix/store/…","",""),…],…`, or after `DrvWithVersion("xp-dyn-drv",`.
pub fn outputs(text: &[u8]) -> Result<BTreeMap<String, StorePath>, OutputsError> {
    if text.len() > MAX_DERIVATION_LEN {
        return Err(OutputsError::TooLong(text.len()));
    }
    let mut parser = Parser { text, at: 0 };
    if parser.take(b"DrvWithVersion(") {
        parser.string()?;
        parser.expect(b",", "\",\"")?;
    } else {
        parser.expect(b"Derive(", "\"Derive(\"")?;
    }
    parser.expect(b"[", "\"[\"")?;
    let mut outputs = BTreeMap::new();
    while !parser.take(b"]") {
        if !outputs.is_empty() || parser.text[parser.at..].starts_with(b",") {
            parser.take(b",");
        }
        parser.expect(b"(", "\"(\"")?;
        let name = parser.string()?;
        parser.expect(b",", "\",\"")?;
        let at = parser.at;
        let path = parser.string()?;
        for _ in 0..2 {
            parser.expect(b",", "\",\"")?;
            parser.string()?;
        }
        parser.expect(b")", "\")\"")?;
        if !path.is_empty() {
            let path = path.parse().map_err(|_| OutputsError::Syntax { expected: "a store path", at })?;
            outputs.insert(name, path);
        }
    }
    Ok(outputs)
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn take(&mut self, word: &[u8]) -> bool {
        let taken = self.text[self.at..].starts_with(word);
        if taken {
            self.at += word.len();
        }
        taken
    }

    fn expect(&mut self, word: &[u8], expected: &'static str) -> Result<(), OutputsError> {
        if self.take(word) { Ok(()) } else { Err(OutputsError::Syntax { expected, at: self.at }) }
    }

    /// A string without escapes: names and paths of outputs have none.
    fn string(&mut self) -> Result<String, OutputsError> {
        let expected = "a string";
        self.expect(b"\"", expected)?;
        let at = self.at;
        let len = self.text[at..].iter().position(|byte| matches!(byte, b'"' | b'\\'));
        let end = at + len.ok_or(OutputsError::Syntax { expected, at })?;
        let text = std::str::from_utf8(&self.text[at..end]);
        let text = text.map_err(|_| OutputsError::Syntax { expected, at })?.to_owned();
        self.at = end;
        self.expect(b"\"", "the end of a string")?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-a";
    const B: &str = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-a-dev";

    #[test]
    fn reads_outputs() {
        let input_addressed =
            format!(r#"Derive([("dev","{B}","",""),("out","{A}","r:sha256","00ff")],[],[]"#);
        let read = outputs(input_addressed.as_bytes()).unwrap();
        let expected = [("dev", B), ("out", A)].map(|(name, path)| (name.to_owned(), path.parse().unwrap()));
        assert_eq!(read, BTreeMap::from(expected));

        let floating = r#"Derive([("out","","r:sha256","")],[("#;
        assert_eq!(outputs(floating.as_bytes()).unwrap(), BTreeMap::new());
        let dynamic = format!(r#"DrvWithVersion("xp-dyn-drv",[("out","{A}","","")],["#);
        assert_eq!(outputs(dynamic.as_bytes()).unwrap().len(), 1);
    }

    #[test]
    fn refuses_other_texts() {
        for text in [
            "",
            "Derive",
            "Derive([",
            "Derive([(",
            r#"Derive([("out""#,
            r#"Derive([("out","/tmp/x","","")]"#,
            r#"Derive([("o\"ut","","","")]"#,
            r#"Derive([("out","","")]"#,
            r#"DrvWithVersion("#,
        ] {
            assert!(outputs(text.as_bytes()).is_err(), "{text}");
        }
        assert!(matches!(outputs(&vec![b'x'; MAX_DERIVATION_LEN + 1]), Err(OutputsError::TooLong(_))));
    }
}
