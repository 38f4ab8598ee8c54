//! A base image, whose layers lie below those of the seed as they are.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use seed_format::Digest;

use crate::manifest::{
    Config, Descriptor, Index, MAX_MANIFEST, Manifest, ManifestError, ManifestKind, Platform, media_type,
};
use crate::seed::label;
use crate::transport::{self, Transport, TransportError};

/// Layers that are copied at the same time.
const PARALLEL: usize = 8;

/// A base image that was opened.
#[derive(Debug, Clone)]
pub struct Base {
    transport: Arc<dyn Transport>,
    /// Digest of its manifest.
    pub(super) digest: Digest,
    /// Its layers, with media types of OCI.
    pub(super) layers: Vec<Descriptor>,
    pub(super) config: Config,
}

/// Why an image cannot be a base.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// Its place failed.
    #[error("the base image cannot be fetched")]
    Transport(#[from] TransportError),
    /// Its configuration cannot be read.
    #[error("the configuration of the base image cannot be read")]
    Blob(#[source] io::Error),
    /// Its manifest or configuration is malformed.
    #[error("the base image is malformed")]
    Manifest(#[from] ManifestError),
    /// It has another platform, or an index of several has none for it.
    #[error("the base image is not for {wanted}, but for {found}")]
    Platform {
        /// The platform of the seed.
        wanted: String,
        /// Those that there are.
        found: String,
    },
    /// A layer is of a kind that engines do not unpack, or may not pass on.
    #[error("the base image has a layer of the type {0:?}")]
    Layer(String),
    /// It is a seed.
    #[error("the base image is a seed, whose database would be hidden by this one's")]
    Seed,
}

impl Base {
    /// Opens the image `digest`, or that for `platform` in the index `digest`.
    pub(super) fn open(
        transport: Arc<dyn Transport>,
        digest: Digest,
        platform: &Platform,
    ) -> Result<Self, BaseError> {
        let (digest, manifest) = match ManifestKind::parse(&transport.manifest(&digest)?, None)? {
            ManifestKind::Manifest(manifest) => (digest, manifest),
            ManifestKind::Index(index) => {
                let digest = member(&index, platform)?;
                (digest, Manifest::parse(&transport.manifest(&digest)?)?)
            }
        };
        let mut config = Vec::new();
        let blob = transport.blob(&manifest.config)?;
        blob.take(MAX_MANIFEST as u64 + 1).read_to_end(&mut config).map_err(BaseError::Blob)?;
        let config = Config::parse(&config)?;
        config.check_layers(&manifest)?;
        if (&config.architecture, &config.os) != (&platform.architecture, &platform.os) {
            let found = format!("{}/{}", config.os, config.architecture);
            return Err(BaseError::Platform { wanted: shown(platform), found });
        }
        if config.config.labels.contains_key(label::VERSION) {
            return Err(BaseError::Seed);
        }
        let layers = manifest.layers.into_iter().map(in_oci).collect::<Result<_, _>>()?;
        Ok(Self { transport, digest, layers, config })
    }

    /// Copies the layers to where the seed goes.
    pub(super) fn copy_layers(&self, to: &dyn Transport) -> Result<(), TransportError> {
        transport::copy::copy_blobs(&*self.transport, to, self.layers.clone(), PARALLEL).map(drop)
    }
}

/// The manifest for a platform. Where the platform has no variant, the first of its architecture will do.
fn member(index: &Index, platform: &Platform) -> Result<Digest, BaseError> {
    let platforms = || index.manifests.iter().filter_map(|member| Some((member, member.platform.as_ref()?)));
    let fits = |other: &Platform| {
        other.architecture == platform.architecture
            && other.os == platform.os
            && (platform.variant.is_none() || other.variant == platform.variant)
    };
    let found = platforms().find(|(_, other)| fits(other)).map(|(member, _)| member.digest);
    found.ok_or_else(|| {
        let all: Vec<String> = platforms().take(20).map(|(_, other)| shown(other)).collect();
        BaseError::Platform { wanted: shown(platform), found: all.join(", ") }
    })
}

fn shown(platform: &Platform) -> String {
    let Platform { architecture, os, variant } = platform;
    let text = match variant {
        Some(variant) => format!("{os}/{architecture}/{variant}"),
        None => format!("{os}/{architecture}"),
    };
    text.chars().take(100).collect()
}

/// The same layer, under the media type that a manifest of OCI gives it.
fn in_oci(layer: Descriptor) -> Result<Descriptor, BaseError> {
    let media_type = match layer.media_type.as_str() {
        media_type::LAYER_TAR | media_type::LAYER_GZIP | media_type::LAYER_ZSTD => layer.media_type,
        media_type::DOCKER_LAYER => media_type::LAYER_GZIP.to_owned(),
        other => return Err(BaseError::Layer(other.chars().take(200).collect())),
    };
    let annotations: BTreeMap<_, _> = layer.annotations;
    Ok(Descriptor { annotations, ..Descriptor::new(media_type, layer.digest, layer.size) })
}
