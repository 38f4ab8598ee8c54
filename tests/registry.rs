//! Seeds in a registry without the referrers API: Debian's docker-registry.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use program::Program;
use program::registry::Registry;
use program::seeds::{Seeds, statement};

#[test]
fn a_seed_and_its_statement_go_to_a_registry_and_back() {
    let program = Program::new();
    let registry = Registry::start(&program);
    let seeds = Seeds::below(program.home());
    let packed = seeds.pack("main", &[('1', "one", b"1"), ('2', "two", &[5; 300_000])]);
    let statement = statement(packed.digest);
    seeds.refer(&packed.digest, seed_policy::core::MEDIA_TYPE, &statement.to_bytes().unwrap());

    let there = format!("{}/acme/app.seed", registry.host);
    let run = program.run(["copy", &seeds.reference(":main"), &format!("{there}:main")]).ended_with(0);
    assert_eq!(run.stdout, format!("{there}@{}\n", packed.digest));

    let by_digest = format!("{there}@{}", packed.digest);
    let policy = program
        .write("policy.toml", "sources = [\"git+https://github.com/acme/app\"]\nstatement = \"required\"\n");
    let verify = ["verify", &by_digest, "--policy", policy.to_str().unwrap(), "--json"];
    let verdict = &program.run(verify).ended_with(0).json()[0];
    assert_eq!(verdict["statement"], statement.digest().unwrap().to_string());
    program.write("policy.toml", "sources = [\"git+https://github.com/acme/other\"]\n");
    program.run(verify).ended_with(3).says("does not list");

    program.run(["verify", &format!("{there}:main"), "--deep"]).ended_with(3).says("--allow-tag");
    let pulled = program.run(["pull", &by_digest, "--json"]).ended_with(0).json();
    assert!(pulled[0]["requests"].as_u64().unwrap() > 0);
    program.run(["copy", &by_digest, "oci:back:main", "--no-referrers"]).ended_with(0);
    let verdict = &program.run(["verify", "oci:back:main", "--allow-tag", "--json"]).ended_with(0).json()[0];
    assert!(verdict["statement"].is_null());
    program.run(["inspect", &format!("{there}:none")]).ended_with(1).says("none");
}
