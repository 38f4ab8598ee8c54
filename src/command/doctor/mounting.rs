//! What mounts by FUSE need.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::geteuid;
use seed_format::Chain;
use seed_fuse::mount::{self, Mode};

use super::Finding;
use super::probe::find_program;

pub(super) fn device() -> Finding {
    device_at(Path::new("/dev/fuse"))
}

fn device_at(device: &Path) -> Finding {
    let name = device.display();
    match OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => Finding::ok("FUSE", name.to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::fail(
            "FUSE",
            format!("there is no {name}"),
            "as root: modprobe fuse; in a container: --device /dev/fuse",
        ),
        Err(error) => Finding::fail("FUSE", format!("{name}: {error}"), format!("as root: chmod 666 {name}")),
    }
}

/// Which tree a mount of this user would show.
pub(super) fn mode(wanted: Mode) -> Finding {
    const NAME: &str = "mounts show by";
    let by_kernel = mount::can_show_by_kernel();
    match (wanted, by_kernel) {
        (Mode::Fuse, _) => Finding::ok(NAME, "fuse: mount.mode says so"),
        (_, Ok(reason)) => Finding::ok(NAME, format!("kernel: {reason}")),
        (Mode::Auto, Err(error)) => Finding::ok(NAME, format!("fuse: {}", Chain(&error))),
        (Mode::Kernel | Mode::KernelLoop, Err(error)) => {
            Finding::fail(NAME, Chain(&error).to_string(), "set mount.mode to auto")
        }
    }
}

/// Ordinary users mount by it; root and the sandbox mount by themselves.
pub(super) fn fusermount() -> Finding {
    const NAME: &str = "fusermount3";
    let path = find_program(NAME);
    match path {
        Some(path) if path.metadata().is_ok_and(|file| file.mode() & 0o4000 != 0 && file.uid() == 0) => {
            Finding::ok(NAME, path.display().to_string())
        }
        _ if geteuid().is_root() => Finding::ok(NAME, "not there; not needed by root"),
        Some(path) => Finding::warn(
            NAME,
            format!("{} is not set-user-ID root, so `seed mount` cannot be used", path.display()),
            format!("as root: chown root {0} && chmod 4755 {0}", path.display()),
        ),
        None => Finding::warn(
            NAME,
            "not found, so `seed mount` cannot be used",
            "as root: apt-get install fuse3; `seed build`, `seed develop` and `seed run` do without",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_device_that_is_not_there() {
        let finding = device_at(Path::new("/nonexistent/fuse"));
        assert_eq!(finding.state, State::Fail);
        assert!(finding.fix.unwrap().contains("modprobe fuse"));
    }

    #[test]
    fn a_device_that_cannot_be_opened() {
        // A directory cannot be opened for writing, not even by root.
        let finding = device_at(Path::new("/proc"));
        assert_eq!(finding.state, State::Fail);
        assert!(finding.fix.unwrap().contains("chmod 666 /proc"));
    }
}
