//! containerd runs a seed.

use std::fs;
use std::process::Command;

use seed_image::pack::pack;
use seed_image::transport::Layout;

use crate::support::{closure, options};

/// Starts a containerd of its own, in namespaces that take all it leaves along, and runs the image in it:
/// `sh -c RUN sh HOME COMMAND…`.
const RUN: &str = r#"
set -eu
home=$1
shift
mount -t tmpfs none /run
printf 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n' > "$home/config.toml"
containerd --config "$home/config.toml" --root "$home/root" --state /run/state --address /run/containerd.sock \
    > "$home/containerd.log" 2>&1 &
tries=0
until ctr --address /run/containerd.sock version > /dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 200 ] || { cat "$home/containerd.log" >&2; exit 1; }
    sleep 0.05
done
tar -C "$home/layout" -cf "$home/layout.tar" .
ctr --address /run/containerd.sock images import --base-name seed.test/app "$home/layout.tar" >&2
exec ctr --address /run/containerd.sock run --rm seed.test/app:v1 seed "$@"
"#;

#[test]
fn a_seed_runs() {
    let scratch = tempfile::tempdir().unwrap();
    let closure = closure(&scratch.path().join("store"));
    pack(&closure, &options(), &Layout::new(scratch.path().join("layout")), Some("v1"), &()).unwrap();

    let script = "echo $PATH; cat /etc/passwd; ls -l /nix/store; nix --version";
    let output = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"])
        .args(["sh", "-c", RUN, "sh"])
        .arg(scratch.path())
        .args(["/bin/sh", "-c", script])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for part in ["-nix/bin:", "root:x:0:0", "-data", "\nnix (Nix) "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // Nothing of it is left to be removed but files.
    fs::remove_dir_all(scratch.path()).unwrap();
}
