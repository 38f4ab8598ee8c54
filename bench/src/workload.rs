//! What is brought to the client; made by `workload/build`, and kept.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Serialize;

/// A workload that is ready to be used.
#[derive(Debug)]
pub(crate) struct Workload {
    directory: PathBuf,
    pub size: Size,
}

/// How large a workload is.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Size {
    pub name: String,
    pub store_paths: u64,
    /// Regular files below the store.
    pub files: u64,
    /// Of all of them together.
    pub bytes: u64,
}

impl Workload {
    /// Makes the workload, or finds it as it was made before.
    pub(crate) fn build(repository: &Path, name: &str) -> Result<Self> {
        let output = Command::new(repository.join("bench/workload/build"))
            .arg(name)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start bench/workload/build")?;
        if !output.status.success() {
            bail!("bench/workload/build {name}: {}", output.status);
        }
        let directory = PathBuf::from(String::from_utf8(output.stdout).context("a path in UTF-8")?.trim());
        let paths = fs::read_to_string(directory.join("paths")).context("the list of store paths")?;
        let mut size =
            Size { name: name.to_owned(), store_paths: paths.lines().count() as u64, files: 0, bytes: 0 };
        for_each_file(&directory.join("root/nix/store"), &mut |_, length| {
            size.files += 1;
            size.bytes += length;
            Ok(())
        })?;
        Ok(Self { directory, size })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where peers put what the HTTP server serves, each in a directory of its name.
    pub(crate) fn prepared(&self) -> Result<PathBuf> {
        made(self.directory.join("peers"))
    }

    /// Where the servers keep what they have been given.
    pub(crate) fn servers_state(&self) -> Result<PathBuf> {
        made(self.directory.join("servers"))
    }

    /// Brings all that is served, and the native store, into the page cache: the servers' disks are nobody's
    /// to wait for.
    pub(crate) fn warm(&self) -> Result<()> {
        for directory in ["root", "servers/registry", "peers/tar", "peers/nix-copy"] {
            let directory = self.directory.join(directory);
            if directory.exists() {
                for_each_file(&directory, &mut |path, _| {
                    io::copy(&mut fs::File::open(path)?, &mut io::sink()).map(drop)
                })?;
            }
        }
        Ok(())
    }
}

fn made(directory: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    Ok(directory)
}

/// Calls `each` with the path and the length of every regular file below a directory.
fn for_each_file(directory: &Path, each: &mut impl FnMut(&Path, u64) -> io::Result<()>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    for entry in entries {
        let entry = entry.with_context(|| directory.display().to_string())?;
        let path = entry.path();
        let kind = entry.file_type().with_context(|| path.display().to_string())?;
        if kind.is_dir() {
            for_each_file(&path, each)?;
        } else if kind.is_file() {
            let length = entry.metadata().with_context(|| path.display().to_string())?.len();
            each(&path, length).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}
