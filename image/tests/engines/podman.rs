//! podman runs a seed, and pulls of it only what it does not have.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use seed_image::pack::{LayerReport, Options, pack};
use seed_image::reference::Reference;
use seed_image::transport::{self, Layout, Transport, TransportOptions};
use seed_image::{seed, verify};

use crate::servers::{Kind, Server};
use crate::support::{closure, options, register, store_path};

/// Which podman runs. The two were written years apart, and read zstd:chunked in ways of their own.
#[derive(Debug, Clone, Copy)]
enum Release {
    /// The machine's: 4.3 on Debian 12.
    Installed,
    /// 5.4, from Debian 13.
    Five,
}

/// podman with a store of its own.
struct Podman {
    home: tempfile::TempDir,
    release: Release,
}

/// Runs podman in a mount namespace of its own. crun refuses the hybrid of both cgroup versions that some
/// machines have, even where it shall leave cgroups alone: there it is shown version 2 only.
const PREPARE: &str = r#"
if [ "$(stat -f -c %T /sys/fs/cgroup)" = tmpfs ]; then
    umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup || exit 1
fi
exec "$@"
"#;

impl Podman {
    fn new(release: Release) -> Self {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name).display().to_string();
        let storage = format!(
            "[storage]\ndriver = \"overlay\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n[storage.options]\n\
             pull_options = {{enable_partial_images = \"true\", convert_images = \"false\"}}\n",
            path("root"),
            path("run"),
        );
        fs::write(home.path().join("storage.conf"), storage).unwrap();
        fs::write(home.path().join("policy.json"), r#"{"default":[{"type":"insecureAcceptAnything"}]}"#)
            .unwrap();
        fs::write(home.path().join("registries.conf"), "").unwrap();
        Self { home, release }
    }

    fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Output {
        let five = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tools/podman5");
        let machine: &[&OsStr] = match self.release {
            Release::Installed => &["unshare".as_ref(), "--mount".as_ref()],
            Release::Five => &[five.as_os_str()],
        };
        Command::new(machine[0])
            .args(&machine[1..])
            .args(["sh", "-c", PREPARE, "sh", "podman"])
            .args(["--cgroup-manager", "cgroupfs", "--events-backend", "none", "--log-level", "debug"])
            .arg("--tmpdir")
            .arg(self.home.path().join("tmp"))
            .current_dir(self.home.path())
            .args(arguments)
            .env("HOME", self.home.path())
            .env("CONTAINERS_STORAGE_CONF", self.home.path().join("storage.conf"))
            .env("CONTAINERS_REGISTRIES_CONF", self.home.path().join("registries.conf"))
            .env("XDG_RUNTIME_DIR", self.home.path())
            .output()
            .expect("podman is installed")
    }

