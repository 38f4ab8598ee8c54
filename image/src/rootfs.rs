//! The root file system around the store: what programs take for granted on any machine.
//!
//! Enough for `/bin/sh`, for Nix as root of a container, and for the mounts that container runtimes make.
//! It is a function of the closure's programs and of what the user adds, so it is equal in all seeds that
//! have the same ones.

mod additions;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use seed_format::layer::tree_order;
use seed_format::{Entry, StorePath};

pub use self::additions::Additions;
use crate::closure::Closure;
use crate::tree::TreeError;

/// A file of the root file system: an entry, and its contents if it is a regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootEntry {
    /// What it is.
    pub entry: Entry,
    /// The contents of a regular file.
    pub contents: Vec<u8>,
}

/// Why there is no such root file system.
#[derive(Debug, thiserror::Error)]
pub enum RootFsError {
    /// A program of the closure lacks the file that it is there for.
    #[error("{path} has none of {}", wanted.join(", "))]
    Lacks {
        /// The program's store path.
        path: StorePath,
        /// The files that were looked for, relative to it.
        wanted: Vec<String>,
    },
    /// A tree that is to be in the root is not in the closure.
    #[error("{0} shall be copied to the root, but is not in the closure")]
    Foreign(StorePath),
    /// A tree that is to be in the root is a file or a link.
    #[error("{0} shall be copied to the root, but is no directory")]
    NoDirectory(StorePath),
    /// A tree that is to be in the root has something in the store's place.
    #[error("{0} has a directory nix, which the store's own would hide")]
    Store(StorePath),
    /// Two trees have different things under one name.
    #[error("/{} is in {} and in {}", path.escape_ascii(), from[0], from[1])]
    Conflict {
        /// The name, relative to the root.
        path: Vec<u8>,
        /// Whose they are.
        from: [String; 2],
    },
    /// A file whose permission bits are set is too large.
    #[error("/{} has {size} bytes; a file whose permission bits are set may have {limit}", path.escape_ascii())]
    TooLarge {
        /// The file, relative to the root.
        path: Vec<u8>,
        /// Its bytes.
        size: u64,
        /// The bytes that it may have.
        limit: u64,
    },
    /// Permission bits are set of nothing.
    #[error("permission bits are set of what matches {0:?}, and nothing outside of the store does")]
    Unmatched(String),
    /// A tree cannot be read.
    #[error("the tree cannot be read")]
    Tree(#[from] TreeError),
}

/// Directories of mode 0755.
const DIRECTORIES: &[&str] = &[
    "bin",
    "dev",
    "etc",
    "etc/nix",
    "etc/ssl",
    "etc/ssl/certs",
    "home",
    "nix",
    "nix/store",
    "nix/var",
    "nix/var/log",
    "nix/var/log/nix",
    "nix/var/log/nix/drvs",
    "nix/var/nix",
    "nix/var/nix/gcroots",
    "nix/var/nix/profiles",
    "nix/var/nix/temproots",
    "proc",
    "run",
    "sys",
    "usr",
    "usr/bin",
    "var",
];

/// Directories that everybody may write to, of mode 1777.
const SCRATCH: &[&str] = &["tmp", "var/tmp"];

const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/var/empty:/bin/false
";

const GROUP: &str = "\
root:x:0:
nogroup:x:65534:
";

const HOSTS: &str = "\
127.0.0.1 localhost
::1 localhost
";

const NSSWITCH: &str = "\
passwd: files
group: files
hosts: files dns
";

/// Nix as root, without build users and without the daemon, as in any container.
const NIX_CONF: &str = "\
build-users-group =
experimental-features = nix-command flakes
sandbox = false
";

/// Entries by their path.
type Entries = BTreeMap<Vec<u8>, RootEntry>;

/// The entries of the root file system, in the order of a layer, without what lies in the store.
///
/// Above a base image, which has its own, only the directories of Nix and the additions are left.
pub fn entries(
    closure: &Closure,
    additions: &Additions,
    is_above_base: bool,
) -> Result<Vec<RootEntry>, RootFsError> {
    let mut entries = if is_above_base { nix_directories() } else { defaults(closure)? };
    additions.add_to(&mut entries, closure)?;
    let mut entries: Vec<RootEntry> = entries.into_values().collect();
    entries.sort_by(|a, b| tree_order(&a.entry.path, &b.entry.path));
    Ok(entries)
}

fn nix_directories() -> Entries {
    let of_nix = DIRECTORIES.iter().filter(|path| path.split('/').next() == Some("nix"));
    of_nix
        .map(|path| {
            let entry = Entry::directory(*path).with_mode(0o755);
            (entry.path.clone(), RootEntry { entry, contents: Vec::new() })
        })
        .collect()
}

fn defaults(closure: &Closure) -> Result<Entries, RootFsError> {
    let mut entries = Entries::new();
    let mut add = |entry: Entry, contents: &[u8]| {
        entries.insert(entry.path.clone(), RootEntry { entry, contents: contents.to_vec() });
    };
    for path in DIRECTORIES {
        add(Entry::directory(*path).with_mode(0o755), b"");
    }
    for path in SCRATCH {
        add(Entry::directory(*path).with_mode(0o1777), b"");
    }
    add(Entry::directory("root").with_mode(0o700), b"");
    for (path, text) in [
        ("etc/passwd", PASSWD),
        ("etc/group", GROUP),
        ("etc/hosts", HOSTS),
        ("etc/nsswitch.conf", NSSWITCH),
        ("etc/nix/nix.conf", NIX_CONF),
    ] {
        add(Entry::regular(path, text.len() as u64, false).with_mode(0o644), text.as_bytes());
    }
    let programs = &closure.programs;
    let certificates = ["etc/ssl/certs/ca-bundle.crt", "etc/ssl/certs/ca-certificates.crt"];
    for (path, wanted, links) in [
        (&programs.shell, &["bin/sh", "bin/bash"][..], &["bin/sh"][..]),
        (&programs.env, &["bin/env", "usr/bin/env"], &["usr/bin/env"]),
        (&programs.certificates, &certificates, &certificates),
    ] {
        let Some(path) = path else { continue };
        let target = find(closure, path, wanted)?;
        links.iter().for_each(|link| add(Entry::symlink(*link, target.as_str()), b""));
    }
    Ok(entries)
}

/// The first of `wanted` that `path` has, as an absolute path.
fn find(closure: &Closure, path: &StorePath, wanted: &[&str]) -> Result<String, RootFsError> {
    let real: PathBuf = closure.real_path(path);
    // A link's target may be a store path that this machine has elsewhere.
    let found = wanted.iter().find(|file| fs::symlink_metadata(real.join(file)).is_ok());
    match found {
        Some(file) => Ok(format!("{path}/{file}")),
        None => Err(RootFsError::Lacks {
            path: path.clone(),
            wanted: wanted.iter().map(|&f| f.to_owned()).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::closure::Programs;

    fn path(digit: &str) -> StorePath {
        StorePath::from_base_name(&format!("{}-x", digit.repeat(32))).unwrap()
    }

    #[test]
    fn parents_come_first_and_programs_are_linked() {
        let store = tempfile::tempdir().unwrap();
        let (shell, certificates) = (path("0"), path("1"));
        fs::create_dir_all(store.path().join(shell.base_name()).join("bin")).unwrap();
        fs::write(store.path().join(shell.base_name()).join("bin/bash"), "").unwrap();
        let certs = store.path().join(certificates.base_name()).join("etc/ssl/certs");
        fs::create_dir_all(&certs).unwrap();
        fs::write(certs.join("ca-bundle.crt"), "").unwrap();
        let programs = Programs {
            shell: Some(shell.clone()),
            certificates: Some(certificates.clone()),
            ..Programs::default()
        };
        let closure = Closure { real_store: store.path().to_owned(), programs, ..Closure::default() };

        let entries = entries(&closure, &Additions::default(), false).unwrap();
        let mut seen = std::collections::BTreeSet::from([Vec::new()]);
        for RootEntry { entry, .. } in &entries {
            entry.check().unwrap();
            let parent = entry.path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            assert!(seen.contains(&entry.path[..parent]), "{}", entry.path.escape_ascii());
            assert!(seen.insert(entry.path.clone()));
        }
        let link = |path: &str, target: String| {
            assert!(
                entries.iter().any(|e| e.entry == Entry::symlink(path, target.as_str())),
                "{path} -> {target}"
            );
        };
        link("bin/sh", format!("{shell}/bin/bash"));
        link("etc/ssl/certs/ca-certificates.crt", format!("{certificates}/etc/ssl/certs/ca-bundle.crt"));
        assert!(!seen.contains(&b"usr/bin/env"[..]));
        assert!(entries.iter().any(|e| e.entry == Entry::directory("tmp").with_mode(0o1777)));
    }

    #[test]
    fn a_shell_without_a_shell_is_an_error() {
        let store = tempfile::tempdir().unwrap();
        let programs = Programs { shell: Some(path("0")), ..Programs::default() };
        let closure = Closure { real_store: store.path().to_owned(), programs, ..Closure::default() };
        let error = entries(&closure, &Additions::default(), false).unwrap_err();
        assert_eq!(error.to_string(), format!("{} has none of bin/sh, bin/bash", path("0")));
    }
}
