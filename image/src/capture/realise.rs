//! From what a seed needs to store paths that are there: fetched first, then built without a network.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use seed_format::StorePath;

use super::CaptureError;
use super::evaluate::in_store;
use super::lender::Lender;
use super::nix::{Nix, NixCommand, NixError};
use super::rules::Rule;
use super::select::{Item, Needed};
use crate::derivation::Derivation;

/// Most paths that one command gets: all of them must fit into its arguments.
const BATCH: usize = 4000;

/// What is there now.
#[derive(Debug, Default)]
pub(crate) struct Realised {
    /// The paths that rules name.
    pub(crate) roots: BTreeMap<StorePath, BTreeSet<Rule>>,
    /// Where the outputs are whose places were not known before they were built, by derivation and name:
    /// nothing but Nix's note of the build leads to them.
    pub(crate) noted: BTreeMap<(StorePath, String), StorePath>,
}

/// Where things are realised, and from where they may come.
pub(crate) struct Realiser<'a> {
    pub(crate) nix: &'a Nix,
    pub(crate) root: &'a Path,
    pub(crate) substituters: &'a [String],
    /// The store whose paths stay where they are.
    pub(super) lender: Option<&'a Lender>,
    pub(crate) derivations: &'a BTreeMap<StorePath, Derivation>,
}

impl Realiser<'_> {
    /// With the network: what is fixed by a hash, and what substituters have built. Gives the paths that are
    /// not fetched, since they are lent.
    pub(crate) fn fetch(&self, needed: &Needed) -> Result<BTreeSet<StorePath>, CaptureError> {
        self.fetch_noted(needed)?;
        let mut plan = self.plan(&arguments(needed, self.derivations))?;
        let lent = self.lent(&plan, needed)?;
        plan.fetched.retain(|path| !lent.contains(path));
        self.run_all(&shown(&plan.fetched), |command| command)?;
        let fixed: Vec<_> =
            plan.built.iter().filter(|path| self.is_fixed(path)).map(StorePath::to_string).collect();
        self.run_all(&fixed, |command| command)?;
        Ok(lent)
    }

    /// What need not be copied. Without a network nothing is copied, so what is to be built needs all of it.
    fn lent(&self, plan: &Plan, needed: &Needed) -> Result<BTreeSet<StorePath>, CaptureError> {
        match self.lender {
            Some(lender) if plan.built.iter().all(|path| self.is_fixed(path)) && self.all_known(needed) => {
                Ok(lender.among(&plan.fetched)?)
            }
            _ => Ok(BTreeSet::new()),
        }
    }

    /// Whether the place of each output is known before it is built.
    fn all_known(&self, needed: &Needed) -> bool {
        needed.0.keys().all(|item| match item {
            Item::Path(_) => true,
            Item::Output { derivation, output } => self.known_path(derivation, output).is_some(),
        })
    }

    fn is_fixed(&self, derivation: &StorePath) -> bool {
        self.derivations.get(derivation).is_some_and(Derivation::is_fixed)
    }

    fn known_path(&self, derivation: &StorePath, output: &str) -> Option<&StorePath> {
        self.derivations.get(derivation)?.outputs.get(output)?.path.as_ref()
    }

    /// Has Nix note where outputs without known places are, as far as a substituter knows. The path alone, which
    /// a plan names, brings no note with it, and what has none is built again.
    fn fetch_noted(&self, needed: &Needed) -> Result<(), CaptureError> {
        let fetched = self.run_all(&self.placeless(needed), |command| {
            command.arg("--keep-going").setting("max-jobs", "0").setting("builders", "")
        });
        match fetched {
            // What no substituter has would have to be built, which comes later.
            Err(CaptureError::Nix(NixError::Failed { .. })) => Ok(()),
            other => other,
        }
    }

    /// Has the empty store below `root` learn, from the one where all is realised, where the outputs without
    /// known places are. A store that built them has notes of what it did on the way besides, and one that was
    /// told of them has not: what a store is told is the same on every machine.
    pub(crate) fn tell(&self, needed: &Needed, root: &Path) -> Result<(), CaptureError> {
        let from = format!("{}?trusted=1", self.root.display());
        for batch in self.placeless(needed).chunks(BATCH) {
            let command = self.nix.command("nix-store").arg("--realise").args(batch).arg("--store").arg(root);
            let alone = [("substituters", from.as_str()), ("max-jobs", "0"), ("builders", "")];
            alone
                .into_iter()
                .fold(command.offline(), |command, (name, value)| command.setting(name, value))
                .output()?;
        }
        Ok(())
    }

    /// The arguments for the outputs without known places.
    fn placeless(&self, needed: &Needed) -> Vec<String> {
        let is_placeless = |item: &Item| match item {
            Item::Output { derivation, .. } => {
                self.derivations.get(derivation).is_some_and(Derivation::is_placeless)
            }
            Item::Path(_) => false,
        };
        let placeless = needed.0.iter().filter(|(item, _)| is_placeless(item));
        let needed = Needed(placeless.map(|(item, rules)| (item.clone(), rules.clone())).collect());
        arguments(&needed, self.derivations)
    }

    /// Without a network: everything else.
    pub(crate) fn realise(
        &self,
        needed: &Needed,
        lent: &BTreeSet<StorePath>,
    ) -> Result<Realised, CaptureError> {
        let mut own = Needed(needed.0.clone());
        own.0.retain(|item, _| match item {
            Item::Path(path) => !lent.contains(path),
            Item::Output { derivation, output } => {
                self.known_path(derivation, output).is_none_or(|path| !lent.contains(path))
            }
        });
        self.run_all(&arguments(&own, self.derivations), |command| {
            command.offline().setting("substitute", "false")
        })?;
        let mut realised = Realised::default();
        for (item, rules) in &needed.0 {
            let path = match item {
                Item::Path(path) => path.clone(),
                Item::Output { derivation, output } => match self.known_path(derivation, output) {
                    Some(path) => path.clone(),
                    None => {
                        let path = self.noted_path(derivation, output)?;
                        realised.noted.insert((derivation.clone(), output.clone()), path.clone());
                        path
                    }
                },
            };
            realised.roots.entry(path).or_default().extend(rules);
        }
        Ok(realised)
    }

    /// The place of an output that follows from what is in it, now that it was built.
    fn noted_path(&self, derivation: &StorePath, output: &str) -> Result<StorePath, CaptureError> {
        let argument = format!("{derivation}!{output}");
        let printed =
            self.realise_command().arg(argument).offline().setting("substitute", "false").output()?;
        let printed = String::from_utf8_lossy(&printed);
        printed.trim().parse().map_err(|_| CaptureError::Output {
            derivation: derivation.clone(),
            output: output.to_owned(),
            printed: printed.chars().take(256).collect(),
        })
    }

    /// What would be built and what fetched.
    fn plan(&self, arguments: &[String]) -> Result<Plan, CaptureError> {
        let mut plan = Plan::default();
        for batch in arguments.chunks(BATCH) {
            self.realise_command().arg("--dry-run").args(batch).output_hearing(|line| {
                plan.hear(line);
                Some(line.to_owned())
            })?;
        }
        Ok(plan)
    }

    fn run_all(
        &self,
        arguments: &[String],
        how: impl Fn(NixCommand) -> NixCommand,
    ) -> Result<(), CaptureError> {
        for batch in arguments.chunks(BATCH) {
            how(self.realise_command().args(batch)).output()?;
        }
        Ok(())
    }

    fn realise_command(&self) -> NixCommand {
        in_store(self.nix.command("nix-store").arg("--realise"), self.root, self.substituters)
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    built: BTreeSet<StorePath>,
    fetched: BTreeSet<StorePath>,
}

