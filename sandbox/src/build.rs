//! Building a project's outputs.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use seed_format::{Digest, StorePath};
use seed_policy::Approved;
use serde::Deserialize;

use crate::error::SandboxError;
use crate::export;
use crate::nix::Nix;
use crate::record::{BuildRecord, NixRecord, OutputRecord, Phase, Source, TargetRecord};
use crate::registration;
use crate::session::Sandbox;
use crate::spec::{Command, Spec, WORKSPACE};

/// Most bytes that one of Nix's answers may have.
const MAX_ANSWER: usize = 64 << 20;

/// What to build.
#[derive(Debug)]
pub struct BuildRequest<'a> {
    /// The seed's Nix.
    pub nix: &'a Nix,
    /// The flake, as seen from inside: see [`flake_of_workspace`].
    pub flake: String,
    /// The full attributes, each of a derivation: `packages.x86_64-linux.default`.
    pub attributes: Vec<String>,
    /// What is said of the source in the record.
    pub source: Source,
    /// What to do with the results.
    pub exports: Vec<export::Destination>,
    /// Where Nix's messages and the builders' logs go: the caller's standard error, or a file.
    pub log: OwnedFd,
}

/// The reference by which Nix inside finds the workspace: as a Git repository if it is one, so that what
/// Git ignores is no part of the source.
pub fn flake_of_workspace(workspace: &std::path::Path) -> String {
    let scheme = if workspace.join(".git").exists() { "git+file" } else { "path" };
    format!("{scheme}://{WORKSPACE}")
}

/// Evaluates and builds all attributes offline, checks each output's bytes against what Nix registered, and
/// exports the results. Nothing is exported unless all was built.
///
/// `spec` must hold a workspace; Nix's settings are added to it.
pub fn build(
    approved: &Approved,
    mut spec: Spec,
    request: &BuildRequest<'_>,
) -> Result<BuildRecord, SandboxError> {
    request.nix.configure(&mut spec.etc);
    spec.environment.extend(request.nix.variables());
    let mut sandbox = Sandbox::start(approved, &spec)?;
    let _forwarding = crate::Forwarding::start(sandbox.controller()).map_err(SandboxError::Start)?;
    let mut builder = Builder { sandbox: &mut sandbox, nix: request.nix, log: &request.log };

    let started = jiff::Timestamp::now();
    let (evaluation, evaluated) = Phase::time("evaluation", || {
        let evaluate = |attribute: &String| builder.evaluate(&request.flake, attribute);
        request.attributes.iter().map(evaluate).collect::<Result<Vec<_>, _>>()
    });
    let evaluated = evaluated?;
    let (building, targets) = Phase::time("build", || builder.realise(&request.attributes, &evaluated));
    let targets = targets?;
    let finished = jiff::Timestamp::now();
    let (exporting, exported) = Phase::time("export", || {
        request.exports.iter().try_for_each(|destination| export::export(&mut builder, &targets, destination))
    });
    exported?;

    let first = evaluated.into_iter().next();
    let (version, system) = first.map(|target| (target.nix, target.system)).unwrap_or_default();
    Ok(BuildRecord {
        version: 1,
        seed: approved.digest(),
        system,
        source: request.source.clone(),
        nix: NixRecord { version, settings: request.nix.settings() },
        targets,
        started,
        finished,
        phases: vec![sandbox.phase().clone(), evaluation, building, exporting],
    })
}

/// What evaluation says of an attribute.
#[derive(Debug, Deserialize)]
struct Evaluated {
    derivation: StorePath,
    outputs: Vec<String>,
    system: String,
    nix: String,
}

/// Asked of each attribute. Names only what Nix itself puts into a derivation.
const QUESTION: &str = "d: { derivation = builtins.unsafeDiscardStringContext d.drvPath; \
                        outputs = d.outputs or [ \"out\" ]; system = d.system; nix = builtins.nixVersion; }";

/// Nix in a sandbox.
pub(crate) struct Builder<'a> {
    pub(crate) sandbox: &'a mut Sandbox,
    pub(crate) nix: &'a Nix,
    pub(crate) log: &'a OwnedFd,
}

