use proptest::prelude::*;

use super::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn digest() -> Digest {
    DIGEST.parse().unwrap()
}

fn manifest() -> Manifest {
    let mut layer = Descriptor::new(media_type::LAYER_ZSTD, digest(), 1 << 40);
    layer.annotations.insert(annotation::SEED_INDEX.into(), "1:2:3".into());
    Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.into()),
        artifact_type: None,
        config: Descriptor::new(media_type::CONFIG, digest(), 2),
        layers: vec![layer],
        subject: None,
        annotations: BTreeMap::from([("b".into(), "2".into()), ("a".into(), "1".into())]),
    }
}

#[test]
fn canonical_bytes_are_pinned() {
    let expected = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\
         \"config\":{{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"{DIGEST}\",\"size\":2}},\
         \"layers\":[{{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+zstd\",\"digest\":\"{DIGEST}\",\
         \"size\":1099511627776,\"annotations\":{{\"dev.nix-seed.index\":\"1:2:3\"}}}}],\
         \"annotations\":{{\"a\":\"1\",\"b\":\"2\"}}}}"
    );
    assert_eq!(String::from_utf8(manifest().to_bytes()).unwrap(), expected);
    assert_eq!(Manifest::parse(expected.as_bytes()).unwrap(), manifest());

    let config = Config {
        architecture: "amd64".into(),
        os: "linux".into(),
        config: RunConfig {
            env: vec!["PATH=/bin".into()],
            cmd: Some(vec!["/bin/sh".into()]),
            exposed_ports: BTreeMap::from([("80/tcp".into(), Empty {})]),
            labels: BTreeMap::from([("dev.nix-seed.system".into(), "x86_64-linux".into())]),
            ..RunConfig::default()
        },
        rootfs: RootFs { diff_ids: vec![digest()], ..RootFs::default() },
        ..Config::default()
    };
    let expected = format!(
        "{{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{{\"ExposedPorts\":{{\"80/tcp\":{{}}}},\
         \"Env\":[\"PATH=/bin\"],\"Cmd\":[\"/bin/sh\"],\"Labels\":{{\"dev.nix-seed.system\":\"x86_64-linux\"}}}},\
         \"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"{DIGEST}\"]}}}}"
    );
    assert_eq!(String::from_utf8(config.to_bytes()).unwrap(), expected);
    assert_eq!(Config::parse(expected.as_bytes()).unwrap(), config);
    config.check_layers(&manifest()).unwrap();
}

#[test]
fn reads_what_other_tools_write() {
    let docker = format!(
        r#"{{ "schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
             "config": {{ "mediaType": "application/vnd.docker.container.image.v1+json", "size": 7, "digest": "{DIGEST}" }},
             "layers": [], "annotations": null, "unknown": {{"a": [1]}} }}"#
    );
    assert!(matches!(ManifestKind::parse(docker.as_bytes(), None), Ok(ManifestKind::Manifest(_))));

    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{DIGEST}","size":1,
             "platform":{{"architecture":"arm64","os":"linux","variant":"v8","os.version":"1"}}}}]}}"#,
        media_type::MANIFEST
    );
    let Ok(kind @ ManifestKind::Index(_)) = ManifestKind::parse(index.as_bytes(), None) else {
        panic!("not read as an index")
    };
    assert_eq!(kind.media_type(), media_type::INDEX);

    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Env":null,"Entrypoint":null,"Labels":null,"OnBuild":null}},
             "rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}},"history":[{{"created_by":"x","empty_layer":true}}]}}"#
    );
    assert!(Config::parse(config.as_bytes()).unwrap().history[0].empty_layer);
}

