//! Records of captures, kept by what they follow from: whoever wants to know why a seed of the same project
//! fails need not capture it again.
//!
//! A file is JSON: the store paths by name, and all else by their place in that list. It is a cache: one that
//! is missing or damaged is the same as none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use seed_format::{Digest, StorePath};
use serde::{Deserialize, Serialize};

use super::rules::{Record, Rule};
use super::{CaptureError, Nix, sri};
use crate::{kept, tree, whole_file};

/// Changes whenever captures find something else for a reason that the other inputs of a key do not show.
const GENERATION: u32 = 1;

/// Largest file that is read, in bytes.
const MAX_LEN: u64 = 256 << 20;

/// What a capture follows from.
#[derive(Debug)]
pub struct CaptureInputs<'a> {
    /// Hash of the NAR of the source as Nix writes it, and as [`source_hash`] finds it.
    pub source: &'a str,
    /// What Nix is told of the source besides: its commit.
    pub source_attributes: &'a [(&'static str, String)],
    /// The directory of the flake in the source.
    pub below: &'a Path,
    /// The full attribute paths of the outputs.
    pub attributes: BTreeSet<&'a str>,
    /// The Nix system.
    pub system: &'a str,
    /// Nix.
    pub nix: &'a Nix,
}

/// The hash of a source tree's NAR as Nix writes it: `sha256-<base 64>`.
pub fn source_hash(source: &Path) -> Result<String, CaptureError> {
    let hash = tree::nar_hash(source);
    let (digest, _) = hash.map_err(|error| CaptureError::Io {
        path: source.to_owned(),
        source: std::io::Error::other(error),
    })?;
    Ok(sri(&digest))
}

/// Records in a directory.
#[derive(Debug, Clone)]
pub struct KeptRecords(PathBuf);

impl KeptRecords {
    /// The records in `directory`, which need not be there.
    pub fn at(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// The record of the capture of `inputs`, if it is known.
    pub fn load(&self, inputs: &CaptureInputs<'_>) -> Option<Record> {
        let file = self.file(inputs);
        if fs::metadata(&file).ok()?.len() > MAX_LEN {
            return None;
        }
        let record = serde_json::from_slice::<File>(&fs::read(&file).ok()?).ok()?.record()?;
        kept::used(&file);
        Some(record)
    }

    /// Notes what the capture of `inputs` found. Failing to is no reason to stop.
    pub fn store(&self, inputs: &CaptureInputs<'_>, record: &Record) {
        let text = serde_json::to_vec(&File::of(record)).expect("lists and names are JSON");
        if let Err(error) = whole_file::write(&self.file(inputs), &text) {
            tracing::warn!(directory = %self.0.display(), %error, "cannot note what a capture found");
        }
    }

    fn file(&self, inputs: &CaptureInputs<'_>) -> PathBuf {
        let CaptureInputs { source, source_attributes, below, attributes, system, nix } = inputs;
        let (program, version) = (nix.program(), nix.full_version());
        let release = env!("CARGO_PKG_VERSION");
        let text = format!(
            "{GENERATION} {release} {source} {source_attributes:?} {below:?} {attributes:?} {system:?} {program:?} {version:?}"
        );
        self.0.join(Digest::of(text.as_bytes()).hex())
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    paths: Vec<StorePath>,
    references: Vec<BTreeSet<usize>>,
    rules: BTreeMap<usize, BTreeSet<Rule>>,
    realisations: Vec<(String, String, usize)>,
}

impl File {
    fn of(record: &Record) -> Self {
        let paths: Vec<_> = record.references.keys().cloned().collect();
        let places: BTreeMap<_, _> = paths.iter().enumerate().map(|(at, path)| (path, at)).collect();
        let of_all = record.references.values();
        Self {
            references: of_all.map(|paths| paths.iter().map(|path| places[path]).collect()).collect(),
            rules: record.roots.iter().map(|(path, rules)| (places[path], rules.clone())).collect(),
            realisations: record
                .realisations
                .iter()
                .map(|((derivation, output), path)| (derivation.clone(), output.clone(), places[path]))
                .collect(),
            paths,
        }
    }

    /// `None` where a place is none of the list.
    fn record(self) -> Option<Record> {
        let path = |at: usize| self.paths.get(at).cloned();
        let references = |at: &BTreeSet<usize>| at.iter().map(|at| path(*at)).collect::<Option<_>>();
        if self.references.len() != self.paths.len() {
            return None;
        }
        let all = self.paths.iter().cloned().zip(&self.references);
        let realisations = self.realisations.iter();
        Some(Record {
            references: all.map(|(path, at)| Some((path, references(at)?))).collect::<Option<_>>()?,
            roots: self
                .rules
                .iter()
                .map(|(at, rules)| Some((path(*at)?, rules.clone())))
                .collect::<Option<_>>()?,
            realisations: realisations
                .map(|(derivation, output, at)| Some(((derivation.clone(), output.clone()), path(*at)?)))
                .collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let path = |n: char| StorePath::from_base_name(&format!("{}-x", n.to_string().repeat(32))).unwrap();
        Record {
            roots: [(path('1'), [Rule::Inputs, Rule::Shells].into())].into(),
            references: [(path('0'), BTreeSet::new()), (path('1'), [path('0'), path('1')].into())].into(),
            realisations: [(("sha256:00".to_owned(), "out".to_owned()), path('1'))].into(),
        }
    }

    #[test]
    fn a_record_is_written_and_read() {
        let text = serde_json::to_vec(&File::of(&record())).unwrap();
        let read = |text: &[u8]| serde_json::from_slice::<File>(text).ok().and_then(File::record);
        assert_eq!(read(&text), Some(record()));
        for len in 0..text.len() {
            assert_eq!(read(&text[..len]), None, "cut at {len}");
        }
        for damaged in [
            r#"{"paths":[],"references":[[]],"rules":{},"realisations":[]}"#,
            r#"{"paths":[],"references":[],"rules":{"0":["Inputs"]},"realisations":[]}"#,
            r#"{"paths":[],"references":[],"rules":{},"realisations":[["a","out",0]]}"#,
        ] {
            assert_eq!(read(damaged.as_bytes()), None, "{damaged}");
        }
    }
}