    /// What the command printed; it must not fail.
    fn output<S: AsRef<OsStr>>(&self, arguments: &[S]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn run_image(&self, image: &str, command: &[&str]) -> String {
        // Limits that no privilege is needed for.
        let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
        let run = [&["run", "--rm", "--network", "none", "--cgroups", "disabled"][..], &limits].concat();
        self.output(&[&run[..], &[image], command].concat())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // Unmounts what is mounted; the directory goes by itself.
        let _ = self.run(&["unmount", "--all"]);
        let _ = self.run(&["rmi", "--all", "--force"]);
    }
}

#[test]
fn a_seed_runs_from_a_layout() {
    let scratch = tempfile::tempdir().unwrap();
    let closure = closure(&scratch.path().join("store"));
    let podman = Podman::new(Release::Installed);
    // podman makes a name of the path, and refuses capital letters in it; so the path is a relative one.
    let layout = Layout::new(podman.home.path().join("layout"));
    pack(&closure, &options(), &layout, Some("v1"), &()).unwrap();

    let script = "echo $PATH; cat /etc/passwd; ls -l /nix/store; nix --version";
    let text = podman.run_image("oci:layout:v1", &["/bin/sh", "-c", script]);
    for part in ["-nix/bin:", "root:x:0:0", "-data", "\nnix (Nix) "] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// A seed above another image runs with the files and the configuration of both.
#[test]
fn a_seed_runs_above_a_base_image() {
    let scratch = tempfile::tempdir().unwrap();
    let mut closure = closure(&scratch.path().join("store"));
    let podman = Podman::new(Release::Installed);
    let here = podman.home.path();
    // A base image in the way of distributions: the programs' directory is a link.
    fs::create_dir_all(here.join("base/usr/bin")).unwrap();
    fs::create_dir_all(here.join("base/etc")).unwrap();
    symlink("usr/bin", here.join("base/bin")).unwrap();
    fs::write(here.join("base/etc/passwd"), "root:x:0:0:base:/root:/bin/sh\n").unwrap();
    fs::copy("/bin/busybox", here.join("base/usr/bin/busybox")).unwrap();
    for name in ["sh", "cat", "ls", "stat"] {
        symlink("busybox", here.join("base/usr/bin").join(name)).unwrap();
    }
    let tar = Command::new("tar").args(["-C", "base", "-cf", "base.tar", "."]).current_dir(here).status();
    assert!(tar.unwrap().success());
    let change = ["--change", "ENV OF=base", "--change", "ENV PATH=/usr/bin", "--change", "WORKDIR /etc"];
    podman.output(&[&["import"][..], &change, &["base.tar", "base:v1"]].concat());
    podman.output(&["push", "base:v1", "oci:base:v1"]);

    let root = store_path('3', "root");
    fs::create_dir_all(closure.real_path(&root).join("srv/app")).unwrap();
    fs::write(closure.real_path(&root).join("srv/app/plain"), "plain\n").unwrap();
    fs::write(closure.real_path(&root).join("srv/app/secret"), "secret\n").unwrap();
    register(&mut closure, root.clone(), Vec::new());
    let mut options = options();
    let base = Layout::new(here.join("base"));
    let digest = base.resolve("v1").unwrap().digest;
    options.above(Arc::new(base), digest).unwrap();
    options.run.env = vec!["OF=seed".to_owned()];
    options.additions.trees = vec![root];
    options.additions.modes = vec![(regex::bytes::Regex::new("/secret$").unwrap(), 0o600)];
    let layout = Layout::new(here.join("layout"));
    let packed = pack(&closure, &options, &layout, Some("v1"), &()).unwrap();
    assert_eq!(packed.manifest.layers.len(), packed.layers.len() + 1);
    let seed = seed::open(&layout, &packed.digest).unwrap();
    assert_eq!(verify::deep(&layout, &seed, &()).unwrap().layers, packed.layers.len() - 1);

    let script =
        "pwd; echo $OF; cat /etc/passwd; stat -c %a%F /srv/app/*; cat /srv/app/*; ls -l /bin; nix --version";
    let text = podman.run_image("oci:layout:v1", &["sh", "-c", script]);
    for part in [
        "/etc\nseed\nroot:x:0:0:base:",
        "777symbolic link\n600regular file\nplain\nsecret\n",
        "/bin -> usr/bin\n",
        "nix (Nix) ",
    ] {
        assert!(text.contains(part), "{part:?}: {text}");
    }
}

/// Bytes that a registry sent of each blob, by digest, and whether they were a part of it.
fn sent(server: &Server, since: usize) -> Vec<(String, bool, u64)> {
    // `127.0.0.1 - - [date] "GET /v2/app/blobs/sha256:… HTTP/1.1" 206 123 "" "…"`
    let line = |line: &String| {
        let (_, rest) = line.split_once("\"GET ")?;
        let (target, rest) = rest.split_once(" HTTP/1.1\" ")?;
        let (_, digest) = target.split_once("/blobs/")?;
        let mut numbers = rest.split(' ');
        let status: u16 = numbers.next()?.parse().ok()?;
        Some((digest.to_owned(), status == 206, numbers.next()?.parse().ok()?))
    };
    server.log()[since..].iter().filter_map(line).collect()
}

#[test]
fn only_what_changed_is_pulled() {
    pulls_what_changed(Release::Installed);
}

#[test]
fn only_what_changed_is_pulled_by_podman_5() {
    pulls_what_changed(Release::Five);
}

fn pulls_what_changed(release: Release) {
    let scratch = tempfile::tempdir().unwrap();
    let mut closure = closure(&scratch.path().join("store"));
    let server = Server::start(Kind::Docker);
    let repository = format!("{}/app", server.address);
    let reference: Reference = repository.parse().unwrap();
    let registry = transport::open(&reference.location, &TransportOptions::default()).unwrap();
    let options = Options { scratch: scratch.path().to_owned(), ..options() };
    let packed = pack(&closure, &options, &*registry, Some("one"), &()).unwrap();

    let podman = Podman::new(release);
    let pull = |tag: &str| podman.run(&["pull", "--tls-verify=false", &format!("{repository}:{tag}")]);
    let output = pull("one");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let first = sent(&server, 0);
    // Layers come in parts, and no layer as a whole.
    for LayerReport { descriptor, .. } in &packed.layers {
        let digest = descriptor.digest.to_string();
        let parts: Vec<bool> = first.iter().filter(|sent| sent.0 == digest).map(|sent| sent.1).collect();
        assert!(!parts.is_empty() && parts.iter().all(|part| *part), "{digest}: {log}\n{first:?}");
    }

    // One small file of the path with the large one changes.
    let data = store_path('2', "data");
    fs::write(closure.real_path(&data).join("small-7"), "changed\n").unwrap();
    register(&mut closure, data.clone(), Vec::new());
    let packed = pack(&closure, &options, &*registry, Some("two"), &()).unwrap();
    let layer = packed.layers.iter().find(|layer| layer.paths.contains(&data)).unwrap();
    assert!(layer.descriptor.size > 20_000_000);

    let since = server.log().len();
    let output = pull("two");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let second = sent(&server, since);
    let of_layer = second.iter().filter(|(digest, ..)| *digest == layer.descriptor.digest.to_string());
    let (parts, bytes) = of_layer.fold((true, 0), |(parts, sum), (_, part, n)| (parts && *part, sum + n));
    assert!(parts && bytes > 0 && bytes < 200_000, "{second:?}");

    let file = |name: &str| format!("{data}/{name}");
    let script = format!("cat {}; sha256sum < {}; nix --version", file("small-7"), file("large"));
    let text = podman.run_image(&format!("{repository}:two"), &["/bin/sh", "-c", &script]);
    let large = seed_format::Digest::of(&fs::read(closure.real_path(&data).join("large")).unwrap());
    assert!(text.starts_with(&format!("changed\n{}  -\nnix (Nix) ", large.hex())), "{text}");
}
