//! `seed pack`.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use regex::bytes::{Regex, RegexBuilder};
use seed_format::StorePath;
use seed_image::capture;
use seed_image::manifest::{Empty, RunConfig};
use seed_image::reference::Reference;
use seed_image::rootfs::Additions;
use seed_policy::System;

use crate::error::{Result, ResultExt, usage};
use crate::packing::{ProjectPack, Shape};
use crate::project::{Installable, Project};
use crate::session::Session;
use crate::{packing, place, sandboxes};

/// Pack a project's closure, or plain store paths, into a seed
///
/// Prints the seed's reference with its digest, alone, on standard output.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed pack --to oci:./seeds:main --lock
  seed pack --attr packages.x86_64-linux.default --to ghcr.io/acme/app.seed:main
  seed pack --paths /nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60 --to oci:./tools")]
pub(crate) struct Args {
    /// The directory of the flake
    #[arg(default_value = ".", value_name = "FLAKE")]
    flake: String,
    /// An output that the seed must be able to build; again for more. All of the flake's, if none is named
    #[arg(long, value_name = "ATTR")]
    attr: Vec<String>,
    /// The system that the seed is for; this machine's, if none is named
    #[arg(long, value_name = "SYSTEM")]
    system: Option<System>,
    /// Where the seed goes: oci:DIR[:TAG] or HOST/REPOSITORY[:TAG]
    #[arg(long, value_name = "DEST")]
    to: Option<Reference>,
    /// Record the digest in the project's .seed.lock
    #[arg(long)]
    lock: bool,
    /// Do not prove that the seed can build the outputs
    #[arg(long)]
    no_check: bool,
    /// Also write the seed's core statement to this file
    #[arg(long, value_name = "FILE")]
    statement: Option<PathBuf>,
    #[command(flatten)]
    what: Paths,
    #[command(flatten)]
    layers: Layers,
    #[command(flatten)]
    root: Root,
    #[command(flatten)]
    image: Image,
}

/// Plain store paths instead of a flake.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Plain store paths")]
pub(crate) struct Paths {
    /// Pack these store paths and what they refer to, not a flake
    #[arg(long, num_args = 1.., value_name = "PATH", conflicts_with_all = ["flake", "attr", "lock", "statement"])]
    paths: Vec<PathBuf>,
    /// Pack the store paths that this file lists, one a line; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["flake", "attr", "lock", "statement"])]
    paths_from: Option<PathBuf>,
    /// Put this Nix into the seed too, so that it can build and be entered: a store path, or auto for the one
    /// on PATH
    #[arg(long, value_name = "PATH|auto", conflicts_with_all = ["flake", "attr", "lock", "statement"])]
    nix: Option<String>,
    /// Read the store below this directory: ROOT/nix/store
    #[arg(long, value_name = "ROOT")]
    store: Option<PathBuf>,
}

/// How the layers are made.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Layers")]
pub(crate) struct Layers {
    /// The zstd level, 1 to 19
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(i32).range(1..=19))]
    level: Option<i32>,
    /// The most layers that the image may have
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(4..=1000))]
    max_layers: Option<u16>,
}

/// What a container sees beside the store.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Root file system")]
pub(crate) struct Root {
    /// Lay the seed above this image, whose files containers see, and whose configuration counts where no
    /// flag says otherwise. A mounted seed has nothing of it
    #[arg(long, value_name = "REF")]
    from_image: Option<Reference>,
    /// Lay the tree of this store path over the root, as links into the store; again for more
    #[arg(long, value_name = "PATH")]
    copy_to_root: Vec<StorePath>,
    /// Set the permission bits of directories and files outside of the store whose path matches; again for
    /// more. A file of --copy-to-root becomes a copy by that
    #[arg(long, value_name = "REGEX=MODE", value_parser = parse_mode)]
    perms: Vec<(Regex, u16)>,
}

/// What the image runs when it is run as any other.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Image configuration")]
pub(crate) struct Image {
    /// A word of the entry point; again for each word
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    entrypoint: Vec<String>,
    /// A word of the default command; again for each word
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    cmd: Vec<String>,
    /// A variable of the environment; again for more
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// The working directory
    #[arg(long, value_name = "DIR")]
    workdir: Option<String>,
    /// The user, by name or number
    #[arg(long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// A label; again for more
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// A port that it listens on; again for more
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    port: Vec<String>,
    /// A directory for data that outlives the container; again for more
    #[arg(long, value_name = "DIR")]
    volume: Vec<String>,
}

