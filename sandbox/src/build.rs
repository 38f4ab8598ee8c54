//! Building a project's outputs.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use seed_format::{Digest, StorePath};
use seed_policy::Approved;

use crate::error::SandboxError;
use crate::evaluate::{Evaluated, evaluate};
use crate::export;
use crate::nix::Nix;
use crate::protocol::Network;
use crate::record::{BuildRecord, FailedTarget, NixRecord, OutputRecord, Phase, Source, TargetRecord};
use crate::registration;
use crate::session::Sandbox;
use crate::signals::{Reaction, Signals};
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
    /// Whether what does not need a failed target is built and exported all the same.
    pub keep_going: bool,
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
/// exports the results. Unless the build is to go on after failures, nothing is exported if not all was
/// built; else what failed is in the record.
///
/// `spec` must hold a workspace; Nix's settings are added to it. `SIGHUP`, `SIGINT`, `SIGQUIT` and `SIGTERM`
/// end it at once, with [`SandboxError::Interrupted`].
pub fn build(
    approved: &Approved,
    mut spec: Spec,
    request: &BuildRequest<'_>,
) -> Result<BuildRecord, SandboxError> {
    request.nix.configure(&mut spec.etc);
    spec.environment.extend(request.nix.variables());
    let signals = Signals::watch(Reaction::Stop).map_err(SandboxError::Start)?;
    signals.or_interrupted(|signals| {
        let mut sandbox =
            Sandbox::start_controlled(approved, &spec, Network::None, |it| signals.control(it))?;
        let mut builder = Builder { sandbox: &mut sandbox, nix: request.nix, log: &request.log, signals };
        builder.build(approved.digest(), request)
    })
}

/// Nix in a sandbox.
pub(crate) struct Builder<'a> {
    pub(crate) sandbox: &'a mut Sandbox,
    pub(crate) nix: &'a Nix,
    pub(crate) log: &'a OwnedFd,
    /// Asked before each thing that is done outside of the sandbox.
    pub(crate) signals: &'a Signals,
}

