//! Small artifacts that refer to an image: a manifest with the image as its subject, and a blob or two.
//!
//! Source: OCI image specification 1.1, "Guidelines for Artifact Usage".

use std::collections::BTreeMap;

use seed_format::Digest;

use crate::manifest::{Descriptor, Manifest, media_type};
use crate::transport::{BytesContent, Transport, TransportError};

/// The empty configuration of a manifest that is no image (image specification, "Guidance for an empty
/// descriptor").
const EMPTY: &[u8] = b"{}";

/// Puts `bytes` beside the image `subject`, as an artifact of the type `kind`, and gives their digest. Lists of
/// referrers repeat the annotations.
pub fn publish(
    transport: &dyn Transport,
    subject: &Digest,
    kind: &str,
    bytes: &[u8],
    annotations: BTreeMap<String, String>,
) -> Result<Digest, TransportError> {
    publish_with(transport, subject, kind, bytes, None, annotations)
}

/// The same with a second blob, which the place has already.
pub fn publish_with(
    transport: &dyn Transport,
    subject: &Digest,
    kind: &str,
    bytes: &[u8],
    second: Option<Descriptor>,
    annotations: BTreeMap<String, String>,
) -> Result<Digest, TransportError> {
    let subject_size = transport.manifest(subject)?.len() as u64;
    let config = Descriptor::new(media_type::EMPTY, Digest::of(EMPTY), EMPTY.len() as u64);
    let layer = Descriptor::new(kind, Digest::of(bytes), bytes.len() as u64);
    transport.put_blob(&config, &mut BytesContent(EMPTY))?;
    transport.put_blob(&layer, &mut BytesContent(bytes))?;
    let digest = layer.digest;
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.into()),
        artifact_type: Some(kind.into()),
        config,
        layers: [layer].into_iter().chain(second).collect(),
        subject: Some(Descriptor::new(media_type::MANIFEST, *subject, subject_size)),
        annotations,
    };
    transport.put_manifest(&manifest.to_bytes(), media_type::MANIFEST, None)?;
    Ok(digest)
}
