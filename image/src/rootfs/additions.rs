//! What the user adds to the root file system: trees of store paths, and permission bits.

use std::io::{self, Read};

use regex::bytes::Regex;
use seed_format::{Entry, Kind, StorePath};

use super::{Entries, RootEntry, RootFsError};
use crate::closure::Closure;
use crate::tree::{self, TreeError, Visitor};

/// Largest file that is copied out of the store to have permission bits of its own, in bytes.
const MAX_COPY: u64 = 64 << 20;

/// What is added to the root file system.
#[derive(Debug, Clone, Default)]
pub struct Additions {
    /// Store paths whose trees are laid over the root, in this order. A directory becomes a directory of
    /// mode 0755; everything else a link to where it lies in the store, so that it is there once.
    pub trees: Vec<StorePath>,
    /// Permission bits of the directories and files, outside of the store, whose absolute path matches; the
    /// last that matches counts. A file of a tree becomes a copy by that.
    pub modes: Vec<(Regex, u16)>,
}

impl Additions {
    pub(super) fn add_to(&self, entries: &mut Entries, closure: &Closure) -> Result<(), RootFsError> {
        let mut added = Entries::new();
        for path in &self.trees {
            if !closure.paths.contains_key(path) {
                return Err(RootFsError::Foreign(path.clone()));
            }
            let mut laying =
                Laying { additions: self, path, at: Vec::new(), ends: Vec::new(), added: &mut added };
            tree::walk(&closure.real_path(path), &mut laying)?;
        }
        for (path, entry) in added {
            // A link or a file of the defaults gives way; a directory does not, for it has something in it.
            let is_directory = |entry: &RootEntry| entry.entry.kind == Kind::Directory;
            let default = entries.get(&path);
            match default {
                Some(default) if is_directory(default) && is_directory(&entry) => {}
                Some(default) if is_directory(default) || is_directory(&entry) => {
                    return Err(RootFsError::Conflict {
                        path,
                        from: ["the root file system", "a tree that is copied to it"].map(str::to_owned),
                    });
                }
                _ => drop(entries.insert(path, entry)),
            }
        }
        for (pattern, mode) in &self.modes {
            let mut matched = false;
            for RootEntry { entry, .. } in entries.values_mut() {
                if !matches!(entry.kind, Kind::Symlink { .. }) && is_match(pattern, &entry.path) {
                    entry.mode = *mode;
                    matched = true;
                }
            }
            if !matched {
                return Err(RootFsError::Unmatched(pattern.as_str().to_owned()));
            }
        }
        Ok(())
    }

    fn has_mode(&self, path: &[u8]) -> bool {
        self.modes.iter().any(|(pattern, _)| is_match(pattern, path))
    }
}

fn is_match(pattern: &Regex, path: &[u8]) -> bool {
    pattern.is_match(&[b"/", path].concat())
}

/// Lays one tree over the root.
struct Laying<'a> {
    additions: &'a Additions,
    path: &'a StorePath,
    /// The directory that was entered last, relative to the root.
    at: Vec<u8>,
    /// How long `at` was before each directory was entered.
    ends: Vec<usize>,
    added: &'a mut Entries,
}

impl Laying<'_> {
    fn place(&self, name: &[u8]) -> Result<Vec<u8>, RootFsError> {
        if self.ends.is_empty() {
            return Err(RootFsError::NoDirectory(self.path.clone()));
        }
        let path = if self.at.is_empty() { name.to_vec() } else { [&self.at, &b"/"[..], name].concat() };
        if path == b"nix" { Err(RootFsError::Store(self.path.clone())) } else { Ok(path) }
    }

    fn add(&mut self, entry: Entry, contents: Vec<u8>) -> Result<(), RootFsError> {
        let path = entry.path.clone();
        let is_new = match self.added.get(&path) {
            None => true,
            Some(there) if there.entry.kind == Kind::Directory && entry.kind == Kind::Directory => false,
            Some(there) => {
                let there = match &there.entry.kind {
                    Kind::Symlink { target } => target.escape_ascii().to_string(),
                    _ => "another tree".to_owned(),
                };
                return Err(RootFsError::Conflict { path, from: [there, self.path.to_string()] });
            }
        };
        if is_new {
            self.added.insert(path, RootEntry { entry, contents });
        }
        Ok(())
    }

    /// A link at `path` to where it lies in the store.
    fn link(&mut self, path: Vec<u8>) -> Result<(), RootFsError> {
        let target = [self.path.to_string().as_bytes(), b"/", &path].concat();
        self.add(Entry::symlink(path, target), Vec::new())
    }
}

