//! A Nix that is installed outside of the store, made into a store path: the program, every library that it
//! is linked with, their loader, and scripts that start it from wherever the path is.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::CaptureError;

/// The names that Nix goes by; it decides by its own name what to do.
const NAMES: &[&str] = &[
    "nix",
    "nix-build",
    "nix-channel",
    "nix-collect-garbage",
    "nix-copy-closure",
    "nix-daemon",
    "nix-env",
    "nix-hash",
    "nix-instantiate",
    "nix-prefetch-url",
    "nix-shell",
    "nix-store",
];

/// Libraries that the C library loads by name at run time: how names of hosts are resolved.
const LOADED_BY_NAME: &[&str] = &["libnss_dns.so.2", "libnss_files.so.2"];

/// Lays the program `nix` out in the new directory `to`.
pub(crate) fn lay_out(nix: &Path, to: &Path) -> Result<(), CaptureError> {
    let linked = linked(nix)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| CaptureError::Io { path, source }
    };
    let place = |parts: &str, contents: &Contents<'_>| {
        let path = to.join(parts);
        write(&path, contents).map_err(failed(&path))
    };
    let loader = file_name(&linked.loader);
    place(&format!("lib/{loader}"), &Contents::Program(&linked.loader))?;
    place("libexec/nix/nix", &Contents::Program(nix))?;
    for library in &linked.libraries {
        place(&format!("lib/{}", file_name(library)), &Contents::File(library))?;
    }
    for name in LOADED_BY_NAME {
        let beside = linked.libraries.iter().map(|library| library.with_file_name(name));
        if let Some(library) = beside.into_iter().find(|library| library.is_file()) {
            place(&format!("lib/{name}"), &Contents::File(&library))?;
        }
    }
    for name in NAMES {
        place(&format!("bin/{name}"), &Contents::Script(script("bin", name, &loader)))?;
    }
    // Nix starts itself under this name to look for other machines to build on.
    place("libexec/nix/build-remote", &Contents::Script(script("libexec/nix", "build-remote", &loader)))
}

struct Linked {
    loader: PathBuf,
    libraries: Vec<PathBuf>,
}

/// What `program` is linked with, as the loader finds it on this machine.
fn linked(program: &Path) -> Result<Linked, CaptureError> {
    let unusable = || CaptureError::NotRelocatable { program: program.to_owned() };
    // The loader lists libraries instead of running the program: what `ldd` does.
    let output = Command::new(program).env_clear().env("LD_TRACE_LOADED_OBJECTS", "1").output();
    let output = output.map_err(|source| CaptureError::Io { path: program.to_owned(), source })?;
    let text = String::from_utf8(output.stdout).map_err(|_| unusable())?;
    let (mut loader, mut libraries) = (None, Vec::new());
    for line in text.lines() {
        let line = line.trim();
        let (name, place) = line.split_once(" => ").unwrap_or(("", line));
        let place = PathBuf::from(place.split(" (").next().unwrap_or_default());
        if place.is_absolute() && place.is_file() {
            if name.is_empty() {
                loader = Some(place);
            } else {
                libraries.push(place);
            }
        } else if !line.starts_with("linux-vdso") {
            return Err(unusable());
        }
    }
    let loader = loader.ok_or_else(unusable)?;
    Ok(Linked { loader, libraries })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A script in `directory` of the path that runs Nix as `name`. It finds the path by its own place.
fn script(directory: &str, name: &str, loader: &str) -> String {
    let up = "/..".repeat(directory.split('/').count());
    format!(
        "#!/bin/sh
self=$0
[ -e \"${{self%/*}}{up}/libexec/nix/nix\" ] || self=$(readlink -f \"$self\")
here=${{self%/*}}{up}
export NIX_BIN_DIR=\"$here/bin\" NIX_LIBEXEC_DIR=\"$here/libexec\"
exec \"$here/lib/{loader}\" --argv0 {name} --library-path \"$here/lib\" \"$here/libexec/nix/nix\" \"$@\"
"
    )
}

enum Contents<'a> {
    Program(&'a Path),
    File(&'a Path),
    Script(String),
}

fn write(to: &Path, contents: &Contents<'_>) -> io::Result<()> {
    fs::create_dir_all(to.parent().unwrap_or(to))?;
    let mode = match contents {
        Contents::Program(from) => {
            fs::copy(from, to)?;
            0o755
        }
        Contents::File(from) => {
            fs::copy(from, to)?;
            0o644
        }
        Contents::Script(text) => {
            fs::write(to, text)?;
            0o755
        }
    };
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
}
