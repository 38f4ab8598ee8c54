//! Commands that look at seeds, copy them and verify them: real seeds in an image layout.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use std::fs;

use program::Program;
use program::seeds::Seeds;
use seed_image::transport::Transport;

#[test]
fn inspect_tells_what_a_seed_is() {
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    let packed = seeds.pack("main", &[('1', "one", b"1"), ('2', "two", b"22")]);

    let run = program.run(["inspect", &seeds.reference(":main"), "--paths", "--json"]).ended_with(0);
    let [inspection] = <[_; 1]>::try_from(run.json()).unwrap();
    assert_eq!(inspection["digest"], packed.digest.to_string());
    assert_eq!(inspection["system"], seed_policy::System::current().as_str());
    assert_eq!(inspection["path_count"], 2);
    assert_eq!(inspection["paths"][1]["path"], Seeds::path('2', "two").to_string());
    assert_eq!(inspection["layers"].as_array().unwrap().len(), packed.layers.len());
    let size: u64 = packed.layers.iter().map(|layer| layer.descriptor.size).sum();
    assert_eq!(inspection["size"], size);
    // A tag is resolved once, and what it named is shown.
    run.says(&packed.digest.to_string());

    let run = program.run(["inspect", &seeds.reference(&format!("@{}", packed.digest))]).ended_with(0);
    assert!(run.stdout.contains("paths       2"), "{}", run.stdout);
    assert_eq!(run.stderr, "");
}

#[test]
fn diff_shows_what_changed() {
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    seeds.pack("old", &[('1', "one", b"1"), ('2', "two", b"2")]);
    let new = seeds.pack("new", &[('2', "two", b"2"), ('3', "three", b"3")]);
    let (old, new_reference) = (seeds.reference(":old"), seeds.reference(":new"));

    let run = program.run(["diff", &old, &new_reference, "--json"]).ended_with(0);
    let difference = &run.json()[0];
    assert_eq!(difference["paths"]["added"][0]["name"], Seeds::path('3', "three").to_string());
    assert_eq!(difference["paths"]["removed"][0]["name"], Seeds::path('1', "one").to_string());
    assert_eq!(difference["paths"]["same"], 1);
    assert!(difference["new_bytes"].as_u64().unwrap() < difference["bytes"].as_u64().unwrap());
    assert_eq!(difference["to"], seeds.reference(&format!("@{}", new.digest)));

    let run = program.run(["diff", &old, &old]).ended_with(0);
    assert!(run.stdout.contains("0 added, 0 removed, 2 the same"), "{}", run.stdout);
}

#[test]
fn copy_keeps_the_digest_and_takes_a_tag() {
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    let packed = seeds.pack("main", &[('1', "one", b"1")]);
    let run = program.run(["copy", &seeds.reference(":main"), "oci:copy:there", "--quiet"]).ended_with(0);
    assert_eq!(run.stdout, format!("oci:copy@{}\n", packed.digest));
    assert_eq!(run.stderr, "");
    program.run(["verify", "oci:copy:there", "--allow-tag"]).ended_with(0);
    let again = program.run(["copy", &seeds.reference(":main"), "oci:copy:there", "--json"]).ended_with(0);
    assert_eq!(again.json()[0]["copied"], 0);
    program.run(["copy", &seeds.reference(":main"), &format!("oci:copy@{}", packed.digest)]).ended_with(2);
}

#[test]
fn verify_says_what_was_judged() {
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    let packed = seeds.pack("main", &[('1', "one", b"1")]);
    let by_digest = seeds.reference(&format!("@{}", packed.digest));
    let run = program.run(["verify", &by_digest, "--json"]).ended_with(0);
    let verdict = &run.json()[0];
    assert_eq!((&verdict["level"], &verdict["paths"]), (&"innocent".into(), &1.into()));
    assert!(verdict["statement"].is_null());
    let run = program.run(["verify", &by_digest, "--deep"]).ended_with(0);
    assert!(run.stdout.contains("files, tables, index and database agree"), "{}", run.stdout);

    program
        .run(["verify", &seeds.reference(":main")])
        .ended_with(3)
        .says("--allow-tag")
        .says(&packed.digest.to_string());
    program.run(["verify", &seeds.reference(":main"), "--allow-tag"]).ended_with(0);
}

