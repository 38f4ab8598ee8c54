//! Pure verdicts: from a policy and the evidence that was gathered, to an approval or to every reason
//! against it.
//!
//! Nothing here opens a file or a socket or reads a clock. The caller gathers [`Evidence`], says what
//! time it is, and gets either [`Approved`], which nothing else can make, or a [`Refusal`]. Code that
//! mounts a store for others, or starts a build, takes `&Approved`: so it cannot be reached without a
//! verdict.
//!
//! The three levels are those of [`Level`]. Innocent is judged in full. Credulous and Zero can be named
//! by a policy, and are refused: this version cannot gather the evidence that they ask for, and a lower
//! level is never put in their place.

#![forbid(unsafe_code)]

pub mod commit;
pub mod core;
pub mod evidence;
pub mod keys;
pub mod lock;
pub mod policy;
pub mod source;
pub mod system;
pub mod verdict;

pub use self::core::CoreStatement;
pub use commit::Commit;
pub use evidence::{Ancestry, Evidence, Found, Pin, Project, SeedFacts};
pub use lock::Lock;
pub use policy::{Level, Policy};
pub use source::SourceUri;
pub use system::System;
pub use verdict::{Approved, Reason, Refusal, decide};
