//! Closures for tests.

#[path = "../tests/data/index_layer.rs"]
mod index_layer;
#[path = "../tests/data/noise.rs"]
mod noise;

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use seed_format::{StorePath, layer};

use crate::closure::{Closure, PathInfo, Programs};
use crate::pack::Options;
use crate::tree;

pub(crate) use index_layer::index_layer;
use noise::noise;

/// Files of one store path, written by a test.
pub(crate) type Fill<'a> = &'a dyn Fn(&Path);

pub(crate) fn store_path(digit: char, name: &str) -> StorePath {
    StorePath::from_base_name(&format!("{}-{name}", digit.to_string().repeat(32))).unwrap()
}

/// A closure in `real_store` whose paths `fills` write. Each path refers to the one before it, and to itself.
pub(crate) fn closure(real_store: &Path, fills: &[(StorePath, Fill<'_>)]) -> Closure {
    fs::create_dir_all(real_store).unwrap();
    let mut closure = Closure { real_store: real_store.to_owned(), ..Closure::default() };
    let mut before = None;
    for (path, fill) in fills {
        let real = closure.real_path(path);
        if fs::symlink_metadata(&real).is_err() {
            fill(&real);
        }
        let (nar_hash, nar_size) = tree::nar_hash(&real).unwrap();
        let references = before.into_iter().chain([path.clone()]).collect();
        let info = PathInfo { path: path.clone(), nar_hash, nar_size, references, ca: None };
        closure.paths.insert(path.clone(), info);
        before = Some(path.clone());
    }
    closure
}

pub(crate) fn write(path: &Path, contents: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, contents).unwrap();
}

pub(crate) fn make_executable(path: &Path) {
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

/// A small closure with every shape that a store may have.
pub(crate) fn shapes(real_store: &Path) -> Closure {
    let chunk = usize::try_from(layer::Options::default().chunk_size).unwrap();
    let program = |path: &Path| {
        write(&path.join("bin/sh"), "#!/bin/false\n");
        make_executable(&path.join("bin/sh"));
        symlink("sh", path.join("bin/bash")).unwrap();
        fs::create_dir(path.join("empty")).unwrap();
    };
    let names = |path: &Path| {
        for name in [&b"\xff\xfe invalid"[..], b"new\nline", b"README", b"readme", &[b'n'; 255]] {
            write(&path.join(OsStr::from_bytes(name)), name);
        }
        symlink(OsStr::from_bytes(b"\xff"), path.join("link")).unwrap();
        fs::hard_link(path.join("README"), path.join("hard")).unwrap();
    };
    let sizes = |path: &Path| {
        for len in [0, 1, 4095, 4096, 4097, chunk - 1, chunk, chunk + 1, 2 * chunk + 5] {
            write(&path.join(len.to_string()), noise(len as u64, len));
        }
    };
    closure(
        real_store,
        &[
            (store_path('0', "shell"), &program),
            (store_path('1', "names"), &names),
            (store_path('2', "sizes"), &sizes),
            (store_path('3', "file"), &|path| write(path, "a file\n")),
            (store_path('4', "link"), &|path| symlink("/nowhere", path).unwrap()),
            (store_path('5', "empty"), &|path| write(path, "")),
        ],
    )
}

/// Small layers, so that a small closure has several.
pub(crate) fn options() -> Options {
    let mut options = Options::new("x86_64-linux");
    options.limits.target_size = 1 << 20;
    options
}

/// The closure with the shell that [`shapes`] has.
pub(crate) fn with_shell(mut closure: Closure) -> Closure {
    closure.programs = Programs { shell: Some(store_path('0', "shell")), ..Programs::default() };
    closure
}
