//! Outputs of a flake, by their attribute paths.

use super::evaluate::{EvaluatedTarget, Evaluation, Use};
use super::{CaptureError, FlakeRequest, Purpose, Target};

/// Takes `a.b."c.d"` apart.
pub(super) fn attribute_paths(attributes: &[String]) -> Result<Vec<Vec<String>>, CaptureError> {
    attributes.iter().map(|attribute| attribute_path(attribute)).collect()
}

fn attribute_path(attribute: &str) -> Result<Vec<String>, CaptureError> {
    let malformed = || CaptureError::Attribute(attribute.to_owned());
    let (mut names, mut name, mut quoted) = (Vec::new(), String::new(), false);
    for c in attribute.chars() {
        match c {
            '"' => quoted = !quoted,
            '.' if !quoted => names.push(std::mem::take(&mut name)),
            c => name.push(c),
        }
    }
    names.push(name);
    if quoted || names.iter().any(String::is_empty) { Err(malformed()) } else { Ok(names) }
}

/// The attribute path as Nix takes it.
fn joined(names: &[String]) -> String {
    let plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "-_'".contains(c));
    let names = names.iter().map(|name| if plain(name) { name.clone() } else { format!("{name:?}") });
    names.collect::<Vec<_>>().join(".")
}

/// What a capture is for: each must be a derivation or an app.
pub(super) fn targets(evaluation: &Evaluation, request: &FlakeRequest) -> Result<Vec<Target>, CaptureError> {
    if evaluation.targets.is_empty() {
        return Err(CaptureError::NoOutputs(request.system.clone()));
    }
    let target = |target: &EvaluatedTarget| {
        let attribute = joined(&target.attribute);
        let uses = target.uses.as_ref().ok_or_else(|| CaptureError::NoOutput(attribute.clone()))?;
        let purpose = match target.attribute.first().map(String::as_str) {
            Some("devShells") => Purpose::Develop,
            Some("apps") => Purpose::Run,
            _ => Purpose::Build,
        };
        let outputs = uses.iter().flat_map(|used: &Use| used.outputs.iter().cloned()).collect();
        Ok(Target { attribute, purpose, outputs })
    };
    evaluation.targets.iter().map(target).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_attribute_paths_apart() {
        let names = |text: &str| attribute_path(text).ok();
        let strings = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(names("default"), strings(&["default"]));
        assert_eq!(names("packages.x86_64-linux.\"a.b\""), strings(&["packages", "x86_64-linux", "a.b"]));
        for text in ["", ".", "a..b", "a.", "\"a"] {
            assert_eq!(names(text), None, "{text:?}");
        }
        let path = attribute_path("packages.\"a.b\"").unwrap();
        assert_eq!(joined(&path), "packages.\"a.b\"");
    }
}
