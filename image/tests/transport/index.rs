//! The index of a seed is fetched in parts, and never taken for what it is not.

use std::net::TcpStream;
use std::sync::Arc;

use seed_format::Digest;
use seed_image::manifest::{Manifest, annotation, media_type};
use seed_image::seed::{Outline, SeedError};
use seed_image::transport::Transport;

use crate::support::hostile::{Hostile, Request, reply, reply_blob};
use crate::support::servers::{Kind, Server};
use crate::support::{noise, open, options, put_image};

/// Worth 16 parts.
const SIZE: usize = 2 << 20;

/// The manifest of an image whose one layer claims to hold an index.
fn with_index(place: &dyn Transport, blob: &[u8]) -> Vec<u8> {
    let (_, manifest) = put_image(place, &[blob.to_vec()], None, None);
    let mut manifest = Manifest::parse(&manifest).unwrap();
    let position = format!("0:{}:{}", blob.len(), blob.len());
    manifest.layers[0].annotations.insert(annotation::SEED_INDEX.into(), position);
    manifest.to_bytes()
}

#[test]
fn a_large_one_comes_in_parts() {
    let server = Server::start(Kind::Docker);
    let place = open(&format!("{}/app", server.address), &options());
    let blob = noise(5, SIZE);
    let manifest = with_index(&*place, &blob);
    let digest = place.put_manifest(&manifest, media_type::MANIFEST, None).unwrap();
    let outline = Outline::read(&*place, &digest).unwrap();
    let before = place.counters().requests;
    assert_eq!(outline.index_blob(&*place).unwrap(), blob);
    assert_eq!(place.counters().requests - before, 16);
}

/// A server of the image that flips a bit in answers to requests for which `lies` holds.
fn lying(lies: impl Fn(&Request) -> bool + Send + Sync + 'static) -> (Hostile, Digest, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let layout = open(&format!("oci:{}", directory.path().display()), &options());
    let blob = noise(6, SIZE);
    let manifest = with_index(&*layout, &blob);
    let digest = Digest::of(&manifest);
    let served = Arc::new((manifest, blob.clone()));
    let server = Hostile::start(move |request: &Request, _, to: &mut TcpStream| {
        let (manifest, blob) = &*served;
        if request.target.contains("/manifests/") {
            return reply(to, 200, &[("Content-Type", media_type::MANIFEST)], manifest);
        }
        let mut blob = blob.clone();
        if lies(request) {
            blob[SIZE / 2] ^= 1;
        }
        reply_blob(request, to, &blob)
    });
    (server, digest, blob)
}

#[test]
fn wrong_parts_are_thrown_away() {
    let (server, digest, blob) = lying(|request| request.range().is_some());
    let place = open(&format!("{}/app", server.address), &options());
    assert_eq!(Outline::read(&*place, &digest).unwrap().index_blob(&*place).unwrap(), blob);
}

#[test]
fn a_wrong_blob_is_an_error() {
    let (server, digest, _) = lying(|_| true);
    let place = open(&format!("{}/app", server.address), &options());
    let error = Outline::read(&*place, &digest).unwrap().index_blob(&*place).unwrap_err();
    assert!(matches!(error, SeedError::Transport(_) | SeedError::Blob { .. }), "{error:?}");
}
