//! An app, as far as it can be tried without starting it.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use seed_policy::Approved;
use serde::Deserialize;

use crate::build::Builder;
use crate::error::SandboxError;
use crate::nix::Nix;
use crate::protocol::Network;
use crate::session::Sandbox;
use crate::signals::{Reaction, Signals};
use crate::spec::Spec;

/// What evaluation says of an app.
#[derive(Debug, Deserialize)]
struct App {
    program: String,
    /// `DERIVATION!OUTPUT`s that the program's path depends on.
    outputs: Vec<String>,
}

/// Asked of each app: its program is a text that knows what it was made of, or an app is a derivation.
const APP_QUESTION: &str = "app: let program = app.program or (builtins.toString app); \
    context = builtins.getContext program; \
    of = drv: map (name: \"${drv}!${name}\") (context.${drv}.outputs or [ ]); \
    in { program = builtins.unsafeDiscardStringContext program; \
    outputs = builtins.concatLists (map of (builtins.attrNames context)); }";

/// Does what `nix run` does before it starts the program of an app. Gives whether the program is there.
pub(crate) fn prepare_app(
    approved: &Approved,
    nix: &Nix,
    flake: &str,
    attribute: &str,
    mut spec: Spec,
    log: OwnedFd,
) -> Result<bool, SandboxError> {
    nix.configure(&mut spec.etc);
    spec.environment.extend(nix.variables());
    let signals = Signals::watch(Reaction::Stop).map_err(SandboxError::Start)?;
    signals.or_interrupted(|signals| {
        let mut sandbox =
            Sandbox::start_controlled(approved, &spec, Network::None, |it| signals.control(it))?;
        let mut builder = Builder { sandbox: &mut sandbox, nix, log: &log, signals };
        prepare(&mut builder, flake, attribute)
    })
}

fn prepare(builder: &mut Builder<'_>, flake: &str, attribute: &str) -> Result<bool, SandboxError> {
    let installable = format!("{flake}#{attribute}");
    let answer = builder.ask(
        "nix",
        &["--offline", "eval", "--json", "--no-update-lock-file", &installable, "--apply", APP_QUESTION],
    )?;
    let app: App = serde_json::from_str(&answer).map_err(|_| SandboxError::NixOutput {
        command: format!("nix eval {installable}"),
        expected: "an app",
    })?;
    let outputs = app.outputs.iter().map(String::as_str);
    let realise: Vec<_> = ["--realise", "--no-gc-warning"].into_iter().chain(outputs).collect();
    let made = if app.outputs.is_empty() { String::new() } else { builder.ask("nix-store", &realise)? };
    for program in app.places(&made) {
        match builder.sandbox.open(program.as_ref()) {
            Ok(_) => return Ok(true),
            // A link is there, and leads to what its package refers to.
            Err(SandboxError::Open { source, .. }) if source.raw_os_error() == Some(libc::ELOOP) => {
                return Ok(true);
            }
            Err(SandboxError::Open { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let log = builder.log.as_fd().try_clone_to_owned().map_err(SandboxError::Channel)?;
    writeln!(std::fs::File::from(log), "error: the app's program {} is not there", app.program)
        .map_err(SandboxError::Channel)?;
    Ok(false)
}

impl App {
    /// Where the program may be. What is made by a content-addressed derivation is named by a placeholder
    /// for the output until it is built: `/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9/bin/hello`.
    fn places(&self, made: &str) -> Vec<String> {
        if self.program.starts_with("/nix/store/") {
            return vec![self.program.clone()];
        }
        let below = self.program.trim_start_matches('/').split_once('/').map_or("", |(_, below)| below);
        made.lines().map(|output| format!("{output}/{below}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_of_an_unknown_place_is_where_its_output_is() {
        let app = |program: &str| App { program: program.into(), outputs: Vec::new() };
        let made = "/nix/store/a\n/nix/store/b\n";
        assert_eq!(app("/nix/store/c/bin/x").places(made), ["/nix/store/c/bin/x"]);
        assert_eq!(app("/1rz4g4z/bin/x").places(made), ["/nix/store/a/bin/x", "/nix/store/b/bin/x"]);
        assert_eq!(app("/1rz4g4z/bin/x").places(""), Vec::<String>::new());
    }
}
