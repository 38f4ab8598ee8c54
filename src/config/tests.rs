use std::fs;

use super::*;

fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    fs::write(&file, text).unwrap();
    Config::from_parts(read(&file)?, variables.iter().map(|(name, value)| (name.into(), value.into())))
}

const FULL: &str = r#"
[cache]
dir = "/a"
size = "1GiB"
records-size = "3GiB"
records-days = 6
from = ["/e"]
keep-free = "5GiB"
[image]
repository = "ghcr.io/acme/app.seed"
[mount]
mode = "fuse"
[network]
connections = 3
timeout = 4
rate = "1GiB"
metered = true
[otlp]
endpoint = "http://127.0.0.1:4318"
[registry]
ca-file = "/ca.pem"
hosts-dirs = ["/etc/containerd/certs.d"]
insecure = ["registry.internal:5000"]
[runtime]
dir = "/b"
[sandbox]
results = "/d"
scratch = "/c"
"#;

/// The section `cache` of [`FULL`].
fn cache() -> Cache {
    let [size, records_size] = [1, 3].map(ByteSize::gib);
    let (from, keep_free) = (vec!["/e".into()], Some(ByteSize::gib(5)));
    Cache { dir: "/a".into(), from, keep_free, size, records_size, records_days: 6 }
}

#[test]
fn files_set_every_key() {
    let config = load(FULL, &[]).unwrap();
    assert_eq!(config.cache, cache());
    assert_eq!(config.image.repository.as_deref(), Some("ghcr.io/acme/app.seed"));
    assert_eq!(config.mount.mode, Mode::Fuse);
    assert_eq!(
        config.network,
        Network { connections: 3, timeout: 4, rate: Some(ByteSize::gib(1)), metered: true }
    );
    assert_eq!(config.otlp.endpoint.as_ref().unwrap().to_string(), "http://127.0.0.1:4318");
    assert_eq!(config.registry.ca_file, Some("/ca.pem".into()));
    assert_eq!(config.registry.hosts_dirs, Some(vec!["/etc/containerd/certs.d".into()]));
    assert_eq!(config.registry.insecure, ["registry.internal:5000"]);
    assert_eq!(config.runtime.dir, Some("/b".into()));
    assert_eq!(config.sandbox.scratch, Some("/c".into()));
    assert_eq!(config.results(), Path::new("/d"));
    for (key, _) in KEYS {
        let name = key.split_once('.').unwrap().1;
        assert!(FULL.contains(&format!("\n{name} = ")), "{key} is not tested");
    }
    assert_eq!(load("", &[]).unwrap(), Config::default());
}

#[test]
fn every_listed_key_is_one_of_the_struct() {
    for (key, _) in KEYS {
        let error = toml::from_str::<Config>(&format!("{key} = 1979-05-27")).unwrap_err();
        assert!(!error.to_string().contains("unknown field"), "{key}: {error}");
    }
}

#[test]
fn the_environment_wins() {
    let config = load(
        FULL,
        &[
            ("SEED_CACHE_SIZE", "2GiB"),
            ("SEED_MOUNT_MODE", "kernel"),
            ("SEED_NETWORK_CONNECTIONS", "9"),
            ("SEED_REGISTRY_INSECURE", "a:1, b:2"),
            ("SEED_REGISTRY_HOSTS_DIRS", "/c"),
            ("SEED_BLESS", "1"),
            ("SEED_POLICY_LEVEL", "innocent"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    assert_eq!(config.cache, Cache { size: ByteSize::gib(2), ..cache() });
    assert_eq!(config.mount.mode, Mode::Kernel);
    assert_eq!(
        config.network,
        Network { connections: 9, timeout: 4, rate: Some(ByteSize::gib(1)), metered: true }
    );
    assert_eq!(config.registry.insecure, ["a:1", "b:2"]);
    assert_eq!(config.registry.hosts_dirs, Some(vec!["/c".into()]));
}

#[test]
fn unknown_and_invalid_values_are_refused() {
    type Variables = &'static [(&'static str, &'static str)];
    let cases: &[(&str, Variables, &str)] = &[
        ("[cache]\nsizes = 1", &[], "did you mean `cache.size`?"),
        ("[cahce]\nsize = 1", &[], "unknown key `cahce`"),
        ("cache = 1", &[], "unknown key `cache`"),
        ("[cache]\nsize = \"20 parsecs\"", &[], "is not valid"),
        ("[mount]\nmode = \"nfs\"", &[], "is not valid"),
        ("[network]\ntimeout = -1", &[], "is not valid"),
        ("[otlp]\nendpoint = \"127.0.0.1:4318\"", &[], "is not valid"),
        ("[", &[], "is not valid"),
        ("", &[("SEED_CACHE_SIZES", "1")], "did you mean SEED_CACHE_SIZE?"),
        ("", &[("SEED_CACHE_SIZE", "much")], "SEED_CACHE_SIZE is not valid"),
        ("", &[("SEED_NETWORK_TIMEOUT", "1\nx = 2")], "SEED_NETWORK_TIMEOUT is not valid"),
        ("", &[("SEED_NETWORK_TIMEOUT", "")], "SEED_NETWORK_TIMEOUT is not valid"),
    ];
    for (text, variables, word) in cases {
        let error = load(text, variables).unwrap_err().to_string();
        assert!(error.contains(word), "{text} {variables:?}: {error}");
    }
}

#[test]
fn later_files_win_key_by_key() {
    let mut base: toml::Table = "[cache]\ndir = \"/a\"\nsize = 1".parse().unwrap();
    merge(&mut base, "[cache]\nsize = 2\n[runtime]\ndir = \"/b\"".parse().unwrap());
    let config = Config::from_parts(base, std::iter::empty()).unwrap();
    assert_eq!(config.cache, Cache { dir: "/a".into(), size: "2".parse().unwrap(), ..Cache::default() });
    assert_eq!(config.runtime.dir, Some("/b".into()));
}

#[test]
fn the_guide_names_every_key() {
    let guide = include_str!("../../docs/configuration.md");
    for (key, _) in KEYS {
        assert!(guide.contains(&format!("`{key}`")), "docs/configuration.md does not explain {key}");
        assert!(
            guide.contains(&variable_of(key)),
            "docs/configuration.md does not name {}",
            variable_of(key)
        );
    }
    for key in seed_policy::policy::KEYS {
        assert!(guide.contains(&format!("`{key}`")), "docs/configuration.md does not explain {key}");
    }
}
