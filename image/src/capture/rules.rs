//! Why each path is in a seed, and which rule a missing one breaks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use seed_format::StorePath;

use crate::closure::{Closure, Realisation};

/// A reason for paths to be in a seed. The numbers are those of the documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Rule {
    /// 1: the trees of all locked inputs.
    Inputs,
    /// 2: what the project's own derivations are built with.
    BuildInputs,
    /// 3: what evaluation builds and imports, and what that is built with.
    Imports,
    /// 4: what the project's fixed-output derivations make.
    FixedOutputs,
    /// 5: what development shells hold, and the interactive shell that starts them.
    Shells,
    /// 6: the derivations themselves, so that evaluation need not write them.
    Derivations,
    /// 7: that paths are registered in Nix's database.
    Registered,
    /// 8: that the outputs of content-addressed derivations are known.
    Realisations,
    /// 9: what evaluation fetches or reads besides the inputs.
    Fetches,
    /// 10: Nix, a shell and what else the image starts with.
    Programs,
}

impl Rule {
    /// The number of the rule.
    pub fn number(self) -> u8 {
        match self {
            Self::Inputs => 1,
            Self::BuildInputs => 2,
            Self::Imports => 3,
            Self::FixedOutputs => 4,
            Self::Shells => 5,
            Self::Derivations => 6,
            Self::Registered => 7,
            Self::Realisations => 8,
            Self::Fetches => 9,
            Self::Programs => 10,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let says = match self {
            Self::Inputs => "the source trees of all locked flake inputs",
            Self::BuildInputs => "what the project's own derivations are built with",
            Self::Imports => "what is built during evaluation, and what that is built with",
            Self::FixedOutputs => "the outputs of the project's fixed-output derivations",
            Self::Shells => "what the development shells hold, and nixpkgs' bashInteractive",
            Self::Derivations => "the derivations themselves, and their sources",
            Self::Registered => "every path is registered in Nix's database",
            Self::Realisations => "the known outputs of content-addressed derivations",
            Self::Fetches => "what evaluation fetches or reads besides the inputs",
            Self::Programs => "Nix, a shell and certificates",
        };
        write!(f, "rule {} ({says})", self.number())
    }
}

/// Why each path is in a closure: what `diagnose` compares a failing seed with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The paths that rules name, and the rules. What these paths refer to is in the seed with them.
    pub roots: BTreeMap<StorePath, BTreeSet<Rule>>,
    /// Every path of the closure, and the paths that it refers to.
    pub references: BTreeMap<StorePath, BTreeSet<StorePath>>,
    /// The outputs that are known by Nix's notes alone, by their derivations' hashes and their names, and
    /// where they are.
    pub realisations: BTreeMap<(String, String), StorePath>,
}

impl Record {
    /// The record of a closure, of which rules name `roots`.
    pub(super) fn new(roots: BTreeMap<StorePath, BTreeSet<Rule>>, closure: &Closure) -> Self {
        let references = closure.paths.iter().map(|(path, info)| (path.clone(), info.references.clone()));
        let realisations = closure.realisations.iter().map(|realisation| {
            let Realisation { derivation, output, path, .. } = realisation;
            ((derivation.clone(), output.clone()), path.clone())
        });
        Self { roots, references: references.collect(), realisations: realisations.collect() }
    }

    /// The rules by which `path` is in the closure, itself or by what refers to it.
    pub fn rules_of(&self, path: &StorePath) -> BTreeSet<Rule> {
        let mut rules = BTreeSet::new();
        let mut todo = vec![path];
        let mut seen = BTreeSet::new();
        let mut referrers: BTreeMap<&StorePath, Vec<&StorePath>> = BTreeMap::new();
        for (referrer, references) in &self.references {
            for reference in references {
                referrers.entry(reference).or_default().push(referrer);
            }
        }
        while let Some(path) = todo.pop() {
            if !seen.insert(path) {
                continue;
            }
            rules.extend(self.roots.get(path).into_iter().flatten());
            todo.extend(referrers.get(path).into_iter().flatten());
        }
        rules
    }
}

/// What a seed holds, by its files and by its database.
#[derive(Debug, Clone, Copy)]
pub struct Present<'a> {
    /// The paths that are there as files.
    pub on_disk: &'a BTreeSet<StorePath>,
    /// The paths that the database knows.
    pub registered: &'a BTreeSet<StorePath>,
    /// The outputs that the database knows the places of, by their derivations' hashes and their names.
    pub realised: &'a BTreeSet<(String, String)>,
}

/// A path that a build wanted and the seed does not have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Missing {
    /// The path.
    pub path: StorePath,
    /// The rules that it breaks: all by which it would be in the seed. Empty where none would put it there.
    pub rules: BTreeSet<Rule>,
    /// Whether Nix named the path when it failed.
    pub named: bool,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is missing", self.path)?;
        if self.rules.is_empty() {
            return f.write_str(", and no rule would put it in the seed");
        }
        for (n, rule) in self.rules.iter().enumerate() {
            write!(f, "{} {rule}", if n == 0 { ": it breaks" } else { " and" })?;
        }
        Ok(())
    }
}

