//! Evaluation: which derivations a flake's outputs are, which were built on the way, what was read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use seed_format::StorePath;
use serde::Deserialize;

use super::CaptureError;
use super::fetchers::Fetched;
use super::nix::{Nix, NixCommand};
use crate::derivation::Derivation;
use crate::store::Store;

/// Most derivations that a flake's outputs may be made of.
const MAX_DERIVATIONS: usize = 2_000_000;

/// A flake as a tree in a chroot store, named so that evaluation may use it: by its content.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// The tree's path in the store.
    pub(crate) path: StorePath,
    /// `path:` reference with the tree's hash.
    pub(crate) url: String,
}

impl Source {
    /// `directory` is where in the tree the flake is; `attributes` are given to the flake as its own.
    pub(crate) fn new(path: StorePath, nar_hash: &str, directory: &str, attributes: &str) -> Self {
        let mut url = format!("path:{path}?{attributes}&narHash={}", percent_encode(nar_hash));
        if !directory.is_empty() {
            url.push_str(&format!("&dir={}", percent_encode(directory)));
        }
        Self { path, url }
    }
}

fn percent_encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
        encoded
    })
}

/// Outputs of a derivation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) struct Use {
    pub(crate) derivation: StorePath,
    pub(crate) outputs: BTreeSet<String>,
}

/// What evaluation says of an output of the flake.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct EvaluatedTarget {
    /// The names of its attribute path.
    pub(crate) attribute: Vec<String>,
    /// The derivations that it is; null where there is no such output, or it is something else.
    pub(crate) uses: Option<Vec<Use>>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    targets: Vec<EvaluatedTarget>,
    shell: Option<Use>,
    tools: Option<Use>,
    certificates: Option<Use>,
}

/// All that an evaluation shows.
#[derive(Debug)]
pub(crate) struct Evaluation {
    pub(crate) targets: Vec<EvaluatedTarget>,
    /// `bashInteractive` of the input `nixpkgs`, `coreutils` and `cacert`.
    pub(crate) shell: Option<Use>,
    pub(crate) tools: Option<Use>,
    pub(crate) certificates: Option<Use>,
    /// Every derivation that the targets and programs are made of.
    pub(crate) derivations: BTreeMap<StorePath, Derivation>,
    /// The derivations that had to be built to go on (import from derivation); where they are not told apart,
    /// some that those are built with, too.
    pub(crate) imported: BTreeSet<StorePath>,
    /// Every path that was in the store at the end.
    pub(crate) present: BTreeSet<StorePath>,
    /// What was fetched besides the inputs.
    pub(crate) fetched: Fetched,
}

/// Where and of what to evaluate.
pub(crate) struct Evaluator<'a> {
    pub(crate) nix: &'a Nix,
    pub(crate) system: &'a str,
    pub(crate) attributes: &'a [Vec<String>],
    /// The chroot store in which everything happens.
    pub(crate) root: &'a Path,
    /// The directory for caches, which is empty.
    pub(crate) cache: PathBuf,
    /// Stores to take built paths from, in order.
    pub(crate) substituters: &'a [String],
    /// Whether to tell what evaluation imports from what that is built with, which takes another evaluation.
    pub(crate) tell_imports: bool,
}

