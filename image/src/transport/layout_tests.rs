use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use super::super::FileContent;
use super::*;
use crate::manifest::Manifest;

struct Fixture {
    _home: tempfile::TempDir,
    directory: PathBuf,
    layout: Layout,
}

fn fixture() -> Fixture {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("layout");
    Fixture { layout: Layout::new(&directory), directory, _home: home }
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn put(layout: &Layout, bytes: &[u8]) -> Descriptor {
    let descriptor = Descriptor::new(media_type::LAYER_TAR, Digest::of(bytes), bytes.len() as u64);
    layout.put_blob(&descriptor, &mut BytesContent(bytes)).unwrap();
    descriptor
}

/// The bytes of a manifest with one configuration and no layers; `subject` makes it a referrer.
fn manifest(config: &Descriptor, subject: Option<Descriptor>) -> Vec<u8> {
    Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.into()),
        artifact_type: subject.as_ref().map(|_| "application/vnd.example".into()),
        config: config.clone(),
        layers: vec![],
        subject,
        annotations: Default::default(),
    }
    .to_bytes()
}

fn read_all(layout: &Layout, descriptor: &Descriptor) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    layout.blob(descriptor)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn writes_what_it_reads() {
    let f = fixture();
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let blob = put(&f.layout, &bytes);
    assert!(f.layout.has_blob(&blob).unwrap());
    assert_eq!(read_all(&f.layout, &blob).unwrap(), bytes);
    assert_eq!(f.layout.read_range(&blob.digest, 1000..2000, deadline()).unwrap(), bytes[1000..2000]);
    assert_eq!(f.layout.read_range(&blob.digest, 300_000..300_000, deadline()).unwrap(), b"");
    assert_eq!(fs::read(f.layout.blob_path(&blob.digest).unwrap()).unwrap(), bytes);

    let manifest = manifest(&blob, None);
    let digest = f.layout.put_manifest(&manifest, media_type::MANIFEST, Some("v1")).unwrap();
    let resolved = f.layout.resolve("v1").unwrap();
    assert_eq!(resolved, Descriptor::new(media_type::MANIFEST, digest, manifest.len() as u64));
    assert_eq!(f.layout.resolve_default().unwrap(), resolved);
    assert_eq!(f.layout.manifest(&digest).unwrap(), manifest);

    let Fixture { layout, directory, _home } = f;
    drop(layout);
    assert_eq!(names(&directory), ["blobs", "index.json", "oci-layout"], "nothing unfinished is left");
    let marker = fs::read_to_string(directory.join("oci-layout")).unwrap();
    assert_eq!(marker, r#"{"imageLayoutVersion":"1.0.0"}"#);
}

#[test]
fn takes_over_files_that_it_owns() {
    let f = fixture();
    let path = f.layout.staging().unwrap().unwrap();
    fs::write(&path, b"owned").unwrap();
    let descriptor = Descriptor::new(media_type::LAYER_TAR, Digest::of(b"owned"), 5);
    f.layout.put_blob(&descriptor, &mut FileContent::owned(&path)).unwrap();
    assert!(!path.exists());
    assert_eq!(read_all(&f.layout, &descriptor).unwrap(), b"owned");

    let kept = f.directory.parent().unwrap().join("kept");
    fs::write(&kept, b"kept").unwrap();
    let descriptor = Descriptor::new(media_type::LAYER_TAR, Digest::of(b"kept"), 4);
    f.layout.put_blob(&descriptor, &mut FileContent::borrowed(&kept)).unwrap();
    assert!(kept.exists());
}

/// What a dead writer left goes with the next one; what a living one has begun stays.
#[test]
fn what_is_unfinished_goes_with_its_writer() {
    let f = fixture();
    let living = f.layout.staging().unwrap().unwrap();
    fs::write(&living, b"begun").unwrap();
    let dead = f.directory.join(".seed-unfinished-1-0000000000000000");
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join("blob"), b"half").unwrap();
    let other = Layout::new(&f.directory);
    put(&other, b"x");
    assert!(living.exists() && !dead.exists());

    f.layout.abandon();
    assert!(!living.parent().unwrap().exists());
    let descriptor = Descriptor::new(media_type::LAYER_TAR, Digest::of(b"late"), 4);
    f.layout.put_blob(&descriptor, &mut BytesContent(b"late")).unwrap_err();
    let unused = Layout::new(&f.directory);
    unused.abandon();
    unused.put_blob(&descriptor, &mut BytesContent(b"late")).unwrap_err();
    put(&other, b"late");
    drop(other);
    assert_eq!(names(&f.directory), ["blobs", "index.json", "oci-layout"]);
}

