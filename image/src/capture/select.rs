//! Which outputs and paths must be in a seed, from what evaluation showed.

use std::collections::{BTreeMap, BTreeSet};

use seed_format::StorePath;

use super::evaluate::{Evaluation, Use};
use super::rules::Rule;

/// Something that a seed needs, by what is known before it is built.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Item {
    /// A path that no derivation makes, or a derivation itself.
    Path(StorePath),
    /// An output of a derivation.
    Output { derivation: StorePath, output: String },
}

/// What a seed needs, and why.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Needed(pub(crate) BTreeMap<Item, BTreeSet<Rule>>);

impl Needed {
    pub(crate) fn add(&mut self, item: Item, rule: Rule) {
        self.0.entry(item).or_default().insert(rule);
    }

    pub(crate) fn add_use(&mut self, used: &Use, rule: Rule) {
        for output in &used.outputs {
            let (derivation, output) = (used.derivation.clone(), output.clone());
            self.add(Item::Output { derivation, output }, rule);
        }
    }
}

/// The evaluation of the project as it is, and those of the changed one.
pub(crate) struct Evaluations<'a> {
    pub(crate) original: &'a Evaluation,
    pub(crate) changed: &'a [Evaluation],
    /// Trees of the inputs.
    pub(crate) inputs: &'a BTreeSet<StorePath>,
    /// Whether derivations go into the seed (rule 6).
    pub(crate) with_derivations: bool,
}