pub(crate) fn run(session: &Session<'_>, args: &Args) -> Result<()> {
    session.sweep();
    let system = args.system.clone().unwrap_or_else(System::current);
    let Root { from_image, copy_to_root, perms } = &args.root;
    let shape = Shape {
        level: args.layers.level,
        max_layers: args.layers.max_layers.map(usize::from),
        run: args.image.config()?,
        base: from_image.clone(),
        additions: Additions { trees: copy_to_root.clone(), modes: perms.clone() },
    };
    let packed = if args.what.is_given() {
        let to = args
            .to
            .clone()
            .ok_or_else(|| usage("say where the seed goes: --to oci:DIR or --to HOST/REPOSITORY"))?;
        packing::check_destination(&to)?;
        let root = args.what.store.clone().unwrap_or_else(|| "/".into());
        let mut paths = args.what.store_paths()?;
        paths.extend(copy_to_root.iter().filter(|path| !paths.contains(path)).cloned().collect::<Vec<_>>());
        let context = || format!("cannot read the store of {}", root.display());
        let (closure, labels) = match args.what.nix()? {
            None => (capture::paths(&paths, &root).context(context)?, BTreeMap::new()),
            Some(nix) => {
                let closure = capture::paths_with_nix(&paths, &root, &nix).context(context)?;
                (closure, packing::nix_labels(&nix))
            }
        };
        let transport = session.open(&to.location)?;
        packing::pack(session, &closure, &system, labels, &shape, &to, transport.as_ref())?
    } else {
        if args.what.nix.is_some() {
            return Err(usage("--nix goes with --paths: the seed of a flake always has a Nix"));
        }
        let project = Project::open(&Installable::parse(&args.flake)?.dir)?;
        let to = place::repository(session, &project, args.to.as_ref())?;
        let request = ProjectPack {
            attributes: args.attr.clone(),
            check: !args.no_check,
            system,
            store: args.what.store.as_ref().map(|root| root.to_string_lossy().into_owned()),
            shape,
            to,
            statement: args.statement.as_deref(),
            lock: args.lock,
        };
        packing::pack_project(session, &project, &request)?
    };
    session.printer.data(&packed)
}

/// `REGEX=MODE`, the mode in octal digits.
fn parse_mode(text: &str) -> std::result::Result<(Regex, u16), String> {
    let (pattern, mode) = text.rsplit_once('=').ok_or("write REGEX=MODE")?;
    let mode = u16::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o7777);
    let mode = mode.ok_or("the mode is up to four octal digits, such as 0755")?;
    let pattern = RegexBuilder::new(pattern).unicode(false).build().map_err(|error| error.to_string())?;
    Ok((pattern, mode))
}

impl Paths {
    fn is_given(&self) -> bool {
        !self.paths.is_empty() || self.paths_from.is_some()
    }

    /// The Nix that the seed is to bring.
    fn nix(&self) -> Result<Option<StorePath>> {
        match self.nix.as_deref() {
            None => Ok(None),
            Some("auto") => {
                let nix = capture::Nix::find()?;
                match nix.store_path() {
                    Some(path) => Ok(Some(path)),
                    None => Err(usage(format!("{} is not in the Nix store", nix.program().display())))
                        .hint("name the store path of a Nix: --nix /nix/store/…-nix-2.26.3"),
                }
            }
            Some(text) => Ok(Some(text.parse::<StorePath>().map_err(|error| usage(error.to_string()))?)),
        }
    }

    /// The paths of the command line and of the file, each as it stands in the store.
    fn store_paths(&self) -> Result<Vec<StorePath>> {
        let mut texts: Vec<String> =
            self.paths.iter().map(|path| path.to_string_lossy().into_owned()).collect();
        if let Some(file) = &self.paths_from {
            let context = || format!("cannot read {}", file.display());
            let text = match file.to_str() {
                Some("-") => io::read_to_string(io::stdin()).context(context)?,
                _ => std::fs::read_to_string(file).context(context)?,
            };
            texts.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
        }
        let paths =
            texts.iter().map(|text| text.parse::<StorePath>().map_err(|error| usage(error.to_string())));
        let paths = paths.collect::<Result<Vec<_>>>()?;
        if paths.is_empty() { Err(usage("no store path is given")) } else { Ok(paths) }
    }
}

impl Image {
    /// As the image's configuration has it.
    fn config(&self) -> Result<RunConfig> {
        let words = |words: &[String]| (!words.is_empty()).then(|| words.to_vec());
        let names = |names: &[String]| names.iter().map(|name| (name.clone(), Empty {})).collect();
        let mut labels = BTreeMap::new();
        for label in &self.label {
            match label.split_once('=') {
                Some((name, _)) if name.starts_with("dev.nix-seed.") => {
                    return Err(usage(format!("the label {name} is made by `seed pack`")));
                }
                Some((name, value)) if !name.is_empty() => labels.insert(name.to_owned(), value.to_owned()),
                _ => return Err(usage(format!("{label:?} is no label: write NAME=VALUE"))),
            };
        }
        sandboxes::variables(&self.env)?;
        Ok(RunConfig {
            user: self.user.clone(),
            exposed_ports: names(&self.port),
            env: self.env.clone(),
            entrypoint: words(&self.entrypoint),
            cmd: words(&self.cmd),
            volumes: names(&self.volume),
            working_dir: self.workdir.clone(),
            labels,
            ..RunConfig::default()
        })
    }
}
