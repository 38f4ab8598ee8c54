//! A project's development shell.

use std::ffi::OsString;

use seed_policy::Approved;

use crate::error::SandboxError;
use crate::nix::Nix;
use crate::record::Outcome;
use crate::spec::{Command, Spec, Stdio, WORKSPACE};

/// What to enter.
#[derive(Debug)]
pub struct DevelopRequest<'a> {
    /// The seed's Nix.
    pub nix: &'a Nix,
    /// The flake and the attribute, as seen from inside: `path:///workspace#devShells.x86_64-linux.default`.
    pub installable: String,
    /// The command to run in the shell's environment; an interactive shell where there is none.
    pub command: Vec<OsString>,
    /// The streams.
    pub stdio: Stdio,
}

/// Runs `nix develop` in the workspace, offline.
///
/// `spec` must hold a workspace; Nix's settings are added to it.
pub fn develop(
    approved: &Approved,
    mut spec: Spec,
    request: DevelopRequest<'_>,
) -> Result<Outcome, SandboxError> {
    request.nix.configure(&mut spec.etc);
    spec.environment.extend(request.nix.variables());
    crate::run(approved, &spec, command(request))
}

fn command(request: DevelopRequest<'_>) -> Command {
    let DevelopRequest { nix, installable, command, stdio } = request;
    let program = nix.program("nix");
    let mut argv: Vec<OsString> =
        [program.as_str(), "--offline", "develop", "--no-update-lock-file", &installable]
            .map(Into::into)
            .into();
    if !command.is_empty() {
        argv.push("--command".into());
        argv.extend(command);
    }
    Command::new(argv).directory(WORKSPACE).stdio(stdio)
}
