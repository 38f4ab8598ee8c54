//! The verbs, one file each.

pub(crate) mod build;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod copy;
pub(crate) mod develop;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod gc;
pub(crate) mod help;
pub(crate) mod inspect;
pub(crate) mod man;
pub(crate) mod mount;
pub(crate) mod pack;
pub(crate) mod pull;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod unmount;
pub(crate) mod verify;

use std::process::ExitCode;

use crate::cli::{Cli, Command};
use crate::error::{Exit, Result};
use crate::printer::Printer;
use crate::session::Session;

/// Runs the command that was given. Gives its exit code: for a command that runs another, that one's.
pub(crate) fn dispatch(cli: &Cli, printer: &Printer) -> Result<ExitCode> {
    let session = || Session::new(printer, cli.global.config.as_deref());
    let done = |result: Result<()>| result.map(|()| Exit::Done.into());
    match &cli.command {
        Command::Pack(args) => done(pack::run(&session()?, args)),
        Command::Build(args) => build::run(&session()?, args),
        Command::Develop(args) => develop::run(&session()?, args),
        Command::Run(args) => run::run(&session()?, args),
        Command::Mount(args) => done(mount::run(&session()?, args)),
        Command::Unmount(args) => done(unmount::run(&session()?, args)),
        Command::Pull(args) => done(pull::run(&session()?, args)),
        Command::Copy(args) => done(copy::run(&session()?, args)),
        Command::Inspect(args) => done(inspect::run(&session()?, args)),
        Command::Diff(args) => done(diff::run(&session()?, args)),
        Command::Check(args) => done(check::run(&session()?, args)),
        Command::Verify(args) => done(verify::run(&session()?, args)),
        Command::Status(args) => done(status::run(&session()?, args)),
        Command::Gc(args) => done(gc::run(&session()?, args)),
        Command::Doctor(args) => doctor::run(&session()?, args),
        Command::Completions(args) => done(completions::run(printer, args)),
        Command::Man(args) => done(man::run(printer, args)),
        Command::Help(args) => done(help::run(printer, args)),
    }
}
