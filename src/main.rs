//! `seed`: Nix closures as OCI images that are mounted, not pulled.
//!
//! One file a verb under `command`; what they share is one module a purpose: the table of flags (`cli`),
//! what errors mean to a user (`error`), what is printed where (`printer`), configuration (`config`).

#![forbid(unsafe_code)]

mod cli;
mod command;
mod config;
mod error;
mod nix_settings;
mod printer;
mod project;
mod session;
mod signals;
mod statement;

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use crate::error::Exit;

fn main() -> ExitCode {
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
