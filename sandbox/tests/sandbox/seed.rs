//! The seed of the tests: a shell, the probe, and a file.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use seed_format::{Digest, StorePath};
use seed_fuse::mount::{OpenOptions, open_seed};
use seed_image::closure::{Closure, PathInfo};
use seed_image::pack::{Options, pack};
use seed_image::reference::Location;
use seed_image::transport::{self, TransportOptions};
use seed_image::tree::nar_hash;
use seed_sandbox::Lower;
use tempfile::TempDir;

use crate::harness;

const SHELL: &str = "00000000000000000000000000000000-shell";
const PROBE: &str = "11111111111111111111111111111111-probe";

/// A path that the seed holds, with a file `file`.
pub(crate) const SEEDED: &str = "/nix/store/22222222222222222222222222222222-seeded";

/// Where the shell and the other programs lie inside.
pub(crate) const SEARCH_PATH: &str = "/nix/store/00000000000000000000000000000000-shell/bin";

const APPLETS: [&str; 13] =
    ["sh", "cat", "env", "ls", "sleep", "stty", "tty", "rm", "mkdir", "dd", "id", "ln", "chmod"];

/// The first words of a command that starts this program inside: its loader and libraries are in the seed,
/// but not where the program looks for them.
pub(crate) fn probe_command() -> [&'static str; 4] {
    const LIBRARIES: &str = "/nix/store/11111111111111111111111111111111-probe/lib";
    [
        "/nix/store/11111111111111111111111111111111-probe/lib/loader",
        "--library-path",
        LIBRARIES,
        "/nix/store/11111111111111111111111111111111-probe/bin/probe",
    ]
}

/// A seed in an image layout.
pub(crate) struct PackedSeed {
    directory: TempDir,
    pub(crate) digest: Digest,
}

impl PackedSeed {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let real_store = directory.path().join("tree/nix/store");
        write_shell(&real_store.join(SHELL));
        write_probe(&real_store.join(PROBE));
        let seeded = directory.path().join("tree").join(&SEEDED[1..]);
        fs::create_dir(&seeded).unwrap();
        fs::write(seeded.join("file"), "seeded\n").unwrap();

        let mut closure = Closure { real_store, ..Closure::default() };
        for base in [SHELL, PROBE, SEEDED.rsplit('/').next().unwrap()] {
            let path = StorePath::from_base_name(base).unwrap();
            let (nar_hash, nar_size) = nar_hash(&closure.real_path(&path)).unwrap();
            let info = PathInfo { path: path.clone(), nar_hash, nar_size, references: [].into(), ca: None };
            closure.paths.insert(path, info);
        }
        closure.programs.shell = StorePath::from_base_name(SHELL).ok();
        let layout = transport(&directory.path().join("layout"));
        let packed = pack(&closure, &Options::new("x86_64-linux"), &*layout, Some("tests"), &()).unwrap();
        Self { directory, digest: packed.digest }
    }

    pub(crate) fn layout(&self) -> PathBuf {
        self.directory.path().join("layout")
    }

    /// The same files in a directory, with what else they need to start.
    pub(crate) fn unpack(&self, to: &Path) {
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .arg(self.directory.path().join("tree"))
            .arg(to)
            .status()
            .unwrap();
        assert!(copied.success());
    }

    pub(crate) fn open(&self) -> Lower {
        open(&self.layout(), &self.digest)
    }
}

/// Opens a seed of a layout, with a cache in memory.
pub(crate) fn open(layout: &Path, digest: &Digest) -> Lower {
    Lower::Seed(open_seed(transport(layout), digest, &OpenOptions::default()).unwrap())
}

pub(crate) fn transport(layout: &Path) -> std::sync::Arc<dyn transport::Transport> {
    transport::open(&Location::Layout(layout.to_owned()), &TransportOptions::default()).unwrap()
}

fn write_shell(path: &Path) {
    let bin = path.join("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy("/usr/bin/busybox", bin.join("busybox")).expect("the package busybox-static");
    for applet in APPLETS {
        symlink("busybox", bin.join(applet)).unwrap();
    }
}

fn write_probe(path: &Path) {
    for directory in ["bin", "lib"] {
        fs::create_dir_all(path.join(directory)).unwrap();
    }
    fs::copy(harness::program(), path.join("bin/probe")).unwrap();
    for library in libraries() {
        let name = library.file_name().unwrap().to_str().unwrap();
        let name = if name.starts_with("ld-linux") { "loader" } else { name };
        fs::copy(&library, path.join("lib").join(name)).unwrap();
        fs::set_permissions(path.join("lib").join(name), Permissions::from_mode(0o755)).unwrap();
    }
}

/// The shared libraries that this program has loaded, its loader among them.
fn libraries() -> Vec<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut found: Vec<_> = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])))
        .filter(|path| path.to_string_lossy().contains(".so"))
        .collect();
    found.sort();
    found.dedup();
    found
}
