//! Where results go: signed, to caches, stores and registries, and what is left when an output fails. Needs
//! root, /dev/fuse and the test environment of `tests/nix`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use std::fs;
use std::process::Command;

use program::Run;
use program::checkout::Checkout;
use program::registry::Registry;
use program::server::Server;

/// More outputs of the demo project.
const OUTPUTS: &str = r#"
        other = pkgs.runCommand "other" { } "echo other $(cat ${./VERSION}) > $out";
        broken = pkgs.runCommand "broken" { } "echo this output fails >&2; exit 1";
        thrown = throw "this output is not to be had";
        # As `docker save` writes one.
        image = pkgs.runCommand "image.tar" { } ''
          mkdir root
          cp ${./VERSION} root/VERSION
          tar --sort=name --mtime=@1 --owner=0 --group=0 -cf layer.tar -C root .
          id=$(sha256sum layer.tar | cut -d' ' -f1)
          echo "{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{\"Cmd\":[\"/none\"]},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:$id\"]}}" > config.json
          echo '[{"Config":"config.json","RepoTags":["image:one"],"Layers":["layer.tar"]}]' > manifest.json
          tar -cf $out manifest.json config.json layer.tar
        '';
"#;

/// The project with more outputs, packed with a version of Nix; and its seed.
fn packed(nix: &str) -> (Checkout, String) {
    let checkout = Checkout::new();
    let flake = fs::read_to_string(checkout.dir.join("flake.nix")).unwrap();
    let first = "        default = sprout;\n";
    assert!(flake.contains(first));
    fs::write(checkout.dir.join("flake.nix"), flake.replacen(first, &format!("{first}{OUTPUTS}"), 1))
        .unwrap();
    checkout.git(&["commit", "--quiet", "--all", "--message", "more outputs"]);
    let to = format!("oci:{}", checkout.program.home().join("seeds").display());
    let pack = ["pack", "--no-check", "--attr", "default", "--attr", "other", "--attr", "image", "--to", &to];
    let seed = checkout.program.command(pack);
    let reference = checkout.on_nix(nix, &seed).ended_with(0).stdout.trim().to_owned();
    checkout.change("3.0");
    (checkout, reference)
}

fn nix(checkout: &Checkout, version: &str, args: &[&str]) -> Run {
    let mut command = Command::new("nix");
    command.args(["--extra-experimental-features", "nix-command flakes"]).args(args);
    command.env("HOME", checkout.program.home());
    checkout.on_nix(version, &command)
}

/// A secret key in a file, and the public key.
fn key(checkout: &Checkout, name: &str) -> (String, String) {
    let secret = nix(checkout, "2.8", &["key", "generate-secret", "--key-name", name]).ended_with(0).stdout;
    let file = checkout.program.write(&format!("{name}.secret"), &secret);
    let script = r#"nix --extra-experimental-features nix-command key convert-secret-to-public < "$0""#;
    let mut command = Command::new("bash");
    command.args(["-euc", script]).arg(&file);
    let public = checkout.on_nix("2.8", &command).ended_with(0).stdout;
    (file.to_str().unwrap().to_owned(), public.trim().to_owned())
}

