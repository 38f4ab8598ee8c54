//! `flake.lock`: which inputs there are, and that each is fixed by its hash.
//!
//! Source of the format: the Nix manual, `nix flake`, "Lock files", versions 5 to 7.

use std::collections::BTreeMap;

use seed_format::Digest;
use seed_format::json::{self, JsonError};
use serde::Deserialize;

/// Largest `flake.lock` that is read, in bytes.
pub const MAX_LOCK_LEN: usize = 16 << 20;

/// Most inputs that a lock may have, those of inputs included.
pub const MAX_NODES: usize = 10_000;

/// Why a `flake.lock` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// It is not the JSON of a lock.
    #[error("flake.lock is not a lock file")]
    Json(#[from] JsonError),
    /// It is of a version that is not known.
    #[error("flake.lock has version {0}; versions 5 to 7 are known")]
    Version(u64),
    /// It has too many inputs.
    #[error("flake.lock has {0} inputs, more than {MAX_NODES}")]
    TooMany(usize),
    /// An input refers to one that is not there.
    #[error("flake.lock says that {node:?} has the input {input:?}, {target:?}, but has no such entry")]
    Dangling {
        /// The entry.
        node: String,
        /// The name of its input.
        input: String,
        /// The entry that the input would be.
        target: String,
    },
    /// An input is not fixed.
    #[error(
        "the input {input:?} ({kind}) is not fixed: its entry in flake.lock has no {missing}, so it may be another \
         tomorrow; run `nix flake lock` (or `nix flake update {input}`) and commit flake.lock"
    )]
    Mutable {
        /// The input's entry.
        input: String,
        /// Its type: `github`, `path`, `indirect`, …
        kind: String,
        /// What is missing.
        missing: &'static str,
    },
}

/// A lock whose inputs are all fixed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    inputs: BTreeMap<String, Input>,
}

/// A fixed input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// How it is had: `github`, `git`, `tarball`, `path`, …
    pub kind: String,
    /// The hash of its tree's NAR, as Nix writes it: `sha256-<base 64>`. None where the tree is a part of
    /// the flake's own, and so is fixed with it.
    pub nar_hash: Option<String>,
}

impl Input {
    /// Its hash, if it is written as Nix writes it.
    pub(super) fn digest(&self) -> Option<Digest> {
        let text = self.nar_hash.as_ref()?.strip_prefix("sha256-")?;
        let bytes = data_encoding::BASE64.decode(text.as_bytes()).ok()?;
        Some(Digest::from_bytes(bytes.try_into().ok()?))
    }
}

#[derive(Deserialize)]
struct Text {
    version: u64,
    root: String,
    nodes: BTreeMap<String, Node>,
}

#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    inputs: BTreeMap<String, Reference>,
    locked: Option<Locked>,
    original: Option<Locked>,
    parent: Option<Vec<String>>,
}

