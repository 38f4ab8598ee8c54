//! Which error of the tree is which errno. There is no other such table.

use fuser::Errno;

use crate::tree::TreeError;

impl From<&TreeError> for Errno {
    fn from(error: &TreeError) -> Self {
        match error {
            TreeError::NotDirectory(_) => Errno::ENOTDIR,
            TreeError::NameTooLong(_) => Errno::ENAMETOOLONG,
            TreeError::NotSymlink(_) => Errno::EINVAL,
            TreeError::NotFile(_) => Errno::EISDIR,
            TreeError::NoSubtree(_) => Errno::ENOENT,
            // Wrong or missing bytes: whatever the cause, the reader must not go on.
            TreeError::Index(_) | TreeError::Fetch(_) => Errno::EIO,
        }
    }
}
