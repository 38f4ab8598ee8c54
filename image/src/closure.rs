//! What is to be packed: store paths, what Nix's database says of them, and what the image starts with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use seed_format::{Digest, StorePath};

/// A store path, as Nix's database knows it.
///
/// Only what every machine says of the same path: who built or signed it, and when, differs between
/// machines and stays out, so that the same paths make the same seed everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInfo {
    /// The path.
    pub path: StorePath,
    /// SHA-256 of its NAR.
    pub nar_hash: Digest,
    /// Bytes of its NAR.
    pub nar_size: u64,
    /// The paths that it refers to; itself included, if it does.
    pub references: BTreeSet<StorePath>,
    /// The assertion that the path is content-addressed, as Nix writes it: `fixed:r:sha256:<base 32>`.
    pub ca: Option<String>,
}

/// An output of a content-addressed derivation that was built before.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Realisation {
    /// The derivation's hash modulo, as in the `drvPath` column of `Realisations`: `sha256:<base 16>`.
    pub derivation: String,
    /// The output's name: `out`.
    pub output: String,
    /// Where the output is. It must be in the closure.
    pub path: StorePath,
    /// The realisations that this one depends on, by `derivation` and `output`.
    pub references: BTreeSet<(String, String)>,
}

/// A closed set of store paths.
#[derive(Debug, Clone, Default)]
pub struct Closure {
    /// The directory that holds the paths: `/nix/store`, or where a chroot store keeps them,
    /// `<root>/nix/store`.
    pub real_store: PathBuf,
    /// The paths that another directory holds, and which.
    pub elsewhere: BTreeMap<StorePath, PathBuf>,
    /// The paths. Each refers only to paths of the closure.
    pub paths: BTreeMap<StorePath, PathInfo>,
    /// Outputs of content-addressed derivations.
    pub realisations: BTreeSet<Realisation>,
    /// What the image starts with.
    pub programs: Programs,
}

/// The programs that the image's root file system leads to. Each must be in the closure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Programs {
    /// Nix itself; its `bin` comes first in `PATH`.
    pub nix: Option<StorePath>,
    /// Has `bin/sh` or `bin/bash`, to which `/bin/sh` leads.
    pub shell: Option<StorePath>,
    /// Has `bin/env`, to which `/usr/bin/env` leads.
    pub env: Option<StorePath>,
    /// Has `etc/ssl/certs/ca-bundle.crt`, to which `/etc/ssl/certs` leads.
    pub certificates: Option<StorePath>,
}

/// Why a set of paths is not a closure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClosureError {
    /// A path refers to one that is not there.
    #[error("{path} refers to {reference}, which is not in the closure")]
    Reference {
        /// The path.
        path: StorePath,
        /// What it refers to.
        reference: StorePath,
    },
    /// A path is listed under another's name.
    #[error("{path} is listed as {key}")]
    Key {
        /// The name it is listed under.
        key: StorePath,
        /// The path.
        path: StorePath,
    },
    /// One of the programs is not there.
    #[error("{0} is to be a program of the image, but is not in the closure")]
    Program(StorePath),
    /// A realisation leads out of the closure.
    #[error("the output {output} of {derivation} is said to be {path}, which is not in the closure")]
    Realisation {
        /// The derivation's hash.
        derivation: String,
        /// The output's name.
        output: String,
        /// Where it is said to be.
        path: StorePath,
    },
}

impl Closure {
    /// Checks that nothing leads out of the closure.
    pub fn check(&self) -> Result<(), ClosureError> {
        for (key, info) in &self.paths {
            if *key != info.path {
                return Err(ClosureError::Key { key: key.clone(), path: info.path.clone() });
            }
            if let Some(reference) = info.references.iter().find(|path| !self.paths.contains_key(path)) {
                let (path, reference) = (info.path.clone(), reference.clone());
                return Err(ClosureError::Reference { path, reference });
            }
        }
        let Programs { nix, shell, env, certificates } = &self.programs;
        for program in [nix, shell, env, certificates].into_iter().flatten() {
            if !self.paths.contains_key(program) {
                return Err(ClosureError::Program(program.clone()));
            }
        }
        for Realisation { derivation, output, path, .. } in &self.realisations {
            if !self.paths.contains_key(path) {
                let (derivation, output) = (derivation.clone(), output.clone());
                return Err(ClosureError::Realisation { derivation, output, path: path.clone() });
            }
        }
        Ok(())
    }

