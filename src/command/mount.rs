//! `seed mount`.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use rustix::process::geteuid;
use seed_format::Digest;
use seed_fuse::mount::{self, Mode, Progress, Refused, Request, Shown, Wait};
use seed_image::reference::Reference;
use seed_image::seed::Seed;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::error::{Result, ResultExt};
use crate::gate;
use crate::printer::{Phase, Printer, seconds};
use crate::session::{Ahead, Judge, Session};

/// What the program is started with to serve a mount that another process of it asked for.
pub(crate) const SERVE_ARGUMENT: &str = "__seed-mount-server";

/// Mount a seed lazily: files are fetched, and verified, when they are read
///
/// Returns when the mount can be used; `seed unmount` takes it away.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed mount oci:./seeds:main /mnt/store --allow-tag
  seed mount ghcr.io/acme/app.seed@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 /nix/store")]
pub(crate) struct Args {
    /// The seed
    #[arg(value_name = "REF")]
    seed: Reference,
    /// An existing directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Which part of the seed shows there [default: nix at /nix, store elsewhere]
    #[arg(long, value_enum)]
    part: Option<Part>,
    /// Make the mount writable: changes go into this directory
    #[arg(long, value_name = "DIR")]
    writable: Option<PathBuf>,
    /// Who shows the files: the kernel, which root may ask for it, or FUSE [default: mount.mode of the
    /// configuration]
    #[arg(long, value_name = "auto|kernel|fuse")]
    mode: Option<Mode>,
    /// Let other users see the mount of an ordinary user, where /etc/fuse.conf permits that
    #[arg(long)]
    allow_other: bool,
    /// Do not fetch everything while the link is idle
    #[arg(long)]
    no_fill: bool,
    /// Offer the counters to Prometheus at this port of this machine: 127.0.0.1:9100
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<std::net::SocketAddr>,
    /// Fetch nothing but what is read: each byte costs [default: network.metered of the configuration]
    #[arg(long)]
    metered: bool,
    /// Return when the mount can be used, or when all of the seed is in the cache and its registry needed no
    /// more
    #[arg(long, value_name = "ready|full", default_value = "ready")]
    wait: Wait,
    #[command(flatten)]
    ahead: Ahead,
    #[command(flatten)]
    judge: Judge,
}

/// A part of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// What is in /nix/store
    Store,
    /// What is in /nix: the store and its database
    Nix,
    /// The whole image
    Root,
}

impl Part {
    /// What belongs at this directory.
    fn at(dir: &Path) -> Self {
        if dir == Path::new("/nix") { Self::Nix } else { Self::Store }
    }

    fn subtree(self) -> &'static str {
        match self {
            Self::Store => "nix/store",
            Self::Nix => "nix",
            Self::Root => "",
        }
    }
}

#[derive(Debug, Serialize)]
struct Mounted {
    reference: String,
    digest: Digest,
    directory: PathBuf,
    #[serde(flatten)]
    shown: Shown,
    seconds: f64,
    bytes_fetched: u64,
}

/// What the server is told beside the request: how to judge.
#[derive(Debug, Serialize, Deserialize)]
struct Terms {
    judge: Judge,
    config: Config,
}

pub(crate) fn run(session: &Session<'_>, args: &Args) -> Result<()> {
    session.sweep();
    let dir = absolute(&args.dir)?;
    let part = args.part.unwrap_or_else(|| Part::at(&dir));
    let request = Request {
        writable: args.writable.as_deref().map(absolute).transpose()?,
        mode: args.mode.unwrap_or(session.config.mount.mode),
        others: args.allow_other,
        fill: !args.no_fill,
        metered: args.metered || session.config.network.metered,
        wait: args.wait,
        trace: args.ahead.choice_or_all(),
        metrics: args.metrics,
        ..session.mount_request(&args.seed, &dir, part.subtree())
    };
    let mut judge = args.judge.clone();
    judge.policy = judge.policy.as_deref().map(absolute).transpose()?;
    let terms = serde_json::to_string(&Terms { judge, config: session.config.clone() })?;
    let program = std::env::current_exe().context(|| "cannot find this program, which serves the mount")?;
    // The server judges: what it has opened is what it mounts, and nothing is asked for twice.
    let phase = (args.wait == Wait::Full).then(|| session.printer.phase("pull"));
    let mut progress = |Progress { fetched, total }| {
        if let Some(phase) = &phase {
            phase.set_total(total);
            phase.set_done(fetched);
        }
    };
    let arguments = [SERVE_ARGUMENT.as_ref(), terms.as_ref()];
    let ready = mount::start_detached(&program, &arguments, &request, &mut progress)
        .context(|| format!("cannot mount {}", args.seed));
    phase.filter(|_| ready.is_ok()).map(Phase::end);
    let ready = if geteuid().is_root() {
        ready?
    } else {
        ready.hint("`seed doctor` says what this machine lacks; `seed run`, `seed build` and `seed develop` need no mount")?
    };
    session.printer.trace().phase("mount", ready.took, &[("seed.bytes_fetched", ready.bytes_fetched)]);
    let reference = args.seed.with_digest(ready.state.digest);
    let Shown { mode, reason } = &ready.state.shown;
    session.printer.note(format_args!("{reference} mounted in {} ({mode}: {reason})", seconds(ready.took)));
    session.printer.data(&Mounted {
        reference: reference.to_string(),
        digest: ready.state.digest,
        directory: ready.state.directory,
        shown: ready.state.shown,
        seconds: ready.took.as_secs_f64(),
        bytes_fetched: ready.bytes_fetched,
    })
}

/// The process that serves what `seed mount` asked for. Its standard error is the mount's log.
pub(crate) fn serve(terms: &OsStr) -> Result<()> {
    let printer = Printer::for_log();
    let terms: Terms = serde_json::from_slice(terms.as_encoded_bytes())?;
    let session = Session { printer: &printer, config: terms.config };
    let judge = |request: &Request, seed: &Seed| {
        let reference = request.reference.parse::<Reference>().map_err(|error| Refused(error.to_string()))?;
        match gate::judge_opened(&session, &terms.judge, &reference, seed) {
            Ok(_) => Ok(()),
            Err(error) => Err(Refused(error.causes().join(": "))),
        }
    };
    Ok(mount::run_detached(&judge)?)
}

/// The server does not run in this directory.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).context(|| format!("cannot use {}", path.display()))
}

impl fmt::Display for Mounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.directory.display())
    }
}
