//! Derivations: what `.drv` files say of outputs and inputs.
//!
//! Source of the format: the Nix manual, "Derivation `ATerm` format".

use std::collections::{BTreeMap, BTreeSet};

use seed_format::StorePath;

/// Largest `.drv` file that is read, in bytes.
pub const MAX_DERIVATION_LEN: usize = 64 << 20;

/// Why a text is not a derivation that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DerivationError {
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
    /// The derivation's inputs are only known when others are built.
    #[error("it is a dynamic derivation (experimental in Nix), which a seed cannot hold")]
    Dynamic,
}

/// What a derivation makes, and of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derivation {
    /// The outputs by name.
    pub outputs: BTreeMap<String, Output>,
    /// The derivations that it uses, and which of their outputs.
    pub inputs: BTreeMap<StorePath, BTreeSet<String>>,
    /// The store paths that it uses and that no derivation makes.
    pub sources: BTreeSet<StorePath>,
}

/// An output of a derivation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Where it will be; `None` where that follows from its content (a floating content-addressed output), or
    /// from that of what it is made of.
    pub path: Option<StorePath>,
    /// Whether the derivation says what its hash is.
    pub fixed: bool,
}

/// How the text of a dynamic derivation begins.
const DYNAMIC: &[u8] = b"DrvWithVersion(";

/// The outputs of a derivation, by name; of a dynamic one, too. Nothing that follows them is read.
pub fn outputs(text: &[u8]) -> Result<BTreeMap<String, Output>, DerivationError> {
    Parser::new(text)?.outputs()
}

impl Derivation {
    /// Reads a `.drv` file.
    pub fn parse(text: &[u8]) -> Result<Self, DerivationError> {
        let mut parser = Parser::new(text)?;
        if parser.text.starts_with(DYNAMIC) {
            return Err(DerivationError::Dynamic);
        }
        let outputs = parser.outputs()?;
        parser.expect(b",", "\",\"")?;
        let mut inputs = BTreeMap::new();
        parser.list(|parser| {
            parser.expect(b"(", "\"(\"")?;
            let path = parser.string()?;
            let path = parser.store_path(&path)?;
            parser.expect(b",", "\",\"")?;
            let mut names = BTreeSet::new();
            parser.list(|parser| {
                names.insert(parser.string()?);
                Ok(())
            })?;
            parser.expect(b")", "\")\"")?;
            inputs.insert(path, names);
            Ok(())
        })?;
        parser.expect(b",", "\",\"")?;
        let mut sources = BTreeSet::new();
        parser.list(|parser| {
            let path = parser.string()?;
            sources.insert(parser.store_path(&path)?);
            Ok(())
        })?;
        Ok(Self { outputs, inputs, sources })
    }

    /// Whether the derivation says what the hash of its output is: then it may use the network, and what it
    /// makes is the same however it is made.
    pub fn is_fixed(&self) -> bool {
        !self.outputs.is_empty() && self.outputs.values().all(|output| output.fixed)
    }

