//! `seed gc`.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use seed_fuse::store::collect_garbage;
use seed_image::kept::{Pruned, prune};
use serde::Serialize;

use crate::config::ByteSize;
use crate::error::{Result, ResultExt};
use crate::printer::bytes;
use crate::session::Session;

/// Bound the cache, and take away what dead mounts and builds have left
///
/// The chunks that were used longest ago go first. Live mounts fetch again what they still need. Records of
/// packed layers, and indexes and manifests of mounted seeds, go when they were not used for long.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed gc
  seed gc --size 5GiB --records-days 7")]
pub(crate) struct Args {
    /// Bound the chunks to this size, not to the configured one
    #[arg(long, value_name = "SIZE")]
    size: Option<ByteSize>,
    /// Remove records, indexes and manifests that were not used for so many days, not for the configured number
    #[arg(long, value_name = "DAYS")]
    records_days: Option<u32>,
    /// Bound the records, the indexes and the manifests, each, to this size, not to the configured one
    #[arg(long, value_name = "SIZE")]
    records_size: Option<ByteSize>,
}

#[derive(Debug, Serialize)]
struct Collected {
    directory: PathBuf,
    /// Files that were removed.
    removed: u64,
    /// Bytes that they had.
    freed: u64,
    /// Bytes that are left.
    left: u64,
}

pub(crate) fn run(session: &Session<'_>, args: &Args) -> Result<()> {
    session.sweep();
    let limit = args.size.unwrap_or(session.config.cache.size).bytes();
    let directory = session.chunk_cache();
    let report = match fs::metadata(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Default::default(),
        _ => {
            collect_garbage(&directory, limit).context(|| format!("cannot clean {}", directory.display()))?
        }
    };
    let (removed, freed, left) = (report.removed, report.freed, report.left);
    session.printer.data(&Collected { directory, removed, freed, left })?;

    let cache = &session.config.cache;
    let limit = args.records_size.unwrap_or(cache.records_size).bytes();
    let age = Duration::from_secs(24 * 3600) * args.records_days.unwrap_or(cache.records_days);
    let [documents, lists] = session.document_caches();
    let records = [session.pack_records(), session.capture_records(), session.index_cache()];
    for directory in records.into_iter().chain([documents, lists]) {
        let Pruned { removed, freed, left } =
            prune(&directory, limit, age).context(|| format!("cannot clean {}", directory.display()))?;
        session.printer.data(&Collected { directory, removed, freed, left })?;
    }
    Ok(())
}

impl fmt::Display for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { directory, removed, freed, left } = self;
        write!(
            f,
            "{}: {} freed in {removed} files, {} left",
            directory.display(),
            bytes(*freed),
            bytes(*left)
        )
    }
}
