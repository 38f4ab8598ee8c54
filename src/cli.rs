//! The one table of commands and flags. Help, man pages, completions and the reference are made of it.

use std::path::PathBuf;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::command;

/// The commands that `seed` and `seed --help` show; `seed help --all` shows the rest.
const FIRST: [&str; 6] = ["pack", "build", "develop", "run", "mount", "doctor"];

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 usage, 3 refused by policy, 4 integrity violation, 70 bug.
A signal undoes what was begun, and then ends the command: 130 for SIGINT in a shell, 143 for SIGTERM.";

/// Nix closures as OCI images that are mounted, not pulled.
#[derive(Debug, Parser)]
#[command(
    name = "seed",
    version,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
    /// What the command is called.
    #[arg(skip)]
    pub(crate) name: String,
}

/// Flags that every command has.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Print data as JSON, one object a line
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub(crate) json: bool,
    /// Say more: once for what is done, twice for details
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet", help_heading = "Everywhere")]
    pub(crate) verbose: u8,
    /// Say nothing but errors and warnings
    #[arg(short, long, global = true, help_heading = "Everywhere")]
    pub(crate) quiet: bool,
    /// How progress and messages are written to standard error
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT", help_heading = "Everywhere")]
    pub(crate) log_format: LogFormat,
    /// Read this configuration, not /etc/nix-seed/config.toml and $XDG_CONFIG_HOME/nix-seed/config.toml
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    pub(crate) config: Option<PathBuf>,
}

/// The form of messages on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Prose, with bars on a terminal
    Text,
    /// One JSON object a line
    Json,
}

/// The commands, in the order in which they are listed.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Pack(Box<command::pack::Args>),
    Build(command::build::Args),
    Develop(command::develop::Args),
    Run(command::run::Args),
    Mount(command::mount::Args),
    Unmount(command::unmount::Args),
    Pull(command::pull::Args),
    Copy(command::copy::Args),
    Inspect(command::inspect::Args),
    Diff(command::diff::Args),
    Check(command::check::Args),
    Verify(command::verify::Args),
    Trace(command::trace::Args),
    Status(command::status::Args),
    Report(command::report::Args),
    Gc(command::gc::Args),
    Doctor(command::doctor::Args),
    Completions(command::completions::Args),
    Man(command::man::Args),
    Help(command::help::Args),
}

/// Parses the command line of this process.
pub(crate) fn parse() -> Result<Cli, clap::Error> {
    let mut matches = first_commands().try_get_matches()?;
    let name = matches.subcommand_name().unwrap_or_default().to_owned();
    Ok(Cli { name, ..Cli::from_arg_matches_mut(&mut matches)? })
}

/// The whole table.
pub(crate) fn table() -> clap::Command {
    Cli::command().after_help(EXIT_CODES)
}

/// The table as a newcomer sees it.
pub(crate) fn first_commands() -> clap::Command {
    let names: Vec<String> = table().get_subcommands().map(|command| command.get_name().to_owned()).collect();
    names
        .into_iter()
        .filter(|name| !FIRST.contains(&name.as_str()))
        .fold(table(), |table, name| table.mut_subcommand(name, |command| command.hide(true)))
        .after_help(format!(
            "`seed help --all` lists every command, `seed help COMMAND` explains one.\n\n{EXIT_CODES}"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        table().debug_assert();
        first_commands().debug_assert();
    }

    #[test]
    fn a_newcomer_sees_six_commands() {
        let shown: Vec<_> = first_commands()
            .get_subcommands()
            .filter(|c| !c.is_hide_set())
            .map(|c| c.get_name().to_owned())
            .collect();
        assert_eq!(shown, FIRST);
    }

    /// Each command has two examples at least, and each of them is a command line that parses.
    #[test]
    fn every_command_has_two_real_examples() {
        let every = |table: &clap::Command| -> Vec<(Vec<String>, clap::Command)> {
            let nested = |command: &clap::Command| {
                let name = command.get_name().to_owned();
                let below = command
                    .get_subcommands()
                    .map(|inner| (vec![name.clone(), inner.get_name().to_owned()], inner.clone()));
                let below: Vec<_> = below.collect();
                std::iter::once((vec![name], command.clone())).chain(below)
            };
            table.get_subcommands().flat_map(nested).collect()
        };
        for (names, command) in every(&table()) {
            let name = names.join(" ");
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples: Vec<_> = help.lines().filter_map(|line| line.strip_prefix("  seed ")).collect();
            assert!(examples.len() >= 2, "{name}: {help}");
            for example in examples {
                let command_line = example.split(" > ").next().unwrap_or(example);
                let words = command_line.split_whitespace();
                let parsed = table().try_get_matches_from(std::iter::once("seed").chain(words));
                match parsed {
                    Ok(matches) => {
                        let mut at = &matches;
                        for name in &names {
                            let (found, inner) = at.subcommand().unwrap();
                            assert_eq!(found, name, "{example}");
                            at = inner;
                        }
                    }
                    Err(error) => panic!("seed {example}: {error}"),
                }
            }
        }
    }

    #[test]
    fn every_flag_has_help() {
        for command in table().get_subcommands() {
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
        }
    }
}