/// Why a build from a seed failed: the paths that it lacks. `messages` is what Nix wrote.
///
/// A path that the record has and the seed lacks is missing whatever Nix says, for Nix often names only
/// what it could not do in its stead: the download of an input, the build of a tool. Where nothing of the
/// record is missing, the derivations and paths that Nix names and the seed lacks are given.
pub fn diagnose(record: &Record, present: Present<'_>, messages: &str) -> Vec<Missing> {
    let named = named_paths(messages);
    let mut missing: Vec<_> = record
        .references
        .keys()
        .filter(|path| !present.registered.contains(*path) || !present.on_disk.contains(*path))
        .map(|path| {
            let rules = if present.on_disk.contains(path) {
                [Rule::Registered].into()
            } else {
                record.rules_of(path)
            };
            Missing { path: path.clone(), rules, named: named.contains(path) }
        })
        .collect();
    // Where the path itself is missing, so is the note of it.
    let unknown = record.realisations.iter().filter(|(output, path)| {
        !present.realised.contains(*output)
            && present.on_disk.contains(*path)
            && present.registered.contains(*path)
    });
    let unknown: BTreeSet<_> = unknown.map(|(_, path)| path).collect();
    missing.extend(unknown.into_iter().map(|path| Missing {
        path: path.clone(),
        rules: [Rule::Realisations].into(),
        named: named.contains(path),
    }));
    if missing.is_empty() {
        let unknown = named.into_iter().filter(|path| !present.registered.contains(path));
        missing.extend(unknown.map(|path| Missing { path, rules: BTreeSet::new(), named: true }));
    }
    // What rules name comes before what is there for another's sake, what Nix named before what it did not.
    missing.sort_by_key(|missing| {
        (!record.roots.contains_key(&missing.path), !missing.named, missing.path.clone())
    });
    missing
}

/// The store paths in a text.
fn named_paths(text: &str) -> BTreeSet<StorePath> {
    const STORE: &str = "/nix/store/";
    let mut paths = BTreeSet::new();
    for (at, _) in text.match_indices(STORE) {
        let base: &str = &text[at + STORE.len()..];
        let end = base.find(|c: char| !(c.is_ascii_alphanumeric() || "+-._?=".contains(c)));
        let base = base[..end.unwrap_or(base.len())].trim_end_matches(['.', '?']);
        paths.extend(StorePath::from_base_name(base));
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(n: u8, name: &str) -> StorePath {
        StorePath::from_base_name(&format!("{}-{name}", char::from(b'0' + n).to_string().repeat(32))).unwrap()
    }

    /// The output that is the tool.
    fn known() -> (String, String) {
        ("sha256:00".to_owned(), "out".to_owned())
    }

    fn present<'a>(
        on_disk: &'a BTreeSet<StorePath>,
        registered: &'a BTreeSet<StorePath>,
        realised: &'a BTreeSet<(String, String)>,
    ) -> Present<'a> {
        Present { on_disk, registered, realised }
    }

    /// A tool, whose place follows from its content, refers to a library; an input stands alone.
    fn record() -> (Record, [StorePath; 3]) {
        let paths = [path(0, "tool"), path(1, "library"), path(2, "source")];
        let [tool, library, source] = paths.clone();
        let record = Record {
            roots: [
                (tool.clone(), [Rule::BuildInputs, Rule::Shells].into()),
                (source.clone(), [Rule::Inputs].into()),
            ]
            .into(),
            references: [
                (tool.clone(), [library.clone()].into()),
                (library.clone(), [library].into()),
                (source, BTreeSet::new()),
            ]
            .into(),
            realisations: [(known(), tool)].into(),
        };
        (record, paths)
    }

    #[test]
    fn names_the_rules_of_what_is_missing() {
        let (record, [tool, library, source]) = record();
        let all: BTreeSet<_> = [tool.clone(), library.clone(), source.clone()].into();
        let without = |path: &StorePath| {
            let mut paths = all.clone();
            paths.remove(path);
            paths
        };
        for (taken, rules) in [
            (&tool, [Rule::BuildInputs, Rule::Shells].as_slice()),
            (&library, &[Rule::BuildInputs, Rule::Shells]),
            (&source, &[Rule::Inputs]),
        ] {
            let paths = without(taken);
            let missing = diagnose(&record, present(&paths, &paths, &[known()].into()), "");
            let expected =
                Missing { path: taken.clone(), rules: rules.iter().copied().collect(), named: false };
            assert_eq!(missing, [expected]);
        }
        let paths = without(&tool);
        let missing = diagnose(&record, present(&all, &paths, &[known()].into()), "");
        assert_eq!(missing[0].rules, [Rule::Registered].into());
        assert_eq!(
            missing[0].to_string(),
            format!("{tool} is missing: it breaks rule 7 (every path is registered in Nix's database)")
        );
    }

    #[test]
    fn names_what_is_there_and_not_known_as_an_output() {
        let (record, [tool, library, source]) = record();
        let all: BTreeSet<_> = [tool.clone(), library, source].into();
        let missing = diagnose(&record, present(&all, &all, &BTreeSet::new()), "");
        assert_eq!(
            missing,
            [Missing { path: tool.clone(), rules: [Rule::Realisations].into(), named: false }]
        );
        let mut without = all.clone();
        without.remove(&tool);
        let missing = diagnose(&record, present(&without, &without, &BTreeSet::new()), "");
        assert!(missing.iter().all(|missing| !missing.rules.contains(&Rule::Realisations)), "{missing:?}");
    }

    #[test]
    fn names_what_no_rule_foresees() {
        let (record, paths) = record();
        let all: BTreeSet<_> = paths.into();
        let other = path(3, "other.drv");
        let text = format!("error: cannot build '{other}!out', needed by /nix/store/bad, see {other}.");
        let missing = diagnose(&record, present(&all, &all, &[known()].into()), &text);
        assert_eq!(missing, [Missing { path: other, rules: BTreeSet::new(), named: true }]);
        assert!(missing[0].to_string().contains("no rule"), "{}", missing[0]);
    }

    #[test]
    fn a_whole_seed_misses_nothing() {
        let (record, paths) = record();
        let all: BTreeSet<_> = paths.into();
        assert_eq!(diagnose(&record, present(&all, &all, &[known()].into()), "error: no"), []);
    }
}
