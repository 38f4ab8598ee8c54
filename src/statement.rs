//! Core statements of seeds: made from what is known of the project, kept beside the seed as referrers.
//!
//! A statement is a blob with a manifest of its own, whose subject is the seed. It has no time and no
//! builder, so everybody who publishes the same statement publishes the same bytes.

use std::io::Read;

use seed_format::Digest;
use seed_image::manifest::{Descriptor, Manifest};
use seed_image::transport::{Transport, TransportError};
use seed_image::{artifact, traces};
use seed_policy::core::{self, CoreStatement, Kind, NixConfig, Subject};
use seed_policy::{Ancestry, Commit, Found, System};

use crate::error::{Result, ResultExt, failed};
use crate::project::Project;

/// Most referrers that are looked at. Whoever can write to a registry can add them.
const MAX_REFERRERS: usize = 256;

/// What is to be said of a seed that was packed from `project`.
///
/// `None` where a statement cannot be true: without a repository and a commit, or from a changed tree.
pub(crate) fn of_seed(
    project: &Project,
    seed: Digest,
    system: &System,
    nix_config: NixConfig,
) -> Result<Option<CoreStatement>> {
    let (Some(source), Some(commit)) = (project.source()?, project.head()?) else { return Ok(None) };
    if project.is_dirty()? {
        return Ok(None);
    }
    Ok(Some(CoreStatement {
        // From the source, and not from where the seed is kept: builders keep it in different places.
        subject: Subject { name: format!("{}.seed", source.project()), digest: seed },
        kind: Kind::Seed,
        system: system.clone(),
        output: format!("packages.{system}.seed"),
        source,
        commit,
        flake_lock: project.flake_lock()?,
        nix_config,
        sbom: None,
    }))
}

/// Puts a statement beside its seed. Gives the digest of the statement's bytes.
pub(crate) fn publish(transport: &dyn Transport, statement: &CoreStatement) -> Result<Digest> {
    let text = statement.to_bytes()?;
    let seed = statement.subject.digest;
    Ok(artifact::publish(transport, &seed, core::MEDIA_TYPE, &text, Default::default())?)
}

/// Every core statement that lies beside the seed; `ancestry` is asked about the commit of each.
pub(crate) fn find(
    transport: &dyn Transport,
    seed: &Digest,
    ancestry: impl Fn(&Commit) -> Ancestry,
) -> Result<Vec<Found>> {
    let referrers = match transport.referrers(seed) {
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        other => other.context(|| format!("cannot ask for the statements of {seed}"))?,
    };
    if referrers.len() > MAX_REFERRERS {
        return Err(failed(format!(
            "{seed} has {} referrers, more than the {MAX_REFERRERS} that are looked at",
            referrers.len()
        )));
    }
    let mut found = Vec::new();
    // Each manifest is a round trip. Who lists a statement as a trace could as well not list it.
    for referrer in referrers.iter().filter(|referrer| !traces::is_listed_as_trace(referrer)) {
        // Whatever the list says of it: lists carry wrong artifact types.
        let Some(layer) = statement_layer(transport, &referrer.digest, seed)? else { continue };
        let text = read(transport, &layer)?;
        if CoreStatement::is_claimed_by(&text) {
            found.push(Found::read(&text, &ancestry));
        }
    }
    found.sort_by_key(|found| found.digest);
    found.dedup_by_key(|found| found.digest);
    Ok(found)
}

/// The layer with the statement, if `referrer` is a manifest about `seed` that has one.
fn statement_layer(
    transport: &dyn Transport,
    referrer: &Digest,
    seed: &Digest,
) -> Result<Option<Descriptor>> {
    let bytes = match transport.manifest(referrer) {
        // It was listed and is gone: a list may be older than what it lists.
        Err(error) if error.is_not_found() => return Ok(None),
        other => other.context(|| format!("cannot read the referrer {referrer}"))?,
    };
    let Ok(manifest) = Manifest::parse(&bytes) else { return Ok(None) };
    let about_seed = manifest.subject.as_ref().is_some_and(|subject| subject.digest == *seed);
    let [layer] = manifest.layers.as_slice() else { return Ok(None) };
    Ok((about_seed && layer.media_type == core::MEDIA_TYPE).then(|| layer.clone()))
}

