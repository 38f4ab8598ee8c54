//! What errors mean to a user: an exit code, the chain of causes once, and hints.

use std::fmt;
use std::process::ExitCode;

use seed_format::index::{CheckError, IndexError};
use seed_fuse::fetch::FetchError;
use seed_fuse::index::IndexFault;
use seed_fuse::mount::{Failure, MountError, OpenError};
use seed_image::manifest::ManifestError;
use seed_image::pack::PackError;
use seed_image::seed::SeedError;
use seed_image::transport::TransportError;
use seed_image::verify::VerifyError;
use seed_policy::Refusal;
use seed_policy::policy::PolicyError;
use seed_sandbox::SandboxError;

use crate::config::ConfigError;

/// The exit codes of every program of this project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done; also when the reader of our output has gone.
    Done = 0,
    /// It did not work.
    Failed = 1,
    /// The command line, the configuration or the policy file cannot be meant.
    Usage = 2,
    /// The policy refuses.
    Refused = 3,
    /// Bytes are not what their digest says, or a format is malformed.
    Integrity = 4,
    /// A bug of ours.
    Bug = 70,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        // The discriminants are the codes; the largest is 70.
        ExitCode::from(exit as u8)
    }
}

/// An error on its way to the user.
///
/// Any library error becomes one by `?`. Its meaning is sorted out once, when it is reported.
#[derive(Debug)]
pub(crate) struct Error {
    chain: anyhow::Error,
    hints: Vec<String>,
}

/// A result whose error goes to the user.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        Self { chain: error.into(), hints: Vec::new() }
    }
}

/// What the user asked for cannot be meant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(String);

/// A failure that no library reports.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(String);

/// Whoever read our output has gone.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
pub(crate) struct OutputClosed;

/// An error that ends with [`Exit::Usage`].
pub(crate) fn usage(message: impl Into<String>) -> Error {
    Usage(message.into()).into()
}

/// An error that ends with [`Exit::Failed`].
pub(crate) fn failed(message: impl Into<String>) -> Error {
    Failed(message.into()).into()
}

/// Says what was being done, and what to do next, when something fails.
pub(crate) trait ResultExt<T> {
    /// Adds what was being done, in front of the cause.
    fn context<M: fmt::Display + Send + Sync + 'static>(self, message: impl FnOnce() -> M) -> Result<T>;

    /// Adds what the user can do.
    fn hint(self, hint: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<Error>> ResultExt<T> for std::result::Result<T, E> {
    fn context<M: fmt::Display + Send + Sync + 'static>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|error| {
            let Error { chain, hints } = error.into();
            Error { chain: chain.context(message()), hints }
        })
    }

    fn hint(self, hint: impl Into<String>) -> Result<T> {
        self.map_err(|error| {
            let mut error = error.into();
            error.hints.push(hint.into());
            error
        })
    }
}

impl Error {
    /// The exit code: that of the first cause that has one of its own.
    pub(crate) fn exit(&self) -> Exit {
        self.chain.chain().find_map(exit_of).unwrap_or(Exit::Failed)
    }

    /// The message and its causes, outermost first.
    pub(crate) fn causes(&self) -> Vec<String> {
        let mut causes: Vec<String> = self.chain.chain().map(ToString::to_string).collect();
        causes.dedup();
        causes
    }

    /// What the user can do: what the command said, then what is known of the causes.
    pub(crate) fn hints(&self) -> Vec<String> {
        let known = self.chain.chain().filter_map(hint_of).map(str::to_owned);
        let mut hints: Vec<String> = self.hints.iter().cloned().chain(known).collect();
        hints.dedup();
        hints
    }

    /// The signal that ended the work, where one did.
    pub(crate) fn signal(&self) -> Option<i32> {
        self.chain.chain().find_map(|cause| match cause.downcast_ref()? {
            SandboxError::Interrupted { signal } => Some(*signal),
            _ => None,
        })
    }

    /// The refusal, where a policy refused.
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        self.chain.chain().find_map(|cause| cause.downcast_ref())
    }
}

