//! What the kernel can do, and lets this user do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::geteuid;

use super::Finding;

/// FUSE mounts in user namespaces since 4.18, overlayfs in them since 5.11, requests sent again to
/// another server since 6.9, EROFS from files since 6.12.
const KERNEL_FOR_ROOT: (u32, u32) = (4, 18);
const KERNEL_FOR_USERS: (u32, u32) = (5, 11);
const KERNEL_FOR_TAKEOVER: (u32, u32) = (6, 9);
const KERNEL_FOR_EROFS_FILES: (u32, u32) = (6, 12);

/// Where the kernel is asked, and for whom.
pub(super) struct Kernel {
    /// `/proc`.
    proc: PathBuf,
    release: String,
    /// Whether the user is root.
    root: bool,
}

impl Kernel {
    pub(super) fn this() -> Self {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        Self { proc: "/proc".into(), release, root: geteuid().is_root() }
    }

    pub(super) fn version(&self) -> Finding {
        let release = self.release.clone();
        match parse_release(&release) {
            Some(version) if version < KERNEL_FOR_ROOT => {
                Finding::fail("kernel", release, "Linux 4.18 or later is needed, 5.11 for ordinary users")
            }
            Some(version) if version < KERNEL_FOR_USERS && !self.root => Finding::fail(
                "kernel",
                release,
                "an ordinary user needs Linux 5.11: run as root, or use a later kernel",
            ),
            Some(_) => Finding::ok("kernel", release),
            None => Finding::warn(
                "kernel",
                release,
                "this release is not understood; Linux 5.11 or later is needed",
            ),
        }
    }

    /// Whether another server can go on with a mount. A mount asks the kernel itself, so one with an older number
    /// that has been taught it may do better than is said here.
    pub(super) fn takeover(&self) -> Finding {
        const NAME: &str = "takeover";
        match parse_release(&self.release) {
            Some(version) if version < KERNEL_FOR_TAKEOVER => Finding::warn(
                NAME,
                "before Linux 6.9 a mount cannot be handed to another server: it ends with its own",
                "use Linux 6.9 or later; else, after a server was killed, and to use another seed-mount, \
                 `seed unmount DIR` and mount again",
            ),
            Some(_) => Finding::ok(NAME, "a mount outlives its server"),
            None => {
                Finding::warn(NAME, "not known", "`seed status --json` says of each mount: outlives_server")
            }
        }
    }

    pub(super) fn user_namespaces(&self) -> Finding {
        self.user_namespaces_by_settings().unwrap_or_else(|| self.user_namespaces_by_trying())
    }

    /// What the settings forbid, if they do.
    fn user_namespaces_by_settings(&self) -> Option<Finding> {
        if self.setting("user/max_user_namespaces") == Some(0) {
            let fix = "as root: sysctl -w user.max_user_namespaces=15000";
            return Some(self.denied("user.max_user_namespaces is 0", fix));
        }
        if self.setting("kernel/unprivileged_userns_clone") == Some(0) {
            let fix = "as root: sysctl -w kernel.unprivileged_userns_clone=1";
            return Some(
                self.denied("switched off for ordinary users: kernel.unprivileged_userns_clone is 0", fix),
            );
        }
        if self.setting("kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
            let found = "restricted by AppArmor: kernel.apparmor_restrict_unprivileged_userns is 1";
            let fix = "as root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile \
                       that has `userns,` for this program";
            return Some(self.denied(found, fix));
        }
        None
    }

    fn user_namespaces_by_trying(&self) -> Finding {
        let tried = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "true"])
            .stdin(Stdio::null())
            .output();
        match tried {
            Ok(output) if output.status.success() => Finding::ok("user namespaces", "can be made"),
            Ok(output) => self.denied(
                String::from_utf8_lossy(&output.stderr).trim(),
                "in a container: allow the system calls unshare and mount (--security-opt seccomp=unconfined)",
            ),
            Err(_) => Finding::warn(
                "user namespaces",
                "not tried: there is no `unshare`",
                "apt-get install util-linux",
            ),
        }
    }

    /// Root builds without them; Nix's own sandbox inside runs as an ordinary user and needs them all the same.
    fn denied(&self, found: &str, fix: &str) -> Finding {
        let finding = if self.root { Finding::warn } else { Finding::fail };
        finding("user namespaces", found.to_owned(), fix.to_owned())
    }

    pub(super) fn overlayfs(&self) -> Finding {
        if self.has_file_system("overlay") {
            return Finding::ok("overlayfs", "in the kernel");
        }
        let found = "not loaded; the offline build writes above the read-only seed";
        Finding::warn("overlayfs", found, "as root: modprobe overlay")
    }

    /// An index is an EROFS image, which the kernel mounts for root. Without it, mounts go through FUSE.
    pub(super) fn erofs(&self) -> Finding {
        let from_files =
            parse_release(&self.release).is_some_and(|version| version >= KERNEL_FOR_EROFS_FILES);
        let found = match (self.has_file_system("erofs"), from_files) {
            (true, true) => "in the kernel, also from files",
            (true, false) => "in the kernel, from block devices only (from files: Linux 6.12)",
            (false, _) => "not in the kernel: seeds are shown by FUSE",
        };
        Finding::ok("EROFS", found)
    }

    /// The sandbox has a cgroup namespace of its own.
    pub(super) fn cgroups(&self) -> Finding {
        if !self.proc.join("self/ns/cgroup").exists() {
            return Finding::fail("cgroups", "no namespaces of them", "use a kernel with CONFIG_CGROUPS");
        }
        let own = fs::read_to_string(self.proc.join("self/cgroup")).unwrap_or_default();
        // cgroups(7): a line `0::PATH` is that of version 2; lines with a controller are those of version 1.
        let unified = own.lines().any(|line| line.starts_with("0::"));
        let controllers = own.lines().any(|line| !line.starts_with("0::"));
        Finding::ok(
            "cgroups",
            match (unified, controllers) {
                (true, false) => "version 2",
                (true, true) => "versions 1 and 2",
                (false, _) => "version 1",
            },
        )
    }

    pub(super) fn seccomp(&self) -> Finding {
        match fs::read_to_string(self.proc.join("sys/kernel/seccomp/actions_avail")) {
            Ok(actions) if actions.contains("errno") => {
                Finding::ok("seccomp", "filters can refuse system calls")
            }
            _ => Finding::fail("seccomp", "no filters", "use a kernel with CONFIG_SECCOMP_FILTER"),
        }
    }

    fn setting(&self, name: &str) -> Option<u64> {
        let text = fs::read_to_string(self.proc.join("sys").join(Path::new(name))).ok()?;
        text.trim().parse().ok()
    }

    fn has_file_system(&self, name: &str) -> bool {
        let known = fs::read_to_string(self.proc.join("filesystems")).unwrap_or_default();
        known.lines().any(|line| line.split_whitespace().last() == Some(name))
    }
}

