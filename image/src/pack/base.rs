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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::RunConfig;
    use crate::transport::{BytesContent, Layout};

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        let (os, architecture) = (parts.next().unwrap(), parts.next().unwrap());
        Platform { architecture, os, variant: parts.next() }
    }

    fn put(layout: &Layout, media_type: &str, bytes: &[u8]) -> Descriptor {
        let blob = Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64);
        layout.put_blob(&blob, &mut BytesContent(bytes)).unwrap();
        blob
    }

    /// Puts an image for a platform with one layer of a type.
    fn image(layout: &Layout, on: &Platform, layer_type: &str, labels: &[&str]) -> Descriptor {
        let layer = b"a layer";
        let mut config =
            Config { architecture: on.architecture.clone(), os: on.os.clone(), ..Config::default() };
        config.config = RunConfig {
            labels: labels.iter().map(|label| (label.to_string(), "1".to_owned())).collect(),
            ..RunConfig::default()
        };
        config.rootfs.diff_ids = vec![Digest::of(layer)];
        let config = put(layout, media_type::CONFIG, &config.to_bytes());
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::MANIFEST.to_owned()),
            artifact_type: None,
            config,
            layers: vec![put(layout, layer_type, layer)],
            subject: None,
            annotations: BTreeMap::new(),
        }
        .to_bytes();
        let digest = layout.put_manifest(&manifest, media_type::MANIFEST, None).unwrap();
        let descriptor = Descriptor::new(media_type::MANIFEST, digest, manifest.len() as u64);
        Descriptor { platform: Some(on.clone()), ..descriptor }
    }

    #[test]
    fn an_index_gives_the_image_of_the_platform() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        let platforms = ["linux/amd64", "linux/arm/v6", "linux/arm/v7", "linux/arm64/v8"].map(platform);
        let manifests = platforms.iter().map(|on| image(&layout, on, media_type::LAYER_GZIP, &[])).collect();
        let index = Index {
            schema_version: 2,
            media_type: Some(media_type::INDEX.to_owned()),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
        };
        let digest = layout.put_manifest(&index.to_bytes(), media_type::INDEX, None).unwrap();
        let place: Arc<dyn Transport> = Arc::new(layout);
        for (wanted, found) in [("linux/amd64", 0), ("linux/arm/v7", 2), ("linux/arm64", 3)] {
            let base = Base::open(Arc::clone(&place), digest, &platform(wanted)).unwrap();
            assert_eq!(base.digest, index.manifests[found].digest, "{wanted}");
        }
        let error = Base::open(place, digest, &platform("linux/riscv64")).unwrap_err().to_string();
        assert!(error.contains("linux/arm/v6, linux/arm/v7"), "{error}");
    }

    #[test]
    fn layers_get_the_types_of_oci_and_others_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        let on = platform("linux/amd64");
        let docker = image(&layout, &on, media_type::DOCKER_LAYER, &[]).digest;
        let foreign =
            image(&layout, &on, "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", &[]).digest;
        let seed = image(&layout, &on, media_type::LAYER_ZSTD, &[label::VERSION]).digest;
        let place: Arc<dyn Transport> = Arc::new(layout);
        let open = |digest, on: &str| Base::open(Arc::clone(&place), digest, &platform(on));
        assert_eq!(open(docker, "linux/amd64").unwrap().layers[0].media_type, media_type::LAYER_GZIP);
        assert!(matches!(open(docker, "linux/arm64"), Err(BaseError::Platform { .. })));
        assert!(matches!(open(foreign, "linux/amd64"), Err(BaseError::Layer(_))));
        assert!(matches!(open(seed, "linux/amd64"), Err(BaseError::Seed)));
        assert!(matches!(open(Digest::of(b"none"), "linux/amd64"), Err(BaseError::Transport(_))));
    }
}
