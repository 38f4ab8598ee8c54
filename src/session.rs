//! What the commands that touch seeds share: the configuration, the places, and the verdict.

use std::convert::Infallible;
use std::fs;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use seed_format::Chain;
use seed_fuse::mount::{self, OpenOptions, Request, TraceChoice};
use seed_image::reference::{Location, Reference};
use seed_image::transport::{self, Transport, TransportOptions, remembered};
use seed_policy::{Approved, Evidence, Policy, decide};
use serde::{Deserialize, Serialize};

use crate::config::{ByteSize, Config};
use crate::error::{Error, Exit, Result, ResultExt};
use crate::printer::Printer;
use crate::{sandboxes, signals, temporary};

/// The operator's policy.
const POLICY_FILE: &str = "/etc/nix-seed/policy.toml";

/// One run of a command.
pub(crate) struct Session<'a> {
    pub(crate) printer: &'a Printer,
    pub(crate) config: Config,
}

/// Flags of the commands that run what is in a seed.
#[derive(Debug, Clone, clap::Args, Serialize, Deserialize)]
pub(crate) struct Judge {
    /// Judge the seed by this policy, not /etc/nix-seed/policy.toml
    #[arg(long, value_name = "FILE", help_heading = "Trust")]
    pub(crate) policy: Option<PathBuf>,
    /// Let a tag without a digest name the seed, this time
    #[arg(long, help_heading = "Trust")]
    pub(crate) allow_tag: bool,
}

/// The flag of the commands that read a seed lazily.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Ahead {
    /// Fetch ahead what this trace says: that of a target (`develop`, `build hello`), all, one in a file, or none.
    /// Where it is not given, the trace of what is done, else all
    #[arg(long, value_name = "TARGET|FILE|none", value_parser = parse_choice)]
    trace: Option<TraceChoice>,
}

impl Ahead {
    /// What was chosen, or else the traces that the first of the selectors of each of `targets` finds.
    pub(crate) fn choice(&self, targets: Vec<Vec<String>>) -> TraceChoice {
        self.trace.clone().unwrap_or(TraceChoice::Targets(targets))
    }

    /// What was chosen, or else all traces.
    pub(crate) fn choice_or_all(&self) -> TraceChoice {
        self.trace.clone().unwrap_or_default()
    }
}

fn parse_choice(text: &str) -> std::result::Result<TraceChoice, Infallible> {
    Ok(TraceChoice::written(text))
}

impl<'a> Session<'a> {
    /// Reads the configuration.
    pub(crate) fn new(printer: &'a Printer, config: Option<&Path>) -> Result<Self> {
        let config = Config::load(config)
            .hint("docs/configuration.md explains every key; an environment variable SEED_<SECTION>_<KEY> sets each")?;
        Ok(Self { printer, config })
    }

    /// How registries are reached.
    pub(crate) fn transport_options(&self) -> TransportOptions {
        let Config { network, registry, .. } = &self.config;
        let mut options = TransportOptions::from_env();
        options.insecure_hosts.extend(registry.insecure.iter().cloned());
        options.connections = usize::from(network.connections);
        options.read_also.clone_from(&self.config.cache.from);
        options.operation_timeout = Duration::from_secs(network.timeout.into());
        if let Some(dirs) = &registry.hosts_dirs {
            options.hosts_dirs.clone_from(dirs);
        }
        if let Some(file) = &registry.ca_file {
            options.ca_file = Some(file.clone());
        }
        options
    }

    /// Opens a place.
    pub(crate) fn open(&self, location: &Location) -> Result<Arc<dyn Transport>> {
        let place = transport::open(location, &self.transport_options())?;
        if let Location::Layout(_) = location {
            let writer = Arc::downgrade(&place);
            signals::undo_on_signal(move || writer.upgrade().iter().for_each(|writer| writer.abandon()))
                .keep();
        }
        Ok(place)
    }

    /// Opens a place to use a seed of it: what was pulled or used before is taken from the cache.
    pub(crate) fn open_remembered(&self, location: &Location) -> Result<Arc<dyn Transport>> {
        Ok(transport::open_remembered(location, &self.transport_options(), &self.config.cache.dir)?)
    }

    /// Where the state of live mounts is kept.
    pub(crate) fn runtime(&self) -> PathBuf {
        self.config.runtime.dir.clone().unwrap_or_else(mount::runtime_directory)
    }

    /// The part of the cache that holds chunks.
    pub(crate) fn chunk_cache(&self) -> PathBuf {
        self.config.cache.dir.join("chunks")
    }

    /// The part of the cache that says which layers were packed of what.
    pub(crate) fn pack_records(&self) -> PathBuf {
        self.config.cache.dir.join("pack")
    }

    /// The part of the cache that says why what is in the seeds of projects that were captured.
    pub(crate) fn capture_records(&self) -> PathBuf {
        self.config.cache.dir.join("captures")
    }