impl Builder<'_> {
    fn evaluate(&mut self, flake: &str, attribute: &str) -> Result<Evaluated, SandboxError> {
        let installable = format!("{flake}#{attribute}");
        let arguments =
            ["--offline", "eval", "--json", "--no-update-lock-file", &installable, "--apply", QUESTION];
        let answer = self.ask("nix", &arguments)?;
        serde_json::from_str(&answer).map_err(|_| SandboxError::NixOutput {
            command: format!("nix eval {installable}"),
            expected: "a derivation",
        })
    }

    /// Builds every output of every target at once; several are built in parallel.
    fn realise(
        &mut self,
        attributes: &[String],
        evaluated: &[Evaluated],
    ) -> Result<Vec<TargetRecord>, SandboxError> {
        if evaluated.is_empty() {
            return Ok(Vec::new());
        }
        let wanted: Vec<String> = evaluated
            .iter()
            .flat_map(|target| target.outputs.iter().map(|name| format!("{}!{name}", target.derivation)))
            .collect();
        let realise: Vec<&str> =
            ["--realise", "--no-gc-warning"].into_iter().chain(wanted.iter().map(String::as_str)).collect();
        let paths = self.ask("nix-store", &realise)?;
        let paths: Vec<&str> = paths.lines().collect();
        let unexpected =
            |command: &str, expected| SandboxError::NixOutput { command: command.into(), expected };
        if paths.len() != wanted.len() {
            return Err(unexpected("nix-store --realise", "one store path for each output"));
        }
        let dump: Vec<&str> = ["--dump-db"].into_iter().chain(paths.iter().copied()).collect();
        let registered = registration::parse(&self.ask("nix-store", &dump)?)
            .filter(|found| found.iter().map(|entry| entry.path.to_string()).eq(paths.iter().copied()))
            .ok_or_else(|| unexpected("nix-store --dump-db", "the registration of each output"))?;

        let store = self.store()?;
        let mut registered = registered.into_iter();
        let mut targets = Vec::new();
        for (attribute, target) in attributes.iter().zip(evaluated) {
            let outputs = target.outputs.iter().zip(registered.by_ref()).map(|(name, entry)| {
                let found = hash(&store, &entry.path)?;
                if found != (entry.nar_hash, entry.nar_size) {
                    let (path, registered) = (entry.path.to_string(), entry.nar_hash);
                    return Err(SandboxError::OutputHash { path, found: found.0, registered });
                }
                Ok(OutputRecord {
                    name: name.clone(),
                    path: entry.path,
                    nar_hash: entry.nar_hash,
                    nar_size: entry.nar_size,
                    references: entry.references,
                })
            });
            targets.push(TargetRecord {
                attribute: attribute.clone(),
                derivation: target.derivation.clone(),
                outputs: outputs.collect::<Result<_, _>>()?,
            });
        }
        Ok(targets)
    }

    /// The store's directory inside, for reading what was built.
    pub(crate) fn store(&mut self) -> Result<OwnedFd, SandboxError> {
        self.sandbox.open(seed_format::store_path::STORE_DIR.as_ref())
    }

    /// Runs one of Nix's programs and returns what it answers.
    pub(crate) fn ask(&mut self, program: &str, arguments: &[&str]) -> Result<String, SandboxError> {
        let path = self.nix.program(program);
        let argv = [path.as_str()].into_iter().chain(arguments.iter().copied());
        let log = self.log.as_fd().try_clone_to_owned().map_err(SandboxError::Channel)?;
        let (exit, answer) = self.sandbox.capture(Command::new(argv), log, MAX_ANSWER)?;
        // What Nix was asked first says enough; hundreds of store paths would not.
        let said =
            || format!("{program} {}", arguments.iter().take(6).copied().collect::<Vec<_>>().join(" "));
        if !exit.success() {
            return Err(SandboxError::Nix { command: said(), exit });
        }
        String::from_utf8(answer).map_err(|_| SandboxError::NixOutput { command: said(), expected: "text" })
    }
}

/// The path of something in the store that was opened as a directory.
pub(crate) fn path_in(store: &OwnedFd, path: &StorePath) -> std::path::PathBuf {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}/{}", store.as_raw_fd(), path.base_name()).into()
}

/// The hash and size of the NAR of what lies at a store path inside.
fn hash(store: &OwnedFd, path: &StorePath) -> Result<(Digest, u64), SandboxError> {
    seed_image::tree::nar_hash(&path_in(store, path))
        .map_err(|source| SandboxError::Output { path: path.to_string(), source: io::Error::other(source) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_read_as_one() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(flake_of_workspace(place.path()), "path:///workspace");
        // In a work tree beside the main one it is a file.
        std::fs::write(place.path().join(".git"), "gitdir: elsewhere").unwrap();
        assert_eq!(flake_of_workspace(place.path()), "git+file:///workspace");
    }
}
