//! `seed`: Nix closures as OCI images that are mounted, not pulled.
//!
//! One file a verb under `command`; what they share is one module a purpose: the table of flags (`cli`),
//! what errors mean to a user (`error`), what is printed where (`printer`), configuration (`config`).

#![forbid(unsafe_code)]

mod checking;
mod cli;
mod command;
mod config;
mod destinations;
mod error;
mod gate;
mod nix_settings;
mod packing;
mod page;
mod place;
mod printer;
mod project;
mod report;
mod sandboxes;
mod session;
mod signals;
mod statement;
mod targets;
mod temporary;

use std::ffi::OsStr;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use crate::error::Exit;

fn main() -> ExitCode {
    if let Some(end) = seed_fuse::mount::keep_if_asked() {
        return end;
    }
    seed_sandbox::main_if_init();
    let mut hidden = std::env::args_os().skip(1);
    if hidden.next().is_some_and(|argument| argument == command::mount::SERVE_ARGUMENT) {
        return serve_mount(&hidden.next().unwrap_or_default());
    }
    error::install_panic_message();
    // A panic is caught only to give it its exit code: nothing is used after it.
    panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Exit::Bug.into())
}

fn run() -> ExitCode {
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(error) => return error::report_usage(&error),
    };
    let printer = printer::Printer::new(&cli.global);
    let result = signals::install().and_then(|()| command::dispatch(&cli, &printer));
    signals::wait_if_interrupted();
    match result {
        Ok(code) => code,
        Err(error) => {
            let exit = printer.report(&error);
            if let Some(signal) = error.signal() {
                signals::die_of(signal);
            }
            exit.into()
        }
    }
}

/// The process that serves what `seed mount` has mounted.
fn serve_mount(terms: &OsStr) -> ExitCode {
    match command::mount::serve(terms) {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            // The command that asked has been told; this is for the log.
            tracing::error!("{}", error.causes().join(": "));
            error.exit().into()
        }
    }
}
