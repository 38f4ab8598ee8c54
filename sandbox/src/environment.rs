//! The environment of what runs inside: a few variables of the sandbox's own, and the few of the caller's
//! that say how to talk, not what to build.

use std::collections::BTreeMap;

use crate::spec::{HOME, USER};

/// The caller's variables that pass: what a terminal can show, in which language, and that this is CI.
pub const INHERITED: [&str; 9] =
    ["CI", "COLORTERM", "COLUMNS", "LANG", "LC_ALL", "LC_MESSAGES", "LINES", "NO_COLOR", "TERM"];

/// The environment for commands inside.
///
/// `path` is the seed's own `PATH`; `from` is the caller's environment, of which only [`INHERITED`]
/// passes; `extra` was asked for by name and wins over all else.
pub fn clean(
    path: &str,
    from: impl IntoIterator<Item = (String, String)>,
    extra: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut variables: BTreeMap<String, String> =
        from.into_iter().filter(|(name, _)| INHERITED.contains(&name.as_str())).collect();
    let (_, user) = USER;
    for (name, value) in [("HOME", HOME), ("PATH", path), ("USER", user), ("LOGNAME", user)] {
        variables.insert(name.into(), value.into());
    }
    variables.extend(extra.iter().map(|(name, value)| (name.clone(), value.clone())));
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_or_named_passes() {
        let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let caller = [
            ("TERM", "xterm"),
            ("HOME", "/root"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("LD_PRELOAD", "/evil.so"),
            ("NIX_CONFIG", "sandbox = false"),
            ("PATH", "/usr/bin"),
        ]
        .map(pair);
        let extra = [("MAKEFLAGS", "-j2"), ("USER", "someone")].map(pair).into();
        let clean = clean("/nix/store/x/bin", caller, &extra);
        let expected = [
            ("HOME", HOME),
            ("LOGNAME", "seed"),
            ("MAKEFLAGS", "-j2"),
            ("PATH", "/nix/store/x/bin"),
            ("TERM", "xterm"),
            ("USER", "someone"),
        ]
        .map(pair);
        assert_eq!(clean, expected.into());
    }
}
