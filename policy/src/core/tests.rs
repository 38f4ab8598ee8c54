use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn seed() -> CoreStatement {
    CoreStatement {
        subject: Subject { name: "app.seed".into(), digest: Digest::of(b"manifest") },
        kind: Kind::Seed,
        system: "x86_64-linux".parse().unwrap(),
        output: "packages.x86_64-linux.seed".into(),
        source: SourceUri::normalise("github:acme/app").unwrap(),
        commit: "0123456789abcdef0123456789abcdef01234567".parse().unwrap(),
        flake_lock: Digest::of(b"lock"),
        nix_config: NixConfig::normalise("true", "https://cache.nixos.org/", ""),
        sbom: None,
    }
}

fn build() -> CoreStatement {
    CoreStatement {
        subject: Subject { name: "hello-2.12".into(), digest: Digest::of(b"nar") },
        kind: Kind::Build,
        output: "packages.x86_64-linux.default".into(),
        nix_config: NixConfig::normalise("true", "", ""),
        sbom: Some(Sbom { media_type: "application/spdx+json".into(), digest: Digest::of(b"sbom") }),
        ..seed()
    }
}

#[test]
fn bytes_are_pinned() {
    for (name, statement) in [("core-seed.json", seed()), ("core-build.json", build())] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
        let bytes = statement.to_bytes().unwrap();
        if std::env::var_os("SEED_BLESS").is_some() {
            std::fs::write(&path, &bytes).unwrap();
        }
        let golden = std::fs::read(&path).unwrap();
        assert!(
            bytes == golden,
            "the bytes of {name} have changed, so every published digest would: if that is meant, raise the \
             version in the build type and run the test again with SEED_BLESS=1\n{}",
            String::from_utf8_lossy(&bytes)
        );
        assert_eq!(CoreStatement::parse(&golden).unwrap(), statement);
    }
}

#[test]
fn digest_is_that_of_the_bytes() {
    assert_eq!(seed().digest().unwrap(), Digest::of(&seed().to_bytes().unwrap()));
}

#[test]
fn lists_of_nix_have_one_order() {
    let one = NixConfig::normalise("true\n", "https://b.example  https://a.example https://b.example", "");
    assert_eq!(one, NixConfig::normalise("true", "https://a.example https://b.example", " "));
    for config in [
        NixConfig { sandbox: "maybe".into(), ..one.clone() },
        NixConfig { substituters: "b a".into(), ..one.clone() },
        NixConfig { substituters: "a  b".into(), ..one.clone() },
        NixConfig { trusted_substituters: "a a".into(), ..one },
    ] {
        let statement = CoreStatement { nix_config: config, ..seed() };
        assert!(matches!(statement.to_bytes(), Err(CoreError::NixConfig { .. })));
    }
}

/// The canonical bytes of `statement` after `change`.
fn changed(statement: &CoreStatement, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(&statement.to_bytes().unwrap()).unwrap();
    change(&mut value);
    serde_json_canonicalizer::to_vec(&value).unwrap()
}

fn set(pointer: &'static str, new: Value) -> impl FnOnce(&mut Value) {
    move |value| *value.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = new
}

fn add(pointer: &'static str, key: &'static str) -> impl FnOnce(&mut Value) {
    move |value| {
        value.pointer_mut(pointer).unwrap().as_object_mut().unwrap().insert(key.into(), json!("x"));
    }
}

fn remove(pointer: &'static str, key: &'static str) -> impl FnOnce(&mut Value) {
    move |value| {
        value.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(key).unwrap();
    }
}

const DEFINITION: &str = "/predicate/buildDefinition";
const PARAMETERS: &str = "/predicate/buildDefinition/externalParameters";

