//! OCI image manifests, indexes and configurations: read strictly, written canonically.
//!
//! Sources: OCI image specification 1.1, "Image Manifest", "Image Index", "Image Configuration" and
//! "Content Descriptors". Docker's schema 2 types, which are the same shapes under other media types, are
//! read too. Unknown fields are ignored, as the specification asks; duplicate keys are refused, and so
//! is a text that could be read both as a manifest and as an index.

use std::collections::BTreeMap;

use seed_format::Digest;
use seed_format::json::{self, JsonError};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// Largest manifest, index or configuration that is read or written, in bytes. Registries set the same
/// limit for manifests (distribution specification, "Pushing Manifests").
pub const MAX_MANIFEST: usize = 4 << 20;
/// Most layers that a manifest may name. Overlay file systems of other runtimes stop at 127 to 500.
pub const MAX_LAYERS: usize = 1024;
/// Most manifests that an index may name.
pub const MAX_INDEX: usize = 16_384;
/// Largest blob that a descriptor may name, in bytes: what a signed 64-bit file offset can hold.
pub const MAX_BLOB: u64 = i64::MAX as u64;

/// Media types of the OCI image specification and of Docker's image manifest version 2, schema 2.
pub mod media_type {
    /// An image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An image configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A layer, a tar archive.
    pub const LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A layer, compressed with gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A layer, compressed with zstd.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// The empty JSON object that stands for a missing configuration.
    pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
    /// Docker's image manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker's layer, compressed with gzip.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

    /// Everything that [`super::Manifest`] and [`super::Index`] can read, best first.
    pub const ACCEPTED: [&str; 4] = [MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_LIST];

    /// Whether `media_type` is that of an image manifest.
    pub fn is_manifest(media_type: &str) -> bool {
        matches!(media_type, MANIFEST | DOCKER_MANIFEST)
    }

    /// Whether `media_type` is that of an index of manifests.
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, INDEX | DOCKER_LIST)
    }
}

/// Keys of annotations.
pub mod annotation {
    /// The tag of a manifest in an image layout's `index.json`.
    pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
    /// When the content was made, RFC 3339.
    pub const CREATED: &str = "org.opencontainers.image.created";
    /// On a manifest: the digest of the image whose layers it begins with.
    pub const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";
    /// On the index layer's descriptor: where in the blob the seed index lies.
    pub const SEED_INDEX: &str = "dev.nix-seed.index";
    /// On the manifest of a trace: its target.
    pub const TRACE_TARGET: &str = "dev.nix-seed.trace.target";
    /// On the manifest of a trace: `digest:size` of the trace.
    pub const TRACE_BLOB: &str = "dev.nix-seed.trace.blob";
    /// On the manifest of a trace that has a bundle: `digest:size` of the bundle.
    pub const TRACE_BUNDLE: &str = "dev.nix-seed.trace.bundle";
    /// On the manifest of a trace: when it was recorded, in seconds since 1970.
    pub const TRACE_RECORDED: &str = "dev.nix-seed.trace.recorded";
}

/// Names a blob or a manifest by its digest and size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the content.
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Bytes of the content.
    pub size: u64,
    /// Free-form annotations.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// In an index: what the manifest runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// In a list of referrers: what kind of artifact the manifest is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor without annotations, platform or artifact type.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
        }
    }
}

/// What an image runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Processor architecture, as Go names it: `amd64`, `arm64`.
    pub architecture: String,
    /// Operating system, as Go names it: `linux`.
    pub os: String,
    /// Variant of the processor: `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// An image manifest: a configuration and layers, lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Media type of the manifest itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What kind of artifact this is, when it is not an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// The layers.
    pub layers: Vec<Descriptor>,
    /// The manifest that this one refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free-form annotations.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An index: several manifests under one digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Media type of the index itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What kind of artifact this is, when it is not an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub manifests: Vec<Descriptor>,
    /// The manifest that this one refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free-form annotations.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An image configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// When the image was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Processor architecture, as Go names it.
    #[serde(default)]
    pub architecture: String,
    /// Operating system, as Go names it.
    #[serde(default)]
    pub os: String,
    /// How a container is started.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub config: RunConfig,
    /// The layers' uncompressed digests.
    pub rootfs: RootFs,
    /// How each layer came to be.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
}