impl Visitor for Laying<'_> {
    type Error = RootFsError;

    fn enter(&mut self, name: &[u8]) -> Result<(), RootFsError> {
        self.ends.push(self.at.len());
        if !name.is_empty() {
            self.at = self.place(name)?;
            self.add(Entry::directory(self.at.clone()).with_mode(0o755), Vec::new())?;
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<(), RootFsError> {
        self.at.truncate(self.ends.pop().unwrap_or(0));
        Ok(())
    }

    fn symlink(&mut self, name: &[u8], _target: &[u8]) -> Result<(), RootFsError> {
        let path = self.place(name)?;
        self.link(path)
    }

    fn file(
        &mut self,
        name: &[u8],
        size: u64,
        executable: bool,
        contents: &mut dyn Read,
    ) -> Result<(), RootFsError> {
        let path = self.place(name)?;
        if !self.additions.has_mode(&path) {
            return self.link(path);
        }
        if size > MAX_COPY {
            return Err(RootFsError::TooLarge { path, size, limit: MAX_COPY });
        }
        let mut bytes = Vec::new();
        let read = contents.take(size).read_to_end(&mut bytes);
        let read = read
            .and_then(|n| if n as u64 == size { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) });
        let failed =
            |source| TreeError::Io { path: String::from_utf8_lossy(&path).into_owned().into(), source };
        read.map_err(failed)?;
        self.add(Entry::regular(path, size, executable), bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::closure::PathInfo;
    use crate::rootfs::entries;

    fn path(digit: &str) -> StorePath {
        StorePath::from_base_name(&format!("{}-x", digit.repeat(32))).unwrap()
    }

    /// A closure of two paths: the first with files, a link and directories, the second as `fill` makes it.
    fn closure(store: &std::path::Path, fill: fn(&std::path::Path)) -> Closure {
        let mut closure = Closure { real_store: store.to_owned(), ..Closure::default() };
        for digit in ["0", "1"] {
            let path = path(digit);
            let real = store.join(path.base_name());
            if digit == "0" {
                fs::create_dir_all(real.join("etc/app")).unwrap();
                fs::write(real.join("etc/passwd"), "me").unwrap();
                fs::write(real.join("etc/app/secret"), "s").unwrap();
                symlink("secret", real.join("etc/app/link")).unwrap();
            } else {
                fill(&real);
            }
            let (nar_hash, nar_size) = tree::nar_hash(&real).unwrap();
            let info = PathInfo { path: path.clone(), nar_hash, nar_size, references: [].into(), ca: None };
            closure.paths.insert(path, info);
        }
        closure
    }

    fn additions(trees: &[&str], modes: &[(&str, u16)]) -> Additions {
        let modes = modes.iter().map(|(pattern, mode)| (Regex::new(pattern).unwrap(), *mode));
        Additions { trees: trees.iter().map(|digit| path(digit)).collect(), modes: modes.collect() }
    }

    #[test]
    fn trees_are_linked_and_files_with_modes_are_copied() {
        let store = tempfile::tempdir().unwrap();
        let closure = closure(store.path(), |real| fs::write(real, "").unwrap());
        let modes = [("^/etc/app/", 0o640), ("secret$", 0o4600), ("^/tmp$", 0o755)];
        let entries = entries(&closure, &additions(&["0"], &modes), false).unwrap();
        let find = |path: &str| entries.iter().find(|entry| entry.entry.path == path.as_bytes()).unwrap();
        let link = |name: &str| Entry::symlink(name, format!("{}/{name}", path("0")));
        assert_eq!(find("etc/passwd").entry, link("etc/passwd"), "it wins over the usual one");
        assert_eq!(find("etc/app/link").entry, link("etc/app/link"));
        assert_eq!(find("etc/app").entry, Entry::directory("etc/app").with_mode(0o755));
        let secret = find("etc/app/secret");
        assert_eq!(secret.entry, Entry::regular("etc/app/secret", 1, false).with_mode(0o4600));
        assert_eq!(secret.contents, b"s");
        assert_eq!(find("tmp").entry.mode, 0o755);
    }

    #[test]
    fn above_a_base_image_there_is_nix_and_what_is_added() {
        let store = tempfile::tempdir().unwrap();
        let closure = closure(store.path(), |real| fs::write(real, "").unwrap());
        let entries = entries(&closure, &additions(&["0"], &[]), true).unwrap();
        let outside: Vec<_> = entries.iter().filter(|entry| !entry.entry.path.starts_with(b"nix")).collect();
        let names: Vec<_> = outside.iter().map(|entry| entry.entry.path.escape_ascii().to_string()).collect();
        assert_eq!(names, ["etc", "etc/app", "etc/app/link", "etc/app/secret", "etc/passwd"]);
        assert!(entries.iter().any(|entry| entry.entry.path == b"nix/store"));
    }

    #[test]
    fn what_does_not_fit_is_said() {
        type Fill = fn(&std::path::Path);
        type Check = fn(&RootFsError) -> bool;
        let file: Fill = |real| fs::write(real, "").unwrap();
        let same: Fill = |real| {
            fs::create_dir_all(real.join("etc")).unwrap();
            fs::write(real.join("etc/passwd"), "you").unwrap();
        };
        let instead_of_directory: Fill = |real| {
            fs::create_dir_all(real).unwrap();
            fs::write(real.join("tmp"), "").unwrap();
        };
        let nix: Fill = |real| fs::create_dir_all(real.join("nix/store")).unwrap();
        let cases: &[(Fill, Additions, Check)] = &[
            (file, additions(&["2"], &[]), |e| matches!(e, RootFsError::Foreign(_))),
            (file, additions(&["1"], &[]), |e| matches!(e, RootFsError::NoDirectory(_))),
            (nix, additions(&["1"], &[]), |e| matches!(e, RootFsError::Store(_))),
            (same, additions(&["0", "1"], &[]), |e| matches!(e, RootFsError::Conflict { .. })),
            (instead_of_directory, additions(&["1"], &[]), |e| matches!(e, RootFsError::Conflict { .. })),
            (file, additions(&["0"], &[("/none", 0o600)]), |e| matches!(e, RootFsError::Unmatched(_))),
            (file, additions(&["0"], &[("/link$", 0o600)]), |e| matches!(e, RootFsError::Unmatched(_))),
        ];
        for (n, (fill, additions, check)) in cases.iter().enumerate() {
            let store = tempfile::tempdir().unwrap();
            let error = entries(&closure(store.path(), *fill), additions, false).unwrap_err();
            assert!(check(&error), "{n}: {error:?}");
        }
    }
}
