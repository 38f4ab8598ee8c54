//! What every sandbox of ours shows: the seed, what is named, and a clean environment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use seed_fuse::mount::{SeedFs, open_seed};
use seed_sandbox::{Lower, Scratch, Spec, Workspace, environment};

use crate::error::{Result, usage};
use crate::gate::{self, Admitted, Origin};
use crate::project::Project;
use crate::session::{Judge, Session};

/// Finds a seed, opens it to be mounted, and has the policy judge it.
pub(crate) fn admit(
    session: &Session<'_>,
    judge: &Judge,
    reference: &seed_image::reference::Reference,
    origin: Origin,
    project: Option<&Project>,
) -> Result<Admitted<Arc<SeedFs>>> {
    let options = session.open_options();
    gate::admit(session, judge, reference, origin, project, move |transport, digest| {
        Ok(open_seed(transport, digest, &options)?)
    })
}

/// A sandbox over a seed. `variables` are those that the user named; they win over the image's.
pub(crate) fn spec(
    session: &Session<'_>,
    fs: &Arc<SeedFs>,
    workspace: Option<Workspace>,
    variables: &BTreeMap<String, String>,
) -> Spec {
    let image = fs.seed().config.config.env.iter().filter_map(|line| line.split_once('='));
    let mut image: BTreeMap<String, String> = image.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let path = image.remove("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    image.extend(variables.clone());
    let caller = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Spec {
        lower: Lower::Seed(Arc::clone(fs)),
        workspace,
        binds: Vec::new(),
        scratch: Scratch::Directory(scratch(session)),
        etc: BTreeMap::new(),
        environment: environment::clean(&path, caller, &image),
    }
}

/// Where what a sandbox writes goes until it ends.
pub(crate) fn scratch(session: &Session<'_>) -> PathBuf {
    let config = &session.config;
    config.sandbox.scratch.clone().unwrap_or_else(|| config.cache.dir.join("scratch"))
}

/// Reads `NAME=VALUE`s.
pub(crate) fn variables(lines: &[String]) -> Result<BTreeMap<String, String>> {
    let pair = |line: &String| match line.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(usage(format!("{line:?} sets no variable: write NAME=VALUE"))),
    };
    lines.iter().map(pair).collect()
}

/// The project's flake as Nix inside finds it.
pub(crate) fn flake(project: &Project) -> String {
    let flake = seed_sandbox::flake_of_workspace(project.root());
    match project.below_root().to_string_lossy() {
        below if below.is_empty() => flake,
        below => format!("{flake}?dir={below}"),
    }
}