/// At most one byte more than a statement may have, so that a larger one is found malformed.
fn read(transport: &dyn Transport, layer: &Descriptor) -> Result<Vec<u8>> {
    let limit = core::MAX_LEN as u64 + 1;
    let mut text = Vec::new();
    let context = || format!("cannot read the statement {}", layer.digest);
    let mut blob = transport.blob(layer).context(context)?;
    match blob.by_ref().take(limit).read_to_end(&mut text) {
        Ok(_) => Ok(text),
        Err(error) => match TransportError::from_io(error) {
            Ok(error) => Err(error).context(context),
            Err(error) => Err(error).context(context),
        },
    }
}

#[cfg(test)]
mod tests {
    use seed_image::manifest::media_type;
    use seed_image::transport::{BytesContent, Layout};

    use super::*;

    fn statement(seed: Digest) -> CoreStatement {
        CoreStatement {
            subject: Subject { name: "app.seed".into(), digest: seed },
            kind: Kind::Seed,
            system: System::current(),
            output: "packages.x86_64-linux.seed".into(),
            source: "git+https://github.com/acme/app".parse().unwrap(),
            commit: "a".repeat(40).parse().unwrap(),
            flake_lock: Digest::of(b""),
            nix_config: NixConfig::normalise("true", "", ""),
            sbom: None,
        }
    }

    fn put(layout: &Layout, text: &[u8], layer_type: &str, subject: Option<Descriptor>) -> Digest {
        let blob = Descriptor::new(layer_type, Digest::of(text), text.len() as u64);
        let config = Descriptor::new(media_type::EMPTY, Digest::of(b"{}"), 2);
        layout.put_blob(&blob, &mut BytesContent(text)).unwrap();
        layout.put_blob(&config, &mut BytesContent(b"{}")).unwrap();
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::MANIFEST.into()),
            artifact_type: Some("application/x-anything".into()),
            config,
            layers: vec![blob],
            subject,
            annotations: Default::default(),
        };
        layout.put_manifest(&manifest.to_bytes(), media_type::MANIFEST, None).unwrap()
    }

    #[test]
    fn what_is_published_is_found_once() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let seed = put(&layout, b"layer", "application/x-layer", None);
        assert_eq!(find(&layout, &seed, |_| Ancestry::Ancestor).unwrap().len(), 0);
        let digest = publish(&layout, &statement(seed)).unwrap();
        assert_eq!(publish(&layout, &statement(seed)).unwrap(), digest);

        assert_eq!(layout.resolve_default().unwrap().digest, seed, "a statement is no image that is meant");

        let found = find(&layout, &seed, |_| Ancestry::NotAncestor).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].digest, digest);
        assert_eq!(found[0].statement.as_ref().unwrap(), &statement(seed));
        assert_eq!(found[0].ancestry, Ancestry::NotAncestor);
    }

    #[test]
    fn only_statements_about_the_seed_count() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let seed = put(&layout, b"layer", "application/x-layer", None);
        let size = layout.manifest(&seed).unwrap().len() as u64;
        let about = |digest| Some(Descriptor::new(media_type::MANIFEST, digest, size));
        let text = statement(seed).to_bytes().unwrap();
        put(&layout, &text, core::MEDIA_TYPE, about(Digest::of(b"another")));
        put(&layout, &text, "application/spdx+json", about(seed));
        put(&layout, b"{\"predicateType\":\"https://example.org/tests\"}", core::MEDIA_TYPE, about(seed));
        assert_eq!(find(&layout, &seed, |_| Ancestry::Ancestor).unwrap().len(), 0);

        let long = vec![b' '; core::MAX_LEN + 100];
        put(&layout, &long, core::MEDIA_TYPE, about(seed));
        put(&layout, b"not JSON", core::MEDIA_TYPE, about(seed));
        let found = find(&layout, &seed, |_| Ancestry::Ancestor).unwrap();
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|found| found.statement.is_err()));
    }
}
