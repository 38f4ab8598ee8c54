//! `seed trace record`.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use seed_format::trace::{MAX_TARGET_LEN, Trace};
use seed_image::reference::Reference;
use seed_image::transport::Transport;
use seed_sandbox::Stdio;

use super::Told;
use crate::command::run::workspace;
use crate::error::{Exit, Result, ResultExt, failed, usage};
use crate::gate::Origin;
use crate::project::{Installable, Project};
use crate::session::{Ahead, Judge, Session};
use crate::{checking, sandboxes, signals};

/// Record what is read of a seed
///
/// By a command in the seed; or, where none is named, by each output that the seed was made for, as `seed check`
/// builds and enters it. Ends with the command's exit code.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed trace record oci:./seeds:main --allow-tag --output make.trace -- make --version
  seed trace record ghcr.io/acme/app.seed:main --allow-tag --target develop --push")]
pub(super) struct Args {
    /// The seed
    #[arg(value_name = "REF")]
    seed: Reference,
    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    /// Only these outputs (`develop`, `build hello`); or what the trace of the command is called
    #[arg(long, value_name = "TARGET")]
    target: Vec<String>,
    /// The directory of the flake, whose outputs are built
    #[arg(long, value_name = "FLAKE", default_value = ".")]
    flake: String,
    /// Show this directory at /workspace, and start the command there
    #[arg(long, value_name = "DIR", requires = "command")]
    workspace: Option<PathBuf>,
    /// Write the trace to this file; several into this directory
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Put the traces beside the seed
    #[arg(long)]
    push: bool,
    #[command(flatten)]
    judge: Judge,
}

pub(super) fn run(session: &Session<'_>, args: &Args) -> Result<ExitCode> {
    session.sweep();
    if !args.command.is_empty() {
        return of_command(session, args);
    }
    let project = Project::open(&Installable::parse(&args.flake)?.dir)?;
    let recorded = checking::record(session, &project, &args.seed, &args.judge, &args.target)?;
    if recorded.traces.is_empty() {
        return Err(failed(format!("{} names no such outputs", args.seed)));
    }
    if let Some(directory) = &args.output {
        fs::create_dir_all(directory).context(|| format!("cannot make {}", directory.display()))?;
    }
    for trace in &recorded.traces {
        let file = args.output.as_ref().map(|directory| directory.join(file_name(&trace.target)));
        keep(session, args, recorded.transport.as_ref(), trace, file)?;
    }
    Ok(Exit::Done.into())
}

fn of_command(session: &Session<'_>, args: &Args) -> Result<ExitCode> {
    let target = match args.target.as_slice() {
        [] => command_target(&args.command),
        [target] => target.clone(),
        _ => return Err(usage("the trace of a command has one target")),
    };
    let workspace = args.workspace.as_deref().map(|dir| workspace(dir, false)).transpose()?;
    let directory = if workspace.is_some() { seed_sandbox::WORKSPACE } else { "/" };
    let trace = Ahead::default().choice_or_all();
    let admitted = sandboxes::admit(session, &args.judge, &args.seed, Origin::Written, None, trace)?;
    let spec = sandboxes::spec(session, &admitted.opened, workspace, &Default::default());
    let command = seed_sandbox::Command::new(args.command.iter().cloned());
    let command = command.directory(directory).stdio(Stdio::inherit()?);
    admitted.opened.restart_recording();
    let forwarded = signals::forwarded();
    let outcome = seed_sandbox::run(&admitted.approved, &spec, command);
    drop(forwarded);
    let outcome = outcome.hint("`seed doctor` shows what this machine can do")?;
    let trace = admitted.opened.trace(&target);
    session.printer.details(&sandboxes::report(session, &admitted, &outcome));
    keep(session, args, admitted.transport.as_ref(), &trace, args.output.clone())?;
    Ok(sandboxes::exit(&outcome))
}

/// Writes, puts beside the seed, and tells of a trace.
fn keep(
    session: &Session<'_>,
    args: &Args,
    transport: &dyn Transport,
    trace: &Trace,
    file: Option<PathBuf>,
) -> Result<()> {
    let mut told = Told::of(trace)?;
    if let Some(file) = file {
        fs::write(&file, trace.to_bytes()?).context(|| format!("cannot write {}", file.display()))?;
        told.file = Some(file);
    }
    if args.push {
        checking::put_beside(session, transport, &trace.seed, std::slice::from_ref(trace))?;
    }
    told.pushed = Some(args.push);
    session.printer.data(&told)
}

/// `command` and its words, as much of them as a target may have.
fn command_target(command: &[OsString]) -> String {
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    let text: String = format!("command {}", words.join(" "))
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .scan(0, |len, c| {
            *len += c.len_utf8();
            (*len <= MAX_TARGET_LEN).then_some(c)
        })
        .collect();
    text
}

/// `build packages.x86_64-linux.hello` is `build-packages.x86_64-linux.hello.trace`.
fn file_name(target: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_+".contains(c) { c } else { '-' };
    let name: String = target.chars().map(plain).take(200).collect();
    format!("{name}.trace")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_files_have_plain_names() {
        assert_eq!(command_target(&["make".into(), "a\nb".into()]), "command make a b");
        assert_eq!(command_target(&["é".repeat(2000).into()]).len(), MAX_TARGET_LEN);
        assert_eq!(file_name("build a.b/c"), "build-a.b-c.trace");
    }
}