impl Evaluations<'_> {
    /// Applies rules 1 to 6 and 9.
    pub(crate) fn select(&self) -> Needed {
        let mut needed = Needed::default();
        for path in self.inputs {
            needed.add(Item::Path(path.clone()), Rule::Inputs);
        }
        let mut visited = BTreeSet::new();
        for target in &self.original.targets {
            let is_shell = target.attribute.first().is_some_and(|kind| kind == "devShells");
            let rule = if is_shell { Rule::Shells } else { Rule::BuildInputs };
            for used in target.uses.iter().flatten() {
                if is_shell {
                    // `nix develop` builds another derivation with the shell's inputs.
                    self.select_inputs(&used.derivation, rule, &mut visited, &mut needed);
                } else {
                    self.select_target(used, rule, &mut visited, &mut needed);
                }
            }
            if let (true, Some(shell)) = (is_shell, &self.original.shell) {
                needed.add_use(shell, Rule::Shells);
            }
        }
        for import in &self.original.imported {
            self.select_import(import, &mut visited, &mut needed);
        }
        if self.with_derivations {
            self.select_derivations(&mut needed);
        }
        self.select_read(&mut needed);
        needed
    }

    /// The project's own derivations are built in the seed: it needs what they are built with. What is not
    /// the project's own is in the seed as it is.
    fn select_target(
        &self,
        used: &Use,
        rule: Rule,
        visited: &mut BTreeSet<(StorePath, Rule)>,
        needed: &mut Needed,
    ) {
        let derivation = &self.original.derivations[&used.derivation];
        if !self.is_local(&used.derivation) {
            needed.add_use(used, rule);
            if derivation.is_placeless() {
                // An app of one output: all of them are asked for, see `realise::arguments`.
                let outputs = derivation.outputs.keys().cloned().collect();
                needed.add_use(&Use { derivation: used.derivation.clone(), outputs }, rule);
            }
        } else if derivation.is_fixed() {
            needed.add_use(used, Rule::FixedOutputs);
        } else {
            self.select_inputs(&used.derivation, rule, visited, needed);
        }
    }

    fn select_inputs(
        &self,
        derivation: &StorePath,
        rule: Rule,
        visited: &mut BTreeSet<(StorePath, Rule)>,
        needed: &mut Needed,
    ) {
        let mut todo = vec![derivation.clone()];
        while let Some(path) = todo.pop() {
            if !visited.insert((path.clone(), rule)) {
                continue;
            }
            let derivation = &self.original.derivations[&path];
            for source in derivation.sources.iter().filter(|source| !self.is_local_path(source)) {
                needed.add(Item::Path(source.clone()), rule);
            }
            for (input, outputs) in &derivation.inputs {
                let used = Use { derivation: input.clone(), outputs: outputs.clone() };
                if self.original.derivations[input].is_fixed() {
                    needed.add_use(&used, Rule::FixedOutputs);
                } else if self.is_local(input) {
                    todo.push(input.clone());
                } else {
                    needed.add_use(&used, rule);
                }
            }
        }
    }

    /// What evaluation builds is built again when the source that it depends on changes, and imported as it
    /// is when not.
    fn select_import(
        &self,
        import: &StorePath,
        visited: &mut BTreeSet<(StorePath, Rule)>,
        needed: &mut Needed,
    ) {
        let derivation = &self.original.derivations[import];
        if !self.is_local(import) || derivation.is_fixed() {
            let outputs = derivation.outputs.keys().cloned().collect();
            needed.add_use(&Use { derivation: import.clone(), outputs }, Rule::Imports);
        }
        if !derivation.is_fixed() {
            self.select_inputs(import, Rule::Imports, visited, needed);
        }
    }

    fn select_derivations(&self, needed: &mut Needed) {
        for (path, derivation) in &self.original.derivations {
            if self.is_local(path) {
                continue;
            }
            needed.add(Item::Path(path.clone()), Rule::Derivations);
            for source in &derivation.sources {
                needed.add(Item::Path(source.clone()), Rule::Derivations);
            }
        }
    }

    /// What evaluation put in the store, that is neither a derivation, nor made by one, nor the source of
    /// one: it read it, or fetched it.
    fn select_read(&self, needed: &mut Needed) {
        let all = self.original.derivations.values();
        let made: BTreeSet<_> = all
            .clone()
            .flat_map(|derivation| derivation.outputs.values())
            .filter_map(|output| output.path.as_ref())
            .collect();
        let sources: BTreeSet<_> = all.flat_map(|derivation| &derivation.sources).collect();
        for path in &self.original.present {
            let known = path.is_derivation()
                || made.contains(path)
                || sources.contains(path)
                || self.inputs.contains(path)
                || self.is_local_path(path);
            if !known {
                needed.add(Item::Path(path.clone()), Rule::Fetches);
            }
        }
    }

    /// Whether the derivation depends on the project's source: it is another when the source changes.
    fn is_local(&self, derivation: &StorePath) -> bool {
        self.changed.iter().any(|changed| !changed.derivations.contains_key(derivation))
    }

    /// Whether the path is one of the project's source, or made of it.
    fn is_local_path(&self, path: &StorePath) -> bool {
        self.changed.iter().any(|changed| !changed.present.contains(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::evaluate::EvaluatedTarget;
    use crate::capture::fetchers::Fetched;
    use crate::derivation::{Derivation, Output};

    fn path(n: u8, name: &str) -> StorePath {
        StorePath::from_base_name(&format!("{}-{name}", char::from(b'0' + n).to_string().repeat(32))).unwrap()
    }

    fn derivation(out: StorePath, inputs: &[&StorePath], sources: &[&StorePath], fixed: bool) -> Derivation {
        let outputs = [("out".to_owned(), Output { path: Some(out), fixed })].into();
        let inputs = inputs.iter().map(|input| ((*input).clone(), ["out".to_owned()].into())).collect();
        Derivation { outputs, inputs, sources: sources.iter().map(|source| (*source).clone()).collect() }
    }

    fn evaluation(derivations: &[(&StorePath, Derivation)], present: &[&StorePath]) -> Evaluation {
        Evaluation {
            targets: Vec::new(),
            shell: None,
            tools: None,
            certificates: None,
            derivations: derivations.iter().map(|(path, of)| ((*path).clone(), of.clone())).collect(),
            imported: BTreeSet::new(),
            present: present.iter().map(|path| (*path).clone()).collect(),
            fetched: Fetched::default(),
        }
    }

    #[test]
    fn the_projects_own_is_left_out_and_its_inputs_are_not() {
        let [app, library, tool, deep, vendored] =
            [(0, "app.drv"), (1, "library.drv"), (2, "tool.drv"), (3, "deep.drv"), (4, "vendored.drv")]
                .map(|(n, name)| path(n, name));
        let [source, script, read] =
            [(5, "source"), (6, "script"), (7, "read")].map(|(n, name)| path(n, name));
        let out = |n| path(n, "out");
        let common = [
            (&tool, derivation(out(2), &[&deep], &[], false)),
            (&deep, derivation(out(3), &[], &[], false)),
            (&vendored, derivation(out(4), &[&deep], &[], true)),
        ];
        let own = [
            (&app, derivation(out(0), &[&library, &tool, &vendored], &[&source, &script], false)),
            (&library, derivation(out(1), &[&tool], &[&source], false)),
        ];
        let all: Vec<_> = common.iter().chain(&own).cloned().collect();
        let mut original = evaluation(&all, &[&source, &script, &read, &tool]);
        original.targets = vec![EvaluatedTarget {
            attribute: ["packages", "x86_64-linux", "app"].map(str::to_owned).into(),
            uses: Some(vec![Use { derivation: app.clone(), outputs: ["out".to_owned()].into() }]),
        }];
        let changed = [evaluation(&common, &[&script, &read, &tool])];
        let select = |with_derivations| {
            let inputs = BTreeSet::new();
            Evaluations { original: &original, changed: &changed, inputs: &inputs, with_derivations }.select()
        };
        let output = |of: &StorePath| Item::Output { derivation: of.clone(), output: "out".to_owned() };
        let expected: BTreeMap<Item, BTreeSet<Rule>> = [
            (output(&tool), Rule::BuildInputs),
            (output(&vendored), Rule::FixedOutputs),
            (Item::Path(script.clone()), Rule::BuildInputs),
            (Item::Path(read.clone()), Rule::Fetches),
        ]
        .map(|(item, rule)| (item, BTreeSet::from([rule])))
        .into();
        assert_eq!(select(false).0, expected);
        let with = select(true).0;
        for known in [&tool, &deep, &vendored] {
            assert_eq!(with[&Item::Path(known.clone())], [Rule::Derivations].into());
        }
        for own in [&app, &library, &source] {
            assert!(!with.contains_key(&Item::Path(own.clone())), "{own}");
        }
    }
}
