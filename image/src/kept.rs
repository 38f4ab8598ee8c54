//! Files that are kept to be fast, each named by a digest: what has not been used for long goes first.
//!
//! Any of them may go at any time; who needs one that has gone makes it again. A file's time of
//! modification is when it was used last, and whoever uses one says so with [`used`].

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How old a file that somebody began to write must be to count as left behind.
const UNFINISHED: Duration = Duration::from_secs(24 * 3600);

/// What [`prune`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Files that were removed.
    pub removed: u64,
    /// Bytes that they had.
    pub freed: u64,
    /// Bytes of the files that are left.
    pub left: u64,
}

/// Notes that a file is of use. Failing to costs no more than making it again one day.
pub fn used(file: &Path) {
    let _ = File::open(file).and_then(|file| file.set_modified(SystemTime::now()));
}

/// Removes from `directory` the files that were not used for `age`, then those used longest ago until at
/// most `limit` bytes are left; and what writers that have died left unfinished. Other files, whose names
/// are not digests, are left alone. A directory that is not there has nothing in it.
pub fn prune(directory: &Path, limit: u64, age: Duration) -> io::Result<Pruned> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Pruned::default()),
        entries => entries?,
    };
    let now = SystemTime::now();
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().into_encoded_bytes();
        let Ok(metadata) = entry.metadata() else { continue };
        let Ok(used) = metadata.modified() else { continue };
        let unused = now.duration_since(used).unwrap_or_default();
        match kind(&name) {
            Some(Kind::Kept) => files.push((used, entry.path(), metadata.len(), unused > age)),
            Some(Kind::Unfinished) if unused > UNFINISHED => drop(fs::remove_file(entry.path())),
            _ => {}
        }
    }
    files.sort();
    let mut pruned = Pruned { left: files.iter().map(|(_, _, size, _)| size).sum(), ..Pruned::default() };
    for (_, file, size, old) in files {
        if !old && pruned.left <= limit {
            break;
        }
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        pruned.removed += 1;
        pruned.freed += size;
        pruned.left -= size;
    }
    Ok(pruned)
}

enum Kind {
    Kept,
    Unfinished,
}

/// What a file is by its name: a digest's 64 digits; those and a suffix, or the name of a scratch file.
fn kind(name: &[u8]) -> Option<Kind> {
    let is_digest = |text: &[u8]| text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if name.starts_with(b".nix-seed-") {
        return Some(Kind::Unfinished);
    }
    match name.split_at_checked(64)? {
        (digest, b"") if is_digest(digest) => Some(Kind::Kept),
        (digest, suffix) if is_digest(digest) && suffix.ends_with(b".tmp") => Some(Kind::Unfinished),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// A directory with files of 100 bytes: names, and days since they were used.
    fn directory(files: &[(&str, u32)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, days) in files {
            let file = directory.path().join(name);
            fs::write(&file, [0; 100]).unwrap();
            File::open(file).unwrap().set_modified(SystemTime::now() - DAY * *days).unwrap();
        }
        directory
    }

    fn names(directory: &tempfile::TempDir) -> Vec<String> {
        let entries = fs::read_dir(directory.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names.iter().map(|name| name.chars().take(12).collect()).collect()
    }

    #[test]
    fn the_old_and_then_the_oldest_go() {
        let [a, b, c] = ["a", "b", "c"].map(|digit| digit.repeat(64));
        let files = [(a.as_str(), 9), (&b, 5), (&c, 1)];
        for (limit, days, left, freed) in [
            (1000, 10, "abc", 0),
            (1000, 7, "bc", 100),
            (200, 10, "bc", 100),
            (199, 10, "c", 200),
            (0, 10, "", 300),
        ] {
            let directory = directory(&files);
            let pruned = prune(directory.path(), limit, DAY * days).unwrap();
            let sizes = Pruned { removed: freed / 100, freed, left: 300 - freed };
            assert_eq!(pruned, sizes, "{limit} {days}");
            assert_eq!(names(&directory).iter().map(|name| &name[..1]).collect::<String>(), left);
        }
    }

    #[test]
    fn what_was_used_is_kept_and_what_is_not_ours_is_left_alone() {
        let [a, b] = ["a", "b"].map(|digit| digit.repeat(64));
        let half = format!("{b}.17.tmp");
        let directory =
            directory(&[(&a, 9), (&b, 9), (&half, 9), (".nix-seed-1", 9), (".nix-seed-2", 0), ("README", 9)]);
        used(&directory.path().join(&a));
        assert_eq!(prune(directory.path(), 1000, DAY).unwrap(), Pruned { removed: 1, freed: 100, left: 100 });
        assert_eq!(names(&directory), [".nix-seed-2", "README", "aaaaaaaaaaaa"]);
        assert_eq!(prune(&directory.path().join("none"), 0, DAY).unwrap(), Pruned::default());
    }
}
