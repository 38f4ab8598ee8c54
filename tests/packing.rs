//! `seed pack` of plain store paths, from a store root of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use std::collections::BTreeMap;
use std::process::Command;

use program::Program;
use program::seeds::Seeds;
use seed_format::Digest;
use seed_image::manifest::{Config, Descriptor, Manifest, media_type};
use seed_image::transport::{BytesContent, Transport};

const PATHS: [(char, &str, &[u8]); 3] =
    [('1', "one", b"1"), ('2', "two", b"22"), ('3', "three", &[3; 70_000])];

fn full(digit: char, name: &str) -> String {
    Seeds::path(digit, name).to_string()
}

#[test]
fn the_reference_alone_is_printed() {
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    let root = seeds.store_root(&PATHS);
    let pack = |more: &[&str]| {
        let (one, two) = (full('1', "one"), full('2', "two"));
        let mut args = vec!["pack", "--store", root.to_str().unwrap(), "--paths", &one, &two];
        args.extend(more);
        program.run(args)
    };
    let run = pack(&["--to", "oci:out:main"]).ended_with(0);
    let reference = run.stdout.strip_suffix('\n').unwrap();
    assert!(reference.starts_with("oci:out@sha256:") && !reference.contains('\n'), "{reference:?}");
    program.run(["verify", reference, "--deep"]).ended_with(0);
    let inspection = &program.run(["inspect", "oci:out:main", "--paths", "--json"]).ended_with(0).json()[0];
    assert_eq!(inspection["path_count"], 2);

    // The same paths make the same seed, and what was made is not made again.
    let again = pack(&["--to", "oci:out:again", "--json"]).ended_with(0);
    let packed = &again.json()[0];
    assert_eq!(packed["reference"], reference);
    assert!(packed["layers"].as_array().unwrap().iter().any(|layer| layer["reused"] == true), "{packed}");
    let elsewhere = pack(&["--to", "oci:other", "--json"]).ended_with(0);
    assert_eq!(elsewhere.json()[0]["digest"], packed["digest"]);
    let level = pack(&["--to", "oci:out:level", "--level", "19", "--json"]).ended_with(0);
    assert_ne!(level.json()[0]["digest"], packed["digest"]);
}

#[test]
fn paths_come_from_a_file_too() {
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    let root = seeds.store_root(&PATHS);
    program.write("paths", format!("{}\n\n {}\n", full('1', "one"), full('3', "three")));
    let root = root.to_str().unwrap();
    program.run(["pack", "--store", root, "--paths-from", "paths", "--to", "oci:out:main"]).ended_with(0);
    let inspection = &program.run(["inspect", "oci:out:main", "--json"]).ended_with(0).json()[0];
    assert_eq!(inspection["path_count"], 2);
    program
        .run(["pack", "--store", root, "--paths-from", "none", "--to", "oci:out"])
        .ended_with(1)
        .says("none");
}

#[test]
fn the_image_runs_what_was_asked_for() {
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    let root = seeds.store_root(&PATHS);
    let one = full('1', "one");
    #[rustfmt::skip]
    let args = [
        "pack", "--store", root.to_str().unwrap(), "--paths", &one, "--to", "oci:out:main",
        "--entrypoint", "/bin/sh", "--entrypoint", "-c", "--cmd", "echo hello", "--env", "A=b", "--workdir", "/srv",
        "--user", "1000:100", "--label", "org.example=x", "--port", "80/tcp", "--volume", "/data",
    ];
    program.run(args).ended_with(0);
    let layout = seed_image::transport::Layout::new(program.home().join("out"));
    let manifest =
        Manifest::parse(&layout.manifest(&layout.resolve("main").unwrap().digest).unwrap()).unwrap();
    let mut config = Vec::new();
    std::io::Read::read_to_end(&mut layout.blob(&manifest.config).unwrap(), &mut config).unwrap();
    let run = Config::parse(&config).unwrap().config;
    assert_eq!(run.entrypoint.unwrap(), ["/bin/sh", "-c"]);
    assert_eq!(run.cmd.unwrap(), ["echo hello"]);
    assert!(run.env.contains(&"A=b".to_owned()) && run.env.iter().any(|line| line.starts_with("PATH=")));
    assert_eq!(run.working_dir.as_deref(), Some("/srv"));
    assert_eq!(run.user.as_deref(), Some("1000:100"));
    assert_eq!(run.labels["org.example"], "x");
    assert!(run.exposed_ports.contains_key("80/tcp") && run.volumes.contains_key("/data"));
}

