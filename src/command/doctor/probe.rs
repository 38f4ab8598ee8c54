//! One function for each thing that a machine may lack.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Resource, getrlimit};

use super::kernel::Kernel;
use super::{Finding, mounting};
use crate::config::Config;
use crate::printer::bytes;
use crate::session::{self, Session};

/// A mount keeps a file open for each segment of the cache and each connection.
const OPEN_FILES: u64 = 1024;

/// Looks at everything, in the order in which a mount needs it.
pub(super) fn all(session: &Session<'_>) -> Vec<Finding> {
    let kernel = Kernel::this();
    vec![
        kernel.version(),
        mounting::device(),
        mounting::fusermount(),
        mounting::mode(session.config.mount.mode),
        kernel.takeover(),
        kernel.user_namespaces(),
        kernel.cgroups(),
        kernel.overlayfs(),
        kernel.erofs(),
        kernel.seccomp(),
        open_files(),
        cache(&session.config),
        directory("runtime directory", &session.runtime(), "runtime.dir"),
        policy(),
        program("nix", &["--version"], "needed by `seed pack` of a flake only: https://nixos.org/download"),
        program("git", &["--version"], "without it the source and the commit are not known: install git"),
    ]
}

fn open_files() -> Finding {
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < OPEN_FILES => {
            Finding::warn("open files", limit.to_string(), format!("ulimit -n {OPEN_FILES}"))
        }
        Some(limit) => Finding::ok("open files", limit.to_string()),
        None => Finding::ok("open files", "unlimited"),
    }
}

fn cache(config: &Config) -> Finding {
    let dir = &config.cache.dir;
    let finding = directory("cache", dir, "cache.dir");
    if finding.state != super::State::Ok {
        return finding;
    }
    let Ok(stat) = rustix::fs::statvfs(existing_ancestor(dir)) else { return finding };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let limit = config.cache.size;
    if free < limit.bytes() / 10 {
        return Finding::warn(
            "cache",
            format!("{}: {} free, for a cache of {limit}", dir.display(), bytes(free)),
            "free some space, or lower cache.size",
        );
    }
    Finding::ok("cache", format!("{}: {} free, bounded to {limit}", dir.display(), bytes(free)))
}

/// Whether the directory, or the nearest that exists above it, can be written to.
fn directory(name: &'static str, dir: &Path, key: &str) -> Finding {
    let nearest = existing_ancestor(dir);
    match rustix::fs::access(nearest, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK) {
        Ok(()) if nearest.is_dir() => Finding::ok(name, dir.display().to_string()),
        Ok(()) => Finding::fail(name, format!("{} is no directory", nearest.display()), format!("set {key}")),
        Err(error) => {
            let found = format!("{}: {}", nearest.display(), io::Error::from(error));
            Finding::fail(name, found, format!("set {key} to a directory that you can write to"))
        }
    }
}

fn existing_ancestor(dir: &Path) -> &Path {
    dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"))
}

fn policy() -> Finding {
    match session::load_policy(None) {
        Ok(policy) if policy.level == seed_policy::Level::Innocent => {
            Finding::ok("policy", policy.level.name())
        }
        Ok(policy) => {
            Finding::fail("policy", policy.level.name(), "this version can judge the level innocent only")
        }
        Err(error) => {
            Finding::fail("policy", error.causes().join(": "), "put the file right: docs/configuration.md")
        }
    }
}

fn program(name: &'static str, version: &[&str], purpose: &str) -> Finding {
    let Some(path) = find_program(name) else { return Finding::warn(name, "not found", purpose) };
    match Command::new(&path).args(version).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => {
            let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            Finding::ok(name, format!("{said} ({})", path.display()))
        }
        Ok(output) => Finding::warn(name, format!("{} ends with {}", path.display(), output.status), purpose),
        Err(error) => Finding::warn(name, format!("{}: {error}", path.display()), purpose),
    }
}

pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok())
}
