//! The tar streams of layers: POSIX ustar headers, with PAX records where ustar has no room.
//!
//! Source of the format: POSIX.1-2017, `pax`, "ustar Interchange Format" and "pax Header Block". A
//! [`header`] is a pure function of its [`Entry`], so equal trees give equal bytes.

mod header;
mod reader;

pub use header::{BLOCK, END, MODIFICATION_TIME, header, padding};
pub use reader::{Limits, Member, MemberKind, Reader, TarError};

#[cfg(test)]
mod tests;
