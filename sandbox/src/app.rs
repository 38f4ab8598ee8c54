//! An app, as far as it can be tried without starting it.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use seed_format::StorePath;
use seed_image::derivation;
use seed_policy::Approved;
use serde::Deserialize;

use crate::build::{Builder, path_in};
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
    /// The outputs that the program's path depends on.
    uses: Vec<Use>,
}

/// Outputs of a derivation.
#[derive(Debug, Deserialize)]
struct Use {
    derivation: StorePath,
    outputs: Vec<String>,
}

/// Asked of each app: its program is a text that knows what it was made of, or an app is a derivation.
const APP_QUESTION: &str = "app: let program = app.program or (builtins.toString app); \
    context = builtins.getContext program; \
    uses = builtins.filter (path: context.${path} ? outputs) (builtins.attrNames context); \
    in { program = builtins.unsafeDiscardStringContext program; \
    uses = map (path: { derivation = path; inherit (context.${path}) outputs; }) uses; }";

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
    let made = realise(builder, &app.uses)?;
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

/// Builds the outputs, and gives their places.
fn realise(builder: &mut Builder<'_>, uses: &[Use]) -> Result<Vec<String>, SandboxError> {
    let mut wanted = Vec::new();
    let mut others = Vec::new();
    for used in uses {
        let installable = |output: &String| format!("{}!{output}", used.derivation);
        wanted.extend(used.outputs.iter().map(installable));
        let asked_with_them = inseparable(builder, &used.derivation)?;
        others.extend(asked_with_them.iter().filter(|name| !used.outputs.contains(name)).map(installable));
    }
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let all = wanted.iter().chain(&others).map(String::as_str);
    let arguments: Vec<_> = ["--realise", "--no-gc-warning"].into_iter().chain(all).collect();
    let made = builder.ask("nix-store", &arguments)?;
    Ok(made.lines().take(wanted.len()).map(str::to_owned).collect())
}

/// The outputs without which none of a derivation can be asked for: where their places follow from what is
/// in them, `nix-store` of Nix 2.8 and of 2.34 wants to know all places in order to tell one, and it learns
/// those of the outputs that it was asked for alone. `nix run` wants no more than it needs.
fn inseparable(builder: &mut Builder<'_>, path: &StorePath) -> Result<Vec<String>, SandboxError> {
    let store = builder.store()?;
    let unreadable = |source| SandboxError::Output { path: path.to_string(), source };
    let text = fs::read(path_in(&store, path)).map_err(unreadable)?;
    let outputs = derivation::outputs(&text).map_err(|error| unreadable(io::Error::other(error)))?;
    let unknown = outputs.values().any(|output| output.path.is_none());
    Ok(if unknown { outputs.into_keys().collect() } else { Vec::new() })
}

impl App {
    /// Where the program may be. What is made by a content-addressed derivation is named by a placeholder
    /// for the output until it is built: `/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9/bin/hello`.
    fn places(&self, made: &[String]) -> Vec<String> {
        if self.program.starts_with("/nix/store/") {
            return vec![self.program.clone()];
        }
        let below = self.program.trim_start_matches('/').split_once('/').map_or("", |(_, below)| below);
        made.iter().map(|output| format!("{output}/{below}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_of_an_unknown_place_is_where_its_output_is() {
        let app = |program: &str| App { program: program.into(), uses: Vec::new() };
        let made = ["/nix/store/a", "/nix/store/b"].map(str::to_owned);
        assert_eq!(app("/nix/store/c/bin/x").places(&made), ["/nix/store/c/bin/x"]);
        assert_eq!(app("/1rz4g4z/bin/x").places(&made), ["/nix/store/a/bin/x", "/nix/store/b/bin/x"]);
        assert_eq!(app("/1rz4g4z/bin/x").places(&[]), Vec::<String>::new());
    }
}