#[test]
fn policies_refuse_with_every_reason() {
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    seeds.pack_with("other", &[('1', "one", b"1")], "riscv64-linux", Default::default());
    let policy = program.write("policy.toml", "level = \"credulous\"\nstatement = \"required\"\n");
    let args = ["verify", &seeds.reference(":other"), "--policy", policy.to_str().unwrap()];
    let run = program.run(args).ended_with(3);
    for reason in ["credulous", "--allow-tag", "riscv64-linux", "no core statement"] {
        assert!(run.stderr.contains(reason), "{reason}\n{}", run.stderr);
    }
    let run = program.run([&args[..], &["--log-format", "json"]].concat()).ended_with(3);
    let last: serde_json::Value = serde_json::from_str(run.stderr.lines().last().unwrap()).unwrap();
    let codes = ["level-unsupported", "tag-not-pinned", "system-mismatch", "statement-missing"];
    assert_eq!(last["reasons"], serde_json::json!(codes));

    for (text, code, said) in [
        ("levle = \"zero\"", 2, "did you mean `level`?"),
        ("level = 3", 2, "line 1"),
        ("[quorum]\nn = 2", 3, "credulous and zero"),
    ] {
        program.write("policy.toml", text);
        program.run(args).ended_with(code).says(said);
    }
    program
        .run(["verify", &seeds.reference(":other"), "--policy", "none.toml"])
        .ended_with(1)
        .says("none.toml");
    // The operator's policy is a file; no variable of whoever runs the command changes it.
    let digest = seeds.pack("main", &[('1', "one", b"1")]).digest;
    let mut command = program.command(["verify", &seeds.reference(&format!("@{digest}"))]);
    command.env("SEED_POLICY_LEVEL", "zero");
    program::Run::of(&mut command).ended_with(0);
}

#[test]
fn wrong_bytes_end_with_4() {
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    let packed = seeds.pack("main", &[('1', "one", b"1")]);
    let reference = seeds.reference(&format!("@{}", packed.digest));
    let index = packed.layers.last().unwrap().descriptor.digest;
    for digest in [index, packed.manifest.config.digest, packed.digest] {
        let whole = fs::read(seeds.blob(&digest)).unwrap();
        seeds.corrupt(&digest, whole.len() / 2);
        program.run(["verify", &reference]).ended_with(4);
        program.run(["inspect", &reference]).ended_with(4);
        fs::write(seeds.blob(&digest), whole).unwrap();
        program.run(["verify", &reference]).ended_with(0);
    }
    let layer = seeds.blob(&packed.layers[0].descriptor.digest);
    let whole = fs::read(&layer).unwrap();
    seeds.corrupt(&packed.layers[0].descriptor.digest, whole.len() / 2);
    program.run(["inspect", &reference]).ended_with(0);
    program.run(["verify", &reference]).ended_with(4).says("wrong bytes");
    fs::remove_file(layer).unwrap();
    program.run(["verify", &reference]).ended_with(1).says("has no blob");
}

#[test]
fn malformed_images_are_refused_without_a_panic() {
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    let packed = seeds.pack("main", &[('1', "one", b"1")]);
    let index_layer = packed.layers.len() - 1;
    seeds.republish(&packed.digest, "no-index", |manifest| {
        manifest.layers[index_layer].annotations.clear();
    });
    program.run(["inspect", &seeds.reference(":no-index")]).ended_with(1).says("without a seed index");
    for (tag, position) in [("elsewhere", "1:2:3"), ("nowhere", "x"), ("huge", "0:1:18446744073709551615")] {
        seeds.republish(&packed.digest, tag, |manifest| {
            manifest.layers[index_layer].annotations.insert("dev.nix-seed.index".into(), position.into());
        });
        program.run(["inspect", &seeds.reference(&format!(":{tag}"))]).ended_with(4);
    }
    seeds.republish(&packed.digest, "fewer", |manifest| {
        manifest.layers.remove(0);
    });
    program.run(["inspect", &seeds.reference(":fewer")]).ended_with(4);
    seeds.layout().resolve("fewer").unwrap();
    program.run(["inspect", &seeds.reference(":none")]).ended_with(1).says("none");
}

/// Every blob has its digest, and they do not belong together: only --deep sees it.
#[test]
fn a_layer_of_another_seed_is_found_by_looking_into_it() {
    let program = Program::new();
    let seeds = Seeds::below(program.home());
    let one = seeds.pack("one", &[('1', "one", b"first content")]);
    let two = seeds.pack("two", &[('1', "one", b"other content")]);
    let store_layer = |packed: &seed_image::pack::Packed| {
        packed.layers.iter().position(|layer| !layer.paths.is_empty()).unwrap()
    };
    let (at, from) = (store_layer(&one), store_layer(&two));
    let mixed = seeds.republish(&one.digest, "mixed", |manifest| {
        manifest.layers[at] = two.manifest.layers[from].clone();
    });
    let reference = seeds.reference(&format!("@{mixed}"));
    program.run(["verify", &reference]).ended_with(0);
    program.run(["verify", &reference, "--deep"]).ended_with(4);
    let point = program.home().join("mnt");
    fs::create_dir(&point).unwrap();
    program.run(["mount", &reference, point.to_str().unwrap()]).ended_with(4);
}
