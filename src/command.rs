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
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod trace;
pub(crate) mod unmount;
pub(crate) mod verify;

use std::process::ExitCode;

use crate::cli::{Cli, Command};
use crate::error::{Exit, Result};
use crate::printer::Printer;
use crate::session::Session;

/// Runs the command that was given. Gives its exit code: for a command that runs another, that one's.
pub(crate) fn dispatch(cli: &Cli, printer: &Printer) -> Result<ExitCode> {
    let done = |result: Result<()>| result.map(|()| Exit::Done.into());
    match &cli.command {
        Command::Completions(args) => done(completions::run(printer, args)),
        Command::Man(args) => done(man::run(printer, args)),
        Command::Help(args) => done(help::run(printer, args)),
        command => {
            let session = Session::new(printer, cli.global.config.as_deref())?;
            let result = run(&session, command);
            session.send_trace(&cli.name, result.as_ref().err());
            result
        }
    }
}

fn run(session: &Session<'_>, command: &Command) -> Result<ExitCode> {
    match command {
        Command::Build(args) => return build::run(session, args),
        Command::Develop(args) => return develop::run(session, args),
        Command::Run(args) => return run::run(session, args),
        Command::Doctor(args) => return doctor::run(session, args),
        Command::Trace(args) => return trace::run(session, args),
        Command::Pack(args) => pack::run(session, args),
        Command::Mount(args) => mount::run(session, args),
        Command::Unmount(args) => unmount::run(session, args),
        Command::Pull(args) => pull::run(session, args),
        Command::Copy(args) => copy::run(session, args),
        Command::Inspect(args) => inspect::run(session, args),
        Command::Diff(args) => diff::run(session, args),
        Command::Check(args) => check::run(session, args),
        Command::Verify(args) => verify::run(session, args),
        Command::Status(args) => status::run(session, args),
        Command::Report(args) => report::run(session, args),
        Command::Gc(args) => gc::run(session, args),
        Command::Completions(_) | Command::Man(_) | Command::Help(_) => Ok(()),
    }?;
    Ok(Exit::Done.into())
}