#[test]
fn malformed_statements_are_refused() {
    let other = "f".repeat(64);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("type", changed(&seed(), set("/_type", json!("https://in-toto.io/Statement/v0.1")))),
        (
            "predicate type",
            changed(&seed(), set("/predicateType", json!("https://slsa.dev/provenance/v0.2"))),
        ),
        ("no subject", changed(&seed(), set("/subject", json!([])))),
        (
            "two subjects",
            changed(&seed(), |value| {
                let subjects = value["subject"].as_array_mut().unwrap();
                subjects.push(subjects[0].clone());
            }),
        ),
        (
            "a digest with its algorithm",
            changed(&seed(), set("/subject/0/digest/sha256", json!(format!("sha256:{other}")))),
        ),
        ("upper case", changed(&seed(), set("/subject/0/digest/sha256", json!("F".repeat(64))))),
        ("a second digest", changed(&seed(), add("/subject/0/digest", "sha512"))),
        (
            "kind without its build type",
            changed(&seed(), set("/predicate/buildDefinition/externalParameters/kind", json!("build"))),
        ),
        (
            "an unknown kind",
            changed(&seed(), set("/predicate/buildDefinition/externalParameters/kind", json!("image"))),
        ),
        (
            "a bad system",
            changed(&seed(), set("/predicate/buildDefinition/externalParameters/system", json!("linux"))),
        ),
        (
            "an empty output",
            changed(&seed(), set("/predicate/buildDefinition/externalParameters/output", json!(""))),
        ),
        (
            "another spelling of the source",
            changed(
                &seed(),
                set(
                    "/predicate/buildDefinition/externalParameters/source/uri",
                    json!("https://github.com/acme/app"),
                ),
            ),
        ),
        (
            "an abbreviated commit",
            changed(
                &seed(),
                set(
                    "/predicate/buildDefinition/externalParameters/source/digest/gitCommit",
                    json!("0123456"),
                ),
            ),
        ),
        (
            "sources disagree",
            changed(
                &seed(),
                set(
                    "/predicate/buildDefinition/resolvedDependencies/0/uri",
                    json!("git+https://github.com/acme/other"),
                ),
            ),
        ),
        (
            "commits disagree",
            changed(
                &seed(),
                set(
                    "/predicate/buildDefinition/resolvedDependencies/0/digest/gitCommit",
                    json!("f".repeat(40)),
                ),
            ),
        ),
        (
            "locks disagree",
            changed(
                &seed(),
                set("/predicate/buildDefinition/resolvedDependencies/1/digest/sha256", json!(other)),
            ),
        ),
        (
            "lock URIs disagree",
            changed(
                &seed(),
                set("/predicate/buildDefinition/resolvedDependencies/1/uri", json!("flake.lock")),
            ),
        ),
        (
            "dependencies missing",
            changed(&seed(), set("/predicate/buildDefinition/resolvedDependencies", json!([]))),
        ),
        (
            "dependencies swapped",
            changed(&seed(), |value| {
                value.pointer_mut(DEFINITION).unwrap()["resolvedDependencies"]
                    .as_array_mut()
                    .unwrap()
                    .reverse();
            }),
        ),
        (
            "network",
            changed(&seed(), set("/predicate/buildDefinition/internalParameters/network", json!("host"))),
        ),
        (
            "a setting missing",
            changed(&seed(), remove("/predicate/buildDefinition/internalParameters/nixConfig", "sandbox")),
        ),
        (
            "another setting",
            changed(&seed(), add("/predicate/buildDefinition/internalParameters/nixConfig", "cores")),
        ),
        (
            "a builder",
            changed(&seed(), set("/predicate/runDetails/builder/id", json!("https://github.com/actions"))),
        ),
        ("a time", changed(&seed(), add("/predicate/runDetails", "metadata"))),
        ("an unknown parameter", changed(&seed(), add(PARAMETERS, "extra"))),
        ("an unknown field", changed(&seed(), add("", "extra"))),
        ("a field missing", changed(&seed(), remove(PARAMETERS, "flakeLock"))),
        (
            "another by-product",
            changed(&build(), set("/predicate/runDetails/byproducts/0/name", json!("log"))),
        ),
        (
            "two bills of materials",
            changed(&build(), |value| {
                let items =
                    value.pointer_mut("/predicate/runDetails/byproducts").unwrap().as_array_mut().unwrap();
                items.push(items[0].clone());
            }),
        ),
        (
            "an empty list of by-products",
            changed(&build(), set("/predicate/runDetails/byproducts", json!([]))),
        ),
        ("white space", [seed().to_bytes().unwrap(), b"\n".to_vec()].concat()),
        ("pretty printing", {
            let value: Value = serde_json::from_slice(&seed().to_bytes().unwrap()).unwrap();
            serde_json::to_vec_pretty(&value).unwrap()
        }),
        ("a key twice", {
            let text = String::from_utf8(seed().to_bytes().unwrap()).unwrap();
            text.replacen("{\"_type\":", "{\"_type\":\"https://in-toto.io/Statement/v1\",\"_type\":", 1)
                .into_bytes()
        }),
        ("an escape that is not needed", {
            let text = String::from_utf8(seed().to_bytes().unwrap()).unwrap();
            text.replacen("app.seed", "\\u0061pp.seed", 1).into_bytes()
        }),
        ("too long", vec![b' '; MAX_LEN + 1]),
        ("nothing", Vec::new()),
        ("null", b"null".to_vec()),
    ];
    for (what, text) in cases {
        assert!(CoreStatement::parse(&text).is_err(), "{what} was accepted");
    }
}

