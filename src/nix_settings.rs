//! The settings of the Nix on this machine that decide where a closure comes from.

use std::process::{Command, Stdio};

use seed_policy::core::NixConfig;
use serde_json::Value;

use crate::error::{Result, ResultExt, failed};

/// Asks the Nix on `PATH`.
pub(crate) fn read() -> Result<NixConfig> {
    // Since 2.20 it is `nix config show`; before, `nix show-config`.
    let mut said = String::new();
    for command in [["config", "show"].as_slice(), &["show-config"]] {
        let output = Command::new("nix")
            .args(["--extra-experimental-features", "nix-command"])
            .args(command)
            .arg("--json")
            .stdin(Stdio::null())
            .output()
            .context(|| "cannot run nix")
            .hint("install Nix: https://nixos.org/download")?;
        if output.status.success() {
            return normalise(&output.stdout);
        }
        said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    }
    Err(failed(format!("nix does not show its settings: {said}")))
}

fn normalise(json: &[u8]) -> Result<NixConfig> {
    let settings: Value =
        serde_json::from_slice(json).context(|| "nix shows its settings in an unknown form")?;
    let value = |name: &str| {
        let value = &settings[name]["value"];
        text(value).ok_or_else(|| failed(format!("nix shows no setting `{name}`")))
    };
    Ok(NixConfig::normalise(&value("sandbox")?, &value("substituters")?, &value("trusted-substituters")?))
}

/// As `nix show-config` without `--json` prints it. `sandbox` is a boolean in some versions.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(switch) => Some(switch.to_string()),
        Value::Array(items) => {
            let words: Option<Vec<_>> = items.iter().map(Value::as_str).collect();
            Some(words?.join(" "))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        for (sandbox, expected) in
            [("true", "true"), ("false", "false"), ("\"relaxed\"", "relaxed"), ("\"true\"", "true")]
        {
            let json = format!(
                r#"{{"sandbox":{{"value":{sandbox}}},"substituters":{{"value":["https://b","https://a"]}},"trusted-substituters":{{"value":[]}}}}"#
            );
            assert_eq!(
                normalise(json.as_bytes()).unwrap(),
                NixConfig::normalise(expected, "https://a https://b", "")
            );
        }
        for json in ["", "[]", "{}", r#"{"sandbox":{"value":1}}"#] {
            assert!(normalise(json.as_bytes()).is_err(), "{json}");
        }
    }
}