/// Major and minor number of `6.1.0-18-amd64`.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::State;
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

    /// A kernel with these files below `/proc`.
    fn kernel(release: &str, root: bool, files: &[(&str, &str)]) -> (tempfile::TempDir, Kernel) {
        let proc = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let file = proc.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let kernel = Kernel { proc: proc.path().to_owned(), release: release.into(), root };
        (proc, kernel)
    }

    #[test]
    fn versions() {
        for (release, root, state) in [
            ("6.1.0-18-amd64", false, State::Ok),
            ("5.10.0-28-amd64", true, State::Ok),
            ("5.10.0-28-amd64", false, State::Fail),
            ("4.17.1", true, State::Fail),
            ("generic", true, State::Warn),
        ] {
            let finding = kernel(release, root, &[]).1.version();
            assert_eq!(finding.state, state, "{release}");
            assert_eq!(finding.fix.is_some(), state != State::Ok);
        }
    }

    #[test]
    fn mounts_are_handed_over_from_6_9_on() {
        for (release, state) in [
            ("6.8.0-45-generic", State::Warn),
            ("5.14.0-503.el9.x86_64", State::Warn),
            ("6.9.0", State::Ok),
            ("6.12.1-amd64", State::Ok),
            ("7.0", State::Ok),
            ("generic", State::Warn),
        ] {
            let finding = kernel(release, true, &[]).1.takeover();
            assert_eq!(finding.state, state, "{release}");
            assert_eq!(finding.fix.is_some(), state != State::Ok, "{release}");
        }
        let finding = kernel("6.8", false, &[]).1.takeover();
        assert!(finding.found.contains("6.9") && finding.fix.unwrap().contains("seed unmount"));
    }

    #[test]
    fn settings_that_forbid_user_namespaces() {
        for (file, value, fix) in [
            ("user/max_user_namespaces", "0\n", "user.max_user_namespaces=15000"),
            ("kernel/unprivileged_userns_clone", "0\n", "kernel.unprivileged_userns_clone=1"),
            (
                "kernel/apparmor_restrict_unprivileged_userns",
                "1\n",
                "kernel.apparmor_restrict_unprivileged_userns=0",
            ),
        ] {
            for (root, state) in [(true, State::Warn), (false, State::Fail)] {
                let (_proc, kernel) = kernel("6.8", root, &[(&format!("sys/{file}"), value)]);
                let finding = kernel.user_namespaces();
                assert_eq!(finding.state, state, "{file}");
                assert!(finding.fix.unwrap().contains(fix), "{file}");
            }
        }
        let allowed = [
            ("sys/user/max_user_namespaces", "96364\n"),
            ("sys/kernel/unprivileged_userns_clone", "1\n"),
            ("sys/kernel/apparmor_restrict_unprivileged_userns", "0\n"),
        ];
        assert!(kernel("6.8", false, &allowed).1.user_namespaces_by_settings().is_none());
        assert!(kernel("6.8", false, &[]).1.user_namespaces_by_settings().is_none());
    }

    #[test]
    fn file_systems() {
        let known = [("filesystems", "nodev\tproc\nnodev\toverlay\n\terofs\n")];
        let (_proc, new) = kernel("6.12.1", false, &known);
        assert_eq!(new.overlayfs().state, State::Ok);
        assert!(new.erofs().found.contains("also from files"));
        assert!(kernel("6.11", false, &known).1.erofs().found.contains("block devices only"));
        let without = kernel("6.12.1", false, &[("filesystems", "nodev\tproc\n")]).1;
        assert_eq!(without.erofs().state, State::Ok);
        assert!(without.overlayfs().fix.unwrap().contains("modprobe overlay"));
    }

    #[test]
    fn control_groups() {
        assert_eq!(kernel("6.12", true, &[]).1.cgroups().state, State::Fail);
        for (own, found) in [
            ("0::/user.slice\n", "version 2"),
            ("4:memory:/\n0::/\n", "versions 1 and 2"),
            ("4:memory:/\n", "version 1"),
        ] {
            let (_proc, kernel) = kernel("6.12", true, &[("self/ns/cgroup", ""), ("self/cgroup", own)]);
            assert_eq!(kernel.cgroups().found, found);
        }
    }

    #[test]
    fn filters() {
        let file = "sys/kernel/seccomp/actions_avail";
        assert_eq!(
            kernel("6.12", true, &[(file, "kill_process errno log allow\n")]).1.seccomp().state,
            State::Ok
        );
        assert_eq!(kernel("6.12", true, &[]).1.seccomp().state, State::Fail);
    }
}
