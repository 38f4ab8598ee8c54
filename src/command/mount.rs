//! `seed mount`.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use seed_format::Digest;
use seed_fuse::mount::{self, Request};
use seed_image::reference::Reference;
use serde::Serialize;

use crate::error::{Result, ResultExt};
use crate::gate::{self, Origin};
use crate::printer::seconds;
use crate::session::{Judge, Session};

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
    /// Which part of the seed shows there
    #[arg(long, value_enum, default_value_t = Part::Store)]
    part: Part,
    /// Make the mount writable: changes go into this directory
    #[arg(long, value_name = "DIR")]
    writable: Option<PathBuf>,
    /// Fetch only what is read, and nothing ahead
    #[arg(long)]
    no_fill: bool,
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
    seconds: f64,
    bytes_fetched: u64,
}

pub(crate) fn run(session: &Session<'_>, args: &Args) -> Result<()> {
    session.sweep();
    let admitted = gate::admit(session, &args.judge, &args.seed, Origin::Written, None, gate::manifest_only)?;
    let reference = &admitted.reference;
    let request = Request {
        writable: args.writable.as_deref().map(absolute).transpose()?,
        fill: !args.no_fill,
        ..session.mount_request(
            reference,
            admitted.approved.digest(),
            &absolute(&args.dir)?,
            args.part.subtree(),
        )
    };
    let program = std::env::current_exe().context(|| "cannot find this program, which serves the mount")?;
    let ready = mount::start_detached(&program, &[OsStr::new(SERVE_ARGUMENT)], &request)
        .context(|| format!("cannot mount {reference}"))
        .hint("`seed doctor` shows what this machine can do")?;
    session.printer.note(format_args!("mounted in {}", seconds(ready.took)));
    session.printer.data(&Mounted {
        reference: reference.to_string(),
        digest: ready.state.digest,
        directory: ready.state.directory,
        seconds: ready.took.as_secs_f64(),
        bytes_fetched: ready.bytes_fetched,
    })
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