/// Store paths of the outputs in the record.
fn outputs(record: &serde_json::Value, target: usize) -> Vec<String> {
    let outputs = record["targets"][target]["outputs"].as_array().unwrap();
    outputs.iter().map(|output| output["path"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn results_are_signed_and_sent() {
    let (checkout, seed) = packed("2.8");
    let home = checkout.program.home().to_str().unwrap();
    let (secret, public) = key(&checkout, "mine-1");
    let (_, other) = key(&checkout, "other-1");
    let server = Server::nginx(&checkout.program);
    let (cache, url) = (format!("file://{home}/cache"), format!("http://{}", server.host));
    let store = format!("{home}/store");
    let to = ["--to", &cache, "--to", &url, "--to", &store, "--sign-key", &secret];
    let build = ["build", "--seed", &seed, "--no-link", "--json", ".#default"];
    let run = checkout.without_nix_online(&[&build[..], &to].concat(), &[]).ended_with(0);
    let record = &run.json()[0];
    let paths = outputs(record, 0);
    assert_eq!(paths.len(), 4, "{record}");
    assert_eq!(record["targets"][0]["attribute"], "packages.x86_64-linux.default");
    let bin = paths.iter().find(|path| path.ends_with("-bin")).unwrap();

    for from in [&cache, &url] {
        let copy = ["copy", "--from", from, "--to"];
        let refusing = format!("local?root={home}/refusing");
        let trust = ["--option", "trusted-public-keys", &other];
        let run = nix(&checkout, "2.8", &[&copy[..], &[&refusing, bin], &trust].concat());
        run.ended_with(1).says("lacks a valid signature");
        let accepting = format!("local?root={home}/accepting-{}", from.len());
        let trust = ["--option", "trusted-public-keys", &public];
        nix(&checkout, "2.8", &[&copy[..], &[&accepting, bin], &trust].concat()).ended_with(0);
        let signatures =
            nix(&checkout, "2.8", &["path-info", "--sigs", "--store", from, bin]).ended_with(0).stdout;
        assert!(signatures.contains("mine-1:"), "{signatures}");
    }
    let program = format!("{store}{bin}/bin/sprout");
    assert!(fs::metadata(&program).unwrap().is_file(), "{program}");
    nix(&checkout, "2.8", &["path-info", "--store", &store, bin]).ended_with(0);

    // Nothing but what was asked for is left, and no key.
    let own = checkout.program.home().join("cache");
    for left in ["scratch", "tmp"] {
        assert!(fs::read_dir(own.join(left)).unwrap().next().is_none(), "{left}");
    }
    let key = fs::read_to_string(&secret).unwrap();
    let found = Command::new("grep").args(["--recursive", "--fixed-strings", key.trim()]).arg(&own).output();
    assert_eq!(found.unwrap().status.code(), Some(1), "the key is in the cache");
}

#[test]
fn images_are_pushed_and_failures_are_named() {
    let (checkout, seed) = packed("2.8");
    let home = checkout.program.home().to_str().unwrap();
    let registry = Registry::start(&checkout.program);
    let (layout, remote) = (format!("oci:{home}/images:one"), format!("{}/image:one", registry.host));
    let build = ["build", "--seed", &seed, "--no-link", "--json"];
    let run = [&build[..], &[".#image", "--to", &layout, "--to", &remote]].concat();
    checkout.without_nix_online(&run, &[]).ended_with(0);
    let inspect = |image: &str| {
        let mut skopeo = Command::new("skopeo");
        Run::of(skopeo.args(["inspect", "--tls-verify=false", "--format", "{{.Digest}} {{.Os}}", image]))
            .ended_with(0)
            .stdout
    };
    let digest = inspect(&layout);
    assert!(digest.starts_with("sha256:") && digest.trim().ends_with(" linux"), "{digest}");
    assert_eq!(inspect(&format!("docker://{remote}")), digest);
    checkout.without_nix(&[&build[..], &[".#other", "--to", &layout]].concat()).ended_with(1).says("image");

    // The others are built, and go where they should.
    let cache = format!("file://{home}/cache");
    let all = [".#broken", ".#other", ".#thrown", ".#default"];
    let run = checkout.without_nix(&[&build[..], &all, &["--keep-going", "--to", &cache]].concat());
    let run = run.ended_with(1).says("packages.x86_64-linux.broken").says("packages.x86_64-linux.thrown");
    let record = &run.json()[0];
    assert_eq!(record["failed"].as_array().unwrap().len(), 2, "{record}");
    let built = record["targets"].as_array().unwrap();
    let names: Vec<_> = built.iter().map(|target| target["attribute"].as_str().unwrap()).collect();
    assert_eq!(names, ["packages.x86_64-linux.other", "packages.x86_64-linux.default"]);
    for path in (0..2).flat_map(|target| outputs(record, target)) {
        nix(&checkout, "2.8", &["path-info", "--store", &cache, &path]).ended_with(0);
    }
}

/// Nix 2.34 is the first of Debian's that knows S3.
#[test]
fn results_go_to_s3() {
    let (checkout, seed) = packed("2.34");
    let server = Server::s3();
    let url = format!("s3://results?scheme=http&region=us-east-1&endpoint={}", server.host);
    let names = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    let build = ["build", "--seed", &seed, "--no-link", "--json", ".#other", "--to", &url];
    let known = ["--to-env", names[0], "--to-env", names[1]];
    let secrets = [(names[0], "someone"), (names[1], "secret")];
    let run = checkout.without_nix_online(&[&build[..], &known].concat(), &secrets).ended_with(0);
    let path = &outputs(&run.json()[0], 0)[0];
    let mut command = Command::new("nix");
    command.args(["--extra-experimental-features", "nix-command", "path-info", "--store", &url, path]);
    command.env("HOME", checkout.program.home()).envs(secrets);
    assert!(checkout.on_nix("2.34", &command).ended_with(0).stdout.contains(path.as_str()));
}
