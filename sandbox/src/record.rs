//! What is known about a run when it is over.

use serde::{Deserialize, Serialize};

use crate::protocol::Note;
use crate::spec::Exit;

/// A part of a run and how long it took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// What was done: `sandbox`, `evaluation`, `build`, `export`.
    pub name: String,
    /// Wall-clock time, in seconds.
    pub seconds: f64,
}

impl Phase {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), seconds: 0.0 }
    }

    /// Times `work`.
    pub(crate) fn time<T>(name: &str, work: impl FnOnce() -> T) -> (Self, T) {
        let started = std::time::Instant::now();
        let result = work();
        (Self { name: name.to_owned(), seconds: started.elapsed().as_secs_f64() }, result)
    }
}

/// How a run of one command went.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// How the command ended.
    pub exit: Exit,
    /// How long making the sandbox and running the command took.
    pub phases: Vec<Phase>,
    /// What the user should know about how the sandbox was made.
    pub notes: Vec<Note>,
}
