//! `seed man`: the manual, made of the table of commands.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use clap::ValueEnum;
use clap_mangen::Man;

use crate::cli;
use crate::error::{Result, ResultExt, usage};
use crate::printer::Printer;

/// Columns of the reference.
const WIDTH: usize = 100;

/// Print the manual, or write a page for each command
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed man --to /usr/local/share/man/man1
  seed man --format markdown > docs/reference.md")]
pub(crate) struct Args {
    /// Write a page for each command into this directory
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Roff for `man`, or one Markdown document
    #[arg(long, value_enum, default_value_t = Format::Roff)]
    format: Format,
}

/// The form of the manual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Pages for `man`
    Roff,
    /// One Markdown document
    Markdown,
}

pub(crate) fn run(printer: &Printer, args: &Args) -> Result<()> {
    match (args.format, &args.to) {
        (Format::Markdown, None) => printer.text(markdown().as_bytes()),
        (Format::Markdown, Some(_)) => {
            Err(usage("--to writes a page for each command: it goes with --format roff"))
        }
        (Format::Roff, None) => {
            let mut page = Vec::new();
            Man::new(cli::table()).render(&mut page)?;
            printer.text(&page)
        }
        (Format::Roff, Some(dir)) => {
            let context = || format!("cannot write pages into {}", dir.display());
            fs::create_dir_all(dir).context(context)?;
            clap_mangen::generate_to(cli::table(), dir).context(context)
        }
    }
}

/// Every command with its help, as `seed help COMMAND` prints it.
fn markdown() -> String {
    let mut page = Vec::new();
    let written = write_markdown(&mut page);
    written.expect("writing to memory does not fail");
    String::from_utf8(page).expect("help is text")
}

fn write_markdown(page: &mut impl Write) -> std::io::Result<()> {
    writeln!(page, "# Reference\n\nMade by `seed man --format markdown`; a test keeps it in step.\n")?;
    writeln!(page, "```\n{}\n```", help(cli::table()))?;
    for command in cli::table().get_subcommands() {
        let name = format!("seed {}", command.get_name());
        // Not built as a part of the table, so without the flags that every command has.
        writeln!(page, "\n## {name}\n\n```\n{}\n```", help(command.clone().bin_name(&name)))?;
        for inner in command.get_subcommands() {
            let name = format!("{name} {}", inner.get_name());
            writeln!(page, "\n### {name}\n\n```\n{}\n```", help(inner.clone().bin_name(&name)))?;
        }
    }
    Ok(())
}

/// The help of a command, not as wide as the terminal happens to be.
fn help(command: clap::Command) -> String {
    let help = command.term_width(WIDTH).render_long_help().to_string();
    let lines: Vec<_> = help.lines().map(str::trim_end).collect();
    lines.join("\n").trim_end().to_owned()
}
