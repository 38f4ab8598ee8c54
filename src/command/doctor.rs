//! `seed doctor`.

mod kernel;
mod mounting;
mod probe;

use std::fmt;
use std::process::ExitCode;

use serde::Serialize;

use crate::error::{Exit, Result};
use crate::session::Session;

/// Show what this machine can do, and the command that mends what it cannot
///
/// Ends with exit code 1 where something is missing that every use needs.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed doctor
  seed doctor --json")]
pub(crate) struct Args {}

/// What one probe found.
#[derive(Debug, Serialize)]
struct Finding {
    /// What was looked at.
    name: &'static str,
    state: State,
    /// What is there.
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// Something is slower, or one command cannot be used.
    Warn,
    /// Seeds cannot be mounted or run.
    Fail,
}

impl Finding {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Ok, found: found.into(), fix: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, state: State::Warn, found: found.into(), fix: Some(fix.into()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, state: State::Fail, found: found.into(), fix: Some(fix.into()) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        write!(f, "{state:<4}  {:<17}  {}", self.name, self.found)?;
        match &self.fix {
            Some(fix) => write!(f, "\n{:25}-> {fix}", ""),
            None => Ok(()),
        }
    }
}

pub(crate) fn run(session: &Session<'_>, _args: &Args) -> Result<ExitCode> {
    let findings = probe::all(session);
    for finding in &findings {
        session.printer.data(finding)?;
    }
    let failed = findings.iter().any(|finding| finding.state == State::Fail);
    Ok(if failed { Exit::Failed } else { Exit::Done }.into())
}
