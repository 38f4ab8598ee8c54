//! The project's source, changed as a developer would change it, so that what depends on it shows.
//!
//! Two kinds of change. *Shape*: a new file in each directory, and each file's executable bit turned: this
//! changes the hash of every path that is copied to the store, and nothing that evaluation reads.
//! *Content*: a line break more at the end of each file: this also reaches what is read by `readFile`.
//! Files in which it may not be, since evaluation parses them or uses them as a value, stay as they are.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Most levels of directories that a source may have.
const MAX_DEPTH: usize = 1000;

/// How a source is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Files are added and executable bits turned.
    Shape,
    /// That, and each file has a line break more.
    Content,
}

/// Copies the tree `from` to `to`, changed.
pub(crate) fn copy(from: &Path, to: &Path, change: Change) -> io::Result<()> {
    copy_directory(from, to, change, MAX_DEPTH)
}

fn copy_directory(from: &Path, to: &Path, change: Change, depth: usize) -> io::Result<()> {
    if depth == 0 {
        return Err(io::Error::other("the source has too many levels of directories"));
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_directory(&source, &target, change, depth - 1)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
        } else {
            copy_file(&source, &target, change)?;
        }
    }
    // The name is one that no project has a use for, and sorts last.
    fs::write(to.join("~seed-perturbation"), "a file that was not there\n")
}

fn copy_file(from: &Path, to: &Path, change: Change) -> io::Result<()> {
    let executable = fs::metadata(from)?.permissions().mode() & 0o100 != 0;
    fs::copy(from, to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o644))?;
    if change == Change::Content && !is_parsed(from) && !is_value(from)? {
        fs::OpenOptions::new().append(true).open(to)?.write_all(b"\n")?;
    }
    fs::set_permissions(to, fs::Permissions::from_mode(if executable { 0o644 } else { 0o755 }))
}

/// Whether evaluation parses such a file: a change is then no change to it, or breaks it.
fn is_parsed(file: &Path) -> bool {
    let extension = file.extension().and_then(OsStr::to_str).unwrap_or_default();
    ["nix", "lock", "json", "toml"].contains(&extension)
}

/// Whether the file is one short line, such as a version: evaluation that reads it uses the line as it is.
fn is_value(file: &Path) -> io::Result<bool> {
    if fs::metadata(file)?.len() > 256 {
        return Ok(false);
    }
    let text = fs::read(file)?;
    Ok(text.iter().filter(|byte| **byte == b'\n').count() <= 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_every_file_and_directory() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("sub/deep")).unwrap();
        fs::write(from.join("flake.nix"), "{ }").unwrap();
        fs::write(from.join("VERSION"), "1.4.0\n").unwrap();
        fs::write(from.join("sub/main.c"), "int x;\nint y;\n").unwrap();
        fs::set_permissions(from.join("sub/main.c"), fs::Permissions::from_mode(0o555)).unwrap();
        std::os::unix::fs::symlink("main.c", from.join("sub/link")).unwrap();
        for (change, text) in [(Change::Shape, "int x;\nint y;\n"), (Change::Content, "int x;\nint y;\n\n")] {
            let to = dir.path().join(format!("{change:?}"));
            copy(&from, &to, change).unwrap();
            let mode = |name: &str| fs::metadata(to.join(name)).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode("flake.nix"), mode("sub/main.c")), (0o755, 0o644));
            assert_eq!(fs::read_to_string(to.join("flake.nix")).unwrap(), "{ }");
            assert_eq!(fs::read_to_string(to.join("VERSION")).unwrap(), "1.4.0\n");
            assert_eq!(fs::read_to_string(to.join("sub/main.c")).unwrap(), text);
            assert_eq!(fs::read_link(to.join("sub/link")).unwrap(), Path::new("main.c"));
            for dir in ["", "sub", "sub/deep"] {
                assert!(to.join(dir).join("~seed-perturbation").exists(), "{dir:?}");
            }
        }
    }
}
