//! What attributes of a flake are, asked of as few evaluations as can be.
//!
//! Attributes of one set, `packages.x86_64-linux.a` and `packages.x86_64-linux.b`, are asked for together:
//! what they share, which is nearly all of an evaluation, is evaluated once. Where that fails, each is
//! asked for by itself, so that the ones at fault are known.

use seed_format::StorePath;
use serde::Deserialize;

use crate::build::Builder;
use crate::error::SandboxError;

/// What evaluation says of an attribute.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Evaluated {
    pub(crate) derivation: StorePath,
    pub(crate) outputs: Vec<String>,
    pub(crate) system: String,
    pub(crate) nix: String,
}

/// Asked of each attribute. Names only what Nix itself puts into a derivation.
const QUESTION: &str = "d: { derivation = builtins.unsafeDiscardStringContext d.drvPath; \
                        outputs = d.outputs or [ \"out\" ]; system = d.system; nix = builtins.nixVersion; }";

/// Evaluates all attributes; for each, in their order, what it is, or nothing where it failed.
pub(crate) fn evaluate(
    builder: &mut Builder<'_>,
    flake: &str,
    attributes: &[String],
) -> Result<Vec<Option<Evaluated>>, SandboxError> {
    let mut found: Vec<Option<Evaluated>> = vec![None; attributes.len()];
    for (set, members) in sets(attributes) {
        let together = match members.as_slice() {
            [_] => None,
            _ => in_set(builder, flake, &set, &members)?,
        };
        match together {
            Some(all) => {
                for ((number, _), one) in members.iter().zip(all) {
                    found[*number] = Some(one);
                }
            }
            None => {
                for (number, _) in members {
                    found[number] = one(builder, flake, &attributes[number])?;
                }
            }
        }
    }
    Ok(found)
}

/// `None` if Nix failed, which has said why.
fn one(builder: &mut Builder<'_>, flake: &str, attribute: &str) -> Result<Option<Evaluated>, SandboxError> {
    ask(builder, &format!("{flake}#{attribute}"), QUESTION)
}

fn in_set(
    builder: &mut Builder<'_>,
    flake: &str,
    set: &str,
    members: &[(usize, String)],
) -> Result<Option<Vec<Evaluated>>, SandboxError> {
    let names: Vec<&str> = members.iter().map(|(_, name)| name.as_str()).collect();
    let question = format!("set: map ({QUESTION}) [ {} ]", wanted(&names));
    let found = ask::<Vec<Evaluated>>(builder, &format!("{flake}#{set}"), &question)?;
    Ok(found.filter(|found| found.len() == members.len()))
}

fn ask<T: serde::de::DeserializeOwned>(
    builder: &mut Builder<'_>,
    installable: &str,
    question: &str,
) -> Result<Option<T>, SandboxError> {
    let arguments =
        ["--offline", "eval", "--json", "--no-update-lock-file", installable, "--apply", question];
    let answer = match builder.ask("nix", &arguments) {
        Err(SandboxError::Nix { .. }) => return Ok(None),
        other => other?,
    };
    serde_json::from_str(&answer).map(Some).map_err(|_| SandboxError::NixOutput {
        command: format!("nix eval {installable}"),
        expected: "a derivation",
    })
}

/// The attributes by the sets that they are in, each with its number; names may have dots.
fn sets(attributes: &[String]) -> Vec<(String, Vec<(usize, String)>)> {
    let mut sets: Vec<(String, Vec<(usize, String)>)> = Vec::new();
    for (number, attribute) in attributes.iter().enumerate() {
        let mut parts = attribute.splitn(3, '.');
        let (set, name) = match (parts.next(), parts.next(), parts.next()) {
            (Some(kind), Some(system), Some(name)) => (format!("{kind}.{system}"), name),
            // What has no such form is asked for alone.
            _ => (attribute.clone(), ""),
        };
        let member = (number, name.to_owned());
        match sets.iter_mut().find(|(known, _)| *known == set) {
            Some((_, members)) if !name.is_empty() => members.push(member),
            _ => sets.push((set, vec![member])),
        }
    }
    sets
}

/// Elements of a list in Nix: each attribute of `set`.
fn wanted(names: &[&str]) -> String {
    let element = |name: &&str| {
        let path: Vec<String> = components(name).iter().map(|part| quoted(part)).collect();
        format!("set.{}", path.join("."))
    };
    names.iter().map(element).collect::<Vec<_>>().join(" ")
}

/// The components of an attribute path, as Nix splits it: at dots that are in no quotes.
fn components(path: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for c in path.chars() {
        match c {
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(String::new()),
            c => parts.last_mut().expect("there is always a part").push(c),
        }
    }
    parts
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace("${", "\\${"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_one_set_are_asked_for_together() {
        let attributes = ["packages.x.a", "checks.x.t", "packages.x.p.q", "odd", "packages.y.a"];
        let attributes: Vec<String> = attributes.map(str::to_owned).into();
        let sets = sets(&attributes);
        let member = |number: usize, name: &str| (number, name.to_owned());
        assert_eq!(
            sets,
            [
                ("packages.x".to_owned(), vec![member(0, "a"), member(2, "p.q")]),
                ("checks.x".to_owned(), vec![member(1, "t")]),
                ("odd".to_owned(), vec![member(3, "")]),
                ("packages.y".to_owned(), vec![member(4, "a")]),
            ]
        );
    }

    #[test]
    fn names_are_text_and_never_code() {
        for (name, expected) in [
            ("a", r#"set."a""#),
            ("7zip.bin", r#"set."7zip"."bin""#),
            (r#"p."a.b".c"#, r#"set."p"."a.b"."c""#),
            (r"a\${x}", r#"set."a\\\${x}""#),
            ("a ]; b", r#"set."a ]; b""#),
        ] {
            assert_eq!(wanted(&[name]), expected);
        }
        assert_eq!(wanted(&["a", "b"]), r#"set."a" set."b""#);
    }
}