/// What nix2container and dockerTools call `fromImage`, `copyToRoot` and `perms`, as another tool sees it.
#[test]
fn the_image_has_a_base_and_more_in_its_root() {
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    let root = seeds.store_root(&PATHS);
    let (one, two) = (full('1', "one"), full('2', "two"));
    let base = plain_image(&program, "base", r#""Env":["OF=base","A=base"],"Cmd":["/run"],"User":"7""#);
    let pack = |to: &str, more: &[&str]| {
        let args = ["pack", "--store", root.to_str().unwrap(), "--paths", &one, "--to", to];
        program.run([&args[..], more].concat())
    };
    let asked =
        ["--from-image", "oci:base:v1", "--env", "A=b", "--copy-to-root", &two, "--perms", "^/content$=0640"];
    pack("oci:out:main", &asked).ended_with(0);
    program.run(["verify", "oci:out:main", "--deep", "--allow-tag"]).ended_with(0);

    let skopeo = |args: &[&str]| -> serde_json::Value {
        let output = Command::new("skopeo").args(args).current_dir(program.home()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let manifest = skopeo(&["inspect", "--raw", "oci:out:main"]);
    assert_eq!(manifest["layers"][0]["digest"], base.layers[0].digest.to_string());
    let config = skopeo(&["inspect", "--config", "oci:out:main"]);
    let run = &config["config"];
    assert_eq!((&run["Cmd"], &run["User"]), (&serde_json::json!(["/run"]), &"7".into()));
    let env: Vec<&str> = run["Env"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert!(env.contains(&"OF=base") && env.contains(&"A=b") && !env.contains(&"A=base"), "{env:?}");

    // What is mounted is the seed's own part.
    program.run(["pull", "oci:out:main"]).ended_with(0);
    let inspection = &program.run(["inspect", "oci:out:main", "--json"]).ended_with(0).json()[0];
    assert_eq!(inspection["path_count"], 2);

    // The tree, without running it.
    let entries = unpacked(&program, "out", "main");
    assert!(entries.iter().any(|line| line.starts_with("-rw-r----- 0/0") && line.ends_with(" content")));
    assert!(
        entries.iter().any(|line| line.ends_with(&format!(" bin/hello -> {two}/bin/hello"))),
        "{entries:?}"
    );
    assert!(!entries.iter().any(|line| line.ends_with(" etc/passwd")), "the base image has its own");

    pack("oci:out:wrong", &["--perms", "/none=0644"]).ended_with(1).says("/none");
    pack("oci:out:wrong", &["--perms", "x=9"]).ended_with(2).says("octal");
    pack("oci:out:wrong", &["--from-image", "oci:out:main"]).ended_with(1).says("is a seed");
    pack("oci:out:wrong", &["--from-image", "oci:base:v1", "--system", "aarch64-linux"])
        .ended_with(1)
        .says("linux/arm64");
}

/// An image of one layer with an empty file, `v1` in the layout `name`.
fn plain_image(program: &Program, name: &str, config: &str) -> Manifest {
    let layout = seed_image::transport::Layout::new(program.home().join(name));
    program.write("etc/of-base", "");
    let output = Command::new("tar").arg("-C").arg(program.home()).args(["-c", "etc"]).output().unwrap();
    let tar = output.stdout;
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{{config}}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        Digest::of(&tar)
    );
    let put = |media_type: &str, bytes: &[u8]| {
        let blob = Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64);
        layout.put_blob(&blob, &mut BytesContent(bytes)).unwrap();
        blob
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.into()),
        artifact_type: None,
        config: put(media_type::CONFIG, config.as_bytes()),
        layers: vec![put(media_type::LAYER_TAR, &tar)],
        subject: None,
        annotations: BTreeMap::new(),
    };
    layout.put_manifest(&manifest.to_bytes(), media_type::MANIFEST, Some("v1")).unwrap();
    manifest
}

/// `tar -tv` of all layers of an image, lines without times.
fn unpacked(program: &Program, layout: &str, tag: &str) -> Vec<String> {
    let script = r#"
        skopeo copy -q "oci:$1:$2" "dir:copied" || exit
        jq -r '.layers[].digest' copied/manifest.json | cut -d: -f2 | while read -r layer; do
            zstd -dqc "copied/$layer" 2>/dev/null | tar -tv || tar -tvf "copied/$layer"
        done"#;
    let output =
        Command::new("sh").args(["-c", script, "sh", layout, tag]).current_dir(program.home()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn what_cannot_be_packed_is_said() {
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    let root = seeds.store_root(&PATHS);
    let root = root.to_str().unwrap();
    let one = full('1', "one");
    let digest = seed_format::Digest::of(b"");
    for (args, code, said) in [
        (vec!["--paths", &one], 2, "--to"),
        (vec!["--paths", "/tmp/x", "--to", "oci:out"], 2, "not a store path"),
        (vec!["--paths", &one, "--to", &format!("oci:out@{digest}")], 2, "has a digest"),
        (vec!["--paths", &one, "--to", "oci:out", "--label", "dev.nix-seed.system=x"], 2, "is made by"),
        (vec!["--paths", &one, "--to", "oci:out", "--label", "x"], 2, "NAME=VALUE"),
        (vec!["--paths", &full('9', "nine"), "--to", "oci:out"], 1, "nine"),
        (vec!["--paths", &one, "--to", "oci:out", "--system", "vax-vms"], 1, "vax-vms"),
    ] {
        let run = program.run([&["pack", "--store", root][..], &args].concat()).ended_with(code).says(said);
        assert_eq!(run.stdout, "", "{args:?}");
    }
    program.run(["pack", "--store", "none", "--paths", &one, "--to", "oci:out"]).ended_with(1).says("none");
    program.run(["pack", "--to", "oci:out"]).ended_with(1).says("flake.nix");
}

/// Files that are not what the database registered are not packed.
#[test]
fn changed_files_are_not_packed() {
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    let root = seeds.store_root(&PATHS);
    let real = root.join(&full('1', "one")[1..]).join("content");
    std::fs::write(real, "changed").unwrap();
    let args =
        ["pack", "--store", root.to_str().unwrap(), "--paths", &full('1', "one"), "--to", "oci:out:main"];
    program.run(args).ended_with(4).says(&full('1', "one"));
    program.run(["inspect", "oci:out:main"]).ended_with(1);
}

#[test]
fn records_that_nobody_uses_go() {
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    let root = seeds.store_root(&PATHS);
    let one = full('1', "one");
    let pack = || {
        let args =
            ["pack", "--store", root.to_str().unwrap(), "--paths", &one, "--to", "oci:out:main", "--json"];
        let layers = program.run(args).ended_with(0).json()[0]["layers"].clone();
        layers.as_array().unwrap().iter().filter(|layer| layer["reused"] == true).count()
    };
    let collect = |more: &[&str]| {
        let collected = program.run([&["gc", "--json"], more].concat()).ended_with(0).json();
        let records = collected.into_iter().find(|it| it["directory"].as_str().unwrap().ends_with("/pack"));
        records.map(|it| (it["removed"].as_u64().unwrap(), it["left"].as_u64().unwrap() > 0)).unwrap()
    };
    assert_eq!((pack(), pack()), (0, 3));
    assert_eq!(collect(&[]), (0, true));

    // One was used two months ago, and is made anew.
    let records = std::fs::read_dir(program.home().join("cache/pack")).unwrap();
    let record = records.map(|entry| entry.unwrap().path()).min().unwrap();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(61 * 24 * 3600);
    std::fs::File::open(&record).unwrap().set_modified(long_ago).unwrap();
    assert_eq!(collect(&["--records-days", "62"]), (0, true));
    assert_eq!(collect(&[]), (1, true));
    assert!(!record.exists());
    assert_eq!((pack(), pack()), (2, 3));

    assert_eq!(collect(&["--records-size", "0"]), (3, false));
    assert_eq!(pack(), 0);
}
