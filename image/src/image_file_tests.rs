//! Archives as skopeo writes them are read in `tests/` of the workspace; here what no tool writes.

use super::*;
use seed_format::tar::{BLOCK, END, padding};

/// A tar archive of files and links, as any tool would write it.
fn archive(members: &[(&str, u8, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, kind, content) in members {
        let mut header = [0u8; BLOCK];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        let size = if *kind == b'0' { content.len() } else { 0 };
        header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        header[136..148].copy_from_slice(b"00000000001\0");
        header[156] = *kind;
        if *kind != b'0' {
            header[157..157 + content.len()].copy_from_slice(content);
        }
        header[257..263].copy_from_slice(b"ustar\0");
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().copied().map(u32::from).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes.extend(header);
        if *kind == b'0' {
            bytes.extend(*content);
            bytes.extend(vec![0; padding(content.len() as u64)]);
        }
    }
    bytes.extend(END);
    bytes
}

fn config(diff_ids: &[Digest]) -> String {
    let ids: Vec<String> = diff_ids.iter().map(|id| format!("\"{id}\"")).collect();
    format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        ids.join(",")
    )
}

fn push_bytes(bytes: &[u8]) -> (tempfile::TempDir, Result<Pushed, ImageFileError>) {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("image.tar");
    fs::write(&file, bytes).unwrap();
    let layout = Layout::new(place.path().join("layout"));
    let pushed = push(&file, &place.path().join("scratch"), &layout, Some("main"));
    (place, pushed)
}

#[test]
fn layers_are_compressed_and_repeated_ones_found() {
    let layer = archive(&[("hello", b'0', b"hello")]);
    let id = Digest::of(&layer);
    let manifest = br#"[{"Config":"./config.json","RepoTags":null,"Layers":["a/layer.tar","b/layer.tar"]}]"#;
    let config = config(&[id, id]);
    let plain = archive(&[
        ("a/layer.tar", b'0', &layer),
        ("b/layer.tar", b'2', b"../a/layer.tar"),
        ("config.json", b'0', config.as_bytes()),
        ("./manifest.json", b'0', manifest),
    ]);
    let zstd = zstd::encode_all(plain.as_slice(), 1).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::Write::write_all(&mut gzip, &plain).unwrap();
    let mut digests = Vec::new();
    for bytes in [plain, zstd, gzip.finish().unwrap()] {
        let (place, pushed) = push_bytes(&bytes);
        let pushed = pushed.unwrap();
        let layout = Layout::new(place.path().join("layout"));
        let manifest = Manifest::parse(&layout.manifest(&pushed.digest).unwrap()).unwrap();
        assert_eq!(layout.resolve("main").unwrap().digest, pushed.digest);
        assert_eq!((manifest.layers.len(), pushed.report.copied, pushed.report.present), (2, 2, 1));
        assert_eq!(manifest.layers[0].media_type, media_type::LAYER_ZSTD);
        let mut blob = Vec::new();
        layout.blob(&manifest.layers[0]).unwrap().read_to_end(&mut blob).unwrap();
        assert_eq!(zstd::decode_all(blob.as_slice()).unwrap(), layer);
        digests.push(pushed.digest);
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]));
}

#[test]
fn what_is_no_image_is_refused() {
    let layer = archive(&[("hello", b'0', b"hello")]);
    let wrong = config(&[Digest::of(b"another")]);
    let none = config(&[]);
    let manifest: &[u8] = br#"[{"Config":"c","Layers":["l"]}]"#;
    let with = |config: &str, manifest: &[u8]| {
        archive(&[("l", b'0', &layer), ("c", b'0', config.as_bytes()), ("manifest.json", b'0', manifest)])
    };
    type Expected = fn(&ImageFileError) -> bool;
    let cases: [(Vec<u8>, Expected); 9] = [
        (Vec::new(), |e| matches!(e, ImageFileError::NoImage(_))),
        (b"#!/bin/sh\n".repeat(100), |e| matches!(e, ImageFileError::NoImage(_))),
        (layer.clone(), |e| matches!(e, ImageFileError::NoImage(_))),
        (with(&wrong, manifest), |e| matches!(e, ImageFileError::Layer { .. })),
        (with(&none, manifest), |e| matches!(e, ImageFileError::Config(ManifestError::LayerCount { .. }))),
        (with(&wrong, b"[]"), |e| matches!(e, ImageFileError::Images(_))),
        (with(&wrong, b"{}"), |e| matches!(e, ImageFileError::Json(_))),
        (with(&wrong, br#"[{"Config":"../c","Layers":[]}]"#), |e| matches!(e, ImageFileError::Missing(_))),
        (with("{", manifest), |e| matches!(e, ImageFileError::Config(_))),
    ];
    for (number, (bytes, expected)) in cases.iter().enumerate() {
        let (place, pushed) = push_bytes(bytes);
        let error = pushed.unwrap_err();
        assert!(expected(&error), "case {number}: {error:?}");
        assert!(!place.path().join("layout/index.json").exists() || number == 3);
    }
}

#[test]
fn no_name_leads_out_of_the_scratch_directory() {
    for (path, expected) in [
        ("a/b", Some("a/b")),
        ("./a//b/.", Some("a/b")),
        ("/etc/passwd", Some("etc/passwd")),
        ("a/../b", Some("b")),
        ("../a", None),
        ("a/../../b", None),
        ("", None),
        (".", None),
    ] {
        assert_eq!(normal(path.as_bytes()).as_deref(), expected, "{path:?}");
    }
    let bytes = archive(&[("../evil", b'0', b"x"), ("blobs/sha256/../../../evil", b'0', b"x")]);
    let (place, pushed) = push_bytes(&bytes);
    assert!(matches!(pushed, Err(ImageFileError::NoImage(_))));
    let mut names: Vec<_> = fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["image.tar", "scratch"]);
}
