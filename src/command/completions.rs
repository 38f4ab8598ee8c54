//! `seed completions`.

use clap_complete::Shell;

use crate::cli;
use crate::error::Result;
use crate::printer::Printer;

/// Print a script that completes commands and flags in a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed completions bash > /etc/bash_completion.d/seed
  seed completions fish > ~/.config/fish/completions/seed.fish")]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(printer: &Printer, args: &Args) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::table(), "seed", &mut script);
    printer.text(&script)
}
