//! One function for each thing that a machine may lack.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Resource, geteuid, getrlimit};

use super::Finding;
use crate::config::Config;
use crate::printer::bytes;
use crate::session::{self, Session};

/// FUSE mounts in user namespaces since 4.18, overlayfs in them since 5.11.
const KERNEL_FOR_ROOT: (u32, u32) = (4, 18);
const KERNEL_FOR_USERS: (u32, u32) = (5, 11);

/// A mount keeps a file open for each segment of the cache and each connection.
const OPEN_FILES: u64 = 1024;

/// Looks at everything, in the order in which a mount needs it.
pub(super) fn all(session: &Session<'_>) -> Vec<Finding> {
    let mut findings = vec![kernel(), fuse_device()];
    if !geteuid().is_root() {
        findings.push(mounting());
    }
    findings.extend([
        user_namespaces(),
        file_system("overlayfs", "overlay", "the offline build writes above the read-only seed"),
        erofs(),
        seccomp(),
        open_files(),
        cache(&session.config),
        directory("runtime directory", &session.runtime(), "runtime.dir"),
        policy(),
        program("nix", &["--version"], "needed by `seed pack` of a flake only: https://nixos.org/download"),
        program("git", &["--version"], "without it the source and the commit are not known: install git"),
    ]);
    findings
}

fn kernel() -> Finding {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let version = parse_release(&release);
    let root = geteuid().is_root();
    match version {
        Some(version) if version < KERNEL_FOR_ROOT => {
            Finding::fail("kernel", release, "Linux 4.18 or later is needed, 5.11 for ordinary users")
        }
        Some(version) if version < KERNEL_FOR_USERS && !root => Finding::fail(
            "kernel",
            release,
            "an ordinary user needs Linux 5.11: run as root, or use a later kernel",
        ),
        Some(_) => Finding::ok("kernel", release),
        None => {
            Finding::warn("kernel", release, "this release is not understood; Linux 5.11 or later is needed")
        }
    }
}

/// Major and minor number of `6.1.0-18-amd64`.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn fuse_device() -> Finding {
    const DEVICE: &str = "/dev/fuse";
    match OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(_) => Finding::ok("FUSE", DEVICE),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::fail(
            "FUSE",
            "there is no /dev/fuse",
            "modprobe fuse; in a container: --device /dev/fuse",
        ),
        Err(error) => Finding::fail("FUSE", format!("{DEVICE}: {error}"), "chmod 666 /dev/fuse (as root)"),
    }
}

/// In a namespace of its own anybody mounts, so `build`, `develop` and `run` do.
fn mounting() -> Finding {
    Finding::warn(
        "seed mount",
        "an ordinary user cannot mount",
        "use `seed build`, `seed develop` or `seed run`, or sudo",
    )
}

fn user_namespaces() -> Finding {
    const NAME: &str = "user namespaces";
    // Root builds without them; Nix's own sandbox inside needs them all the same.
    let denied = |found: String, fix: &str| {
        if geteuid().is_root() { Finding::warn(NAME, found, fix) } else { Finding::fail(NAME, found, fix) }
    };
    let setting = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    if setting("/proc/sys/user/max_user_namespaces") == Some(0) {
        return denied("user.max_user_namespaces is 0".into(), "sysctl -w user.max_user_namespaces=15000");
    }
    if setting("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        return denied(
            "switched off for ordinary users".into(),
            "sysctl -w kernel.unprivileged_userns_clone=1",
        );
    }
    if setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) && !geteuid().is_root() {
        return denied(
            "restricted by AppArmor".into(),
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        );
    }
    let tried = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "true"])
        .stdin(Stdio::null())
        .output();
    match tried {
        Ok(output) if output.status.success() => Finding::ok(NAME, "can be made"),
        Ok(output) => denied(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            "in a container: allow the system calls unshare and mount (--security-opt seccomp=unconfined)",
        ),
        Err(_) => Finding::warn(NAME, "not tried: there is no `unshare`", "apt-get install util-linux"),
    }
}

fn file_system(name: &'static str, kernel_name: &str, purpose: &str) -> Finding {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.split_whitespace().last() == Some(kernel_name)) {
        return Finding::ok(name, "in the kernel");
    }
    Finding::warn(name, format!("not loaded; {purpose}"), format!("modprobe {kernel_name}"))
}

/// An index is an EROFS image that the kernel could mount. Mounts go through FUSE, and need no EROFS.
fn erofs() -> Finding {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let known = known.lines().any(|line| line.split_whitespace().last() == Some("erofs"));
    Finding::ok("EROFS", if known { "in the kernel" } else { "not in the kernel; not needed" })
}

fn seccomp() -> Finding {
    match fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.contains("errno") => Finding::ok("seccomp", "filters can refuse system calls"),
        _ => Finding::fail("seccomp", "no filters", "use a kernel with CONFIG_SECCOMP_FILTER"),
    }
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

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_are_understood() {
        for (release, version) in [
            ("6.1.0-18-amd64", Some((6, 1))),
            ("5.15.167.4-microsoft-standard-WSL2", Some((5, 15))),
            ("6.18", Some((6, 18))),
            ("4.18.0-553.el8_10.x86_64", Some((4, 18))),
            ("generic", None),
        ] {
            assert_eq!(parse_release(release), version, "{release}");
        }
    }
}
