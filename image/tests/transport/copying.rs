//! Copying by digest between any two places.

use std::fs;
use std::time::{Duration, SystemTime};

use seed_format::Digest;
use seed_format::trace::Trace;
use seed_image::manifest::{Descriptor, Index, media_type};
use seed_image::traces;
use seed_image::transport::{CopyOptions, Transport, TransportError, copy};

use crate::support::servers::{ALL, Kind, Server, crane};
use crate::support::{chain, describe, noise, open, options, put_image, read_all};

fn tagged(tag: &str) -> CopyOptions {
    CopyOptions { tag: Some(tag.into()), ..CopyOptions::default() }
}

/// An index of two images in `place`, one of which has a referrer that has a referrer.
fn put_index(place: &dyn Transport) -> (Digest, Vec<Vec<u8>>) {
    let layers = vec![noise(50, 700_000), noise(51, 1000), noise(52, 50_000), noise(53, 10)];
    let (one, one_bytes) = put_image(place, &layers[..2], None, None);
    let (two, two_bytes) = put_image(place, &layers[1..3], None, None);
    let entry = |digest, bytes: &[u8]| Descriptor::new(media_type::MANIFEST, digest, bytes.len() as u64);
    let (note, note_bytes) = put_image(place, &layers[3..], None, Some(entry(one, &one_bytes)));
    put_image(place, &[], None, Some(entry(note, &note_bytes)));
    let index = Index {
        schema_version: 2,
        media_type: Some(media_type::INDEX.into()),
        artifact_type: None,
        manifests: vec![entry(one, &one_bytes), entry(two, &two_bytes)],
        subject: None,
        annotations: Default::default(),
    };
    (place.put_manifest(&index.to_bytes(), media_type::INDEX, Some("all")).unwrap(), layers)
}

fn check(place: &dyn Transport, digest: &Digest, layers: &[Vec<u8>]) {
    assert_eq!(place.resolve("all").unwrap().digest, *digest);
    let index = Index::parse(&place.manifest(digest).unwrap()).unwrap();
    for member in &index.manifests {
        place.manifest(&member.digest).unwrap();
    }
    for layer in layers {
        assert_eq!(read_all(place, &describe(layer)).unwrap(), *layer);
    }
    let notes = place.referrers(&index.manifests[0].digest).unwrap();
    assert_eq!(notes.len(), 1);
    assert_eq!(place.referrers(&notes[0].digest).unwrap().len(), 1);
}

/// With the referrers API and without: what the list says is enough to get a trace.
#[test]
fn traces_lie_beside_their_seed() {
    let home = tempfile::tempdir().unwrap();
    let layout = open(&format!("oci:{}/a", home.path().display()), &options());
    let (seed, _) = put_image(&*layout, &[noise(60, 1000)], Some("all"), None);
    let trace = Trace::of(seed, "build x".into(), 5, &[(1, 0), (2, 30)]);
    traces::publish(&*layout, &trace, None, SystemTime::now()).unwrap();
    for server in ALL.map(Server::start) {
        let there = open(&format!("{}/team/app", server.address), &options());
        copy(&*layout, &*there, &seed, &tagged("all")).unwrap();
        let later = Trace { bytes: 6, ..trace.clone() };
        traces::publish(&*there, &later, None, SystemTime::now() + Duration::from_secs(2)).unwrap();
        let before = there.counters().requests;
        let [listed] = <[_; 1]>::try_from(traces::list(&*there, &seed).unwrap()).unwrap();
        assert_eq!(traces::read(&*there, &seed, &listed).unwrap(), later);
        // One for the list, two where it is under a tag; one for the trace.
        assert!(there.counters().requests - before <= 3, "manifests were asked for");
    }
}

#[test]
fn from_place_to_place() {
    let home = tempfile::tempdir().unwrap();
    let layout = open(&format!("oci:{}/a", home.path().display()), &options());
    let (digest, layers) = put_index(&*layout);
    let servers: Vec<_> =
        [Kind::Docker, Kind::Distribution, Kind::Referrers].into_iter().map(Server::start).collect();

    let mut source = layout;
    for (n, server) in servers.iter().enumerate() {
        let destination = open(&format!("{}/team/app", server.address), &options());
        let report = copy(&*source, &*destination, &digest, &tagged("all")).unwrap();
        // The two images and both referrers have three configurations: two are the same.
        assert_eq!((report.manifests, report.mounted), (5, 0), "{n}: {report:?}");
        assert_eq!(report.present, 0);
        check(&*destination, &digest, &layers);

        let again = copy(&*source, &*destination, &digest, &tagged("all")).unwrap();
        assert_eq!((again.copied, again.bytes, again.present), (0, 0, report.copied));
        source = destination;
    }
    crane(&["validate", "--insecure", "--fast", "--remote", &format!("{}/team/app:all", servers[0].address)]);

    let back = open(&format!("oci:{}/b", home.path().display()), &options());
    copy(&*source, &*back, &digest, &tagged("all")).unwrap();
    check(&*back, &digest, &layers);

    // Without its referrers, and from one repository of a registry to another.
    let first = open(&format!("{}/team/app", servers[0].address), &options());
    let second = open(&format!("{}/team/copy", servers[0].address), &options());
    let alone = CopyOptions { referrers: false, ..tagged("all") };
    let report = copy(&*first, &*second, &digest, &alone).unwrap();
    assert_eq!((report.manifests, report.copied), (3, 0), "{report:?}");
    assert!(report.mounted >= 3);
    assert_eq!(second.counters().received, 0, "nothing but manifests came and went");
}

#[test]
fn a_damaged_source_leaves_no_image() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(Kind::Docker);
    for (name, damage) in [("flipped", true), ("missing", false)] {
        let layout = open(&format!("oci:{}/{name}", home.path().display()), &options());
        let layer = noise(60, 1_000_000);
        let (digest, _) = put_image(&*layout, &[layer.clone(), noise(61, 10)], Some("v"), None);
        let file = layout.blob_path(&describe(&layer).digest).unwrap();
        if damage {
            let mut bytes = layer.clone();
            bytes[999_999] ^= 1;
            fs::write(&file, bytes).unwrap();
        } else {
            fs::remove_file(&file).unwrap();
        }
        for place in
            [format!("{}/{name}", server.address), format!("oci:{}/{name}-copy", home.path().display())]
        {
            let destination = open(&place, &options());
            let error = copy(&*layout, &*destination, &digest, &tagged("v")).unwrap_err();
            let fits = if damage {
                matches!(error, TransportError::WrongDigest { .. })
            } else {
                error.is_not_found()
            };
            assert!(fits, "{place}: {}", chain(&error));
            assert!(destination.manifest(&digest).is_err());
            assert!(!destination.has_blob(&describe(&layer)).unwrap(), "{place}");
        }
    }
}
