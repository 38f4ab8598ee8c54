//! `seed`: Nix closures as OCI images that are mounted, not pulled.
//!
//! One file a verb under `command`; what they share is one module a purpose: the table of flags (`cli`),
//! what errors mean to a user (`error`), what is printed where (`printer`), configuration (`config`).

#![forbid(unsafe_code)]

mod cli;
mod command;
mod config;
mod error;
mod gate;
mod nix_settings;
mod packing;
mod printer;
mod project;
mod session;
mod signals;
mod statement;

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use crate::error::Exit;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == command::mount::SERVE_ARGUMENT) {
        return serve_mount();
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
    match signals::install().and_then(|()| command::dispatch(&cli, &printer)) {
        Ok(code) => code,
        Err(error) => printer.report(&error).into(),
    }
}

/// The process that serves what `seed mount` has mounted. Its standard error is the mount's log.
fn serve_mount() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_target(false).init();
    match seed_fuse::mount::run_detached() {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            // The command that asked has been told; this is for the log.
            let error = error::Error::from(error);
            tracing::error!("{}", error.causes().join(": "));
            error.exit().into()
        }
    }
}
