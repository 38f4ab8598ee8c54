//! Bringing results from a binary cache on this machine to where the user wants them, by the seed's Nix.
//!
//! The build is over by then, and its sandbox gone. What runs here is the seed as it was packed, with
//! nothing that the project wrote in it but the results, which are read as archives: so a signing key is
//! never where a project's code could run, and neither is the network.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use seed_format::StorePath;
use seed_policy::Approved;

use crate::build::Builder;
use crate::error::SandboxError;
use crate::nix::Nix;
use crate::protocol::Network;
use crate::session::Sandbox;
use crate::signals::{Reaction, Signals};
use crate::spec::{Bind, Scratch, Spec, WORKSPACE, Workspace};

/// Where the results show.
const RESULTS: &str = "/results";
/// Where large temporary files go.
const TRANSFER: &str = "/transfer";
/// The files of `/etc` that hold secrets: in memory alone.
const SIGN_KEY: &str = "nix/sign-key";
const NETRC: &str = "nix/netrc";
/// Certificates that are trusted for TLS; in no place where a seed may have a link.
const CERTIFICATES: &str = "/certificates/trusted.crt";
/// What name look-ups read, taken over from the machine.
const RESOLUTION: [&str; 3] = ["resolv.conf", "hosts", "nsswitch.conf"];
/// Room for secrets and Nix's own small files, in bytes.
const MEMORY: u64 = 256 << 20;

/// Results on their way.
#[derive(Debug)]
pub struct Delivery<'a> {
    /// The seed's Nix.
    pub nix: &'a Nix,
    /// The binary cache that holds them. Everyone must be able to enter it, and to write in it where it is
    /// to be signed: it lies in a directory that is the caller's alone.
    pub cache: &'a Path,
    /// The store paths that go, with all that they refer to.
    pub paths: Vec<StorePath>,
    /// Where Nix's messages go.
    pub log: OwnedFd,
}

/// A place that Nix copies to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Online {
    /// A store by its URL, over the network: `https://…`, `s3://…`.
    Url(String),
    /// The store below a directory of this machine, `DIR/nix/store`, as `nix --store DIR` means it.
    Root(PathBuf),
}

/// What a copy may know to be let in.
#[derive(Default)]
pub struct Secrets {
    /// Variables of the environment.
    pub environment: BTreeMap<String, String>,
    /// The content of a netrc file.
    pub netrc: Option<String>,
    /// A file of certificates to trust for TLS.
    pub certificates: Option<PathBuf>,
    /// An empty directory of the caller's that everyone may write to, for temporary files.
    pub transfer: PathBuf,
}

/// Signs the results, and all that they refer to, with the secret key `key` as `nix key generate-secret`
/// makes it. There is no network.
pub fn sign(
    approved: &Approved,
    mut spec: Spec,
    delivery: &Delivery<'_>,
    key: &str,
) -> Result<(), SandboxError> {
    delivery.set_up(&mut spec, true);
    spec.etc.insert(SIGN_KEY.into(), key.to_owned());
    let (key, store) = (format!("/etc/{SIGN_KEY}"), format!("file://{RESULTS}"));
    let arguments = ["store", "sign", "--recursive", "--store", &store, "--key-file", &key];
    delivery.nix(approved, &spec, Network::None, &arguments)
}

/// Copies the results, and all that they refer to and that is not there yet.
pub fn copy_to(
    approved: &Approved,
    mut spec: Spec,
    delivery: &Delivery<'_>,
    to: &Online,
    secrets: &Secrets,
) -> Result<(), SandboxError> {
    delivery.set_up(&mut spec, false);
    let (network, to) = match to {
        Online::Root(directory) => {
            // The one path that is shown with root's files as the own ones.
            spec.workspace = Some(Workspace { directory: directory.clone(), writable: true });
            (Network::None, format!("local?root={WORKSPACE}"))
        }
        Online::Url(url) => {
            reach_network(&mut spec, secrets);
            (Network::Host, url.clone())
        }
    };
    let from = format!("file://{RESULTS}");
    let mut arguments = vec!["copy", "--from", &from, "--to", &to, "--no-check-sigs"];
    // A build fails at once where there is no network; a copy is patient.
    arguments.extend(["--option", "connect-timeout", "15", "--option", "download-attempts", "5"]);
    if secrets.netrc.is_some() {
        arguments.extend(["--option", "netrc-file", "/etc/nix/netrc"]);
    }
    delivery.nix(approved, &spec, network, &arguments)
}

fn reach_network(spec: &mut Spec, secrets: &Secrets) {
    for name in RESOLUTION {
        if let Ok(content) = std::fs::read_to_string(Path::new("/etc").join(name)) {
            spec.etc.insert(name.into(), content);
        }
    }
    if let Some(netrc) = &secrets.netrc {
        spec.etc.insert(NETRC.into(), netrc.clone());
    }
    if let Some(file) = &secrets.certificates {
        let bind = Bind { source: file.clone(), target: CERTIFICATES.into(), writable: false };
        spec.binds.push(bind);
        spec.environment.insert("NIX_SSL_CERT_FILE".into(), CERTIFICATES.into());
    }
    let transfer = Bind { source: secrets.transfer.clone(), target: TRANSFER.into(), writable: true };
    spec.binds.push(transfer);
    spec.environment.insert("TMPDIR".into(), TRANSFER.into());
    spec.environment.extend(secrets.environment.clone());
}

impl Delivery<'_> {
    /// Nothing of the build's but the results, and nothing that is written reaches a disk.
    fn set_up(&self, spec: &mut Spec, writable: bool) {
        self.nix.configure(&mut spec.etc);
        spec.environment.extend(self.nix.variables());
        spec.workspace = None;
        spec.scratch = Scratch::Memory { limit: MEMORY };
        spec.binds = vec![Bind { source: self.cache.to_owned(), target: RESULTS.into(), writable }];
    }

    fn nix(
        &self,
        approved: &Approved,
        spec: &Spec,
        network: Network,
        arguments: &[&str],
    ) -> Result<(), SandboxError> {
        let paths: Vec<String> = self.paths.iter().map(ToString::to_string).collect();
        let arguments: Vec<&str> =
            arguments.iter().copied().chain(paths.iter().map(String::as_str)).collect();
        let signals = Signals::watch(Reaction::Stop).map_err(SandboxError::Start)?;
        signals.or_interrupted(|signals| {
            let mut sandbox = Sandbox::start_controlled(approved, spec, network, |it| signals.control(it))?;
            let mut builder = Builder { sandbox: &mut sandbox, nix: self.nix, log: &self.log, signals };
            builder.ask("nix", &arguments).map(drop)
        })
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.environment.keys().collect();
        f.debug_struct("Secrets").field("environment", &names).finish_non_exhaustive()
    }
}