    /// The part of the cache that holds the indexes of seeds that were mounted.
    pub(crate) fn index_cache(&self) -> PathBuf {
        self.config.cache.dir.join("index")
    }

    /// The parts of the cache that hold what registries said of seeds that were used.
    pub(crate) fn document_caches(&self) -> [PathBuf; 2] {
        let cache = &self.config.cache.dir;
        [remembered::documents(cache), remembered::lists(cache)]
    }

    /// How a seed is opened in this process.
    pub(crate) fn open_options(&self) -> OpenOptions {
        let mut options = OpenOptions {
            cache: Some(self.config.cache.dir.clone()),
            cache_limit: self.config.cache.size.bytes(),
            keep_free: self.config.cache.keep_free.map(ByteSize::bytes),
            read_also: self.config.cache.from.clone(),
            ..OpenOptions::default()
        };
        options.fetch.connections = usize::from(self.config.network.connections);
        options.fetch.read_deadline = Duration::from_secs(self.config.network.timeout.into());
        options.fetch.rate = self.config.network.rate.and_then(|rate| NonZeroU64::new(rate.bytes()));
        options.fetch.metered = self.config.network.metered;
        options
    }

    /// What a server process is asked to mount.
    pub(crate) fn mount_request(&self, reference: &Reference, dir: &Path, subtree: &str) -> Request {
        let OpenOptions { cache, cache_limit, keep_free, read_also, fetch, .. } = self.open_options();
        Request {
            runtime: self.runtime(),
            cache,
            cache_limit,
            keep_free,
            read_also,
            rate: fetch.rate,
            metered: fetch.metered,
            connections: fetch.connections,
            read_deadline: fetch.read_deadline,
            insecure_hosts: self.config.registry.insecure.clone(),
            hosts_dirs: self.config.registry.hosts_dirs.clone(),
            ca_file: self.config.registry.ca_file.clone(),
            ..Request::new(reference, dir, subtree)
        }
    }

    /// Takes away what killed mounts, builds and commands have left. Gives the directories of those mounts.
    ///
    /// That it fails is no reason not to do what was asked for.
    pub(crate) fn sweep(&self) -> Vec<PathBuf> {
        temporary::sweep(self);
        if let Err(error) = seed_sandbox::scratch::sweep(&sandboxes::scratch(self)) {
            self.printer.warn(format_args!("cannot take away what killed builds have left: {error}"));
        }
        match mount::sweep(&self.runtime()) {
            Ok(swept) => {
                for directory in &swept.unmounted {
                    self.printer
                        .note(format_args!("took away {}, whose server had died", directory.display()));
                }
                swept.unmounted
            }
            Err(error) => {
                self.printer.warn(format_args!("cannot take away dead mounts: {error}"));
                Vec::new()
            }
        }
    }

    /// Sends the trace of a command that has ended, where a collector is configured. That it cannot be sent
    /// is no failure of the command.
    pub(crate) fn send_trace(&self, command: &str, failure: Option<&Error>) {
        let Some(endpoint) = &self.config.otlp.endpoint else { return };
        let failure = failure.filter(|error| error.exit() != Exit::Done);
        let failure = failure.map(|error| error.causes().join(": "));
        let (trace, options) = (self.printer.trace(), self.transport_options());
        if let Err(error) = trace.export(endpoint, &options, &format!("seed {command}"), failure.as_deref()) {
            self.printer.warn(format_args!("no trace was sent to {endpoint}: {}", Chain(&error)));
        }
    }

    /// Finds the digest that a reference means now, and says what a tag named.
    pub(crate) fn resolve(&self, transport: &dyn Transport, reference: &Reference) -> Result<Reference> {
        if reference.digest.is_some() {
            return Ok(reference.clone());
        }
        let descriptor = transport::resolve(transport, reference)
            .hint(format!("look at what is there, or name a digest: {}@sha256:…", reference.location))?;
        let resolved = reference.with_digest(descriptor.digest);
        self.printer.note(format_args!("{reference} is {resolved}"));
        Ok(resolved)
    }

    /// Judges a seed by the policy that the operator or the user named.
    pub(crate) fn judge(&self, judge: &Judge, evidence: &Evidence) -> Result<Approved> {
        let policy = load_policy(judge.policy.as_deref())?;
        let approved = decide(&policy, evidence, SystemTime::now())?;
        for note in approved.notes() {
            self.printer.warn(note);
        }
        Ok(approved)
    }
}

/// Reads `only`, or the operator's policy; where that does not exist, the default policy.
pub(crate) fn load_policy(only: Option<&Path>) -> Result<Policy> {
    let file = only.unwrap_or(Path::new(POLICY_FILE));
    let context = || format!("cannot use the policy {}", file.display());
    let text = match fs::read_to_string(file) {
        Err(error) if only.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Policy::default());
        }
        other => other.context(context)?,
    };
    Policy::parse(&text).context(context)
}
