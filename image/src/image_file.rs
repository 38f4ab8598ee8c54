//! Images as files: what `dockerTools`, `skopeo copy` and `podman save` write, brought to a place of images.
//!
//! Three forms are read, the two archives also compressed with gzip or zstd:
//!
//! * an OCI image layout in a directory (OCI image specification, `image-layout.md`);
//! * a tar archive of such a layout, `oci-archive:` to skopeo;
//! * an archive as `docker save` writes it, `docker-archive:` to skopeo: `manifest.json` names the
//!   configuration and the layers among the archive's files (Docker image specification 1.2, "Combined Image
//!   JSON + Filesystem Changeset Format").

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use seed_format::Digest;
use seed_format::digest::DigestWriter;
use seed_format::json::{self, JsonError};
use seed_format::tar::{Limits, MemberKind, Reader, TarError};
use serde::Deserialize;

use crate::manifest::{Config, Descriptor, MAX_LAYERS, MAX_MANIFEST, Manifest, ManifestError, media_type};
use crate::transport::layout::Layout;
use crate::transport::{BytesContent, CopyOptions, CopyReport, FileContent, Transport, TransportError, copy};

/// Most files in an archive: each layer has three at most.
const MAX_MEMBERS: u64 = 16_384;
/// Most bytes that an archive may have when it is unpacked.
const MAX_UNPACKED: u64 = 256 << 30;
/// How plain layers are compressed.
const LEVEL: i32 = 3;

