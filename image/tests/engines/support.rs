//! A closure that can be run, from programs of this machine.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use seed_format::StorePath;
use seed_image::closure::{Closure, PathInfo, Programs};
use seed_image::pack::Options;
use seed_image::tree;

pub(crate) fn store_path(digit: char, name: &str) -> StorePath {
    StorePath::from_base_name(&format!("{}-{name}", digit.to_string().repeat(32))).unwrap()
}

/// A shell, Nix with its libraries, and a path with one large file and many small ones.
pub(crate) fn closure(real_store: &Path) -> Closure {
    let (shell, nix, data) = (store_path('0', "shell"), store_path('1', "nix"), store_path('2', "data"));
    let at = |path: &StorePath| real_store.join(path.base_name());
    fill_shell(&at(&shell));
    fill_nix(&at(&nix), &shell);
    fill_data(&at(&data), 1);
    let mut closure = Closure { real_store: real_store.to_owned(), ..Closure::default() };
    closure.programs = Programs { shell: Some(shell.clone()), nix: Some(nix.clone()), ..Programs::default() };
    for (path, references) in [(shell.clone(), vec![]), (nix, vec![shell]), (data, vec![])] {
        register(&mut closure, path, references);
    }
    closure
}

/// Adds a path to the closure, as Nix would register its files.
pub(crate) fn register(closure: &mut Closure, path: StorePath, references: Vec<StorePath>) {
    let (nar_hash, nar_size) = tree::nar_hash(&closure.real_path(&path)).unwrap();
    let references = references.into_iter().collect();
    let info = PathInfo { path: path.clone(), nar_hash, nar_size, references, ca: None };
    closure.paths.insert(path, info);
}

pub(crate) fn options() -> Options {
    Options::new("x86_64-linux")
}

fn fill_shell(path: &Path) {
    fs::create_dir_all(path.join("bin")).unwrap();
    fs::copy("/bin/busybox", path.join("bin/sh")).expect("busybox-static is installed");
    for name in ["cat", "find", "ls", "sha256sum", "stat"] {
        symlink("sh", path.join("bin").join(name)).unwrap();
    }
}

/// Copies `nix` and its libraries; a script starts it with them.
fn fill_nix(path: &Path, shell: &StorePath) {
    let lib = path.join("lib");
    fs::create_dir_all(&lib).unwrap();
    fs::create_dir_all(path.join("bin")).unwrap();
    let output = Command::new("ldd").arg("/usr/bin/nix").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let libraries: BTreeSet<PathBuf> =
        text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect();
    assert!(libraries.len() > 5, "nix-bin is installed: {text}");
    for library in &libraries {
        fs::copy(library, lib.join(library.file_name().unwrap())).unwrap();
    }
    fs::copy("/usr/bin/nix", path.join("bin/.nix")).unwrap();
    let here = format!("/nix/store/{}", path.file_name().unwrap().to_str().unwrap());
    let script = format!(
        "#!{shell}/bin/sh\nexec {here}/lib/ld-linux-x86-64.so.2 --library-path {here}/lib --argv0 nix {here}/bin/.nix \"$@\"\n"
    );
    fs::write(path.join("bin/nix"), script).unwrap();
    fs::set_permissions(path.join("bin/nix"), Permissions::from_mode(0o755)).unwrap();
}

/// 100 small files and one of 20 MB that does not compress.
pub(crate) fn fill_data(path: &Path, seed: u64) {
    fs::create_dir_all(path).unwrap();
    let mut random = fastrand::Rng::with_seed(seed);
    for n in 0..100 {
        fs::write(path.join(format!("small-{n}")), format!("{n}\n").repeat(100)).unwrap();
    }
    let large: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(20_000_000).collect();
    fs::write(path.join("large"), large).unwrap();
}
