//! What a case has seen.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;

use rustix::io::Errno;

/// Observations by what was done.
#[derive(Debug, Default)]
pub(crate) struct Seen(BTreeMap<String, String>);

impl Seen {
    /// Notes what came of a system call.
    pub(crate) fn call<T: Debug>(&mut self, what: impl Into<String>, result: Result<T, Errno>) {
        let result = match result {
            Ok(value) => format!("{value:?}"),
            Err(error) => {
                format!("{:?}", io::Error::from(error).kind()) + &format!(" {}", error.raw_os_error())
            }
        };
        self.note(what, result);
    }

    /// The same, where only its failure matters.
    pub(crate) fn done<T>(&mut self, what: impl Into<String>, result: Result<T, Errno>) {
        self.call(what, result.map(drop));
    }

    /// Notes a value.
    pub(crate) fn note(&mut self, what: impl Into<String>, value: impl Debug) {
        let value = format!("{value:?}").trim_matches('"').to_owned();
        let what = what.into();
        assert!(self.0.insert(what.clone(), value).is_none(), "{what} is seen twice");
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter()
    }

    pub(crate) fn get(&self, what: &str) -> Option<&str> {
        self.0.get(what).map(String::as_str)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What the last call of libc gave: -1 is an error.
pub(crate) fn of_libc<T: PartialEq + From<i8>>(value: T) -> Result<T, Errno> {
    if value == T::from(-1) {
        return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap());
    }
    Ok(value)
}
