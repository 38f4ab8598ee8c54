//! The Nix that a seed brings, and how it is set up to build offline.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use seed_fuse::mount::SeedFs;
use seed_image::seed::label;

use crate::error::SandboxError;
use crate::spec::Lower;

/// Where Nix's settings lie, relative to `/etc`.
pub(crate) const CONFIGURATION: &str = "nix/nix.conf";

/// Nix in a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nix {
    /// The directory that holds the programs `nix` and `nix-store`.
    pub programs: String,
    /// The file that builds find as `/bin/sh`.
    pub shell: Option<String>,
    /// Experimental features in addition to flakes and the `nix` command.
    pub features: Vec<String>,
}

impl Nix {
    /// The Nix that a seed names in its labels, with the shell that its `/bin/sh` leads to.
    pub fn of_seed(seed: &SeedFs) -> Result<Self, SandboxError> {
        let nix = seed.seed().label(label::NIX).ok_or(SandboxError::NoNix)?;
        let tree = seed.index().tree();
        let unusable = |error| SandboxError::Index(seed.index().fault(error));
        let shell = match tree.resolve(b"bin/sh").map_err(unusable)? {
            Some(inode) => tree.symlink(&inode).ok().map(|link| String::from_utf8_lossy(link).into_owned()),
            None => None,
        };
        let features = seed.seed().label(label::NIX_FEATURES).unwrap_or_default();
        // What a seed names becomes a setting: one word each, whatever it says.
        let is_name = |word: &&str| word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let features = features.split_whitespace().filter(is_name).map(str::to_owned).collect();
        Ok(Self { programs: format!("{nix}/bin"), shell, features })
    }

    /// The same for a tree on this machine, whose Nix is at the store path `nix`.
    pub fn of_directory(tree: &Path, nix: &str) -> Self {
        let shell = fs::read_link(tree.join("bin/sh")).ok();
        let shell = shell.map(|shell| shell.to_string_lossy().into_owned());
        Self { programs: format!("{nix}/bin"), shell, features: Vec::new() }
    }

    /// The settings, by name. See `docs/sandbox.md` for the reason of each.
    pub fn settings(&self) -> BTreeMap<String, String> {
        let fixed = [
            ("accept-flake-config", "false"),
            ("auto-optimise-store", "false"),
            ("build-users-group", ""),
            ("builders", ""),
            ("connect-timeout", "1"),
            ("cores", "0"),
            ("download-attempts", "1"),
            ("eval-cache", "false"),
            ("fallback", "false"),
            ("flake-registry", ""),
            ("fsync-metadata", "false"),
            ("max-jobs", "auto"),
            ("sandbox", "true"),
            ("sandbox-fallback", "false"),
            ("substitute", "false"),
            ("substituters", ""),
            ("tarball-ttl", "4294967295"),
            ("trusted-substituters", ""),
            ("warn-dirty", "false"),
        ];
        let mut settings: BTreeMap<String, String> =
            fixed.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        let features = ["nix-command", "flakes"].into_iter().chain(self.features.iter().map(String::as_str));
        settings.insert("experimental-features".into(), features.collect::<Vec<_>>().join(" "));
        // A shell outside of the store would be shown to builds without what it needs to start.
        let shell = self.shell.as_ref().filter(|shell| shell.starts_with("/nix/store/"));
        let paths = shell.map(|shell| format!("/bin/sh={shell}")).unwrap_or_default();
        settings.insert("sandbox-paths".into(), paths);
        settings
    }

    /// The settings as Nix reads them.
    pub(crate) fn configuration(&self) -> String {
        let mut text = String::new();
        for (name, value) in self.settings() {
            text.push_str(&format!("{name} = {value}\n"));
        }
        text
    }

    /// Puts the settings where Nix finds them.
    pub fn configure(&self, etc: &mut BTreeMap<String, String>) {
        etc.insert(CONFIGURATION.into(), self.configuration());
    }

    /// Variables without which Nix would look for its settings where it was built to.
    pub(crate) fn variables(&self) -> BTreeMap<String, String> {
        let variables =
            [("NIX_CONF_DIR", "/etc/nix"), ("NIX_REMOTE", "local"), ("NIX_USER_CONF_FILES", "/dev/null")];
        variables.map(|(name, value)| (name.into(), value.into())).into()
    }

    /// The path of one of Nix's programs.
    pub(crate) fn program(&self, name: &str) -> String {
        format!("{}/{name}", self.programs)
    }

    /// `PATH` in the sandbox: Nix, and what the image has.
    pub fn search_path(&self) -> String {
        format!("{}:/bin:/usr/bin", self.programs)
    }
}

/// The search path of an image that says one, with Nix before it; that of [`Nix::search_path`] otherwise.
pub fn search_path(lower: &Lower, nix: &Nix) -> String {
    let image = match lower {
        Lower::Seed(seed) => seed.seed().config.config.env.iter().find_map(|line| line.strip_prefix("PATH=")),
        Lower::Directory(_) => None,
    };
    image.map_or_else(|| nix.search_path(), |path| format!("{}:{path}", nix.programs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_those_of_the_documentation() {
        let nix = Nix {
            programs: "/nix/store/x-nix/bin".into(),
            shell: Some("/nix/store/x-busybox/bin/busybox".into()),
            features: vec!["ca-derivations".into()],
        };
        let documentation = include_str!("../../docs/sandbox.md");
        for (name, value) in nix.settings() {
            let line = format!("| `{name}` | ");
            assert!(documentation.contains(&line), "docs/sandbox.md has no row for {name} = {value}");
        }
        let text = nix.configuration();
        for line in [
            "sandbox-paths = /bin/sh=/nix/store/x-busybox/bin/busybox\n",
            "experimental-features = nix-command flakes ca-derivations\n",
            "build-users-group = \n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        let outside = Nix { shell: Some("/bin/busybox".into()), ..nix };
        assert_eq!(outside.settings()["sandbox-paths"], "");
    }
}
