//! Mounts a seed at a directory, and takes it away again.
//!
//! The same code as `seed mount`, as a small program of its own that `mount(8)` and systemd can use:
//! `mount -t fuse.seed-mount REF DIR -o OPTIONS`.

mod mount_command;

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, anyhow, bail};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use seed_fuse::mount::{
    Failure, Mode, MountError, Progress, Ready, Refused, Request, TraceChoice, Wait, become_keeper, is_kept,
    keep_if_asked, mounts, replace, run_detached, run_foreground, runtime_directory, start_detached, status,
    sweep, unmount,
};
use seed_image::reference::{Location, Reference};
use seed_image::seed::{Seed, label};
use seed_image::telemetry::{Endpoint, Trace};
use seed_image::transport::TransportOptions;
use seed_policy::{Approved, Evidence, Pin, Policy, decide};

/// Where the operator's policy is.
const POLICY: &str = "/etc/nix-seed/policy.toml";
/// How often progress is said.
const REPORT_EVERY: Duration = Duration::from_secs(3);

/// Mounts a seed lazily: its files are there at once, and what is read is fetched, verified and cached
#[derive(Parser, Debug)]
#[command(name = "seed-mount", version, max_term_width = 100, after_help = EXAMPLES)]
struct Arguments {
    /// The seed: oci:DIR[:TAG][@sha256:…] or HOST[:PORT]/REPOSITORY[:TAG][@sha256:…]
    #[arg(required_unless_present_any = ["unmount", "replace", "list", "serve"])]
    reference: Option<String>,
    /// The directory to mount at
    #[arg(required_unless_present_any = ["unmount", "replace", "list", "serve"])]
    directory: Option<PathBuf>,
    /// Options as mount(8) gives them: any long option of this program, with its value after `=`
    #[arg(short = 'o', value_name = "OPTION,…")]
    _options: Vec<String>,
    #[command(flatten)]
    how: How,
    /// Take the mount at DIR away, and wait until its server has ended
    #[arg(long, value_name = "DIR", conflicts_with_all = ["reference", "list"])]
    unmount: Option<PathBuf>,
    /// With --unmount: also while it is in use
    #[arg(long)]
    lazy: bool,
    /// Let the program as it is on the disk now go on with the mount at DIR, while it is used
    #[arg(long, value_name = "DIR", conflicts_with_all = ["reference", "list", "unmount"])]
    replace: Option<PathBuf>,
    /// Print the live mounts and their counters, a line of JSON for each
    #[arg(long, conflicts_with = "reference")]
    list: bool,
    /// Print what was mounted as a line of JSON
    #[arg(long)]
    json: bool,
    /// Say more in the log; twice: even more
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Be the server process of a mount
    #[arg(long, hide = true)]
    serve: bool,
    /// Do nothing: mount(8) only looks at what it would do
    #[arg(long, hide = true)]
    fake: bool,
    /// What mount(8) passes and means nothing here
    #[arg(short = 't', hide = true)]
    _kind: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  seed-mount ghcr.io/example/project-seed@sha256:… /nix/store
  seed-mount oci:/srv/seeds:latest /nix --rw /var/tmp/nix --allow-tag
  seed-mount --unmount /nix/store";

/// How a seed is mounted: the options that mount(8) may give as well.
#[derive(clap::Args, Debug, Clone)]
struct How {
    /// What of the image to mount [default: nix at /nix, nix/store elsewhere]
    #[arg(long, value_name = "PATH")]
    subtree: Option<String>,
    /// Mount the whole image, as --subtree '' does
    #[arg(long, conflicts_with = "subtree")]
    root: bool,
    /// Make the mount writable; changes go to DIR. In options of mount(8), which keeps `rw` for itself:
    /// `writable=DIR`
    #[arg(long, value_name = "DIR", visible_alias = "writable")]
    rw: Option<PathBuf>,
    /// Who shows the files: the kernel, which root may ask for it, or FUSE [default: $SEED_MOUNT_MODE, or
    /// auto: the kernel where it can]
    #[arg(long, value_name = "auto|kernel|fuse")]
    mode: Option<Mode>,
    /// Let other users see the mount of an ordinary user, where /etc/fuse.conf permits that
    #[arg(long)]
    allow_other: bool,
    /// Copy the seed's Nix database to /nix/var/nix/db, unless there is one. At /nix it is there already
    #[arg(long)]
    database: bool,
    /// Keep chunks here [default: /var/cache/nix-seed, or $XDG_CACHE_HOME/nix-seed]
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache")]
    cache: Option<PathBuf>,
    /// Keep chunks in memory only
    #[arg(long)]
    no_cache: bool,
    /// Most bytes that the cache may take on disk
    #[arg(long, value_name = "BYTES", default_value_t = 20 << 30)]
    cache_limit: u64,
    /// Bytes that stay free on the cache's disk [default: one in twenty, from 1 to 4 GiB]
    #[arg(long, value_name = "BYTES")]
    keep_free: Option<u64>,
    /// Read this cache as well, and write nothing to it: one that was baked into an image, or that others may read.
    /// May be repeated
    #[arg(long, value_name = "DIR")]
    cache_from: Vec<PathBuf>,
    /// Return when the mount can be used, or when all of the seed is in the cache and its registry needed no more
    #[arg(long, value_name = "ready|full", default_value = "ready")]
    wait: Wait,
    /// Connections to the registry
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    connections: u16,
    /// Seconds after which a read fails
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    deadline: u64,
    /// Do not fetch what lies around what is read
    #[arg(long)]
    no_neighbours: bool,
    /// Do not fetch everything while the link is idle
    #[arg(long)]
    no_fill: bool,
    /// Most bytes per second that this may take, of all mounts with the same cache together
    #[arg(long, value_name = "BYTES")]
    fill_rate: Option<NonZeroU64>,
    /// Most bytes per second that all of them take for what no read waits for
    #[arg(long, value_name = "BYTES")]
    rate: Option<NonZeroU64>,
    /// Fetch nothing but what is read: each byte costs
    #[arg(long)]
    metered: bool,
    /// Fetch ahead what traces say: those of a target (`develop`, `build hello`), of all, one in a file, or none
    #[arg(long, value_name = "TARGET|FILE|none", default_value = "all")]
    trace: String,
    /// Offer the counters to Prometheus at this port of this machine: 127.0.0.1:9100
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<std::net::SocketAddr>,
    /// Speak plain HTTP to this registry
    #[arg(long, value_name = "HOST[:PORT]")]
    insecure: Vec<String>,
    /// The policy that judges the seed [default: /etc/nix-seed/policy.toml]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Accept a tag without a digest
    #[arg(long)]
    allow_tag: bool,
    /// Do not detach: serve until the mount is taken away (for systemd units of Type=notify)
    #[arg(long, short = 'f')]
    foreground: bool,
}

fn main() -> ExitCode {
    if let Some(end) = keep_if_asked() {
        return end;
    }
    let arguments = match parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    log_to_stderr(arguments.verbose, arguments.serve);
    let trace = Trace::begin("seed-mount", std::env::var("TRACEPARENT").ok().as_deref());
    let result = run(&arguments, &trace);
    if arguments.reference.is_some() {
        send(&trace, result.as_ref().err());
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let broken_pipe = error.chain().any(|cause| {
                cause.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe)
            });
            if broken_pipe {
                return ExitCode::SUCCESS;
            }
            let _ = writeln!(io::stderr(), "seed-mount: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<MountError>().map(MountError::failure) {
        Some(Failure::Refused) => 3,
        Some(Failure::Integrity) => 4,
        Some(Failure::Failed) | None => 1,
    }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Arguments, clap::Error> {
    let parsed = Arguments::try_parse_from(mount_command::translate(arguments))?;
    // Not `requires`: clap passes over it where a conflict with the required one is given.
    if parsed.lazy && parsed.unmount.is_none() {
        let message = "--lazy goes with --unmount";
        return Err(Arguments::command().error(ErrorKind::MissingRequiredArgument, message));
    }
    Ok(parsed)
}

fn log_to_stderr(verbose: u8, server: bool) {
    let level = match (verbose, server) {
        (0, false) => tracing::Level::WARN,
        (0, true) | (1, _) => tracing::Level::INFO,
        (2, _) => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    let to_terminal = io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr).with_ansi(to_terminal);
    log.with_target(false).init();
}

/// Sends the trace to the collector that `SEED_OTLP_ENDPOINT` names, if it does. That it cannot be sent is no
/// failure.
fn send(trace: &Trace, failure: Option<&anyhow::Error>) {
    let Some(endpoint) = std::env::var("SEED_OTLP_ENDPOINT").ok().filter(|text| !text.is_empty()) else {
        return;
    };
    let failure = failure.map(|error| format!("{error:#}"));
    let sent = endpoint.parse::<Endpoint>().map_err(anyhow::Error::from).and_then(|endpoint| {
        let options = TransportOptions::from_env();
        Ok(trace.export(&endpoint, &options, "seed-mount", failure.as_deref())?)
    });
    if let Err(error) = sent {
        tracing::warn!(endpoint, error = format!("{error:#}"), "no trace was sent");
    }
}

fn run(arguments: &Arguments, trace: &Trace) -> anyhow::Result<()> {
    let how = &arguments.how;
    if arguments.fake {
        return Ok(());
    }
    if arguments.serve {
        run_detached(&|request, seed| judge(how, request, seed).map(drop))?;
        return Ok(());
    }
    if how.foreground && !is_kept() {
        let program = std::env::current_exe().context("cannot find this program")?;
        let arguments: Vec<_> = std::env::args_os().skip(1).collect();
        let arguments: Vec<_> = arguments.iter().map(OsString::as_os_str).collect();
        return Err(become_keeper(&program, &arguments)).context("cannot become the keeper of the mount");
    }
    let runtime = runtime_directory();
    let swept = sweep(&runtime)?;
    for directory in &swept.unmounted {
        tracing::warn!(directory = %directory.display(), "the server of a mount was killed: the mount is taken away");
    }
    if let Some(directory) = &arguments.unmount {
        unmount(&runtime, directory, arguments.lazy)?;
        return Ok(());
    }
    if let Some(directory) = &arguments.replace {
        return Ok(replace(&runtime, directory)?);
    }
    if arguments.list {
        return list(&runtime);
    }
    let (Some(reference), Some(directory)) = (&arguments.reference, &arguments.directory) else {
        bail!("a seed and a directory are needed");
    };
    let request = request(how, reference, directory)?;
    let mut progress = reports();
    if how.foreground {
        let judge = |request: &Request, seed: &Seed| judge(how, request, seed).map(drop);
        run_foreground(&request, &judge, &mut progress, |ready| {
            told(trace, ready);
            let _ = report(arguments, ready);
        })?;
        return Ok(());
    }
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut passed = vec![OsString::from("--serve")];
    passed.extend(how.policy.iter().flat_map(|file| ["--policy".into(), absolute(file).into_os_string()]));
    passed.extend(how.allow_tag.then(|| "--allow-tag".into()));
    passed.extend((0..arguments.verbose).map(|_| "-v".into()));
    let passed: Vec<_> = passed.iter().map(OsString::as_os_str).collect();
    let ready = start_detached(&program, &passed, &request, &mut progress)?;
    told(trace, &ready);
    report(arguments, &ready)
}

/// Says how far the wait for all of a seed has come, every few seconds.
fn reports() -> impl FnMut(Progress) {
    let mut last = Instant::now();
    move |Progress { fetched, total }| {
        if last.elapsed() >= REPORT_EVERY {
            last = Instant::now();
            let (fetched, total) = (fetched / 1_000_000, total / 1_000_000);
            let _ = writeln!(io::stderr(), "fetched {fetched} of {total} MB");
        }
    }
}

/// Notes that the mount is ready.
fn told(trace: &Trace, ready: &Ready) {
    trace.phase("mount", ready.took, &[("seed.bytes_fetched", ready.bytes_fetched)]);
}

fn request(how: &How, reference: &str, directory: &Path) -> anyhow::Result<Request> {
    let mut reference: Reference = reference.parse()?;
    if let Location::Layout(layout) = &mut reference.location {
        *layout = absolute(layout);
    }
    let directory = absolute(directory);
    let subtree = match &how.subtree {
        _ if how.root => "",
        Some(subtree) => subtree.trim_matches('/'),
        None if directory == Path::new("/nix") => "nix",
        None => "nix/store",
    };
    let mode = match (how.mode, std::env::var("SEED_MOUNT_MODE")) {
        (Some(mode), _) => mode,
        (None, Ok(word)) => word.parse().context("SEED_MOUNT_MODE is not valid")?,
        (None, Err(_)) => Mode::Auto,
    };
    let cache = if how.no_cache { None } else { Some(how.cache.clone().unwrap_or_else(default_cache)) };
    Ok(Request {
        mode,
        writable: how.rw.as_deref().map(absolute),
        others: how.allow_other,
        database: (how.database && subtree == "nix/store").then(|| PathBuf::from("/nix/var/nix/db")),
        cache: cache.as_deref().map(absolute),
        cache_limit: how.cache_limit,
        keep_free: how.keep_free,
        read_also: how.cache_from.iter().map(|cache| absolute(cache)).collect(),
        wait: how.wait,
        connections: how.connections.into(),
        read_deadline: Duration::from_secs(how.deadline),
        neighbours: !how.no_neighbours,
        fill: !how.no_fill,
        fill_rate: how.fill_rate,
        rate: how.rate,
        metered: how.metered,
        trace: TraceChoice::written(&how.trace),
        metrics: how.metrics,
        insecure_hosts: how.insecure.clone(),
        ..Request::new(&reference, &directory, subtree)
    })
}

/// The verdict of the operator's policy on the seed that was opened.
fn judge(how: &How, request: &Request, seed: &Seed) -> Result<Approved, Refused> {
    let policy = read_policy(how.policy.as_deref()).map_err(|error| Refused(format!("{error:#}")))?;
    let reference: Reference = request.reference.parse().map_err(|error| Refused(format!("{error}")))?;
    let pin = match reference.digest {
        Some(digest) => Pin::Reference(digest),
        None => Pin::Tag { tag: reference.tag.unwrap_or_default(), allowed: how.allow_tag },
    };
    let mut evidence = Evidence::new(pin, seed.digest);
    evidence.seed.system = seed.label(label::SYSTEM).and_then(|system| system.parse().ok());
    evidence.seed.flake_lock = seed.label(label::FLAKE_LOCK).and_then(|digest| digest.parse().ok());
    decide(&policy, &evidence, SystemTime::now()).map_err(|refusal| Refused(refusal.to_string()))
}

fn read_policy(file: Option<&Path>) -> anyhow::Result<Policy> {
    let chosen = file.unwrap_or(Path::new(POLICY));
    match fs::read_to_string(chosen) {
        Ok(text) => Policy::parse(&text).with_context(|| format!("cannot use {}", chosen.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound && file.is_none() => Ok(Policy::default()),
        Err(error) => Err(anyhow!(error).context(format!("cannot read {}", chosen.display()))),
    }
}

fn report(arguments: &Arguments, ready: &Ready) -> anyhow::Result<()> {
    if arguments.json {
        writeln!(io::stdout(), "{}", serde_json::to_string(ready)?)?;
    } else if arguments.verbose > 0
        || arguments.reference.as_ref().is_some_and(|text| !text.contains("@sha256:"))
    {
        let (digest, directory) = (&ready.state.digest, ready.state.directory.display());
        writeln!(io::stderr(), "mounted {digest} at {directory} in {:.2} s", ready.took.as_secs_f64())?;
    }
    Ok(())
}

fn list(runtime: &Path) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    for state in mounts(runtime)? {
        match status(runtime, &state) {
            Ok(status) => writeln!(stdout, "{}", serde_json::to_string(&status)?)?,
            Err(error) => {
                tracing::warn!(directory = %state.directory.display(), "no status: {:#}", anyhow!(error))
            }
        }
    }
    Ok(())
}

fn default_cache() -> PathBuf {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let user = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home);
    match user.filter(|_| !rustix::process::geteuid().is_root()) {
        Some(cache) => cache.join("nix-seed"),
        None => PathBuf::from("/var/cache/nix-seed"),
    }
}

/// The server process has another working directory.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Arguments, clap::Error> {
        parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn mount_options_are_long_options() {
        let line = "seed-mount oci:/s /m -o ro,nodev,rw=/w,allow_tag,cache_limit=5,x-systemd.automount,subtree=nix --no-fill";
        let parsed = read(line).unwrap();
        assert_eq!(parsed.how.rw.as_deref(), Some(Path::new("/w")));
        assert_eq!((parsed.how.cache_limit, parsed.how.subtree.as_deref()), (5, Some("nix")));
        assert!(parsed.how.allow_tag && parsed.how.no_fill);
        assert!(read("seed-mount oci:/s /m -orw,no_fill").unwrap().how.no_fill);
        assert!(read("seed-mount oci:/s /m -f").unwrap().how.foreground);
    }

    #[test]
    fn a_helper_of_mount_has_its_flags() {
        let line =
            "/sbin/mount.fuse.seed-mount oci:/s /m -sfnv -o rw,no_fill,X-mount.mkdir -t fuse.seed-mount";
        let parsed = read(line).unwrap();
        assert!(parsed.fake && !parsed.how.foreground && parsed.how.no_fill);
        assert_eq!(parsed.verbose, 1);
        assert!(!read("/sbin/mount.fuse.seed-mount oci:/s /m -s -n -o rw").unwrap().fake);
    }

    #[test]
    fn usage_errors() {
        for line in [
            "seed-mount",
            "seed-mount oci:/s",
            "seed-mount oci:/s /m -o nonsense",
            "seed-mount oci:/s /m -o",
            "seed-mount oci:/s /m -o noexec",
            "seed-mount oci:/s /m -s",
            "/sbin/mount.fuse.seed-mount oci:/s /m -N /proc/1/ns/mnt",
            "seed-mount oci:/s /m --connections 0",
            "seed-mount oci:/s /m --lazy",
            "seed-mount oci:/s /m --cache /c --no-cache",
        ] {
            assert!(read(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_argument_table_is_sound() {
        Arguments::command().debug_assert();
    }
}
