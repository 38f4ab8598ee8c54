//! Facts from `git`, asked by running it.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use seed_policy::{Ancestry, Commit, SourceUri};

use crate::error::{Result, ResultExt, failed};

/// A git working tree.
#[derive(Debug)]
pub(super) struct Git {
    root: PathBuf,
}

impl Git {
    /// The working tree that `dir` lies in, if it lies in one.
    pub(super) fn find(dir: &Path) -> Result<Option<Self>> {
        let output = match run(dir, ["rev-parse", "--show-toplevel"]) {
            Ok(output) => output,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(|| "cannot run git"),
        };
        if output.status.success() {
            let root = path(output.stdout);
            return Ok(Some(Self { root: root.canonicalize().unwrap_or(root) }));
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if said.contains("dubious ownership") || said.contains("not owned by current user") {
            return Err(failed(format!(
                "git refuses the repository of {}: another user owns it",
                dir.display()
            )))
            .hint(format!("if you trust it: git config --global --add safe.directory '{}'", dir.display()));
        }
        Ok(None)
    }

    /// The top of the working tree.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Every tracked file, relative to the top.
    pub(super) fn tracked(&self) -> Result<Vec<PathBuf>> {
        let output = self.must(["ls-files", "-z", "--cached"])?;
        let names = output.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(|name| PathBuf::from(std::ffi::OsString::from_vec(name.to_vec()))).collect())
    }

    pub(super) fn source(&self) -> Result<SourceUri> {
        let output = self.ask(["config", "--get", "remote.origin.url"])?;
        let url = if output.status.success() {
            text(&output.stdout)
        } else {
            self.root.to_string_lossy().into_owned()
        };
        SourceUri::normalise(&url).context(|| "cannot tell where the source is kept")
    }

    pub(super) fn head(&self) -> Result<Option<Commit>> {
        let output = self.ask(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"])?;
        if output.status.success() { Ok(Some(text(&output.stdout).parse()?)) } else { Ok(None) }
    }

    pub(super) fn is_dirty(&self) -> Result<bool> {
        let output = self.must([
            "status",
            "--porcelain",
            "--untracked-files=no",
            "--",
            ".",
            ":(exclude,glob)**/.seed.lock",
        ])?;
        Ok(!output.stdout.is_empty())
    }

    pub(super) fn nix_attributes(&self) -> Result<Vec<(&'static str, String)>> {
        let Some(head) = self.head()? else { return Ok(Vec::new()) };
        let mut attributes = Vec::new();
        // As Nix tells: a change of any tracked file counts, that of .seed.lock too.
        let unchanged = self.ask(["diff", "--quiet", "--ignore-submodules", "HEAD", "--"])?;
        if unchanged.status.success() {
            attributes.push(("rev", head.to_string()));
            if !self.is_shallow()? {
                attributes.push(("revCount", text(&self.must(["rev-list", "--count", "HEAD"])?.stdout)));
            }
        }
        Ok(attributes)
    }

    fn is_shallow(&self) -> Result<bool> {
        Ok(text(&self.must(["rev-parse", "--is-shallow-repository"])?.stdout) == "true")
    }

    pub(super) fn ancestry(&self, commit: &Commit) -> Ancestry {
        let unknown = |why: String| Ancestry::Unknown { why };
        let shallow = match self.is_shallow() {
            Ok(shallow) => shallow,
            Err(error) => return unknown(error.causes().join(": ")),
        };
        match self.ask(["merge-base", "--is-ancestor", commit.as_str(), "HEAD"]) {
            Err(error) => unknown(error.causes().join(": ")),
            Ok(output) if output.status.success() => Ancestry::Ancestor,
            Ok(_) if shallow => unknown("the clone is shallow".into()),
            // 1: not an ancestor. 128: no such commit, so it is in no history that is all here.
            Ok(output) if matches!(output.status.code(), Some(1 | 128)) => Ancestry::NotAncestor,
            Ok(output) => unknown(format!("git merge-base ended with {}", output.status)),
        }
    }

    pub(super) fn commit_only(&self, file: &Path, message: &str) -> Result<bool> {
        let file = file.as_os_str();
        let args =
            |args: &[&'static str]| args.iter().map(|arg| OsStr::new(*arg).to_owned()).collect::<Vec<_>>();
        let with_file = |mut args: Vec<std::ffi::OsString>| {
            args.push(file.to_owned());
            args
        };
        self.must(with_file(args(&["add", "--"])))?;
        let unchanged = self.ask(with_file(args(&["diff", "--cached", "--quiet", "HEAD", "--"])))?;
        if unchanged.status.success() {
            return Ok(false);
        }
        let mut commit = args(&["commit", "--quiet", "--only", "--message"]);
        commit.extend([message.into(), "--".into()]);
        self.must(with_file(commit))
            .hint("the lock is written; commit it yourself, or put right what git says")?;
        Ok(true)
    }

    fn ask<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Output> {
        run(&self.root, args).context(|| "cannot run git")
    }

    fn must<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Output> {
        let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let output = self.ask(&args)?;
        if output.status.success() {
            return Ok(output);
        }
        let verb = args.first().map(|verb| verb.to_string_lossy().into_owned()).unwrap_or_default();
        Err(failed(format!("git {verb} failed: {}", String::from_utf8_lossy(&output.stderr).trim())))
    }
}

fn run<S: AsRef<OsStr>>(dir: &Path, args: impl IntoIterator<Item = S>) -> io::Result<Output> {
    Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(args)
        // A hook that calls us sets these for its own repository.
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

fn path(mut bytes: Vec<u8>) -> PathBuf {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    std::ffi::OsString::from_vec(bytes).into()
}