/// The one table from library errors to exit codes.
fn exit_of(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    let is_usage = cause.is::<Usage>() || cause.is::<ConfigError>();
    let is_integrity = cause.is::<IndexError>()
        || cause.is::<CheckError>()
        || cause.is::<ManifestError>()
        || transport_error(cause).is_some_and(TransportError::is_integrity)
        || cause.downcast_ref().is_some_and(OpenError::is_integrity)
        || cause.downcast_ref().is_some_and(IndexFault::is_integrity)
        || cause.downcast_ref().is_some_and(SeedError::is_integrity)
        || matches!(cause.downcast_ref(), Some(PackError::NarHash { .. }))
        || matches!(cause.downcast_ref(), Some(SandboxError::OutputHash { .. }))
        || cause.downcast_ref().is_some_and(FetchError::is_integrity);
    if let Some(error) = cause.downcast_ref::<MountError>() {
        return match error.failure() {
            // What it was is found further down.
            Failure::Failed => None,
            Failure::Refused => Some(Exit::Refused),
            Failure::Integrity => Some(Exit::Integrity),
        };
    }
    if let Some(error) = cause.downcast_ref::<VerifyError>() {
        return match error {
            // What these are is found further down.
            VerifyError::Seed(_) | VerifyError::Transport(_) => None,
            VerifyError::Blob { source, .. } if TransportError::in_io(source).is_some() => None,
            _ => Some(Exit::Integrity),
        };
    }
    if cause.is::<OutputClosed>() {
        Some(Exit::Done)
    } else if is_usage {
        Some(Exit::Usage)
    } else if is_integrity {
        Some(Exit::Integrity)
    } else if cause.is::<Refusal>() {
        Some(Exit::Refused)
    } else {
        match cause.downcast_ref()? {
            PolicyError::OtherLevel { .. } => Some(Exit::Refused),
            PolicyError::Syntax(_) | PolicyError::UnknownKey(_) | PolicyError::TooLong { .. } => {
                Some(Exit::Usage)
            }
        }
    }
}

/// The transport's error, which a reader of a blob gives inside an [`std::io::Error`].
fn transport_error<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a TransportError> {
    cause.downcast_ref().or_else(|| TransportError::in_io(cause.downcast_ref()?))
}

/// The one table from library errors to hints.
fn hint_of(cause: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    if let Some(error) = transport_error(cause) {
        return match error {
            error if error.is_integrity() => Some(
                "these bytes are not what they should be: tell whoever runs the registry, and try a mirror",
            ),
            error if error.is_denied() => {
                Some("log in with `docker login` or `podman login`, whose files are read")
            }
            TransportError::Unnamed { .. } => Some("`oci:DIR:TAG` or `oci:DIR@sha256:…`"),
            _ => None,
        };
    }
    match cause.downcast_ref() {
        Some(SeedError::NoIndex(_)) => {
            return Some("make a seed with `seed pack`: other images cannot be mounted");
        }
        Some(SeedError::Version { .. }) => {
            return Some("use the version of seed that packed it, or a later one");
        }
        _ => {}
    }
    match cause.downcast_ref::<std::io::Error>()?.kind() {
        std::io::ErrorKind::StorageFull => Some("free some disk space: `seed gc` bounds the cache"),
        _ => None,
    }
}

/// Prints what clap has to say: help to standard output, usage errors to standard error.
pub(crate) fn report_usage(error: &clap::Error) -> ExitCode {
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Nothing but `seed` was typed: that is a question, not a mistake.
        let _ = std::io::Write::write_all(&mut std::io::stdout(), error.render().to_string().as_bytes());
        return Exit::Done.into();
    }
    // Whoever asked for help and closed the pipe has seen enough.
    let _ = error.print();
    if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() }
}

/// Makes every panic say that it is a bug and what to report.
pub(crate) fn install_panic_message() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        let message = concat!(
            "\nThis is a bug in seed ",
            env!("CARGO_PKG_VERSION"),
            ". Please report it with the lines above and the command that you ran.\n"
        );
        // Standard error may be closed; there is nowhere else to say it.
        let _ = std::io::Write::write_all(&mut std::io::stderr(), message.as_bytes());
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] Usage);

    #[test]
    fn the_exit_code_is_found_down_the_chain() {
        let error = Err::<(), _>(Outer(Usage("inner".into()))).context(|| "doing").unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
        assert_eq!(error.causes(), ["doing", "outer", "inner"]);
        assert_eq!(failed("x").exit(), Exit::Failed);
        assert_eq!(Error::from(OutputClosed).exit(), Exit::Done);
    }

    #[test]
    fn hints_are_collected() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = Err::<(), _>(full).hint("first").context(|| "writing").unwrap_err();
        assert_eq!(error.hints(), ["first", "free some disk space: `seed gc` bounds the cache"]);
    }
}
