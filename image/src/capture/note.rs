//! What a user should know of a capture that did not fail, and how some of it is found.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Something that a user should know of a capture that did not fail.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Note {
    /// A text of the project names `<nixpkgs>` or a flake by a name alone.
    Lookup {
        /// The file, relative to the source.
        file: PathBuf,
        /// What it has.
        text: &'static str,
    },
    /// With file contents changed the project does not evaluate, so a file that evaluation reads may be
    /// taken for one that never changes.
    ContentIsRead {
        /// Why it does not.
        error: String,
    },
    /// There is no input `nixpkgs` with this package.
    NoProgram {
        /// The package.
        package: &'static str,
        /// What will be missing.
        consequence: &'static str,
    },
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lookup { file, text } => write!(
                f,
                "{} has {text}, which can never be found offline: use the input `nixpkgs`",
                file.display()
            ),
            Self::ContentIsRead { error } => write!(
                f,
                "the project does not evaluate with other file contents, so what depends on a file that evaluation \
                 reads may be missing from the seed when that file changes: {error}"
            ),
            Self::NoProgram { package, consequence } => {
                write!(f, "the flake has no input `nixpkgs` with {package}: {consequence}")
            }
        }
    }
}

/// What can never be found offline, and where it is tried. Pure evaluation would refuse it, so it is in
/// texts that are not evaluated with the flake, or only on some paths.
const LOOKUPS: &[&str] = &["<nixpkgs>", "getFlake \"nixpkgs\""];

pub(super) fn find_lookups(tree: &Path, dir: &Path, notes: &mut Vec<Note>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            find_lookups(tree, &path, notes)?;
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "nix") {
            let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
            for lookup in LOOKUPS.iter().filter(|lookup| text.contains(**lookup)) {
                let file = path.strip_prefix(tree).unwrap_or(&path).to_owned();
                notes.push(Note::Lookup { file, text: lookup });
            }
        }
    }
    Ok(())
}