impl Plan {
    /// A line of a dry run: two blanks and a path, under a heading that tells derivations that will be built
    /// from paths that will be fetched.
    fn hear(&mut self, line: &str) {
        let path = line.strip_prefix("  ").and_then(|path| path.parse::<StorePath>().ok());
        if let Some(path) = path {
            if path.is_derivation() {
                self.built.insert(path)
            } else {
                self.fetched.insert(path)
            };
        }
    }
}

fn shown(paths: &BTreeSet<StorePath>) -> Vec<String> {
    paths.iter().map(StorePath::to_string).collect()
}

/// `DERIVATION!OUTPUT,…` for each derivation; paths as they are. Derivations that are needed as files are
/// there already, and would be built if they were named.
///
/// Of a derivation whose outputs have no known places all are named: Nix 2.8 and 2.34 want to know all
/// places in order to tell one, and learn those of the outputs that they were asked for alone.
fn arguments(needed: &Needed, derivations: &BTreeMap<StorePath, Derivation>) -> Vec<String> {
    let mut outputs: BTreeMap<&StorePath, BTreeSet<&str>> = BTreeMap::new();
    let mut arguments = Vec::new();
    for item in needed.0.keys() {
        match item {
            Item::Output { derivation, output } => {
                let names = outputs.entry(derivation).or_default();
                names.insert(output);
                if let Some(known) = derivations.get(derivation).filter(|it| it.is_placeless()) {
                    names.extend(known.outputs.keys().map(String::as_str));
                }
            }
            Item::Path(path) if path.is_derivation() => {}
            Item::Path(path) => arguments.push(path.to_string()),
        }
    }
    let joined = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(",");
    arguments.extend(outputs.into_iter().map(|(path, names)| format!("{path}!{}", joined(names))));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::derivation::Output;

    const A: &str = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-a";

    #[test]
    fn reads_a_dry_run() {
        let mut plan = Plan::default();
        for line in [
            "this derivation will be built:",
            &format!("  {A}.drv"),
            "these 2 paths will be fetched (0.00 MiB download, 1.00 MiB unpacked):",
            &format!("  {A}"),
            &format!("warning: {A}"),
        ] {
            plan.hear(line);
        }
        let set = |text: String| BTreeSet::from([text.parse::<StorePath>().unwrap()]);
        assert_eq!(plan, Plan { built: set(format!("{A}.drv")), fetched: set(A.to_owned()) });
    }

    #[test]
    fn asks_for_outputs_together() {
        let mut needed = Needed::default();
        let derivation: StorePath = format!("{A}.drv").parse().unwrap();
        for output in ["out", "dev"] {
            let item = Item::Output { derivation: derivation.clone(), output: output.to_owned() };
            needed.add(item, Rule::BuildInputs);
        }
        needed.add(Item::Path(derivation), Rule::Derivations);
        needed.add(Item::Path(A.parse().unwrap()), Rule::Inputs);
        let of = |outputs: &[&str], place: Option<&str>| {
            let output = Output { path: place.map(|place| place.parse().unwrap()), fixed: false };
            let outputs = outputs.iter().map(|name| ((*name).to_owned(), output.clone())).collect();
            Derivation { outputs, inputs: BTreeMap::new(), sources: BTreeSet::new() }
        };
        let names = ["dev", "doc", "out"];
        for (made, asked) in [(of(&names, Some(A)), "dev,out"), (of(&names, None), "dev,doc,out")] {
            let derivations = [(format!("{A}.drv").parse().unwrap(), made)].into();
            assert_eq!(arguments(&needed, &derivations), [A.to_owned(), format!("{A}.drv!{asked}")]);
        }
    }
}