/// An entry by its name, or (`follows`) by a path of inputs from the root.
#[derive(Deserialize)]
#[serde(untagged)]
enum Reference {
    Entry(String),
    Follows(Vec<String>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Locked {
    r#type: Option<String>,
    nar_hash: Option<String>,
    rev: Option<String>,
    path: Option<String>,
}

impl Lock {
    /// Reads a lock, and refuses one with an input that is not fixed.
    pub fn parse(text: &[u8]) -> Result<Self, LockError> {
        let text: Text = json::from_slice(text, MAX_LOCK_LEN)?;
        if !(5..=7).contains(&text.version) {
            return Err(LockError::Version(text.version));
        }
        if text.nodes.len() > MAX_NODES {
            return Err(LockError::TooMany(text.nodes.len()));
        }
        for (name, node) in &text.nodes {
            for (input, reference) in &node.inputs {
                // A path that an input follows begins at the root; an empty one is the flake itself.
                let (target, found) = match reference {
                    Reference::Entry(entry) => (entry, text.nodes.contains_key(entry)),
                    Reference::Follows(path) => match path.first() {
                        Some(first) => (first, root_has(&text, first)),
                        None => continue,
                    },
                };
                if !found {
                    let (node, input, target) = (name.clone(), input.clone(), target.clone());
                    return Err(LockError::Dangling { node, input, target });
                }
            }
        }
        let mut inputs = BTreeMap::new();
        for (name, node) in text.nodes {
            if name != text.root {
                let input = fixed(&name, node)?;
                inputs.insert(name, input);
            }
        }
        Ok(Self { inputs })
    }

    /// A flake without inputs.
    pub fn empty() -> Self {
        Self { inputs: BTreeMap::new() }
    }

    /// The inputs, and theirs, by the names of their entries.
    pub fn inputs(&self) -> &BTreeMap<String, Input> {
        &self.inputs
    }
}

fn root_has(text: &Text, input: &str) -> bool {
    text.nodes.get(&text.root).is_some_and(|root| root.inputs.contains_key(input))
}

fn fixed(name: &str, node: Node) -> Result<Input, LockError> {
    let kind = |locked: &Locked| locked.r#type.clone().unwrap_or_else(|| "no type".to_owned());
    let mutable = |kind: String, missing| LockError::Mutable { input: name.to_owned(), kind, missing };
    let Some(locked) = node.locked else {
        let kind = node.original.as_ref().map_or_else(|| "no type".to_owned(), kind);
        return Err(mutable(kind, "`locked` part"));
    };
    let kind = kind(&locked);
    // A relative path lies in the tree of the flake that names it, whose hash fixes it.
    let relative = locked.path.as_ref().is_some_and(|path| !path.starts_with('/'));
    if kind == "path" && relative && node.parent.is_some() {
        return Ok(Input { kind, nar_hash: None });
    }
    if locked.nar_hash.is_none() {
        return Err(mutable(kind, "`narHash`"));
    }
    let by_revision = ["git", "hg", "github", "gitlab", "sourcehut"].contains(&kind.as_str());
    if by_revision && locked.rev.is_none() {
        return Err(mutable(kind, "`rev`"));
    }
    if kind == "indirect" {
        return Err(mutable(kind, "place to have it from"));
    }
    Ok(Input { kind, nar_hash: locked.nar_hash })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lock(nodes: &str) -> String {
        format!(r#"{{"version":7,"root":"root","nodes":{{"root":{{"inputs":{{"a":"a"}}}},{nodes}}}}}"#)
    }

    const FIXED: &str = r#""type":"github","narHash":"sha256-x","rev":"00""#;

    #[test]
    fn reads_what_nix_writes() {
        let text = lock(&format!(
            r#""a":{{"locked":{{{FIXED},"owner":"o","lastModified":1}},"inputs":{{"b":["a"],"c":"c"}}}},
               "c":{{"flake":false,"locked":{{"type":"path","path":"./c"}},"parent":[]}}"#
        ));
        let lock = Lock::parse(text.as_bytes()).unwrap();
        assert_eq!(lock.inputs().len(), 2);
        assert_eq!(lock.inputs()["a"].nar_hash.as_deref(), Some("sha256-x"));
        assert_eq!(lock.inputs()["c"].nar_hash, None);
    }

    #[test]
    fn names_the_input_that_is_not_fixed() {
        for (node, missing) in [
            (r#"{"original":{"type":"indirect","id":"x"}}"#, "locked"),
            (r#"{"locked":{"type":"github","rev":"00"}}"#, "narHash"),
            (r#"{"locked":{"type":"git","narHash":"sha256-x","ref":"main"}}"#, "rev"),
            (r#"{"locked":{"type":"path","path":"/x"}}"#, "narHash"),
            (r#"{"locked":{"type":"path","path":"./x"}}"#, "narHash"),
            (r#"{"locked":{"type":"indirect","id":"x","narHash":"sha256-x"}}"#, "place"),
        ] {
            let error = Lock::parse(lock(&format!(r#""a":{node}"#)).as_bytes()).unwrap_err().to_string();
            assert!(error.contains("\"a\"") && error.contains(missing), "{node}: {error}");
        }
    }

    #[test]
    fn refuses_other_texts() {
        let many = (0..=MAX_NODES).map(|n| format!(r#""n{n}":{{"locked":{{{FIXED}}}}}"#));
        let many = lock(&many.collect::<Vec<_>>().join(","));
        let locked = format!(r#""a":{{"locked":{{{FIXED}}}}}"#);
        for text in [
            "",
            "[]",
            "{}",
            r#"{"version":4,"root":"root","nodes":{}}"#,
            r#"{"version":8,"root":"root","nodes":{}}"#,
            r#"{"version":7,"root":"root","root":"a","nodes":{}}"#,
            &lock(r#""b":{}"#),
            &lock(&format!(r#""a":{{"locked":{{{FIXED}}},"inputs":{{"b":["x"]}}}}"#)),
            &lock(&format!("{locked},{locked}")),
            &many,
        ] {
            assert!(Lock::parse(text.as_bytes()).is_err(), "{}", text.chars().take(200).collect::<String>());
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Lock::parse(&text);
        }

        #[test]
        fn never_panics_on_a_changed_lock(at in 0usize..400, byte in any::<u8>()) {
            let mut text = lock(&format!(r#""a":{{"locked":{{{FIXED}}},"inputs":{{"b":["a"]}}}}"#)).into_bytes();
            let at = at % text.len();
            text[at] = byte;
            let _ = Lock::parse(&text);
        }
    }
}
