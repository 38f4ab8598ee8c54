//! `seed develop`.

use std::ffi::OsString;
use std::process::ExitCode;

use seed_image::reference::Reference;
use seed_policy::System;
use seed_sandbox::{DevelopRequest, Nix, Stdio};

use crate::error::{Result, ResultExt};
use crate::project::{Installable, Project};
use crate::session::{Ahead, Judge, Session};
use crate::{packing, sandboxes, signals, targets};

/// Open a flake's development shell, or run a command in it, in the project's seed
///
/// The source is at hand and can be written to; the network is not. Ends with the command's exit code.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed develop
  seed develop .#ci --command make test")]
pub(crate) struct Args {
    /// The shell; the default one of the flake here, if none is named
    #[arg(value_name = "FLAKE#ATTR", default_value = ".")]
    shell: String,
    /// Run this and its arguments, not an interactive shell
    #[arg(short, long, num_args = 1.., allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    /// Where the seed is; with a digest, that one is used whatever .seed.lock says
    #[arg(long, value_name = "REF")]
    seed: Option<Reference>,
    /// Commit .seed.lock where a seed had to be packed
    #[arg(long)]
    commit: bool,
    /// Let the shell only read the source
    #[arg(long)]
    read_only: bool,
    /// Set a variable of the environment; again for more
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    #[command(flatten)]
    ahead: Ahead,
    #[command(flatten)]
    judge: Judge,
}

pub(crate) fn run(session: &Session<'_>, args: &Args) -> Result<ExitCode> {
    let Installable { dir, attr } = Installable::parse(&args.shell)?;
    let variables = sandboxes::variables(&args.env)?;
    session.sweep();
    let system = System::current();
    let project = Project::open(&dir)?;
    let (reference, origin) =
        packing::find_or_pack(session, &project, &system, args.seed.as_ref(), &args.judge, args.commit)?;
    let trace = args.ahead.choice(vec![targets::traces_to_develop(attr.as_deref(), &system)]);
    let admitted = sandboxes::admit(session, &args.judge, &reference, origin, Some(&project), trace)?;
    let made_for = targets::of_seed(admitted.opened.seed())?;
    let attribute = targets::to_develop(attr.as_deref(), &made_for, &system);

    let nix = Nix::of_seed(&admitted.opened)?;
    let workspace = super::run::workspace(project.root(), !args.read_only)?;
    let flake = sandboxes::flake(session, &project, admitted.opened.seed())?;
    let mut spec = sandboxes::spec(session, &admitted.opened, Some(workspace), &variables);
    spec.binds.extend(flake.binds.iter().cloned());
    let request = DevelopRequest {
        nix: &nix,
        installable: format!("{}#{attribute}", flake.reference),
        command: args.command.clone(),
        stdio: Stdio::inherit()?,
    };
    let forwarded = signals::forwarded();
    let outcome = seed_sandbox::develop(&admitted.approved, spec, request);
    drop(forwarded);
    let outcome = outcome.context(|| format!("cannot enter a shell in {}", admitted.reference))?;
    session.printer.summary(&sandboxes::report(session, &admitted, &outcome));
    Ok(sandboxes::exit(&outcome))
}