#[test]
fn other_documents_are_told_apart() {
    for (ours, text) in [
        (true, seed().to_bytes().unwrap()),
        (
            true,
            changed(
                &seed(),
                set("/predicate/buildDefinition/buildType", json!("https://nix-seed.dev/buildtypes/x")),
            ),
        ),
        (true, b"not JSON".to_vec()),
        (
            false,
            changed(&seed(), set("/predicate/buildDefinition/buildType", json!("https://example.org/make"))),
        ),
        (false, b"{\"predicateType\":\"https://cosign.sigstore.dev/attestation/vuln/v1\"}".to_vec()),
    ] {
        assert_eq!(CoreStatement::is_claimed_by(&text), ours, "{}", String::from_utf8_lossy(&text));
    }
}

#[test]
fn impossible_statements_are_not_written() {
    let long = "a".repeat(MAX_TEXT + 1);
    for name in ["", "a\nb", &long] {
        let statement = CoreStatement { subject: Subject { name: name.into(), ..seed().subject }, ..seed() };
        assert!(
            matches!(statement.to_bytes(), Err(CoreError::Text { field: "subject.name" })),
            "{name:.10?}"
        );
    }
}

prop_compose! {
    fn statements()(
        name in "[^\\p{Cc}]{1,40}",
        subject in any::<[u8; 32]>(),
        build in any::<bool>(),
        system in "[a-z0-9_]{1,9}-[a-z]{1,9}",
        output in "[^\\p{Cc}]{1,40}",
        path in "[a-z]{1,9}/[a-z]{1,9}",
        commit in "[0-9a-f]{40}|[0-9a-f]{64}",
        flake_lock in any::<[u8; 32]>(),
        sandbox in "true|false|relaxed",
        substituters in "[a-z :/.]{0,40}",
        trusted in "[a-z :/.]{0,40}",
        sbom in proptest::option::of(any::<[u8; 32]>()),
    ) -> CoreStatement {
        CoreStatement {
            subject: Subject { name, digest: Digest::from_bytes(subject) },
            kind: if build { Kind::Build } else { Kind::Seed },
            system: system.parse().unwrap(),
            output,
            source: SourceUri::normalise(&format!("https://host.example/{path}")).unwrap(),
            commit: commit.parse().unwrap(),
            flake_lock: Digest::from_bytes(flake_lock),
            nix_config: NixConfig::normalise(&sandbox, &substituters, &trusted),
            sbom: sbom.map(|sbom| Sbom {
                media_type: "application/spdx+json".into(),
                digest: Digest::from_bytes(sbom),
            }),
        }
    }
}

proptest! {
    #[test]
    fn round_trips(statement in statements()) {
        let bytes = statement.to_bytes().unwrap();
        prop_assert_eq!(CoreStatement::parse(&bytes).unwrap(), statement);
    }

    /// No two texts mean the same: whatever byte is changed, the statement is another or none.
    #[test]
    fn every_byte_counts(statement in statements(), at in any::<proptest::sample::Index>(), flip in 1u8..) {
        let mut bytes = statement.to_bytes().unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(other) = CoreStatement::parse(&bytes) {
            prop_assert_ne!(other, statement);
        }
    }

    #[test]
    fn never_panics(text in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = CoreStatement::parse(&text);
    }
}
