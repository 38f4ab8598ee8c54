//! One of those that are compared: a script of `peers/`, and what it is run with.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::link::Link;
use crate::servers::Servers;
use crate::session::{Figure, Run, Session};
use crate::workload::Workload;

/// A peer and what is the same in all of its runs.
#[derive(Debug)]
pub(crate) struct Peer {
    name: String,
    script: PathBuf,
    project: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Peer {
    /// Finds the peer's script.
    pub(crate) fn new(name: &str, repository: &Path, workload: &Workload) -> Result<Self> {
        let peers = repository.join("bench/peers");
        let script = peers.join(name);
        // session.sh is in the same directory, and no name may leave it.
        if name.contains(['.', '/']) || !script.is_file() {
            bail!("no peer is called \"{name}\": see {}", peers.display());
        }
        let prepared = workload.prepared()?.join(name);
        fs::create_dir_all(&prepared).with_context(|| prepared.display().to_string())?;
        let text = |path: &Path| path.display().to_string();
        Ok(Self {
            name: name.to_owned(),
            script,
            project: workload.directory().join("project"),
            environment: vec![
                ("WORKLOAD", text(workload.directory())),
                ("PREPARED", text(&prepared)),
                ("REGISTRY", Servers::registry().to_string()),
                ("HTTP", Servers::http()),
                ("ENTER", text(&repository.join("tests/nix/enter"))),
                ("SEED_BIN", text(&binaries()?)),
            ],
        })
    }

    /// The same peer, with the registry that lets some of the requests fail; `name` says so.
    pub(crate) fn behind_faults(&self, name: String) -> Self {
        let mut environment = self.environment.clone();
        environment.retain(|(variable, _)| *variable != "REGISTRY");
        environment.push(("REGISTRY", Servers::failing_registry().to_string()));
        Self { name, script: self.script.clone(), project: self.project.clone(), environment }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Lets the peer put its files where the servers find them.
    pub(crate) fn prepare(&self, link: &Link) -> Result<()> {
        Session { script: &self.script, environment: self.environment.clone() }.prepare(link)
    }

    /// Runs the peer once, from an empty directory on `disk`, or in memory without one.
    pub(crate) fn run(&self, link: &Link, disk: Option<&Path>, round: u32) -> Result<Run> {
        let (_state, session) = self.session(&self.script, disk, &format!("{} {round}", self.name))?;
        session.run(link)
    }

    /// The figures beside time-to-build: `bench/figures`, in the place of this peer.
    pub(crate) fn figures(&self, link: &Link, disk: Option<&Path>, large: bool) -> Result<Vec<Figure>> {
        let script = self.script.with_file_name("../figures");
        let (_state, mut session) = self.session(&script, disk, "figures")?;
        if large {
            session.environment.push(("LARGE", "1".to_owned()));
        }
        session.figures(link)
    }

    /// A session of a script in an empty place, which lasts as long as the first value.
    fn session<'a>(
        &self,
        script: &'a Path,
        disk: Option<&Path>,
        change: &str,
    ) -> Result<(State, Session<'a>)> {
        let state = State::new(disk)?;
        let project = state.0.join("project");
        copy_changed(&self.project, &project, change)?;
        let empty = state.0.join("state");
        fs::create_dir(&empty).with_context(|| empty.display().to_string())?;

        let mut environment = self.environment.clone();
        environment.push(("STATE", empty.display().to_string()));
        environment.push(("PROJECT", project.display().to_string()));
        Ok((state, Session { script, environment }))
    }
}

/// Where the programs that are measured lie: beside this one.
fn binaries() -> Result<PathBuf> {
    let this = std::env::current_exe().context("cannot find this program's own path")?;
    Ok(this.parent().context("a program lies in a directory")?.to_owned())
}

/// Copies the project, and changes its source so that no result of an earlier build serves.
fn copy_changed(from: &Path, to: &Path, change: &str) -> Result<()> {
    fs::create_dir(to).with_context(|| to.display().to_string())?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry.with_context(|| from.display().to_string())?;
        fs::copy(entry.path(), to.join(entry.file_name()))
            .with_context(|| entry.path().display().to_string())?;
    }
    let source = to.join("main.c");
    let text = fs::read_to_string(&source).with_context(|| source.display().to_string())?;
    let unique = std::process::id();
    fs::write(&source, format!("{text}\n/* changed for {change} of {unique} */\n"))
        .with_context(|| source.display().to_string())
}

/// A directory on the client's disk for one run.
struct State(PathBuf);

impl State {
    fn new(disk: Option<&Path>) -> Result<Self> {
        let parent = disk.map_or_else(std::env::temp_dir, Path::to_owned);
        let path = parent.join(format!("nix-seed-bench-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        let state = Self(path);
        if disk.is_none() {
            mount("tmpfs", &state.0, "tmpfs", MountFlags::empty(), c"mode=755,size=90%")
                .context("cannot mount a tmpfs for the client's disk")?;
        }
        Ok(state)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // Without the mount, on a disk, the first call fails and the second does the work.
        let _ = unmount(&self.0, UnmountFlags::DETACH);
        let _ = fs::remove_dir_all(&self.0);
    }
}