#[test]
fn tags_move_and_members_of_an_index_are_listed_once() {
    let f = fixture();
    let (one, two) = (put(&f.layout, b"1"), put(&f.layout, b"2"));
    let (one, two) = (manifest(&one, None), manifest(&two, None));
    f.layout.put_manifest(&one, media_type::MANIFEST, Some("t")).unwrap();
    let second = f.layout.put_manifest(&two, media_type::MANIFEST, Some("t")).unwrap();
    assert_eq!(f.layout.resolve("t").unwrap().digest, second);
    assert_eq!(f.layout.list().unwrap().len(), 1);

    let first = f.layout.put_manifest(&one, media_type::MANIFEST, None).unwrap();
    assert_eq!(f.layout.list().unwrap().len(), 2);
    assert!(matches!(f.layout.resolve_default(), Err(TransportError::Unnamed { count: 2, .. })));
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{{"mediaType":"{}","digest":"{first}","size":{}}}]}}"#,
        media_type::INDEX,
        media_type::MANIFEST,
        one.len()
    );
    let digest = f.layout.put_manifest(index.as_bytes(), media_type::INDEX, Some("all")).unwrap();
    let listed: Vec<_> = f.layout.list().unwrap().into_iter().map(|entry| entry.digest).collect();
    assert_eq!(listed, [second, digest]);
}

#[test]
fn lists_referrers() {
    let f = fixture();
    let config = put(&f.layout, b"{}");
    let image = manifest(&config, None);
    let digest = f.layout.put_manifest(&image, media_type::MANIFEST, Some("image")).unwrap();
    let subject = Descriptor::new(media_type::MANIFEST, digest, image.len() as u64);
    let referrer = manifest(&config, Some(subject));
    let referrer = f.layout.put_manifest(&referrer, media_type::MANIFEST, None).unwrap();
    let found = f.layout.referrers(&digest).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].digest, referrer);
    assert_eq!(found[0].artifact_type.as_deref(), Some("application/vnd.example"));
    assert_eq!(f.layout.referrers(&referrer).unwrap(), []);

    // A referrer that is damaged hides no other.
    let broken =
        f.layout.put_manifest(&manifest(&put(&f.layout, b"x"), None), media_type::MANIFEST, None).unwrap();
    fs::write(f.layout.blob_path(&broken).unwrap(), b"{").unwrap();
    assert_eq!(f.layout.referrers(&digest).unwrap().len(), 1);
}

#[test]
fn writers_at_once_lose_nothing() {
    let f = fixture();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let directory = &f.directory;
            scope.spawn(move || {
                let layout = Layout::new(directory);
                for n in 0..8 {
                    // Every second blob is written by all of them.
                    let bytes = format!("{} {n}", if n % 2 == 0 { 0 } else { writer });
                    let config = put(&layout, bytes.as_bytes());
                    let tag = format!("w{writer}-{n}");
                    layout.put_manifest(&manifest(&config, None), media_type::MANIFEST, Some(&tag)).unwrap();
                }
            });
        }
    });
    assert_eq!(f.layout.list().unwrap().len(), 64);
    for writer in 0..8 {
        f.layout.resolve(&format!("w{writer}-7")).unwrap();
    }
    drop(f.layout);
    assert_eq!(names(&f.directory), ["blobs", "index.json", "oci-layout"]);
}

#[test]
fn refuses_content_that_is_not_what_it_is_called() {
    let f = fixture();
    for (bytes, size) in [(&b"wrong"[..], 5), (b"right", 4), (b"right", 6), (b"", 5)] {
        let descriptor = Descriptor::new(media_type::LAYER_TAR, Digest::of(b"right"), size);
        let error = f.layout.put_blob(&descriptor, &mut BytesContent(bytes)).unwrap_err();
        assert!(matches!(error, TransportError::WrongContent { .. }), "{error:?}");
        assert!(!f.layout.has_blob(&descriptor).unwrap());
    }
    assert!(f.layout.put_manifest(b"{}", media_type::MANIFEST, None).is_err());
    let manifest = manifest(&put(&f.layout, b"x"), None);
    let error = f.layout.put_manifest(&manifest, media_type::MANIFEST, Some("../x")).unwrap_err();
    assert!(matches!(error, TransportError::BadTag(_)), "{error:?}");
    drop(f.layout);
    assert_eq!(names(&f.directory), ["blobs", "index.json", "oci-layout"]);
}

