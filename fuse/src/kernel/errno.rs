//! Which error of the tree is which errno. There is no other such table.

use rustix::io::Errno;

use crate::tree::TreeError;

impl From<TreeError> for Errno {
    fn from(error: TreeError) -> Self {
        Self::from(&error)
    }
}

impl From<&TreeError> for Errno {
    fn from(error: &TreeError) -> Self {
        match error {
            TreeError::NotDirectory(_) => Errno::NOTDIR,
            TreeError::NameTooLong(_) => Errno::NAMETOOLONG,
            TreeError::NotSymlink(_) => Errno::INVAL,
            TreeError::NotFile(_) => Errno::ISDIR,
            TreeError::NoSubtree(_) => Errno::NOENT,
            // Wrong or missing bytes: whatever the cause, the reader must not go on.
            TreeError::Index(_) | TreeError::Fetch(_) => Errno::IO,
        }
    }
}
