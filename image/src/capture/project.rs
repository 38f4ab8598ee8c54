//! The first phase: the project's source and the trees of its inputs, in the capture's store.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use seed_format::{Digest, StorePath};
use serde::Deserialize;

use super::evaluate::{Source, in_store};
use super::lender::Lender;
use super::{Capture, CaptureError, Lock, MAX_LOCK_LEN, NixError, SourceInfo, real_path, sri};
use crate::store::Store;

/// The project in the capture's store.
pub(super) struct Project {
    pub(super) source: Source,
    /// Where in the source the flake is; empty for its top.
    pub(super) directory: String,
    pub(super) lock: Lock,
    pub(super) info: SourceInfo,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) path: StorePath,
    resolved_url: Option<String>,
    url: Option<String>,
    revision: Option<String>,
    locked: LockedSource,
    /// The lock as Nix would have it.
    locks: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LockedSource {
    nar_hash: Option<String>,
    dir: Option<String>,
}

#[derive(Deserialize)]
struct Archive {
    path: Option<StorePath>,
    #[serde(default)]
    inputs: BTreeMap<String, Archive>,
}

impl Capture<'_> {
    /// Copies the project's source to the store and reads its lock.
    pub(super) fn project(&self) -> Result<Project, CaptureError> {
        let flake = &self.request.flake;
        let metadata = self.metadata(&self.root, flake, &self.substituters)?;
        let directory = metadata.locked.dir.clone().unwrap_or_default();
        let tree = real_path(&self.root, &metadata.path);
        let file = tree.join(&directory).join("flake.lock");
        let text = read_lock(&file).map_err(|source| CaptureError::Io { path: file, source })?;
        let failed = |source| CaptureError::Lock { flake: flake.clone(), source };
        let lock = text.as_deref().map_or_else(|| Ok(Lock::empty()), Lock::parse).map_err(failed)?;
        // Nix 2.8 makes up for what a lock lacks, whatever it is told.
        let complete = Lock::parse(metadata.locks.to_string().as_bytes()).map_err(failed)?;
        if complete != lock {
            return Err(CaptureError::Unlocked { flake: flake.clone(), source: None });
        }
        let nar_hash = self.nar_hash(&self.root, &metadata)?;
        Ok(Project {
            source: Source::new(metadata.path, &nar_hash, &directory, "lastModified=1"),
            directory,
            lock,
            info: SourceInfo {
                url: metadata.resolved_url.or(metadata.url).unwrap_or_else(|| flake.clone()),
                revision: metadata.revision,
                nar_hash,
                lock: text.as_deref().map(Digest::of),
            },
        })
    }

    pub(super) fn metadata(
        &self,
        root: &Path,
        flake: &str,
        substituters: &[String],
    ) -> Result<Metadata, CaptureError> {
        let flake = match flake.split(['#', '?']).next() {
            Some(path) if path == "." || path.starts_with("./") || path.starts_with("../") => {
                format!("{}/{flake}", self.request.directory.display())
            }
            _ => flake.to_owned(),
        };
        let command = in_store(self.nix.command("nix"), root, substituters)
            .args(["flake", "metadata", "--json", "--no-update-lock-file", "--no-write-lock-file"])
            .arg(&flake);
        command.json().map_err(|error| match error {
            NixError::Failed { ref stderr, .. } if stderr.contains("--no-update-lock-file") => {
                CaptureError::Unlocked { flake: self.request.flake.clone(), source: Some(error) }
            }
            error => error.into(),
        })
    }

    /// The hash of the source's NAR; where Nix does not say it, as it is in the store's database.
    pub(super) fn nar_hash(&self, root: &Path, metadata: &Metadata) -> Result<String, CaptureError> {
        if let Some(nar_hash) = &metadata.locked.nar_hash {
            return Ok(nar_hash.clone());
        }
        let digest = Store::open(root)?.path_info(&metadata.path)?.nar_hash;
        Ok(sri(&digest))
    }

    /// Rule 1: the trees of all locked inputs, in the store.
    pub(super) fn fetch_inputs(
        &self,
        project: &Project,
        lender: Option<&Lender>,
    ) -> Result<BTreeSet<StorePath>, CaptureError> {
        if let Some(lender) = lender {
            lender.lend_inputs(&project.lock, &self.root)?;
        }
        let command = in_store(self.nix.command("nix"), &self.root, &self.substituters)
            .args(["flake", "archive", "--json", "--no-update-lock-file", "--no-write-lock-file"])
            .arg(&project.source.url);
        let archive: Archive = command.json()?;
        let mut trees = BTreeSet::new();
        let mut todo: Vec<_> = archive.inputs.into_values().collect();
        while let Some(archive) = todo.pop() {
            trees.extend(archive.path);
            todo.extend(archive.inputs.into_values());
        }
        // The project's own tree may be an input of an input, by `follows`.
        trees.remove(&project.source.path);
        self.check_inputs(project, &trees)?;
        Ok(trees)
    }

    fn check_inputs(&self, project: &Project, trees: &BTreeSet<StorePath>) -> Result<(), CaptureError> {
        let store = Store::open(&self.root)?;
        let mut hashes = BTreeSet::from([project.info.nar_hash.clone()]);
        for tree in trees {
            let digest = store.path_info(tree)?.nar_hash;
            hashes.insert(format!("sha256-{}", data_encoding::BASE64.encode(digest.as_bytes())));
        }
        for (name, input) in project.lock.inputs() {
            if let Some(nar_hash) = input.nar_hash.as_ref().filter(|hash| !hashes.contains(*hash)) {
                let (input, nar_hash) = (name.clone(), nar_hash.clone());
                return Err(CaptureError::InputTree { input, nar_hash });
            }
        }
        Ok(())
    }
}

fn read_lock(file: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match fs::File::open(file) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // One byte more than is allowed, for the parser to refuse.
    let mut text = Vec::new();
    file.take(MAX_LOCK_LEN as u64 + 1).read_to_end(&mut text)?;
    Ok(Some(text))
}
