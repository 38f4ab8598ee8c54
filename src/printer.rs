//! What is printed where: standard output is data, standard error is prose and progress.

mod phase;
mod phases;
mod quantity;

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use seed_image::telemetry::Trace;
use serde::Serialize;
use tracing_subscriber::EnvFilter;

pub(crate) use phase::Phase;
pub(crate) use phases::Phases;
pub(crate) use quantity::{bytes, seconds};

use crate::cli::{Global, LogFormat};
use crate::error::{Error, Exit, OutputClosed, Result};

/// How prose and progress look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// Bars that are redrawn, on a terminal.
    Terminal,
    /// A line for each phase when it ends, where nobody watches.
    Lines,
    /// A JSON object for each line.
    Json,
}

/// The only place that writes to standard output and standard error.
#[derive(Debug, Clone)]
pub(crate) struct Printer {
    shared: Arc<Settings>,
}

#[derive(Debug)]
struct Settings {
    /// Data as JSON lines.
    json: bool,
    style: Style,
    colour: bool,
    /// No prose at all.
    quiet: bool,
    verbose: u8,
    /// What is done, for a collector of traces.
    trace: Trace,
}

impl Printer {
    /// Looks at the flags and at what standard error is, and starts logging.
    pub(crate) fn new(global: &Global) -> Self {
        let watched = io::stderr().is_terminal() && std::env::var_os("CI").is_none();
        let style = match global.log_format {
            LogFormat::Json => Style::Json,
            LogFormat::Text if watched => Style::Terminal,
            LogFormat::Text => Style::Lines,
        };
        let colour = style == Style::Terminal && std::env::var_os("NO_COLOR").is_none();
        let settings = Settings {
            json: global.json,
            style,
            colour,
            quiet: global.quiet,
            verbose: global.verbose,
            trace: begin_trace(),
        };
        let printer = Self { shared: Arc::new(settings) };
        printer.start_log();
        printer
    }

    /// For a process whose standard error is a log: no bars, no colours.
    pub(crate) fn for_log() -> Self {
        let trace = begin_trace();
        let settings =
            Settings { json: false, style: Style::Lines, colour: false, quiet: false, verbose: 1, trace };
        let printer = Self { shared: Arc::new(settings) };
        printer.start_log();
        printer
    }

    /// Sends the libraries' log to standard error: warnings, or more with `-v`.
    fn start_log(&self) {
        let level = match (self.shared.quiet, self.shared.verbose) {
            (true, _) => "error",
            (false, 0) => "warn",
            (false, 1) => "info",
            (false, 2) => "debug",
            (false, _) => "trace",
        };
        let filter = EnvFilter::new(format!("{level},ureq=warn,rustls=warn"));
        let log =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
        // A second subscriber in one process is the only way to fail, and there is one printer.
        let _ = match self.shared.style {
            Style::Json => log.json().try_init(),
            Style::Terminal | Style::Lines => log.with_ansi(self.shared.colour).without_time().try_init(),
        };
    }

    /// Prints one piece of data: its text, or with `--json` one line of JSON.
    pub(crate) fn data<T: Serialize + fmt::Display>(&self, data: &T) -> Result<()> {
        if self.shared.json { self.json(data) } else { write_out(format_args!("{data}\n")) }
    }

    /// Whether people look at standard output, on a screen that can be written over.
    pub(crate) fn is_screen(&self) -> bool {
        !self.shared.json && io::stdout().is_terminal()
    }

    /// Whether data is printed as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.shared.json
    }

    /// Prints one line of JSON.
    pub(crate) fn json(&self, data: &impl Serialize) -> Result<()> {
        write_out(format_args!("{}\n", serde_json::to_string(data)?))
    }

    /// Prints text that has its own form, such as a script for a shell.
    pub(crate) fn text(&self, text: &[u8]) -> Result<()> {
        closed_is_no_failure(io::stdout().write_all(text).and_then(|()| io::stdout().flush()))
    }

    /// Says something to the user, unless `-q` is given.
    pub(crate) fn note(&self, message: impl fmt::Display) {
        if !self.shared.quiet {
            self.say("note", &message);
        }
    }

    /// Says what a command has cost, to those who asked for more (`-v`) or who read lines of JSON.
    pub(crate) fn details<T: Serialize + fmt::Display>(&self, report: &T) {
        if self.shared.verbose > 0 || self.shared.style == Style::Json {
            self.summary(report);
        }
    }

    /// Says what a command has cost, unless `-q` is given.
    pub(crate) fn summary<T: Serialize + fmt::Display>(&self, report: &T) {
        match self.shared.style {
            _ if self.shared.quiet => {}
            Style::Json => self.prose_json(&serde_json::json!({"level": "info", "report": report})),
            Style::Terminal | Style::Lines => write_err(format_args!("{report}\n")),
        }
    }

    /// Warns the user.
    pub(crate) fn warn(&self, message: impl fmt::Display) {
        self.say("warning", &message);
    }

    fn say(&self, level: &str, message: &dyn fmt::Display) {
        match self.shared.style {
            Style::Json => {
                self.prose_json(&serde_json::json!({"level": level, "message": message.to_string()}))
            }
            Style::Terminal | Style::Lines if level == "note" => write_err(format_args!("{message}\n")),
            Style::Terminal | Style::Lines => {
                write_err(format_args!("{}: {message}\n", self.paint(level, "33")))
            }
        }
    }

    fn prose_json(&self, value: &serde_json::Value) {
        write_err(format_args!("{value}\n"));
    }

    /// What was done so far.
    pub(crate) fn trace(&self) -> &Trace {
        &self.shared.trace
    }

    /// Begins a phase of the work; its progress is shown until it ends.
    pub(crate) fn phase(&self, name: &'static str) -> Phase {
        Phase::begin(self.clone(), name)
    }

    /// Reports an error and gives its exit code.
    pub(crate) fn report(&self, error: &Error) -> Exit {
        let exit = error.exit();
        if exit == Exit::Done {
            return exit;
        }
        let causes = error.causes();
        if self.shared.style == Style::Json {
            self.prose_json(&serde_json::json!({
                "level": "error",
                "message": causes.first(),
                "causes": causes.get(1..),
                "reasons": error.refusal().map(|refusal| {
                    refusal.reasons().iter().map(seed_policy::Reason::code).collect::<Vec<_>>()
                }),
                "hints": error.hints(),
                "exit": exit as u8,
            }));
            return exit;
        }
        for (n, cause) in causes.iter().enumerate() {
            match n {
                0 => write_err(format_args!("{}: {cause}\n", self.paint("error", "1;31"))),
                _ => write_err(format_args!("  because: {cause}\n")),
            }
        }
        for hint in error.hints() {
            write_err(format_args!("{}: {hint}\n", self.paint("hint", "36")));
        }
        exit
    }

    fn paint(&self, text: &str, code: &str) -> String {
        if self.shared.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

fn begin_trace() -> Trace {
    Trace::begin("seed", std::env::var("TRACEPARENT").ok().as_deref())
}

fn write_out(arguments: fmt::Arguments<'_>) -> Result<()> {
    closed_is_no_failure(io::stdout().write_fmt(arguments).and_then(|()| io::stdout().flush()))
}

fn closed_is_no_failure(written: io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        other => Ok(other?),
    }
}

/// Where standard error is closed, the user does not want to hear.
fn write_err(arguments: fmt::Arguments<'_>) {
    let _ = io::stderr().write_fmt(arguments);
}