impl Evaluator<'_> {
    pub(crate) fn evaluate(&self, source: &Source) -> Result<Evaluation, CaptureError> {
        let expression = self.expression(source);
        let (answer, mut imported) = self.run(&expression)?;
        if self.tell_imports && !imported.is_empty() {
            // With all of it built, the goals that are left are those that evaluation asked for.
            imported = self.run(&expression)?.1;
        }
        let mut roots = imported.clone();
        let uses = answer.targets.iter().filter_map(|target| target.uses.as_ref()).flatten();
        let programs = [&answer.shell, &answer.tools, &answer.certificates].into_iter().flatten();
        roots.extend(uses.chain(programs).map(|used| used.derivation.clone()));
        let store = Store::open(self.root)?;
        Ok(Evaluation {
            derivations: read_derivations(&store.directory(), roots)?,
            present: store.valid_paths()?,
            fetched: Fetched::read(&self.cache)?,
            targets: answer.targets,
            shell: answer.shell,
            tools: answer.tools,
            certificates: answer.certificates,
            imported,
        })
    }

    fn expression(&self, source: &Source) -> String {
        let list = |names: &Vec<String>| {
            let names: Vec<_> = names.iter().map(|name| nix_string(name)).collect();
            format!("[ {} ]", names.join(" "))
        };
        let wanted: Vec<_> = self.attributes.iter().map(list).collect();
        format!(
            "({}) {{ url = {}; system = {}; wanted = [ {} ]; }}",
            include_str!("expression.nix"),
            nix_string(&source.url),
            nix_string(self.system),
            wanted.join(" ")
        )
    }

    /// Evaluates once: the answer, and the derivations for which there were goals of building.
    fn run(&self, expression: &str) -> Result<(Answer, BTreeSet<StorePath>), CaptureError> {
        let mut goals = BTreeSet::new();
        let command = in_store(self.nix.command("nix"), self.root, self.substituters)
            .variable("XDG_CACHE_HOME", &self.cache)
            .args(["eval", "--json", "--debug", "--log-format", "internal-json", "--expr", expression]);
        let answer = command.json_hearing(|line| match Message::read(line) {
            Some(message) => {
                goals.extend(finished_goal(&message.text));
                (message.level < Message::DEBUG).then_some(message.text)
            }
            None => Some(line.to_owned()).filter(|line| !line.starts_with(Message::MARK)),
        })?;
        Ok((answer, goals))
    }
}

/// Has a command work in the chroot store below `root`, and take built paths from `substituters`.
pub(crate) fn in_store(command: NixCommand, root: &Path, substituters: &[String]) -> NixCommand {
    command.arg("--store").arg(root).setting("extra-substituters", &substituters.join(" "))
}

/// The derivation of a goal that came to its end. Debug messages name goals and their steps:
/// `building of '/nix/store/…-x.drv!out' from .drv file: done` (Nix 2.8), `…drv^out' from .drv file: done`
/// (2.26), `getting output 'out' from derivation '/nix/store/…-x.drv': done` (2.34).
fn finished_goal(line: &str) -> Option<StorePath> {
    let goal = line.strip_suffix(": done")?;
    let names_a_goal = ["building of '", "obtaining derivation from '", "getting output '"];
    if !names_a_goal.iter().any(|start| goal.starts_with(start)) {
        return None;
    }
    let path = &goal[goal.find("/nix/store/")?..];
    path[..path.find(".drv")? + 4].parse().ok()
}

/// A message in Nix's format for programs, `internal-json`: `@nix {"action":"msg","level":6,"msg":"…"}`.
struct Message {
    level: u64,
    text: String,
}

impl Message {
    const MARK: &str = "@nix ";
    /// Messages of this level and above are of use to Nix's developers only.
    const DEBUG: u64 = 4;

    fn read(line: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Fields {
            action: String,
            level: Option<u64>,
            msg: Option<String>,
        }
        let fields: Fields = serde_json::from_str(line.strip_prefix(Self::MARK)?).ok()?;
        if fields.action != "msg" {
            return None;
        }
        Some(Self { level: fields.level?, text: without_colours(&fields.msg?) })
    }
}

/// Leaves out what sets colours on a terminal: ESC `[` … `m`.
fn without_colours(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(part.split_once('m').map_or(part, |(_, rest)| rest));
    }
    plain
}

/// `"…"` of the Nix language.
fn nix_string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '$') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// Reads the derivations `roots` and all that they are made of.
fn read_derivations(
    directory: &Path,
    roots: BTreeSet<StorePath>,
) -> Result<BTreeMap<StorePath, Derivation>, CaptureError> {
    let mut todo: Vec<_> = roots.into_iter().collect();
    let mut derivations = BTreeMap::new();
    while let Some(path) = todo.pop() {
        if derivations.contains_key(&path) {
            continue;
        }
        if derivations.len() == MAX_DERIVATIONS {
            return Err(CaptureError::TooManyDerivations(MAX_DERIVATIONS));
        }
        let file = directory.join(path.base_name());
        let text = fs::read(&file).map_err(|source| CaptureError::Io { path: file, source })?;
        let derivation = Derivation::parse(&text)
            .map_err(|source| CaptureError::Derivation { path: path.clone(), source })?;
        todo.extend(derivation.inputs.keys().filter(|path| !derivations.contains_key(*path)).cloned());
        derivations.insert(path, derivation);
    }
    Ok(derivations)
}
