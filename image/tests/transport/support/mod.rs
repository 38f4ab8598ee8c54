//! What the tests are made of: registries, real and hostile, and images.

pub(crate) mod hostile;
#[path = "../../data/index_layer.rs"]
mod index_layer;
#[path = "../../data/noise.rs"]
mod noise;
pub(crate) mod servers;

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seed_format::{Chain, Digest};
use seed_image::manifest::{Config, Descriptor, Manifest, RootFs, media_type};
use seed_image::reference::Reference;
use seed_image::transport::{self, BytesContent, Transport, TransportError, TransportOptions};

pub(crate) use index_layer::index_layer;
pub(crate) use noise::noise;

/// Options that make tests fast: short waits, small parts.
pub(crate) fn options() -> TransportOptions {
    TransportOptions {
        connect_timeout: Duration::from_secs(2),
        stall_timeout: Duration::from_secs(5),
        operation_timeout: Duration::from_secs(20),
        backoff: Duration::from_millis(2),
        upload_chunk: 256 << 10,
        ..TransportOptions::default()
    }
}

pub(crate) fn open(place: &str, options: &TransportOptions) -> Arc<dyn Transport> {
    let reference: Reference = place.parse().unwrap();
    transport::open(&reference.location, options).unwrap()
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// A range of bytes.
pub(crate) fn part(bytes: &[u8], range: Range<u64>) -> &[u8] {
    &bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
}

pub(crate) fn describe(bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type::LAYER_ZSTD, Digest::of(bytes), bytes.len() as u64)
}

pub(crate) fn put(place: &dyn Transport, bytes: &[u8]) -> Descriptor {
    let descriptor = describe(bytes);
    place.put_blob(&descriptor, &mut BytesContent(bytes)).unwrap();
    descriptor
}

pub(crate) fn read_all(place: &dyn Transport, descriptor: &Descriptor) -> Result<Vec<u8>, TransportError> {
    let read = |mut reader: Box<dyn Read + Send + '_>| -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read(place.blob(descriptor)?).map_err(|error| TransportError::from_io(error).unwrap())
}

/// An image of these layers, written to `place`: the bytes of its manifest.
pub(crate) fn put_image(
    place: &dyn Transport,
    layers: &[Vec<u8>],
    tag: Option<&str>,
    subject: Option<Descriptor>,
) -> (Digest, Vec<u8>) {
    let descriptors: Vec<_> = layers.iter().map(|layer| put(place, layer)).collect();
    let config = Config {
        architecture: "amd64".into(),
        os: "linux".into(),
        rootfs: RootFs {
            diff_ids: descriptors.iter().map(|layer| layer.digest).collect(),
            ..RootFs::default()
        },
        ..Config::default()
    };
    let config = config.to_bytes();
    let config_descriptor = Descriptor { media_type: media_type::CONFIG.into(), ..describe(&config) };
    place.put_blob(&config_descriptor, &mut BytesContent(&config)).unwrap();
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.into()),
        artifact_type: subject.as_ref().map(|_| "application/vnd.example.note".into()),
        config: config_descriptor,
        layers: descriptors,
        subject,
        annotations: Default::default(),
    }
    .to_bytes();
    let digest = place.put_manifest(&manifest, media_type::MANIFEST, tag).unwrap();
    assert_eq!(digest, Digest::of(&manifest));
    (digest, manifest)
}

/// An error as a user sees it, with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    Chain(error).to_string()
}