/// Why a file is no image, or could not be pushed.
#[derive(Debug, thiserror::Error)]
pub enum ImageFileError {
    /// It is in none of the forms.
    #[error(
        "{} is no image: neither an OCI image layout, nor an archive of one or of `docker save`", .0.display()
    )]
    NoImage(PathBuf),
    /// It cannot be read, or something that is unpacked of it not be written.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The archive is malformed.
    #[error("the archive is malformed")]
    Tar(#[from] TarError),
    /// The archive is larger than is read.
    #[error("the archive has more than {MAX_UNPACKED} bytes")]
    TooLarge,
    /// `manifest.json` is malformed.
    #[error("manifest.json is malformed")]
    Json(#[from] JsonError),
    /// `manifest.json` lists another number of images than one.
    #[error("the archive holds {0} images, and one is expected")]
    Images(usize),
    /// `manifest.json` names a file that is not there.
    #[error("manifest.json names {0:?}, which the archive does not hold")]
    Missing(String),
    /// The configuration is malformed, or does not fit the layers.
    #[error("the image's configuration")]
    Config(#[from] ManifestError),
    /// A layer is another than the configuration names.
    #[error("the layer {name:?} has the digest {found}, and the configuration names {expected}")]
    Layer {
        /// Its name in the archive.
        name: String,
        /// The digest of the layer's tar.
        found: Digest,
        /// The digest that the configuration has.
        expected: Digest,
    },
    /// The place of images.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

/// An image that was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The digest of its manifest.
    pub digest: Digest,
    /// What was sent.
    pub report: CopyReport,
}

/// Pushes the image that is at `path` to a place of images, and names it `tag` there. Archives are unpacked
/// below `scratch`, a directory that is made, and that the caller removes.
pub fn push(
    path: &Path,
    scratch: &Path,
    to: &dyn Transport,
    tag: Option<&str>,
) -> Result<Pushed, ImageFileError> {
    let metadata = fs::metadata(path).map_err(|e| file_error(path, e))?;
    if metadata.is_dir() {
        if !path.join("oci-layout").is_file() {
            return Err(ImageFileError::NoImage(path.to_owned()));
        }
        return push_layout(path, to, tag);
    }
    let files = unpack(path, scratch)?;
    let has = |name: &str| files.contains_key(name);
    if has("oci-layout") && has("index.json") {
        push_layout(scratch, to, tag)
    } else if has("manifest.json") {
        push_docker(&files, scratch, to, tag)
    } else {
        Err(ImageFileError::NoImage(path.to_owned()))
    }
}

fn file_error(path: &Path, source: io::Error) -> ImageFileError {
    ImageFileError::File { path: path.to_owned(), source }
}

fn push_layout(directory: &Path, to: &dyn Transport, tag: Option<&str>) -> Result<Pushed, ImageFileError> {
    let layout = Layout::new(directory);
    let digest = layout.resolve_default()?.digest;
    let options = CopyOptions { tag: tag.map(str::to_owned), referrers: false, ..CopyOptions::default() };
    Ok(Pushed { digest, report: copy(&layout, to, &digest, &options)? })
}

/// Unpacks an archive: where each of its files lies now, by name. What belongs to an image layout gets its
/// place in one; no other name of the archive's becomes one of a file.
fn unpack(path: &Path, scratch: &Path) -> Result<BTreeMap<String, PathBuf>, ImageFileError> {
    let other = scratch.join("other");
    for directory in [&scratch.join("blobs/sha256"), &other] {
        fs::create_dir_all(directory).map_err(|e| file_error(directory, e))?;
    }
    let source = decompressed(path).map_err(|e| file_error(path, e))?;
    let limits = Limits { members: MAX_MEMBERS, ..Limits::default() };
    let mut archive = Reader::new(BufReader::new(source), limits);
    let mut left = MAX_UNPACKED;
    let mut files = BTreeMap::new();
    let mut links = Vec::new();
    while let Some(member) = archive.next_member().map_err(|error| not_tar(path, error))? {
        let Some(name) = normal(&member.path) else { continue };
        match member.kind {
            MemberKind::Regular { size } => {
                left = left.checked_sub(size).ok_or(ImageFileError::TooLarge)?;
                let place =
                    if of_layout(&name) { scratch.join(&name) } else { other.join(files.len().to_string()) };
                let written = File::create(&place).and_then(|mut file| io::copy(&mut archive, &mut file));
                written.map_err(|e| file_error(&place, e))?;
                files.insert(name, place);
            }
            // `docker save` used to write a layer that is there already as a link to it.
            MemberKind::Symlink { target } => {
                let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                links.push((name.clone(), directory.to_owned(), target));
            }
            MemberKind::HardLink { target } => links.push((name, String::new(), target)),
            MemberKind::Directory | MemberKind::Other(_) => {}
        }
    }
    for (name, directory, target) in links {
        let target = [directory.as_bytes(), b"/", &target].concat();
        if let Some(file) = normal(&target).and_then(|target| files.get(&target).cloned()) {
            files.insert(name, file);
        }
    }
    Ok(files)
}

/// What has no valid header at all is no archive.
fn not_tar(path: &Path, error: TarError) -> ImageFileError {
    match error {
        TarError::Checksum | TarError::Field(_) => ImageFileError::NoImage(path.to_owned()),
        TarError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            ImageFileError::NoImage(path.to_owned())
        }
        error => error.into(),
    }
}

/// How a file is compressed, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    fn of(path: &Path) -> io::Result<Self> {
        let mut magic = Vec::new();
        File::open(path)?.take(4).read_to_end(&mut magic)?;
        Ok(match magic.as_slice() {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd] => Self::Zstd,
            _ => Self::None,
        })
    }
}

fn decompressed(path: &Path) -> io::Result<Box<dyn Read>> {
    let file = BufReader::new(File::open(path)?);
    Ok(match Compression::of(path)? {
        Compression::None => Box::new(file),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(file)?),
    })
}

/// A path of an archive without `.` and `..`; `None` if it leads out of it, or is no text.
fn normal(path: &[u8]) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in std::str::from_utf8(path).ok()?.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn of_layout(name: &str) -> bool {
    let is_blob = |hex: &str| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    matches!(name, "oci-layout" | "index.json") || name.strip_prefix("blobs/sha256/").is_some_and(is_blob)
}

/// An image in `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    layers: Vec<String>,
}

