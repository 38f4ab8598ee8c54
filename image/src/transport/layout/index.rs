//! `index.json`: which manifests of a layout have which tags.

use std::path::Path;

use seed_format::Digest;

use super::files::{self, Workshop};
use crate::manifest::{Descriptor, Index, MAX_MANIFEST, ManifestError, annotation};
use crate::transport::TransportError;
use crate::transport::error::LayoutProblem;

const NAME: &str = "index.json";

/// The tag of an entry.
pub(super) fn tag_of(entry: &Descriptor) -> Option<&str> {
    entry.annotations.get(annotation::REF_NAME).map(String::as_str)
}

/// The tag under which the referrers of `subject` are listed where there is no other way to list them
/// (distribution specification, "Referrers Tag Schema").
pub(super) fn fallback_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

pub(super) fn read(directory: &Path) -> Result<Index, TransportError> {
    let path = directory.join(NAME);
    match files::read_small(&path, MAX_MANIFEST)? {
        Some(bytes) => Index::parse(&bytes).map_err(|source| malformed(directory, source)),
        None => {
            Err(TransportError::NotALayout { path: directory.to_owned(), problem: LayoutProblem::NoIndex })
        }
    }
}

/// Writes an index without entries, unless there is an index. The caller holds the lock.
pub(super) fn write_empty(directory: &Path, workshop: &Workshop) -> Result<(), TransportError> {
    if directory.join(NAME).exists() {
        return Ok(());
    }
    files::replace(directory, workshop, NAME, &Index::of(Vec::new()).to_bytes())
}

/// Lists `entry`, under `tag` if there is one. `members` are the manifests inside it, which then need no
/// entry of their own unless they have a tag.
pub(super) fn add(
    directory: &Path,
    workshop: &Workshop,
    mut entry: Descriptor,
    tag: Option<&str>,
    members: &[Descriptor],
) -> Result<(), TransportError> {
    let _lock = files::lock(directory)?;
    let mut index = read(directory)?;
    let before = index.manifests.clone();
    let is_member = |digest: &Digest| members.iter().any(|member| member.digest == *digest);
    index.manifests.retain(|listed| match tag_of(listed) {
        Some(listed_tag) => Some(listed_tag) != tag,
        None => !is_member(&listed.digest) && (tag.is_none() || listed.digest != entry.digest),
    });
    match tag {
        Some(tag) => {
            entry.annotations.insert(annotation::REF_NAME.into(), tag.into());
            index.manifests.push(entry);
        }
        None if index.manifests.iter().all(|listed| listed.digest != entry.digest) => {
            index.manifests.push(entry)
        }
        None => {}
    }
    if index.manifests == before {
        return Ok(());
    }
    let bytes = index.to_bytes();
    if bytes.len() > MAX_MANIFEST {
        let (len, limit) = (bytes.len(), MAX_MANIFEST);
        return Err(malformed(
            directory,
            ManifestError::TooMany { what: "index", entries: "bytes", len, limit },
        ));
    }
    files::replace(directory, workshop, NAME, &bytes)
}

fn malformed(directory: &Path, source: ManifestError) -> TransportError {
    let place = format!("oci:{}", directory.display());
    TransportError::Manifest { place, what: NAME.into(), source }
}
