//! Which outputs of the flake are meant: from what the user typed and what the seed was made for.

use seed_image::seed::{Seed, label};
use seed_policy::System;
use serde::Deserialize;

use crate::error::{Result, ResultExt};

/// An output that the seed was made for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Target {
    /// The full attribute: `packages.x86_64-linux.default`.
    pub(crate) attribute: String,
    /// `build`, `develop` or `run`.
    pub(crate) purpose: String,
}

/// The outputs that a seed was made for; none where it does not say.
pub(crate) fn of_seed(seed: &Seed) -> Result<Vec<Target>> {
    match seed.label(label::TARGETS) {
        None => Ok(Vec::new()),
        Some(text) => {
            serde_json::from_str(text).context(|| format!("the seed's label {} is malformed", label::TARGETS))
        }
    }
}

/// The full attribute of what `nix build` would build.
pub(crate) fn to_build(attr: Option<&str>, targets: &[Target], system: &System) -> String {
    complete(attr, targets, system, &["packages", "legacyPackages", "checks"], &["packages"])
}

/// The full attribute of the shell that `nix develop` would enter.
pub(crate) fn to_develop(attr: Option<&str>, targets: &[Target], system: &System) -> String {
    complete(attr, targets, system, &["devShells", "packages", "legacyPackages"], &["devShells", "packages"])
}

/// Which traces are of what `nix develop` reads, best first. The seed's own list of outputs is not known yet
/// when traces are asked for; what is left after the attribute is any shell, and then anything.
pub(crate) fn traces_to_develop(attr: Option<&str>, system: &System) -> Vec<String> {
    let attribute = to_develop(attr, &[], system);
    vec![
        format!("develop {attribute}"),
        format!("develop {}", attr.unwrap_or("default")),
        "develop".into(),
        "all".into(),
    ]
}

/// Which traces are of what `nix build` reads, best first.
pub(crate) fn traces_to_build(attr: Option<&str>, system: &System) -> Vec<String> {
    let attribute = to_build(attr, &[], system);
    vec![
        format!("build {attribute}"),
        format!("build {}", attr.unwrap_or("default")),
        "build".into(),
        "all".into(),
    ]
}

/// As Nix completes an attribute: by the first of `sets` that has it. What is in no list of the seed's is
/// left to Nix to find.
fn complete(
    attr: Option<&str>,
    targets: &[Target],
    system: &System,
    sets: &[&str],
    with_default: &[&str],
) -> String {
    let (name, sets) = match attr {
        Some(attr) => (attr, sets),
        None => ("default", with_default),
    };
    let known = |attribute: &str| targets.iter().any(|target| target.attribute == attribute);
    if known(name) {
        return name.to_owned();
    }
    let candidates: Vec<_> = sets.iter().map(|set| format!("{set}.{system}.{name}")).collect();
    match candidates.iter().find(|candidate| known(candidate)) {
        Some(candidate) => candidate.clone(),
        // `packages.x86_64-linux.hello` is a full attribute, `hello` and `python3.pkgs.numpy` are not.
        None if name.split('.').nth(1) == Some(system.as_str()) => name.to_owned(),
        None => candidates.into_iter().next().unwrap_or_else(|| name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_nix_does() {
        let system: System = "x86_64-linux".parse().unwrap();
        let target =
            |attribute: &str, purpose: &str| Target { attribute: attribute.into(), purpose: purpose.into() };
        let targets = [
            target("packages.x86_64-linux.default", "build"),
            target("packages.x86_64-linux.only", "build"),
            target("checks.x86_64-linux.test", "build"),
            target("devShells.x86_64-linux.ci", "develop"),
        ];
        for (attr, expected) in [
            (None, "packages.x86_64-linux.default"),
            (Some("only"), "packages.x86_64-linux.only"),
            (Some("test"), "checks.x86_64-linux.test"),
            (Some("packages.x86_64-linux.only"), "packages.x86_64-linux.only"),
            (Some("packages.x86_64-linux.new"), "packages.x86_64-linux.new"),
            (Some("new"), "packages.x86_64-linux.new"),
            (Some("python3.pkgs.numpy"), "packages.x86_64-linux.python3.pkgs.numpy"),
        ] {
            assert_eq!(to_build(attr, &targets, &system), expected);
        }
        for (attr, expected) in [
            (None, "packages.x86_64-linux.default"),
            (Some("ci"), "devShells.x86_64-linux.ci"),
            (Some("only"), "packages.x86_64-linux.only"),
            (Some("new"), "devShells.x86_64-linux.new"),
        ] {
            assert_eq!(to_develop(attr, &targets, &system), expected);
        }
        assert_eq!(to_develop(None, &[], &system), "devShells.x86_64-linux.default");
    }
}
