//! Proving that a seed is complete: what it is for is done with it, offline.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::time::Instant;

use seed_policy::Approved;
use serde::{Deserialize, Serialize};

use crate::app::prepare_app;
use crate::build::{BuildRequest, build};
use crate::develop::{DevelopRequest, develop};
use crate::error::SandboxError;
use crate::nix::Nix;
use crate::record::Source;
use crate::spec::{Exit, Spec, Stdio};

/// How much of what Nix says is kept: the end of it, which has the error. In bytes.
const MAX_MESSAGES: u64 = 1 << 20;

/// What is done with an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Use {
    /// `nix build`, of all outputs.
    Build,
    /// `nix develop --command true`.
    Develop,
    /// An app, as `nix run` has it before it starts it: evaluated, what it is made of built, its program
    /// there.
    Run,
}

/// What was tried, and how it went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Replay {
    /// The full attribute.
    pub attribute: String,
    /// What was done with it.
    pub done: Use,
    /// Whether it went well.
    pub complete: bool,
    /// What Nix said; the last MiB of it.
    pub messages: String,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Does with an attribute what it is for, in a sandbox of its own, and says how it went.
///
/// `spec` must have a workspace that holds the project's source with changes in every file that a developer may
/// change: with the very source that was packed, what was built then would be found in the seed. An error means
/// that a sandbox could not be made, not that the seed lacks something.
pub fn check(
    approved: &Approved,
    nix: &Nix,
    flake: &str,
    (attribute, done): &(String, Use),
    spec: Spec,
) -> Result<Replay, SandboxError> {
    let done = *done;
    let started = Instant::now();
    let mut log = Log::new().map_err(SandboxError::Channel)?;
    let writer = log.writer().map_err(SandboxError::Channel)?;
    let complete = match done {
        Use::Build => build_once(approved, nix, flake, attribute, spec, writer)?,
        Use::Develop => develop_once(approved, nix, flake, attribute, spec, writer)?,
        Use::Run => match prepare_app(approved, nix, flake, attribute, spec, writer) {
            Ok(is_there) => is_there,
            Err(SandboxError::Nix { .. }) => false,
            Err(error) => return Err(error),
        },
    };
    let messages = log.end().map_err(SandboxError::Channel)?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(Replay { attribute: attribute.to_owned(), done, complete, messages, seconds })
}

fn build_once(
    approved: &Approved,
    nix: &Nix,
    flake: &str,
    attribute: &str,
    spec: Spec,
    log: OwnedFd,
) -> Result<bool, SandboxError> {
    let request = BuildRequest {
        nix,
        flake: flake.to_owned(),
        attributes: vec![attribute.to_owned()],
        source: Source::default(),
        keep_going: false,
        exports: Vec::new(),
        log,
    };
    match build(approved, spec, &request) {
        Ok(_) => Ok(true),
        Err(SandboxError::Nix { .. } | SandboxError::Targets { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn develop_once(
    approved: &Approved,
    nix: &Nix,
    flake: &str,
    attribute: &str,
    spec: Spec,
    log: OwnedFd,
) -> Result<bool, SandboxError> {
    let null = File::options().read(true).write(true).open("/dev/null").map_err(SandboxError::Channel)?;
    let output = null.try_clone().map_err(SandboxError::Channel)?;
    let request = DevelopRequest {
        nix,
        installable: format!("{flake}#{attribute}"),
        command: vec!["true".into()],
        stdio: Stdio::Files([null.into(), output.into(), log]),
    };
    let outcome = develop(approved, spec, request)?;
    match outcome.signal {
        Some(signal) => Err(SandboxError::Interrupted { signal }),
        None => Ok(outcome.exit == Exit::Code(0)),
    }
}

/// A file without a name, for what Nix says.
struct Log {
    file: File,
}

impl Log {
    fn new() -> io::Result<Self> {
        let name = rustix::fs::memfd_create("messages", rustix::fs::MemfdFlags::CLOEXEC)?;
        Ok(Self { file: name.into() })
    }

    fn writer(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// The end of what was written.
    fn end(&mut self) -> io::Result<String> {
        let length = self.file.seek(SeekFrom::End(0))?;
        self.file.seek(SeekFrom::Start(length.saturating_sub(MAX_MESSAGES)))?;
        let mut bytes = Vec::new();
        (&mut self.file).take(MAX_MESSAGES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_log_keeps_its_end() {
        let mut log = Log::new().unwrap();
        let mut writer = File::from(log.writer().unwrap());
        writer.write_all(b"first\n").unwrap();
        assert_eq!(log.end().unwrap(), "first\n");
        let mut writer = File::from(log.writer().unwrap());
        writer.write_all(&vec![b'x'; usize::try_from(MAX_MESSAGES).unwrap()]).unwrap();
        let end = log.end().unwrap();
        assert!(end.len() as u64 == MAX_MESSAGES && end.bytes().all(|byte| byte == b'x'));
    }
}