#[test]
fn refuses_the_malformed() {
    use ManifestError as E;
    type Check = fn(&ManifestError) -> bool;
    let descriptor = format!(r#"{{"mediaType":"x","digest":"{DIGEST}","size":1}}"#);
    let huge = format!(r#"{{"mediaType":"x","digest":"{DIGEST}","size":18446744073709551615}}"#);
    let negative = format!(r#"{{"mediaType":"x","digest":"{DIGEST}","size":-1}}"#);
    let many = vec![descriptor.as_str(); MAX_LAYERS + 1].join(",");
    let cases: Vec<(String, Check)> = vec![
        (String::new(), |e| matches!(e, E::Json { .. })),
        ("null".into(), |e| matches!(e, E::Json { .. })),
        ("[]".into(), |e| matches!(e, E::Json { .. })),
        ("{}".into(), |e| matches!(e, E::Json { .. })),
        ("<html></html>".into(), |e| matches!(e, E::Json { .. })),
        (r#"{"schemaVersion":2}"#.into(), |e| matches!(e, E::Json { .. })),
        (format!(r#"{{"schemaVersion":1,"config":{descriptor},"layers":[]}}"#), |e| {
            matches!(e, E::SchemaVersion { version: 1, .. })
        }),
        (format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[],"layers":[]}}"#), |e| {
            matches!(e, E::Json { .. })
        }),
        (
            format!(
                r#"{{"schemaVersion":2,"mediaType":"{}","config":{descriptor},"layers":[]}}"#,
                media_type::INDEX
            ),
            |e| matches!(e, E::MediaType { .. }),
        ),
        (format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[],"manifests":[]}}"#), |e| {
            matches!(e, E::Ambiguous { .. })
        }),
        (format!(r#"{{"schemaVersion":2,"config":{huge},"layers":[]}}"#), |e| {
            matches!(e, E::BlobSize { .. })
        }),
        (format!(r#"{{"schemaVersion":2,"config":{negative},"layers":[]}}"#), |e| {
            matches!(e, E::Json { .. })
        }),
        (format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[{many}]}}"#), |e| {
            matches!(e, E::TooMany { .. })
        }),
        (
            format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[]}}{}"#, " ".repeat(MAX_MANIFEST)),
            |e| matches!(e, E::Json { source: JsonError::TooLong { .. }, .. }),
        ),
        (format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[]}} x"#), |e| {
            matches!(e, E::Json { .. })
        }),
    ];
    for (text, check) in cases {
        let error = Manifest::parse(text.as_bytes()).unwrap_err();
        assert!(check(&error), "{:.200}: {error:?}", text);
    }

    let as_index = format!(r#"{{"schemaVersion":2,"manifests":[],"config":{descriptor}}}"#);
    assert!(matches!(Index::parse(as_index.as_bytes()), Err(E::Ambiguous { .. })));
    assert!(matches!(ManifestKind::parse(as_index.as_bytes(), None), Err(E::Ambiguous { .. })));
    let other = manifest().to_bytes();
    assert!(ManifestKind::parse(&other, Some("text/html")).is_ok(), "its own media type decides");
    let bare = format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[]}}"#);
    assert!(matches!(ManifestKind::parse(bare.as_bytes(), Some("text/html")), Err(E::MediaType { .. })));

    let config = r#"{"rootfs":{"type":"squash","diff_ids":[]}}"#;
    assert!(matches!(Config::parse(config.as_bytes()), Err(E::RootFs(_))));
    let config = Config::parse(br#"{"rootfs":{"type":"layers","diff_ids":[]}}"#).unwrap();
    assert!(matches!(config.check_layers(&manifest()), Err(E::LayerCount { layers: 1, diff_ids: 0 })));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = ManifestKind::parse(&bytes, None);
        let _ = Config::parse(&bytes);
    }

    /// A manifest with one byte changed is read or refused, and what is read is written canonically.
    #[test]
    fn damaged_manifests_never_panic(at in 0..400_usize, byte in any::<u8>()) {
        let mut bytes = manifest().to_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(read) = Manifest::parse(&bytes) {
            prop_assert_eq!(Manifest::parse(&read.to_bytes()).unwrap(), read);
        }
    }
}
