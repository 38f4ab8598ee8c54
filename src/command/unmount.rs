//! `seed unmount`.

use std::path::PathBuf;

use seed_fuse::mount;

use crate::error::{Result, ResultExt};
use crate::session::Session;

/// Take away a mount that `seed mount` made
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed unmount /mnt/store
  seed unmount --all --lazy")]
pub(crate) struct Args {
    /// Where the seed is mounted
    #[arg(value_name = "DIR", required_unless_present = "all")]
    dir: Option<PathBuf>,
    /// Take away every mount of this user
    #[arg(long, conflicts_with = "dir")]
    all: bool,
    /// Take it away even if it is in use: those who use it go on, and nobody else sees it
    #[arg(long)]
    lazy: bool,
}

pub(crate) fn run(session: &Session<'_>, args: &Args) -> Result<()> {
    let runtime = session.runtime();
    // Those of dead servers are gone after this, and count as unmounted.
    let swept = session.sweep();
    let wanted = match &args.dir {
        Some(dir) => vec![std::path::absolute(dir).context(|| format!("cannot use {}", dir.display()))?],
        None => mount::mounts(&runtime)?.into_iter().map(|state| state.directory).collect(),
    };
    for dir in wanted {
        if swept.contains(&dir) {
            continue;
        }
        mount::unmount(&runtime, &dir, args.lazy)
            .hint("`seed status` lists the mounts; --lazy takes one away that is in use")?;
    }
    Ok(())
}