    /// The closure that is left when `paths` are taken out, and all that refers to them.
    pub fn without(&self, paths: &BTreeSet<StorePath>) -> Self {
        let mut out = paths.clone();
        loop {
            let refers = |info: &&PathInfo| !out.contains(&info.path) && !info.references.is_disjoint(&out);
            let more: Vec<_> = self.paths.values().filter(refers).map(|info| info.path.clone()).collect();
            if more.is_empty() {
                break;
            }
            out.extend(more);
        }
        let kept = |path: &Option<StorePath>| path.clone().filter(|path| !out.contains(path));
        let Programs { nix, shell, env, certificates } = &self.programs;
        let kept_realisation = |realisation: &&Realisation| !out.contains(&realisation.path);
        Self {
            real_store: self.real_store.clone(),
            elsewhere: self.elsewhere.clone(),
            paths: self
                .paths
                .iter()
                .filter(|(path, _)| !out.contains(path))
                .map(|(path, info)| (path.clone(), info.clone()))
                .collect(),
            realisations: self.realisations.iter().filter(kept_realisation).cloned().collect(),
            programs: Programs {
                nix: kept(nix),
                shell: kept(shell),
                env: kept(env),
                certificates: kept(certificates),
            },
        }
    }

    /// Bytes of all NARs together.
    pub fn nar_size(&self) -> u64 {
        self.paths.values().fold(0, |total, info| total.saturating_add(info.nar_size))
    }

    /// Where the files of `path` are on this machine.
    pub fn real_path(&self, path: &StorePath) -> PathBuf {
        self.elsewhere.get(path).unwrap_or(&self.real_store).join(path.base_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(n: u8, name: &str) -> StorePath {
        StorePath::from_base_name(&format!("{}-{name}", char::from(b'0' + n).to_string().repeat(32))).unwrap()
    }

    fn closure() -> Closure {
        let (a, b) = (path(0, "a"), path(1, "b"));
        let info = |path: &StorePath, references: &[&StorePath]| PathInfo {
            path: path.clone(),
            nar_hash: Digest::of(b""),
            nar_size: 1 << 40,
            references: references.iter().copied().cloned().collect(),
            ca: None,
        };
        Closure {
            paths: [(a.clone(), info(&a, &[&a, &b])), (b.clone(), info(&b, &[]))].into(),
            ..Closure::default()
        }
    }

    #[test]
    fn a_closed_set_passes() {
        assert_eq!(closure().check(), Ok(()));
        assert_eq!(closure().nar_size(), 2 << 40);
    }

    #[test]
    fn names_what_leads_out() {
        let missing = path(2, "missing");
        type Change = fn(&mut Closure, StorePath);
        let changes: [Change; 4] = [
            |closure, missing| {
                closure.paths.values_mut().next().unwrap().references.insert(missing);
            },
            |closure, missing| closure.programs.env = Some(missing),
            |closure, missing| closure.paths.values_mut().next().unwrap().path = missing,
            |closure, missing| {
                let (derivation, output) = ("sha256:0".to_owned(), "out".to_owned());
                closure.realisations.insert(Realisation {
                    derivation,
                    output,
                    path: missing,
                    references: BTreeSet::new(),
                });
            },
        ];
        for change in changes {
            let mut closure = closure();
            change(&mut closure, missing.clone());
            let error = closure.check().unwrap_err();
            assert!(error.to_string().contains(missing.base_name()), "{error}");
        }
    }
}