/// How a container of the image is started (`config` of the image configuration).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    /// User, and group after a colon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Ports as `80/tcp`; the values are empty objects.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// `NAME=value`.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The command's first words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The command's other words, replaced by the user's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Paths of volumes; the values are empty objects.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Empty>,
    /// Directory in which the command starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Free-form labels.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Signal that stops the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
}

/// An empty JSON object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// The layers' uncompressed digests (`rootfs` of the image configuration).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".into(), diff_ids: Vec::new() }
    }
}

/// How a layer came to be (`history` of the image configuration).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// When, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// A comment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether no layer belongs to this entry.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// Why a manifest, index or configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is not JSON of the expected shape, or too long.
    #[error("the {what} cannot be read")]
    Json {
        /// `manifest`, `index` or `configuration`.
        what: &'static str,
        /// What is wrong.
        #[source]
        source: JsonError,
    },
    /// `schemaVersion` is not 2.
    #[error("the {what} has schema version {version}, not 2")]
    SchemaVersion {
        /// `manifest` or `index`.
        what: &'static str,
        /// The version found.
        version: u32,
    },
    /// Its own media type says that it is something else.
    #[error("the {what} calls itself {found:?}")]
    MediaType {
        /// `manifest`, `index` or `manifest or index`.
        what: &'static str,
        /// The media type found.
        found: String,
    },
    /// It has both `layers` and `manifests`, so that it reads as two different things.
    #[error("the {what} has the fields of both a manifest and an index")]
    Ambiguous {
        /// `manifest` or `index`.
        what: &'static str,
    },
    /// A list has too many entries.
    #[error("the {what} has {len} {entries}, more than the {limit} allowed")]
    TooMany {
        /// `manifest` or `index`.
        what: &'static str,
        /// What is listed.
        entries: &'static str,
        /// Entries found.
        len: usize,
        /// Entries allowed.
        limit: usize,
    },
    /// A descriptor names an impossible size.
    #[error("the blob {digest} is said to have {size} bytes, more than any file can have")]
    BlobSize {
        /// The blob.
        digest: Digest,
        /// The size found.
        size: u64,
    },
    /// The configuration's `rootfs` has another type than `layers`.
    #[error("the configuration's rootfs has the type {0:?}, not \"layers\"")]
    RootFs(String),
    /// The configuration names another number of layers than the manifest.
    #[error("the manifest has {layers} layers, its configuration {diff_ids}")]
    LayerCount {
        /// Layers in the manifest.
        layers: usize,
        /// Digests in the configuration.
        diff_ids: usize,
    },
}

/// What a manifest's bytes turn out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestKind {
    /// One image.
    Manifest(Manifest),
    /// Several images.
    Index(Index),
}

/// The fields that tell a manifest from an index.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: u32,
    media_type: Option<String>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

impl ManifestKind {
    /// Reads a manifest or an index. `media_type`, where the place that it came from named one, must fit.
    pub fn parse(bytes: &[u8], media_type: Option<&str>) -> Result<Self, ManifestError> {
        let what = "manifest or index";
        let shape: Shape =
            json::from_slice(bytes, MAX_MANIFEST).map_err(|source| ManifestError::Json { what, source })?;
        match shape.media_type.as_deref().or(media_type) {
            Some(found) if media_type::is_manifest(found) => Manifest::parse(bytes).map(Self::Manifest),
            Some(found) if media_type::is_index(found) => Index::parse(bytes).map(Self::Index),
            Some(found) => Err(ManifestError::MediaType { what, found: excerpt(found) }),
            None if shape.manifests.is_some() => Index::parse(bytes).map(Self::Index),
            None => Manifest::parse(bytes).map(Self::Manifest),
        }
    }

    /// The media type under which these bytes are kept: its own, or the OCI one of its shape.
    pub fn media_type(&self) -> &str {
        match self {
            Self::Manifest(manifest) => manifest.media_type.as_deref().unwrap_or(media_type::MANIFEST),
            Self::Index(index) => index.media_type.as_deref().unwrap_or(media_type::INDEX),
        }
    }
}

