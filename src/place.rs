//! Where the seed of a project is: from the command line, the configuration, or the source.

use seed_format::Digest;
use seed_image::reference::Reference;
use seed_policy::System;

use crate::error::{Result, ResultExt, usage};
use crate::gate::Origin;
use crate::project::Project;
use crate::session::Session;

/// The seed that a project's `.seed.lock`, or the user, names.
#[derive(Debug)]
pub(crate) enum Place {
    /// This seed.
    Known(Reference, Origin),
    /// None yet; one may be packed to this place.
    Unpacked(Reference),
}

/// Finds the seed of `project` for `system`. `written` is what the user wrote; `allow_tag` lets its tag
/// name a seed where neither it nor the lock has a digest.
pub(crate) fn find(
    session: &Session<'_>,
    project: &Project,
    system: &System,
    written: Option<&Reference>,
    allow_tag: bool,
) -> Result<Place> {
    if let Some(reference) = written.filter(|reference| reference.digest.is_some()) {
        return Ok(Place::Known(reference.clone(), Origin::Written));
    }
    let locked: Option<Digest> = project.lock_file().read()?.get(system);
    let place = repository(session, project, written)?;
    Ok(match locked {
        Some(digest) => Place::Known(place.with_digest(digest), Origin::Lock),
        None if allow_tag && place.tag.is_some() => Place::Known(place, Origin::Written),
        None => Place::Unpacked(place),
    })
}

/// The place of the project's seeds: what the user wrote, else the configuration's, else the forge's own
/// registry.
pub(crate) fn repository(
    session: &Session<'_>,
    project: &Project,
    written: Option<&Reference>,
) -> Result<Reference> {
    if let Some(reference) = written {
        return Ok(reference.clone());
    }
    if let Some(text) = &session.config.image.repository {
        let context = || format!("the configuration's image.repository is {text:?}");
        return text.parse().context(context);
    }
    let source = project.source()?;
    match source.as_ref().and_then(|source| source.as_str().strip_prefix("git+https://github.com/")) {
        Some(path) => {
            let text = format!("ghcr.io/{}.seed", path.to_ascii_lowercase());
            text.parse().context(|| format!("no seed can be kept at {text}"))
        }
        None => Err(usage("it is not known where the seed of this project is kept"))
            .hint("name the place, oci:DIR or HOST/REPOSITORY, or set image.repository in the configuration"),
    }
}