impl Builder<'_> {
    fn build(&mut self, seed: Digest, request: &BuildRequest<'_>) -> Result<BuildRecord, SandboxError> {
        let started = jiff::Timestamp::now();
        let mut failed = Vec::new();
        let (evaluation, evaluated) =
            Phase::time("evaluation", || evaluate(self, &request.flake, &request.attributes));
        let mut evaluated: Vec<(&String, Evaluated)> = keep(
            request.attributes.iter().zip(evaluated?),
            ("evaluation", "the evaluation"),
            request.keep_going,
            &mut failed,
        )?;
        let (version, system) = evaluated
            .first()
            .map(|(_, target)| (target.nix.clone(), target.system.clone()))
            .unwrap_or_default();
        let (building, paths) = Phase::time("build", || {
            let paths = self.realise(&evaluated, request.keep_going)?;
            let built = evaluated.drain(..).zip(paths);
            let built = built.map(|((name, target), paths)| (name, paths.map(|paths| (target, paths))));
            keep(built, ("build", "the build"), request.keep_going, &mut failed)
        });
        let targets = self.record(paths?)?;
        let finished = jiff::Timestamp::now();
        let (exporting, exported) = Phase::time("export", || {
            let mut exports = request.exports.iter().filter(|_| !targets.is_empty());
            exports.try_for_each(|destination| {
                self.signals.check()?;
                export::export(self, &targets, destination)
            })
        });
        exported?;
        Ok(BuildRecord {
            version: 1,
            seed,
            system,
            source: request.source.clone(),
            nix: NixRecord { version, settings: request.nix.settings() },
            targets,
            failed,
            started,
            finished,
            phases: vec![self.sandbox.phase().clone(), evaluation, building, exporting],
        })
    }

    /// Builds every output of every target at once, several in parallel, every output named: what is built
    /// where none is named differs between versions of Nix. For each target the paths of its outputs, in
    /// their order, or nothing where it was not built.
    fn realise(
        &mut self,
        evaluated: &[(&String, Evaluated)],
        keep_going: bool,
    ) -> Result<Vec<Option<Vec<String>>>, SandboxError> {
        if evaluated.is_empty() {
            return Ok(Vec::new());
        }
        let all: Vec<String> = evaluated.iter().flat_map(|(_, target)| installables(target)).collect();
        let flags: &[&str] = if keep_going { &["--keep-going"] } else { &[] };
        let built = match self.realise_all(flags, &all) {
            Err(SandboxError::Nix { .. }) => None,
            other => Some(other?),
        };
        if let Some(paths) = built {
            let mut paths = paths.into_iter();
            let of = |(_, target): &(&String, Evaluated)| paths.by_ref().take(target.outputs.len()).collect();
            return Ok(evaluated.iter().map(of).map(Some).collect());
        }
        // With no builder to start, Nix gives what is there and fails for what is not.
        let null = std::fs::File::options().write(true).open("/dev/null").map_err(SandboxError::Channel)?;
        let silent = OwnedFd::from(null);
        let mut quiet = Builder { log: &silent, sandbox: self.sandbox, nix: self.nix, signals: self.signals };
        let mut there = |(_, target): &(&String, Evaluated)| match quiet
            .realise_all(&["--max-jobs", "0"], &installables(target).collect::<Vec<_>>())
        {
            Err(SandboxError::Nix { .. }) => Ok(None),
            other => other.map(Some),
        };
        evaluated.iter().map(&mut there).collect()
    }

    fn realise_all(&mut self, flags: &[&str], wanted: &[String]) -> Result<Vec<String>, SandboxError> {
        let fixed = ["--realise", "--no-gc-warning"];
        let arguments: Vec<&str> =
            fixed.into_iter().chain(flags.iter().copied()).chain(wanted.iter().map(String::as_str)).collect();
        let paths: Vec<String> = self.ask("nix-store", &arguments)?.lines().map(str::to_owned).collect();
        if paths.len() != wanted.len() {
            return Err(unexpected("nix-store --realise", "one store path for each output"));
        }
        Ok(paths)
    }

    /// Reads what Nix registered of each output, and compares it with the bytes that are there.
    fn record(
        &mut self,
        built: Vec<(&String, (Evaluated, Vec<String>))>,
    ) -> Result<Vec<TargetRecord>, SandboxError> {
        if built.is_empty() {
            return Ok(Vec::new());
        }
        let paths: Vec<&str> =
            built.iter().flat_map(|(_, (_, paths))| paths.iter().map(String::as_str)).collect();
        let dump: Vec<&str> = ["--dump-db"].into_iter().chain(paths.iter().copied()).collect();
        let registered = registration::parse(&self.ask("nix-store", &dump)?)
            .filter(|found| found.iter().map(|entry| entry.path.to_string()).eq(paths.iter().copied()))
            .ok_or_else(|| unexpected("nix-store --dump-db", "the registration of each output"))?;

        let store = self.store()?;
        let mut registered = registered.into_iter();
        let mut targets = Vec::new();
        for (attribute, (target, _)) in built {
            let outputs = target.outputs.iter().zip(registered.by_ref()).map(|(name, entry)| {
                self.signals.check()?;
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
                outputs: outputs.collect::<Result<_, _>>()?,
                derivation: target.derivation,
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

/// The outputs of a target as `nix-store` names them.
fn installables(target: &Evaluated) -> impl Iterator<Item = String> + '_ {
    target.outputs.iter().map(|name| format!("{}!{name}", target.derivation))
}

fn unexpected(command: &str, expected: &'static str) -> SandboxError {
    SandboxError::NixOutput { command: command.into(), expected }
}

/// Keeps what is there. What is not is an error, unless the rest is to go on: then it is noted.
fn keep<'a, T>(
    all: impl Iterator<Item = (&'a String, Option<T>)>,
    (phase, step): (&str, &'static str),
    keep_going: bool,
    failed: &mut Vec<FailedTarget>,
) -> Result<Vec<(&'a String, T)>, SandboxError> {
    let mut kept = Vec::new();
    let mut missing = Vec::new();
    for (attribute, one) in all {
        match one {
            Some(one) => kept.push((attribute, one)),
            None => missing.push(attribute.clone()),
        }
    }
    if !missing.is_empty() && !keep_going {
        return Err(SandboxError::Targets { step, attributes: missing });
    }
    failed.extend(missing.into_iter().map(|attribute| FailedTarget { attribute, phase: phase.to_owned() }));
    Ok(kept)
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
