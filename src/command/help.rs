//! `seed help`.

use crate::cli;
use crate::error::{Result, usage};
use crate::printer::Printer;

/// Explain a command, or list all of them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed help --all
  seed help build")]
pub(crate) struct Args {
    /// The command to explain
    command: Option<String>,
    /// List every command
    #[arg(long, conflicts_with = "command")]
    all: bool,
}

pub(crate) fn run(printer: &Printer, args: &Args) -> Result<()> {
    let mut table = if args.all { cli::table() } else { cli::first_commands() };
    table.build();
    let help = match &args.command {
        None => table.render_long_help(),
        Some(name) => match table.find_subcommand_mut(name) {
            Some(command) => command.render_long_help(),
            None => return Err(usage(format!("there is no command {name:?}: `seed help --all` lists them"))),
        },
    };
    printer.text(help.to_string().as_bytes())
}
