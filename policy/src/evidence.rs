//! What a caller has gathered about a seed and about the project that wants to use it.

use seed_format::Digest;

use crate::core::{CoreError, CoreStatement};
use crate::{Commit, SourceUri, System};

/// What names the seed that is about to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pin {
    /// The project's `.seed.lock` records the digest.
    Lock(Digest),
    /// The user wrote the digest.
    Reference(Digest),
    /// This very command has packed the seed, so its digest is known without asking anybody.
    Packed(Digest),
    /// A tag, which may name another seed tomorrow.
    Tag {
        /// The tag.
        tag: String,
        /// Whether the user said that a tag will do, this time.
        allowed: bool,
    },
}

impl Pin {
    /// The digest that is named, if one is.
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::Lock(digest) | Self::Reference(digest) | Self::Packed(digest) => Some(*digest),
            Self::Tag { .. } => None,
        }
    }
}

/// What the seed says of itself: parts of the image configuration, which its digest binds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeedFacts {
    /// The system that the seed is for.
    pub system: Option<System>,
    /// Digest of the `flake.lock` that it was made from.
    pub flake_lock: Option<Digest>,
}

/// What is known of the project that the seed will build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// Where its source is kept. `None` where there is no repository to ask.
    pub source: Option<SourceUri>,
    /// The commit that is checked out.
    pub head: Option<Commit>,
    /// Digest of the bytes of its `flake.lock`; of no bytes where there is no such file.
    pub flake_lock: Digest,
}

/// Whether a statement's commit lies in the history of the project's HEAD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ancestry {
    /// It is HEAD or an ancestor of HEAD.
    Ancestor,
    /// The whole history is there and the commit is not in it.
    NotAncestor,
    /// The history is not all there, or could not be read.
    Unknown {
        /// What is missing, in words for the user.
        why: String,
    },
}

/// A core statement that was found for the seed.
#[derive(Debug)]
pub struct Found {
    /// Digest of the statement's bytes.
    pub digest: Digest,
    /// The statement, or why its bytes are not one.
    pub statement: Result<CoreStatement, CoreError>,
    /// How its commit relates to the project's HEAD; not looked at without a project.
    pub ancestry: Ancestry,
}

impl Found {
    /// Reads a statement; `ancestry` is asked about its commit, if it is one.
    pub fn read(text: &[u8], ancestry: impl FnOnce(&Commit) -> Ancestry) -> Self {
        let statement = CoreStatement::parse(text);
        let ancestry = match &statement {
            Ok(statement) => ancestry(&statement.commit),
            Err(_) => Ancestry::Unknown { why: "the statement cannot be read".into() },
        };
        Self { digest: Digest::of(text), statement, ancestry }
    }
}

/// All that a verdict is made from, except the policy and the time.
#[derive(Debug)]
pub struct Evidence {
    /// What names the seed.
    pub pin: Pin,
    /// SHA-256 of the manifest that the transport gave.
    pub resolved: Digest,
    /// The system that the seed will run on.
    pub system: System,
    /// What the seed says of itself.
    pub seed: SeedFacts,
    /// The project, where there is one: `seed mount` and `seed run` work without.
    pub project: Option<Project>,
    /// Every core statement that was found for the seed.
    pub statements: Vec<Found>,
}

impl Evidence {
    /// The least evidence there can be: a name and what it resolved to, on this machine.
    pub fn new(pin: Pin, resolved: Digest) -> Self {
        Self {
            pin,
            resolved,
            system: System::current(),
            seed: SeedFacts::default(),
            project: None,
            statements: Vec::new(),
        }
    }
}
