//! Traces beside their seeds: published as referrers, and found with two requests that need nothing but the
//! seed's digest: the list of referrers, whose annotations name the blobs, and the blob.

mod bundle;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use seed_format::Digest;
use seed_format::trace::{BUNDLE_MEDIA_TYPE, MAX_BUNDLE_LEN, MAX_TRACE_LEN, MEDIA_TYPE, Trace, TraceError};

use crate::artifact;
use crate::manifest::{Descriptor, Manifest, annotation};
use crate::transport::{Transport, TransportError};

pub use bundle::{offsets, put_bundle};

/// Most traces of a seed that are looked at. Whoever can write to a registry can add them.
pub const MAX_TRACES: usize = 64;

/// What traces may cost of a seed that is not fetched as a whole anyway, in percent of its compressed bytes. A
/// lazy mount that reads more is better off with the whole seed; less, and honest traces would be cut.
const MAX_SHARE: u64 = 30;
/// What they may cost of a small seed, of which much is read at once: half a second of a link of 1 Gbps.
const MIN_LIMIT: u64 = 64 << 20;

/// Compressed bytes that traces may cost of a seed with so many.
pub fn limit(seed: u64) -> u64 {
    (seed / 100 * MAX_SHARE).max(MIN_LIMIT)
}

/// Why a trace is not published, or cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The place that holds the seed failed.
    #[error("the seed's place failed")]
    Transport(#[from] TransportError),
    /// The blob could not be read to its end.
    #[error("cannot read the trace {digest}")]
    Blob {
        /// The blob.
        digest: Digest,
        /// The failure.
        source: io::Error,
    },
    /// A bundle cannot be put together.
    #[error("cannot put the chunks of the trace together")]
    Scratch(#[from] io::Error),
    /// A chunk of the seed is not what its index says.
    #[error("a chunk of layer {layer}, {chunk}, has wrong bytes")]
    Chunk {
        /// The layer.
        layer: Digest,
        /// The digest that the index gives.
        chunk: Digest,
    },
    /// It is malformed, or cannot be written.
    #[error("the trace is malformed")]
    Trace(#[from] TraceError),
    /// It is the trace of another seed.
    #[error("the trace is of the seed {actual}, not of {expected}")]
    Foreign {
        /// The seed that it was looked for at.
        expected: Digest,
        /// The seed that it is of.
        actual: Digest,
    },
}

/// A trace, as the list of a seed's referrers tells of it: nothing of this is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What was done.
    pub target: String,
    /// When it was recorded, in seconds since 1970; 0 where it is not said.
    pub recorded: u64,
    /// The trace's bytes.
    pub blob: Descriptor,
    /// The frames of its chunks, where it has a bundle.
    pub bundle: Option<Descriptor>,
}

/// Puts a trace beside its seed, and gives the digest of its bytes. `bundle` is its bundle, which the place has.
pub fn publish(
    transport: &dyn Transport,
    trace: &Trace,
    bundle: Option<Descriptor>,
    recorded: SystemTime,
) -> Result<Digest, TracesError> {
    let bytes = trace.to_bytes()?;
    let since = recorded.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let mut annotations = BTreeMap::from([
        (annotation::TRACE_TARGET.to_owned(), trace.target.clone()),
        (annotation::TRACE_BLOB.to_owned(), format!("{}:{}", Digest::of(&bytes), bytes.len())),
        (annotation::TRACE_RECORDED.to_owned(), since.to_string()),
    ]);
    if let Some(bundle) = &bundle {
        annotations.insert(annotation::TRACE_BUNDLE.to_owned(), format!("{}:{}", bundle.digest, bundle.size));
    }
    Ok(artifact::publish_with(transport, &trace.seed, MEDIA_TYPE, &bytes, bundle, annotations)?)
}

/// Whether an entry of a list of referrers says that it is a trace.
pub fn is_listed_as_trace(referrer: &Descriptor) -> bool {
    referrer.artifact_type.as_deref() == Some(MEDIA_TYPE)
}

/// The traces beside a seed: the latest of each target, in the order of the targets.
pub fn list(transport: &dyn Transport, seed: &Digest) -> Result<Vec<Listed>, TransportError> {
    let referrers = match transport.referrers(seed) {
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        other => other?,
    };
    let mut found: Vec<Listed> = referrers
        .iter()
        .filter(|referrer| is_listed_as_trace(referrer) || annotated(&referrer.annotations).is_some())
        .take(MAX_TRACES)
        .filter_map(|referrer| annotated(&referrer.annotations).or_else(|| described(transport, referrer)))
        .collect();
    let order =
        |listed: &Listed| (listed.target.clone(), std::cmp::Reverse(listed.recorded), listed.blob.digest);
    found.sort_by_key(order);
    found.dedup_by(|later, first| later.target == first.target);
    Ok(found)
}

/// What a manifest says, for places whose lists do not repeat annotations.
fn described(transport: &dyn Transport, referrer: &Descriptor) -> Option<Listed> {
    let manifest = Manifest::parse(&transport.manifest(&referrer.digest).ok()?).ok()?;
    annotated(&manifest.annotations)
}

fn annotated(annotations: &BTreeMap<String, String>) -> Option<Listed> {
    let target = annotations.get(annotation::TRACE_TARGET)?.clone();
    let blob = named(annotations.get(annotation::TRACE_BLOB)?, MEDIA_TYPE, MAX_TRACE_LEN as u64)?;
    let bundle = annotations.get(annotation::TRACE_BUNDLE);
    let bundle = bundle.and_then(|named_so| named(named_so, BUNDLE_MEDIA_TYPE, MAX_BUNDLE_LEN));
    let recorded = annotations.get(annotation::TRACE_RECORDED).and_then(|text| text.parse().ok());
    Some(Listed { target, recorded: recorded.unwrap_or(0), blob, bundle })
}

/// A blob as an annotation names it: `digest:size`.
fn named(text: &str, media_type: &str, most: u64) -> Option<Descriptor> {
    let (digest, size) = text.rsplit_once(':')?;
    let size = size.parse().ok().filter(|size| *size <= most)?;
    Some(Descriptor::new(media_type, digest.parse().ok()?, size))
}

/// Reads a trace of `seed`.
pub fn read(transport: &dyn Transport, seed: &Digest, listed: &Listed) -> Result<Trace, TracesError> {
    let digest = listed.blob.digest;
    let mut bytes = Vec::new();
    let blob = transport.blob(&listed.blob)?;
    let read = blob.take(MAX_TRACE_LEN as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|source| TracesError::Blob { digest, source })?;
    of_seed(&bytes, seed)
}

/// Reads the bytes of a trace, which must be of `seed`.
pub fn of_seed(bytes: &[u8], seed: &Digest) -> Result<Trace, TracesError> {
    let trace = Trace::from_bytes(bytes)?;
    if trace.seed == *seed {
        Ok(trace)
    } else {
        Err(TracesError::Foreign { expected: *seed, actual: trace.seed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::media_type;
    use crate::transport::{BytesContent, Layout};

    /// A layout with an image, and its digest.
    fn image(directory: &std::path::Path) -> (Layout, Digest) {
        let layout = Layout::new(directory);
        let config = Descriptor::new(media_type::CONFIG, Digest::of(b"{}"), 2);
        layout.put_blob(&config, &mut BytesContent(b"{}")).unwrap();
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::MANIFEST.into()),
            artifact_type: None,
            config,
            layers: vec![],
            subject: None,
            annotations: BTreeMap::new(),
        };
        let digest = layout.put_manifest(&manifest.to_bytes(), media_type::MANIFEST, None).unwrap();
        (layout, digest)
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_latest_of_each_target_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let (layout, seed) = image(directory.path());
        assert_eq!(list(&layout, &seed).unwrap(), []);
        let trace = |target: &str, chunk| Trace::of(seed, target.into(), 9, &[(chunk, 0)]);
        publish(&layout, &trace("develop b", 1), None, at(5)).unwrap();
        publish(&layout, &trace("build a", 2), None, at(7)).unwrap();
        publish(&layout, &trace("build a", 3), None, at(6)).unwrap();
        let listed = list(&layout, &seed).unwrap();
        let targets: Vec<_> = listed.iter().map(|listed| (&*listed.target, listed.recorded)).collect();
        assert_eq!(targets, [("build a", 7), ("develop b", 5)]);
        assert_eq!(read(&layout, &seed, &listed[0]).unwrap(), trace("build a", 2));
        assert_eq!(layout.resolve_default().unwrap().digest, seed, "a trace is no image that is meant");
    }

    #[test]
    fn what_others_put_there_is_passed_over_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (layout, seed) = image(directory.path());
        let put = |bytes: &[u8], annotations: &[(&str, &str)]| {
            let annotations = annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            artifact::publish(&layout, &seed, MEDIA_TYPE, bytes, annotations).unwrap()
        };
        let digest = Digest::of(b"x");
        for blob in
            ["", "x", "sha256:1", &format!("{digest}:-1"), &format!("{digest}:99999999"), &digest.to_string()]
        {
            put(blob.as_bytes(), &[(annotation::TRACE_TARGET, "t"), (annotation::TRACE_BLOB, blob)]);
        }
        assert_eq!(list(&layout, &seed).unwrap(), []);

        let foreign = Trace::of(Digest::of(b"another"), "t".into(), 0, &[(1, 1)]).to_bytes().unwrap();
        let named = format!("{}:{}", Digest::of(&foreign), foreign.len());
        put(&foreign, &[(annotation::TRACE_TARGET, "t"), (annotation::TRACE_BLOB, &named)]);
        let listed = list(&layout, &seed).unwrap();
        assert!(matches!(read(&layout, &seed, &listed[0]), Err(TracesError::Foreign { .. })));
        let garbage = format!("{}:7", put(b"garbage", &[]));
        let listed = Listed {
            blob: annotated(
                &[
                    (annotation::TRACE_TARGET.to_owned(), "t".to_owned()),
                    (annotation::TRACE_BLOB.to_owned(), garbage),
                ]
                .into(),
            )
            .unwrap()
            .blob,
            ..listed[0].clone()
        };
        assert!(matches!(read(&layout, &seed, &listed), Err(TracesError::Trace(_))));
    }
}
