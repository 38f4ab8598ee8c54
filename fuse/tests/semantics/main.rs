//! What programs see of a mount, on three file systems: ext4, read-only, as the reference, and both trees.
//!
//! Each case does something to a tree and writes down what came of it. What it writes must be the same on all
//! three, but for the differences that `docs/mount.md` has, which are listed here and must be there: so a case
//! that could not fail would be noticed by the lists. Needs root, loop devices and `mkfs.ext4`.
//!
//! The cases are those of `pjdfstest` and `fstests` that apply to a file system that is read-only from the
//! beginning, and more.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
#![allow(unsafe_code, reason = "system calls that no crate has")]

mod access;
mod bytes;
mod locks;
mod modify;
mod names;
mod observe;
#[path = "../support/mod.rs"]
mod support;
mod world;

use observe::Seen;
use world::World;

/// A case: a name, and what it does to the tree at a directory.
type Case = (&'static str, fn(&std::path::Path, &mut Seen));

const CASES: &[Case] = &[
    ("stat", names::stat),
    ("readdir", names::readdir),
    ("seekdir", names::seekdir),
    ("paths", names::paths),
    ("links", names::links),
    ("reading", bytes::reading),
    ("mmap", bytes::mmap),
    ("sendfile", bytes::sendfile),
    ("direct", bytes::direct),
    ("holes", bytes::holes),
    ("advice", bytes::advice),
    ("exec", bytes::exec),
    ("locks", locks::locks),
    ("inotify", locks::inotify),
    ("access", access::access),
    ("ordinary user", access::ordinary_user),
    ("statfs", access::statfs),
    ("attributes", access::attributes),
    ("handles", access::handles),
    ("creating", modify::creating),
    ("removing", modify::removing),
    ("renaming", modify::renaming),
    ("changing", modify::changing),
];

/// What differs from ext4, by case and observation: what FUSE and the kernel tree give. Each of them stands in
/// `docs/mount.md`.
const DIFFERENCES: &[(&str, &str, &str, &str)] = &[
    ("stat", "statx knows", "2047", "2015"),
    ("reading", "fdatasync", "()", "InvalidInput 22"),
    ("reading", "fsync", "()", "InvalidInput 22"),
    ("direct", "open", "None", "Some(Some(22))"),
    ("direct", "at any offset", "(Ok(4096), true)", "(Ok(4096), true)"),
    ("direct", "into any memory", "(Ok(4096), true)", "(Ok(4096), true)"),
    ("direct", "of any length", "(Ok(100), true)", "(Ok(100), true)"),
    ("attributes", "flags", "Uncategorized 25", "Uncategorized 25"),
    ("attributes", "get security.capability", "Unsupported 95", "Uncategorized 61"),
    ("attributes", "get security.none", "Unsupported 95", "Uncategorized 61"),
    ("attributes", "get trusted.none", "Unsupported 95", "Uncategorized 61"),
    ("attributes", "get user.", "Unsupported 95", "InvalidInput 22"),
    ("attributes", "get user.none", "Unsupported 95", "Uncategorized 61"),
    ("attributes", "list", "Unsupported 95", "0"),
    ("attributes", "list of a directory", "Unsupported 95", "0"),
    ("attributes", "list of a link", "Unsupported 95", "0"),
];

#[test]
fn both_trees_are_as_ext4() {
    support::in_private_namespace(|| {
        let world = World::new();
        let [ext4, fuse, kernel] = ["ext4", "fuse", "kernel"].map(|name| world.at(name));
        let mut wrong = Vec::new();
        let mut used = 0;
        for (case, look) in CASES {
            let [ext4, fuse, kernel] = [&ext4, &fuse, &kernel].map(|root| {
                let mut seen = Seen::default();
                look(root, &mut seen);
                seen
            });
            assert!(!ext4.is_empty(), "{case} sees nothing");
            for (what, expected) in ext4.iter() {
                let found = (fuse.get(what), kernel.get(what));
                let differs =
                    DIFFERENCES.iter().find(|(of, about, ..)| (of, about) == (case, &what.as_str()));
                used += usize::from(
                    differs.is_some_and(|(.., fuse, kernel)| fuse != expected || kernel != expected),
                );
                let wanted = differs
                    .map_or((expected.as_str(), expected.as_str()), |(.., fuse, kernel)| (fuse, kernel));
                if found != (Some(wanted.0), Some(wanted.1)) {
                    wrong.push(format!(
                        "(\"{case}\", \"{what}\", {:?}, {:?}), // ext4: {expected:?}",
                        found.0.unwrap_or("-"),
                        found.1.unwrap_or("-")
                    ));
                }
            }
            assert_eq!((fuse.len(), kernel.len()), (ext4.len(), ext4.len()), "{case} sees different things");
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert_eq!(used, DIFFERENCES.len(), "a difference that is listed is none");
    });
}
