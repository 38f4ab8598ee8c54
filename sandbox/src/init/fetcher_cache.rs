//! Nix's cache of fetched things: the seed has one where evaluation fetches more than the inputs, Nix wants to
//! write to it, and looks for it in `HOME`.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::Path;

use super::identity::Identity;
use super::root::directory;
use crate::spec::HOME;

/// The cache's place below `HOME`, without `XDG_CACHE_HOME`.
const CACHE: &str = ".cache/nix";

/// Copies the cache to `HOME`, if it is there; without it, Nix says what it cannot fetch. The packs of Git
/// repositories, which may be large, are linked to.
pub(super) fn bring(cache: &Path, identity: Identity) -> io::Result<()> {
    if !cache.is_dir() {
        return Ok(());
    }
    let owner = identity.owner();
    own_directory(&Path::new(HOME).join(".cache"), owner)?;
    copy(cache, &Path::new(HOME).join(CACHE), owner)
}

fn copy(from: &Path, to: &Path, owner: (u32, u32)) -> io::Result<()> {
    own_directory(to, owner)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target, kind) = (entry.path(), to.join(entry.file_name()), entry.file_type()?);
        if kind.is_dir() {
            copy(&source, &target, owner)?;
        } else if kind.is_file() {
            if from.ends_with("objects/pack") {
                symlink(&source, &target)?;
            } else {
                fs::copy(&source, &target)?;
                fs::set_permissions(&target, Permissions::from_mode(0o644))?;
            }
            lchown(&target, Some(owner.0), Some(owner.1))?;
        }
    }
    Ok(())
}

fn own_directory(path: &Path, (uid, gid): (u32, u32)) -> io::Result<()> {
    directory(path, 0o755)?;
    lchown(path, Some(uid), Some(gid))
}