impl Manifest {
    /// Reads an image manifest.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let what = "manifest";
        let shape = check_shape(bytes, what, media_type::is_manifest)?;
        if shape.manifests.is_some() || shape.fs_layers.is_some() {
            return Err(ManifestError::Ambiguous { what });
        }
        let manifest: Self = read(bytes, what)?;
        check_count(what, "layers", manifest.layers.len(), MAX_LAYERS)?;
        manifest.layers.iter().chain([&manifest.config]).chain(&manifest.subject).try_for_each(check_size)?;
        Ok(manifest)
    }

    /// The manifest's canonical bytes: compact JSON, fields in the order of this type, map keys sorted.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_bytes(self)
    }

    /// The configuration and the layers: every blob that the manifest needs.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

impl Index {
    /// An index that names these manifests and says nothing else.
    pub fn of(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::INDEX.into()),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Reads an index.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let what = "index";
        let shape = check_shape(bytes, what, media_type::is_index)?;
        if shape.layers.is_some() || shape.config.is_some() || shape.fs_layers.is_some() {
            return Err(ManifestError::Ambiguous { what });
        }
        let index: Self = read(bytes, what)?;
        check_count(what, "manifests", index.manifests.len(), MAX_INDEX)?;
        index.manifests.iter().chain(&index.subject).try_for_each(check_size)?;
        Ok(index)
    }

    /// The index's canonical bytes, as [`Manifest::to_bytes`].
    pub fn to_bytes(&self) -> Vec<u8> {
        to_bytes(self)
    }
}

impl Config {
    /// Reads an image configuration.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let config: Self = read(bytes, "configuration")?;
        if config.rootfs.kind != "layers" {
            return Err(ManifestError::RootFs(excerpt(&config.rootfs.kind)));
        }
        check_count("configuration", "layers", config.rootfs.diff_ids.len(), MAX_LAYERS)?;
        Ok(config)
    }

    /// The configuration's canonical bytes, as [`Manifest::to_bytes`].
    pub fn to_bytes(&self) -> Vec<u8> {
        to_bytes(self)
    }

    /// Checks that the configuration belongs to `manifest`: one uncompressed digest for each layer.
    pub fn check_layers(&self, manifest: &Manifest) -> Result<(), ManifestError> {
        let (layers, diff_ids) = (manifest.layers.len(), self.rootfs.diff_ids.len());
        if layers == diff_ids { Ok(()) } else { Err(ManifestError::LayerCount { layers, diff_ids }) }
    }
}

fn read<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, ManifestError> {
    json::from_slice(bytes, MAX_MANIFEST).map_err(|source| ManifestError::Json { what, source })
}

fn to_bytes<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings, numbers and maps with string keys always serialise")
}

fn check_shape(bytes: &[u8], what: &'static str, fits: fn(&str) -> bool) -> Result<Shape, ManifestError> {
    let shape: Shape = read(bytes, what)?;
    if shape.schema_version != 2 {
        return Err(ManifestError::SchemaVersion { what, version: shape.schema_version });
    }
    match &shape.media_type {
        Some(found) if !fits(found) => Err(ManifestError::MediaType { what, found: excerpt(found) }),
        _ => Ok(shape),
    }
}

fn check_count(
    what: &'static str,
    entries: &'static str,
    len: usize,
    limit: usize,
) -> Result<(), ManifestError> {
    if len > limit { Err(ManifestError::TooMany { what, entries, len, limit }) } else { Ok(()) }
}

fn check_size(descriptor: &Descriptor) -> Result<(), ManifestError> {
    let Descriptor { digest, size, .. } = descriptor;
    if *size > MAX_BLOB { Err(ManifestError::BlobSize { digest: *digest, size: *size }) } else { Ok(()) }
}

/// What an error message may show of a text that an adversary chose.
fn excerpt(text: &str) -> String {
    text.chars().take(120).collect()
}

/// Go programs write an absent list or map as `null`.
fn null_is_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
