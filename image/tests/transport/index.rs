//! The index of a seed is fetched in parts, used from the first one on, and never taken for what it is not.

use std::fs;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use seed_format::Digest;
use seed_image::manifest::{Manifest, annotation, media_type};
use seed_image::seed::{Frame, INDEX_PATH, IndexPosition, Outline, Receiver, SeedError};
use seed_image::transport::Transport;

use crate::support::hostile::{Hostile, Request, reply, reply_blob};
use crate::support::servers::{Kind, Server};
use crate::support::{index_layer, noise, open, options, put_image};

/// Bytes that are no index, but frames do not tell.
const SIZE: usize = 2 << 20;
const FRAME: u32 = 128 << 10;

/// The blob of a layer that holds `index`, and the manifest of an image that has no other layer.
fn with_index(place: &dyn Transport, index: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (blob, layer) = index_layer(INDEX_PATH, index, FRAME);
    let position = IndexPosition::of(&layer.entries.last().unwrap().chunks).unwrap();

    let (_, manifest) = put_image(place, std::slice::from_ref(&blob), None, None);
    let mut manifest = Manifest::parse(&manifest).unwrap();
    manifest.layers[0].annotations = layer.annotations;
    manifest.layers[0].annotations.insert(annotation::SEED_INDEX.into(), position.to_string());
    (blob, manifest.to_bytes())
}

/// Collects the frames.
#[derive(Default)]
struct Collected {
    frames: Mutex<Vec<Frame>>,
    taken: Mutex<Vec<(usize, Vec<u8>)>>,
}

impl Receiver for Collected {
    fn expect(&self, frames: &[Frame]) {
        *self.frames.lock().unwrap() = frames.to_vec();
    }

    fn take(&self, number: usize, bytes: &[u8]) {
        self.taken.lock().unwrap().push((number, bytes.to_vec()));
    }

    fn wanted(&self) -> Option<usize> {
        None
    }
}

impl Collected {
    /// The index, of which each frame came once.
    fn index(&self) -> Vec<u8> {
        let mut taken = self.taken.lock().unwrap().clone();
        taken.sort_by_key(|(number, _)| *number);
        assert!(taken.iter().map(|(number, _)| *number).eq(0..self.frames.lock().unwrap().len()));
        taken.into_iter().flat_map(|(_, bytes)| bytes).collect()
    }
}

#[test]
fn a_large_one_comes_in_parts() {
    let server = Server::start(Kind::Docker);
    let place = open(&format!("{}/app", server.address), &options());
    let index = noise(5, SIZE);
    let (blob, manifest) = with_index(&*place, &index);
    let digest = place.put_manifest(&manifest, media_type::MANIFEST, None).unwrap();
    let outline = Outline::read(&*place, &digest).unwrap();
    let before = place.counters().requests;
    let collected = Collected::default();
    outline.receive_index(&*place, None, &collected).unwrap();
    assert_eq!(collected.index(), index);
    // The first 128 KiB come in parts of 12, the rest in parts of 128.
    let parts = 11 + (blob.len() - (128 << 10)).div_ceil(128 << 10) as u64;
    assert_eq!(place.counters().requests - before, parts + 1, "the parts and the table of contents");
}

/// A server of the image that flips a bit in answers to requests for which `lies` holds.
fn lying(lies: impl Fn(&Request) -> bool + Send + Sync + 'static) -> (Hostile, Digest, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let layout = open(&format!("oci:{}", directory.path().display()), &options());
    let index = noise(6, SIZE);
    let (blob, manifest) = with_index(&*layout, &index);
    let digest = Digest::of(&manifest);
    let served = Arc::new((manifest, blob));
    let server = Hostile::start(move |request: &Request, _, to: &mut TcpStream| {
        let (manifest, blob) = &*served;
        if request.target.contains("/manifests/") {
            return reply(to, 200, &[("Content-Type", media_type::MANIFEST)], manifest);
        }
        let mut blob = blob.clone();
        if lies(request) {
            blob[SIZE / 2] ^= 1;
            let end = blob.len() - 100;
            blob[end] ^= 1;
        }
        reply_blob(request, to, &blob)
    });
    (server, digest, index)
}

#[test]
fn wrong_parts_are_thrown_away() {
    let (server, digest, index) = lying(|request| request.range().is_some());
    let place = open(&format!("{}/app", server.address), &options());
    let collected = Collected::default();
    Outline::read(&*place, &digest).unwrap().receive_index(&*place, None, &collected).unwrap();
    assert_eq!(collected.index(), index);
}

#[test]
fn a_wrong_blob_is_an_error() {
    let (server, digest, index) = lying(|_| true);
    let place = open(&format!("{}/app", server.address), &options());
    let collected = Collected::default();
    let outline = Outline::read(&*place, &digest).unwrap();
    let error = outline.receive_index(&*place, None, &collected).unwrap_err();
    assert!(matches!(error, SeedError::Transport(_) | SeedError::Blob { .. }), "{error:?}");
    let frames = collected.frames.lock().unwrap();
    for (number, bytes) in &*collected.taken.lock().unwrap() {
        assert_eq!(*bytes, index[frames[*number].range.clone()], "what was given out is right");
    }
}

#[test]
fn a_kept_one_needs_no_request() {
    let (server, digest, index) = lying(|_| false);
    let place = open(&format!("{}/app", server.address), &options());
    let directory = tempfile::tempdir().unwrap();
    let kept = directory.path().join("index/kept");
    let outline = Outline::read(&*place, &digest).unwrap();
    let receive = || {
        let before = place.counters().requests;
        let collected = Collected::default();
        outline.receive_index(&*place, Some(&kept), &collected).unwrap();
        assert_eq!(collected.index(), index);
        place.counters().requests - before
    };
    assert!(receive() > 0);
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    fs::File::open(&kept).unwrap().set_modified(long_ago).unwrap();
    assert_eq!(receive(), 0);
    assert!(fs::metadata(&kept).unwrap().modified().unwrap() > long_ago, "it counts as used");

    let good = fs::read(&kept).unwrap();
    let mut flipped = good.clone();
    flipped[SIZE / 3] ^= 1;
    for wrong in [flipped, good[..good.len() - 1].to_vec(), Vec::new()] {
        fs::write(&kept, wrong).unwrap();
        assert!(receive() > 0, "it is fetched again");
        assert_eq!(fs::read(&kept).unwrap(), good);
    }
}
