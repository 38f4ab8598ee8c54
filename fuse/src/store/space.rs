//! How much of a disk a cache leaves to others.

use std::io;
use std::path::Path;

use rustix::fs::statvfs;

/// Bytes that a cache leaves free on a disk of `total` bytes, where nothing else is said: one in twenty, but one gibibyte
/// at least and four at most, and never more than a quarter.
pub(super) fn usual_reserve(total: u64) -> u64 {
    (total / 20).clamp(1 << 30, 4 << 30).min(total / 4)
}

/// How many bytes must become free before `size` more may be written to the disk of `directory`.
pub(super) fn lacking(directory: &Path, keep_free: Option<u64>, size: u64) -> io::Result<u64> {
    let disk = statvfs(directory)?;
    let (free, total) =
        (disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize));
    let reserve = keep_free.unwrap_or_else(|| usual_reserve(total));
    Ok(reserve.saturating_add(size).saturating_sub(free))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_fits_the_disk() {
        for (total, reserve) in [
            (1 << 20, 1 << 18),
            (2 << 30, 1 << 29),
            (10 << 30, 1 << 30),
            (60 << 30, 3 << 30),
            (1 << 40, 4 << 30),
        ] {
            assert_eq!(usual_reserve(total), reserve);
        }
        let here = Path::new("/");
        assert_eq!(lacking(here, Some(0), 0).unwrap(), 0);
        assert!(lacking(here, Some(u64::MAX), 0).unwrap() > 0);
    }
}