    /// Whether places of its outputs are known only when they are built: it is content-addressed, or made of
    /// something that is.
    pub fn is_placeless(&self) -> bool {
        self.outputs.values().any(|output| output.path.is_none())
    }
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a [u8]) -> Result<Self, DerivationError> {
        if text.len() > MAX_DERIVATION_LEN {
            return Err(DerivationError::TooLong(text.len()));
        }
        Ok(Self { text, at: 0 })
    }

    /// The start of a derivation, to the end of the list of outputs.
    fn outputs(&mut self) -> Result<BTreeMap<String, Output>, DerivationError> {
        if self.take(DYNAMIC) {
            self.string()?;
            self.expect(b",", "\",\"")?;
        } else {
            self.expect(b"Derive(", "\"Derive(\"")?;
        }
        let mut outputs = BTreeMap::new();
        self.list(|parser| {
            let [name, path, algorithm, hash] = parser.tuple()?;
            let path = if path.is_empty() { None } else { Some(parser.store_path(&path)?) };
            outputs.insert(name, Output { path, fixed: !algorithm.is_empty() && !hash.is_empty() });
            Ok(())
        })?;
        Ok(outputs)
    }

    fn take(&mut self, word: &[u8]) -> bool {
        let taken = self.text[self.at..].starts_with(word);
        if taken {
            self.at += word.len();
        }
        taken
    }

    fn expect(&mut self, word: &[u8], expected: &'static str) -> Result<(), DerivationError> {
        if self.take(word) { Ok(()) } else { Err(DerivationError::Syntax { expected, at: self.at }) }
    }

    fn list(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), DerivationError>,
    ) -> Result<(), DerivationError> {
        self.expect(b"[", "\"[\"")?;
        if self.take(b"]") {
            return Ok(());
        }
        loop {
            element(self)?;
            if self.take(b"]") {
                return Ok(());
            }
            self.expect(b",", "\",\" or \"]\"")?;
        }
    }

    fn tuple<const N: usize>(&mut self) -> Result<[String; N], DerivationError> {
        self.expect(b"(", "\"(\"")?;
        let mut strings = [const { String::new() }; N];
        for (n, string) in strings.iter_mut().enumerate() {
            if n > 0 {
                self.expect(b",", "\",\"")?;
            }
            *string = self.string()?;
        }
        self.expect(b")", "\")\"")?;
        Ok(strings)
    }

    /// A string without escapes: names and store paths have none.
    fn string(&mut self) -> Result<String, DerivationError> {
        let expected = "a string";
        self.expect(b"\"", expected)?;
        let at = self.at;
        let len = self.text[at..].iter().position(|byte| matches!(byte, b'"' | b'\\'));
        let end = at + len.ok_or(DerivationError::Syntax { expected, at })?;
        let text = std::str::from_utf8(&self.text[at..end]);
        let text = text.map_err(|_| DerivationError::Syntax { expected, at })?.to_owned();
        self.at = end;
        self.expect(b"\"", "the end of a string")?;
        Ok(text)
    }

    fn store_path(&self, text: &str) -> Result<StorePath, DerivationError> {
        text.parse().map_err(|_| DerivationError::Syntax { expected: "a store path", at: self.at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: &str = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-a";
    const B: &str = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-b.drv";

    fn text() -> String {
        format!(
            r#"Derive([("dev","{A}","",""),("out","","r:sha256","")],[("{B}",["lib","out"])],["{A}"],"x86_64-linux","sh",["-c","\"]"],[])"#
        )
    }

    #[test]
    fn reads_outputs_and_inputs() {
        let derivation = Derivation::parse(text().as_bytes()).unwrap();
        assert_eq!(derivation.outputs["dev"], Output { path: Some(A.parse().unwrap()), fixed: false });
        assert_eq!(derivation.outputs["out"], Output { path: None, fixed: false });
        let names = ["lib", "out"].map(str::to_owned).into();
        assert_eq!(derivation.inputs, [(B.parse().unwrap(), names)].into());
        assert_eq!(derivation.sources, [A.parse().unwrap()].into());
        assert!(!derivation.is_fixed());
    }

    #[test]
    fn knows_a_fixed_output() {
        let text = format!(r#"Derive([("out","{A}","sha256","00ff")],[],[],"#);
        assert!(Derivation::parse(text.as_bytes()).unwrap().is_fixed());
    }

    #[test]
    fn reads_the_outputs_of_any_derivation() {
        let expected = [("out".to_owned(), Output { path: Some(A.parse().unwrap()), fixed: false })].into();
        for start in ["Derive(", r#"DrvWithVersion("xp-dyn-drv","#] {
            let text = format!(r#"{start}[("out","{A}","","")],["#);
            assert_eq!(outputs(text.as_bytes()), Ok(BTreeMap::clone(&expected)));
            for end in [",", "(", r#""dev","","","""#] {
                let text = format!(r#"{start}[("out","{A}","",""){end}],["#);
                assert!(outputs(text.as_bytes()).is_err(), "{text}");
            }
        }
        assert!(outputs(br#"Derive([("out","","")]"#).is_err());
        assert!(outputs(b"DrvWithVersion(").is_err());
    }

    #[test]
    fn refuses_other_texts() {
        let dynamic = format!(r#"DrvWithVersion("xp-dyn-drv",[("out","{A}","","")],["#);
        assert_eq!(Derivation::parse(dynamic.as_bytes()), Err(DerivationError::Dynamic));
        let whole = text();
        let end_of_sources = whole.find(r#","x86_64"#).unwrap();
        for len in 0..end_of_sources {
            assert!(Derivation::parse(&whole.as_bytes()[..len]).is_err(), "the first {len} bytes");
        }
        for text in [
            r#"Derive([("o\"ut","","","")],[],[])"#.to_owned(),
            r#"Derive([("out","/tmp/x","","")],[],[])"#.to_owned(),
            format!(r#"Derive([("out","{A}","","")("dev","{A}","","")],[],[])"#),
            format!(r#"Derive([],[("{B}",[])],["/etc/passwd"])"#),
        ] {
            assert!(Derivation::parse(text.as_bytes()).is_err(), "{text}");
        }
        let long = vec![b'x'; MAX_DERIVATION_LEN + 1];
        assert!(matches!(Derivation::parse(&long), Err(DerivationError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn never_panics(at in 0usize..400, byte in any::<u8>()) {
            let mut text = text().into_bytes();
            let at = at % text.len();
            text[at] = byte;
            let _ = Derivation::parse(&text);
        }
    }
}