#[test]
fn damage_is_an_error_and_never_wrong_bytes() {
    type Damage = fn(&Path);
    type Check = fn(&TransportError) -> bool;
    let cases: &[(&str, Damage, Check)] = &[
        (
            "flipped",
            |path| fs::write(path, b"contenT").unwrap(),
            |e| matches!(e, TransportError::WrongDigest { .. }),
        ),
        ("short", |path| fs::write(path, b"conten").unwrap(), |e| e.is_integrity()),
        ("long", |path| fs::write(path, b"content+").unwrap(), |e| e.is_integrity()),
        ("missing", |_| {}, |e| e.is_not_found()),
        (
            "link",
            |path| symlink("/etc/passwd", path).unwrap(),
            |e| matches!(e, TransportError::NotALayout { problem: LayoutProblem::NotRegular, .. }),
        ),
        (
            "directory",
            |path| fs::create_dir(path).unwrap(),
            |e| matches!(e, TransportError::NotALayout { problem: LayoutProblem::NotRegular, .. }),
        ),
        (
            "pipe",
            |path| {
                rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0)
                    .unwrap()
            },
            |e| matches!(e, TransportError::NotALayout { problem: LayoutProblem::NotRegular, .. }),
        ),
    ];
    for (name, damage, check) in cases {
        let f = fixture();
        let blob = put(&f.layout, b"content");
        let path = f.layout.blob_path(&blob.digest).unwrap();
        fs::remove_file(&path).unwrap();
        damage(&path);
        let error = TransportError::from_io(read_all(&f.layout, &blob).unwrap_err()).unwrap();
        assert!(check(&error), "{name}: {error:?}");
        let error = f.layout.manifest(&blob.digest).unwrap_err();
        assert!(
            error.is_not_found()
                || matches!(error, TransportError::NotALayout { .. })
                || error.is_integrity()
        );
        if *name == "short" {
            let error = f.layout.read_range(&blob.digest, 0..7, deadline()).unwrap_err();
            assert!(matches!(error, TransportError::PastEnd { size: 6, .. }), "{error:?}");
        }
    }
}

#[test]
fn impossible_ranges_are_errors() {
    let f = fixture();
    let blob = put(&f.layout, b"content");
    #[expect(clippy::reversed_empty_ranges)]
    for range in [5..4, 0..u64::MAX, 1..(1 << 40)] {
        let error = f.layout.read_range(&blob.digest, range.clone(), deadline()).unwrap_err();
        assert!(matches!(error, TransportError::BadRange { .. }), "{range:?}: {error:?}");
    }
    for range in [0..8, 7..8, u64::MAX - 1..u64::MAX] {
        assert!(f.layout.read_range(&blob.digest, range.clone(), deadline()).is_err(), "{range:?}");
    }
}

#[test]
fn refuses_directories_that_are_no_layout() {
    use LayoutProblem as P;
    type Prepare = fn(&Path);
    let cases: &[(Prepare, LayoutProblem)] = &[
        (|_| {}, P::Missing),
        (|d| fs::create_dir(d).unwrap(), P::NoMarker),
        (|d| fs::create_dir(d).and_then(|()| fs::write(d.join("oci-layout"), "{}")).unwrap(), P::Version),
        (
            |d| {
                fs::create_dir(d)
                    .and_then(|()| fs::write(d.join("oci-layout"), r#"{"imageLayoutVersion":"2.0"}"#))
                    .unwrap()
            },
            P::Version,
        ),
        (
            |d| {
                fs::create_dir(d)
                    .and_then(|()| fs::write(d.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#))
                    .unwrap()
            },
            P::NoIndex,
        ),
        (
            |d| fs::create_dir(d).and_then(|()| symlink("/etc/passwd", d.join("oci-layout"))).unwrap(),
            P::NotRegular,
        ),
    ];
    for (prepare, expected) in cases {
        let f = fixture();
        prepare(&f.directory);
        match f.layout.resolve("t").unwrap_err() {
            TransportError::NotALayout { problem, .. } => assert_eq!(problem, *expected),
            error => panic!("{expected:?}: {error:?}"),
        }
    }

    // A directory with other things in it is not made a layout.
    let f = fixture();
    fs::create_dir(&f.directory).unwrap();
    fs::write(f.directory.join("notes"), "").unwrap();
    let descriptor = Descriptor::new(media_type::LAYER_TAR, Digest::of(b"x"), 1);
    let error = f.layout.put_blob(&descriptor, &mut BytesContent(b"x")).unwrap_err();
    assert!(matches!(error, TransportError::NotALayout { problem: P::NoMarker, .. }), "{error:?}");
    assert_eq!(names(&f.directory), ["notes"]);
}

#[test]
fn a_malformed_index_is_an_error() {
    for index in ["", "[]", r#"{"schemaVersion":2,"manifests":[{}]}"#, r#"{"schemaVersion":2,"layers":[]}"#] {
        let f = fixture();
        put(&f.layout, b"x");
        fs::write(f.directory.join("index.json"), index).unwrap();
        let error = f.layout.resolve("t").unwrap_err();
        assert!(matches!(error, TransportError::Manifest { .. }), "{index}: {error:?}");
    }
}