fn push_docker(
    files: &BTreeMap<String, PathBuf>,
    scratch: &Path,
    to: &dyn Transport,
    tag: Option<&str>,
) -> Result<Pushed, ImageFileError> {
    let file = |name: &str| {
        let name = normal(name.as_bytes()).unwrap_or_default();
        files.get(&name).ok_or(ImageFileError::Missing(name))
    };
    let mut images: Vec<DockerImage> = json::from_slice(&read_small(file("manifest.json")?)?, MAX_MANIFEST)?;
    let image = match (images.pop(), images.len()) {
        (Some(image), 0) => image,
        (_, more) => return Err(ImageFileError::Images(more + 1)),
    };
    let config_bytes = read_small(file(&image.config)?)?;
    let config = Config::parse(&config_bytes)?;
    if image.layers.len() > MAX_LAYERS || image.layers.len() != config.rootfs.diff_ids.len() {
        let (layers, diff_ids) = (image.layers.len(), config.rootfs.diff_ids.len());
        return Err(ManifestError::LayerCount { layers, diff_ids }.into());
    }

    let mut report = CopyReport::default();
    let mut send = |descriptor: &Descriptor, content: &mut dyn crate::transport::BlobContent| {
        if to.has_blob(descriptor)? {
            report.present += 1;
        } else {
            to.put_blob(descriptor, content)?;
            report.copied += 1;
            report.bytes += descriptor.size;
        }
        Ok::<_, TransportError>(())
    };
    let mut layers = Vec::new();
    for (name, diff_id) in image.layers.iter().zip(&config.rootfs.diff_ids) {
        let blob = scratch.join(format!("layer-{}", layers.len()));
        let (descriptor, path) = layer(name, file(name)?, &blob, diff_id)?;
        send(&descriptor, &mut FileContent::borrowed(path))?;
        layers.push(descriptor);
    }
    let config = Descriptor::new(media_type::CONFIG, Digest::of(&config_bytes), config_bytes.len() as u64);
    send(&config, &mut BytesContent(&config_bytes))?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.into()),
        artifact_type: None,
        config,
        layers,
        subject: None,
        annotations: BTreeMap::new(),
    };
    let digest = to.put_manifest(&manifest.to_bytes(), media_type::MANIFEST, tag)?;
    report.manifests = 1;
    Ok(Pushed { digest, report })
}

/// The blob of a layer: its own file if that is compressed, else `blob`, which is written.
fn layer(
    name: &str,
    file: &Path,
    blob: &Path,
    diff_id: &Digest,
) -> Result<(Descriptor, PathBuf), ImageFileError> {
    let failed = |e| file_error(file, e);
    let compression = Compression::of(file).map_err(failed)?;
    let mut found = DigestWriter::new(io::sink());
    io::copy(&mut decompressed(file).map_err(failed)?, &mut found).map_err(failed)?;
    let (_, found, _) = found.finish();
    if found != *diff_id {
        return Err(ImageFileError::Layer { name: name.to_owned(), found, expected: *diff_id });
    }
    let (media_type, path) = match compression {
        Compression::Gzip => (media_type::LAYER_GZIP, file),
        Compression::Zstd => (media_type::LAYER_ZSTD, file),
        Compression::None => {
            let mut target = File::create(blob).map_err(|e| file_error(blob, e))?;
            let mut source = File::open(file).map_err(failed)?;
            zstd::stream::copy_encode(&mut source, &mut target, LEVEL).map_err(|e| file_error(blob, e))?;
            (media_type::LAYER_ZSTD, blob)
        }
    };
    let mut digest = DigestWriter::new(io::sink());
    let mut source = File::open(path).map_err(|e| file_error(path, e))?;
    io::copy(&mut source, &mut digest).map_err(|e| file_error(path, e))?;
    let (_, digest, size) = digest.finish();
    Ok((Descriptor::new(media_type, digest, size), path.to_owned()))
}

fn read_small(path: &Path) -> Result<Vec<u8>, ImageFileError> {
    let mut bytes = Vec::new();
    let limit = MAX_MANIFEST as u64 + 1;
    let read = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    read.map_err(|e| file_error(path, e))?;
    Ok(bytes)
}

#[cfg(test)]
#[path = "image_file_tests.rs"]
mod tests;
