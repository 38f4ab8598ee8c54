//! Files that nobody sees half-written.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Writes the bytes beside `file`, whose directory is made if it is missing, and renames them: whoever reads
/// gets all of the old bytes or all of the new. They are not synced to disk, so a crash of the machine may leave
/// other bytes: it is for files that can be made again.
pub fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let unfinished = file.with_extension(format!("{}-{number}.tmp", std::process::id()));
    let written = fs::write(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, file));
    if written.is_err() {
        // What matters is the first error.
        let _ = fs::remove_file(&unfinished);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn readers_see_one_version_or_another() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("new/file");
        let version = |n: u8| vec![n; 100_000];
        write(&file, &version(0)).unwrap();
        thread::scope(|scope| {
            let writers: Vec<_> = (1..4)
                .map(|n| {
                    let file = &file;
                    scope.spawn(move || (0..50).for_each(|_| write(file, &version(n)).unwrap()))
                })
                .collect();
            while writers.iter().any(|writer| !writer.is_finished()) {
                let seen = fs::read(&file).unwrap();
                assert_eq!(seen, version(seen[0]));
            }
        });
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_failure_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let taken = directory.path().join("taken");
        fs::create_dir(&taken).unwrap();
        assert!(write(&taken, b"x").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
