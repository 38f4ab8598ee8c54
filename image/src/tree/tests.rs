use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use super::*;

/// The hash that Nix computes.
fn nix_hash(path: &Path) -> String {
    let output = Command::new("nix-hash").args(["--type", "sha256"]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn hashes_are_those_of_nix() {
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("tree");
    fs::create_dir(&tree).unwrap();
    for name in [&b"a"[..], b"a-b", b"a.b", b"Z", b"\xff\xfe", b"new\nline", &[b'n'; 255]] {
        let path = tree.join(OsStr::from_bytes(name));
        fs::write(&path, vec![b'x'; name.len() * 100]).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }
    fs::create_dir_all(tree.join("dir/empty")).unwrap();
    fs::write(tree.join("dir/run"), b"").unwrap();
    fs::set_permissions(tree.join("dir/run"), Permissions::from_mode(0o700)).unwrap();
    symlink("/nowhere", tree.join("dir/link")).unwrap();
    fs::hard_link(tree.join("a"), tree.join("dir/a")).unwrap();

    for path in ["", "a", "dir", "dir/run", "dir/link", "dir/empty"] {
        let path = tree.join(path);
        assert_eq!(nar_hash(&path).unwrap().0.hex(), nix_hash(&path), "{}", path.display());
    }
}

#[test]
fn trees_deeper_than_any_path_are_walked() {
    struct Depth(usize, usize);
    impl Visitor for Depth {
        type Error = TreeError;
        fn enter(&mut self, _: &[u8]) -> Result<(), TreeError> {
            self.0 += 1;
            self.1 = self.1.max(self.0);
            Ok(())
        }
        fn leave(&mut self) -> Result<(), TreeError> {
            self.0 -= 1;
            Ok(())
        }
        fn symlink(&mut self, _: &[u8], _: &[u8]) -> Result<(), TreeError> {
            Ok(())
        }
        fn file(&mut self, _: &[u8], _: u64, _: bool, _: &mut dyn Read) -> Result<(), TreeError> {
            Ok(())
        }
    }
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut at = File::open(scratch.path()).unwrap();
    for _ in 0..1400 {
        rustix::fs::mkdirat(&at, c"ddd", Mode::RWXU).unwrap();
        at = File::from(rustix::fs::openat(&at, c"ddd", DIRECTORY, Mode::empty()).unwrap());
    }
    let mut depth = Depth(0, 0);
    walk(&scratch.path().join("ddd"), &mut depth).unwrap();
    assert_eq!((depth.0, depth.1), (0, 1400));
    // What removes the scratch directory would need a path.
    assert!(Command::new("rm").arg("-rf").arg(scratch.path().join("ddd")).status().unwrap().success());
}

#[test]
fn what_no_store_path_has_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    fs::create_dir(scratch.path().join("d")).unwrap();
    let pipe = scratch.path().join("d/pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let error = nar_hash(scratch.path()).unwrap_err();
    assert!(error.to_string().starts_with(&format!("{} is a pipe", pipe.display())), "{error}");

    let missing = scratch.path().join("missing");
    let error = nar_hash(&missing).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot read {}", missing.display()));
}
