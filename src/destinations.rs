//! Where `seed build --to` puts results.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::stderr;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use seed_format::StorePath;
use seed_fuse::mount::SeedFs;
use seed_image::binary_cache;
use seed_image::image_file;
use seed_image::reference::Reference;
use seed_image::transport::TransportOptions;
use seed_sandbox::{BuildRecord, Delivery, Destination, Nix, Online, Phase, Secrets};

use crate::error::{Result, ResultExt, failed, usage};
use crate::gate::Admitted;
use crate::packing;
use crate::sandboxes;
use crate::session::Session;
use crate::signals;
use crate::temporary::Temporary;

/// Flags of what becomes of results.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Results")]
pub(crate) struct Flags {
    /// Put the results, with what they refer to, here too; again for more places. file://DIR, http(s):// or
    /// s3://: a binary cache. DIR or local?root=DIR: a store. cachix:NAME. Where the result is an image:
    /// oci:DIR[:TAG] or HOST/REPOSITORY[:TAG]
    #[arg(long, value_name = "DEST")]
    to: Vec<String>,
    /// Sign the results with this secret key, as `nix key generate-secret` makes it, before they are put
    /// anywhere
    #[arg(long, value_name = "FILE", requires = "to")]
    sign_key: Option<PathBuf>,
    /// Let the copy to the place of --to see this variable of the environment; again for more
    #[arg(long, value_name = "NAME", requires = "to")]
    to_env: Vec<String>,
    /// A netrc file, for the copy to the place of --to
    #[arg(long, value_name = "FILE", requires = "to")]
    netrc: Option<PathBuf>,
}

/// One place.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// A binary cache in a directory.
    Directory(PathBuf),
    /// What the seed's Nix copies to.
    Online(Online),
    /// A cache of Cachix.
    Cachix(String),
    /// Where images are kept.
    Image(Reference),
}

/// All places, and what is needed to get there: read before anything is built.
pub(crate) struct Destinations {
    places: Vec<(String, Place)>,
    sign_key: Option<String>,
    environment: BTreeMap<String, String>,
    netrc: Option<String>,
    work: Option<Temporary>,
}

impl Destinations {
    /// Reads the flags. A place that cannot be reached for a reason that is known now is an error now.
    pub(crate) fn new(session: &Session<'_>, flags: &Flags) -> Result<Self> {
        let places: Vec<(String, Place)> =
            flags.to.iter().map(|text| Ok((text.clone(), place(text)?))).collect::<Result<_>>()?;
        let read =
            |file: &PathBuf| fs::read_to_string(file).context(|| format!("cannot read {}", file.display()));
        let sign_key = flags.sign_key.as_ref().map(read).transpose()?;
        if sign_key.as_ref().is_some_and(|key| !key.contains(':')) {
            return Err(usage("the file of --sign-key holds no secret key"))
                .hint("make one with `nix key generate-secret --key-name NAME`");
        }
        if sign_key.is_some() && !places.iter().any(|(_, place)| place.takes_archives()) {
            return Err(usage("--sign-key signs store paths, and none of --to takes any"));
        }
        if places.iter().any(|(_, place)| matches!(place, Place::Cachix(_))) {
            for program in ["cachix", "nix"] {
                if !on_path(program) {
                    return Err(failed(format!("there is no `{program}` on PATH to push to Cachix with")))
                        .hint("install it, or use --to file:///DIR and push from a machine that has it");
                }
            }
        }
        for (_, place) in &places {
            if let Place::Image(reference) = place {
                packing::check_destination(reference)?;
            }
        }
        let variable = |name: &String| match std::env::var(name) {
            Ok(value) => Ok((name.clone(), value)),
            Err(_) => Err(usage(format!("--to-env {name}: there is no such variable, or it is no text"))),
        };
        let netrc = flags.netrc.as_ref().map(read).transpose()?;
        for (text, place) in &places {
            if let Place::Online(Online::Url(url)) = place {
                ask(session, url, netrc.as_deref()).context(|| format!("nothing can be put into {text}"))?;
            }
        }
        let mut destinations = Self {
            environment: flags.to_env.iter().map(variable).collect::<Result<_>>()?,
            netrc,
            places,
            sign_key,
            work: None,
        };
        if destinations.needs_work() {
            destinations.work = Some(work(session)?);
        }
        Ok(destinations)
    }

    /// Whether results must lie on this machine for a while.
    fn needs_work(&self) -> bool {
        let direct = |place: &Place| matches!(place, Place::Directory(_)) && self.sign_key.is_none();
        self.places.iter().any(|(_, place)| !direct(place))
    }

    /// What the build itself exports for this.
    pub(crate) fn exports(&self) -> Vec<Destination> {
        let mut exports = Vec::new();
        for (_, place) in &self.places {
            let export = match (place, &self.work) {
                (Place::Image(_), Some(work)) => Destination::Copies(images(work)),
                (Place::Directory(cache), _) if self.sign_key.is_none() => {
                    Destination::BinaryCache(cache.clone())
                }
                (_, Some(work)) => Destination::BinaryCache(cache(work)),
                (_, None) => continue,
            };
            if !exports.contains(&export) {
                exports.push(export);
            }
        }
        exports
    }

    /// Signs what was built and brings it everywhere; says how long that took, if there was anything to do.
    pub(crate) fn deliver(
        &self,
        session: &Session<'_>,
        admitted: &Admitted<Arc<SeedFs>>,
        nix: &Nix,
        record: &BuildRecord,
    ) -> Result<Option<Phase>> {
        let Some(work) = &self.work else { return Ok(None) };
        let began = Instant::now();
        let outputs = record.targets.iter().flat_map(|target| &target.outputs);
        let paths: Vec<StorePath> = outputs.map(|output| output.path.clone()).collect();
        if paths.is_empty() {
            return Ok(None);
        }
        let cache = cache(work);
        let delivery = Delivery { nix, cache: &cache, paths, log: stderr().as_fd().try_clone_to_owned()? };
        let spec = || sandboxes::spec(session, &admitted.opened, None, &BTreeMap::new());
        if let Some(key) = &self.sign_key {
            let forwarded = signals::forwarded();
            let signed = seed_sandbox::sign(&admitted.approved, spec(), &delivery, key.trim());
            drop(forwarded);
            signed.context(|| "the results cannot be signed")?;
        }
        for (text, place) in &self.places {
            match place {
                Place::Directory(directory) if self.sign_key.is_some() => {
                    seed_sandbox::merge_cache(delivery.cache, directory)?;
                }
                Place::Directory(_) => {}
                Place::Online(online) => {
                    if let Online::Root(root) = online {
                        fs::create_dir_all(root).context(|| format!("cannot make {}", root.display()))?;
                    }
                    let secrets = self.secrets(session, work);
                    let forwarded = signals::forwarded();
                    let copied =
                        seed_sandbox::copy_to(&admitted.approved, spec(), &delivery, online, &secrets);
                    drop(forwarded);
                    copied
                        .context(|| format!("the results cannot be copied to {text}"))
                        .hint(online_hint(online))?;
                }
                Place::Cachix(name) => cachix(name, &delivery)?,
                Place::Image(reference) => push(session, reference, record, work)?,
            }
        }
        Ok(Some(Phase { name: "deliver".into(), seconds: began.elapsed().as_secs_f64() }))
    }

    fn secrets(&self, session: &Session<'_>, work: &Temporary) -> Secrets {
        Secrets {
            environment: self.environment.clone(),
            netrc: self.netrc.clone(),
            certificates: certificates(session),
            transfer: work.path().join("transfer"),
        }
    }
}

impl Place {
    /// Whether store paths go there, as archives.
    fn takes_archives(&self) -> bool {
        !matches!(self, Self::Image(_))
    }
}

fn place(text: &str) -> Result<Place> {
    let directory = |path: &str| Ok::<_, crate::error::Error>(std::path::absolute(path)?);
    if let Some(dir) = text.strip_prefix("file://") {
        return match Path::new(dir).is_absolute() && !dir.contains('?') {
            true => Ok(Place::Directory(dir.into())),
            false => Err(usage(format!("{text:?} is no binary cache: write file:///DIR"))),
        };
    }
    if ["http://", "https://", "s3://"].iter().any(|scheme| text.starts_with(scheme)) {
        let authority = text.split_once("://").map(|(_, rest)| rest.split(['/', '?', '#']).next());
        if authority.flatten().is_some_and(|authority| authority.contains('@')) {
            // Everybody sees the arguments of programs. The text is not repeated.
            return Err(usage("an address of --to has a user or a password in it"))
                .hint("write them into a netrc file: --netrc FILE");
        }
        return Ok(Place::Online(Online::Url(with_compression(text))));
    }
    if let Some(root) = text.strip_prefix("local?root=") {
        return Ok(Place::Online(Online::Root(directory(root)?)));
    }
    if let Some(name) = text.strip_prefix("cachix:") {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        return match !name.is_empty() && !name.starts_with('-') && name.chars().all(is_name) {
            true => Ok(Place::Cachix(name.to_owned())),
            false => Err(usage(format!("{name:?} is not the name of a Cachix cache"))),
        };
    }
    if text.starts_with('/') || text.starts_with("./") || text.starts_with("../") {
        return Ok(Place::Online(Online::Root(directory(text)?)));
    }
    let reference: Result<Reference> =
        text.parse().map_err(|_| usage(format!("results cannot be put into {text:?}")));
    reference.map(Place::Image).hint(
        "write file:///DIR, https://HOST, s3://BUCKET, /DIR of a store, cachix:NAME, or where an image goes: oci:DIR:TAG, HOST/REPOSITORY:TAG. For other stores: `nix copy --from file:///DIR --to STORE`",
    )
}

/// Nix compresses with xz where nothing is said, which takes longer than most builds.
fn with_compression(url: &str) -> String {
    match url.split_once('?') {
        Some((_, query)) if query.split('&').any(|pair| pair.starts_with("compression=")) => url.to_owned(),
        Some(_) => format!("{url}&compression=zstd"),
        None => format!("{url}?compression=zstd"),
    }
}

/// Asks a binary cache whether it lets us in, as Nix will.
fn ask(session: &Session<'_>, url: &str, netrc: Option<&str>) -> Result<()> {
    if url.starts_with("s3:") {
        return Ok(());
    }
    let options = TransportOptions { ca_file: certificates(session), ..session.transport_options() };
    binary_cache::ask(url, netrc, &options).hint(URL_HINT)
}

const URL_HINT: &str =
    "the server must take PUT; credentials come from --netrc FILE, roots of trust from NIX_SSL_CERT_FILE";

fn online_hint(online: &Online) -> &'static str {
    match online {
        Online::Url(url) if url.starts_with("s3://") => {
            "name the credentials: --to-env AWS_ACCESS_KEY_ID --to-env AWS_SECRET_ACCESS_KEY; a Nix that was built without S3 takes file:///DIR alone"
        }
        Online::Url(_) => URL_HINT,
        Online::Root(_) => "the directory must belong to who runs this",
    }
}

/// A directory that is the caller's alone; what is in it can be written by who runs in a sandbox.
fn work(session: &Session<'_>) -> Result<Temporary> {
    let work = Temporary::new(session, "results")?;
    let context = || format!("cannot make {}", work.path().display());
    fs::set_permissions(work.path(), Permissions::from_mode(0o700)).context(context)?;
    for dir in [cache(&work), work.path().join("transfer")] {
        fs::create_dir(&dir).context(context)?;
        fs::set_permissions(&dir, Permissions::from_mode(0o777)).context(context)?;
    }
    Ok(work)
}

fn cache(work: &Temporary) -> PathBuf {
    work.path().join("cache")
}

fn images(work: &Temporary) -> PathBuf {
    work.path().join("images")
}

/// The certificates that are trusted on this machine: those that the configuration names, else those that
/// the user or the distribution does.
fn certificates(session: &Session<'_>) -> Option<PathBuf> {
    let named =
        ["NIX_SSL_CERT_FILE", "SSL_CERT_FILE"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let usual =
        ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];
    let configured = session.config.registry.ca_file.clone();
    configured.into_iter().chain(named).chain(usual.map(PathBuf::from)).find(|file| file.is_file())
}

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| is_program(&dir.join(program))))
}

fn is_program(file: &Path) -> bool {
    file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

/// Cachix reads the machine's own store.
fn cachix(name: &str, delivery: &Delivery<'_>) -> Result<()> {
    let from = format!("file://{}", delivery.cache.display());
    let features = ["--extra-experimental-features", "nix-command"];
    let copy = ["copy", "--no-check-sigs", "--from", &from];
    host("nix", features.into_iter().chain(copy), delivery)
        .hint("Cachix pushes from this machine's store: whoever runs this must be trusted by its daemon")?;
    host("cachix", ["push", name], delivery).hint("log in with `cachix authtoken`, or set CACHIX_AUTH_TOKEN")
}

fn host<'a>(
    program: &str,
    arguments: impl IntoIterator<Item = &'a str>,
    delivery: &Delivery<'_>,
) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).args(delivery.paths.iter().map(ToString::to_string));
    let status = command
        .stdin(Stdio::null())
        .stdout(delivery.log.try_clone()?)
        .status()
        .context(|| format!("cannot run {program}"))?;
    if status.success() { Ok(()) } else { Err(failed(format!("`{program}` failed ({status})"))) }
}

/// Pushes the one output that was built, which must be an image.
fn push(session: &Session<'_>, to: &Reference, record: &BuildRecord, work: &Temporary) -> Result<()> {
    let mut outputs = record.targets.iter().flat_map(|target| &target.outputs);
    let (Some(output), None) = (outputs.next(), outputs.next()) else {
        return Err(failed(format!("{to} takes one image, and several outputs were built")))
            .hint("name the output that is the image");
    };
    let file = images(work).join(output.path.base_name());
    let transport = session.open(&to.location)?;
    let phase = session.printer.phase("push");
    let pushed = image_file::push(&file, &work.path().join("image"), transport.as_ref(), to.tag.as_deref())
        .context(|| format!("{} cannot be pushed to {to}", output.path))?;
    phase.set_done(pushed.report.bytes);
    phase.end();
    session.printer.note(format_args!("pushed {}", to.with_digest(pushed.digest)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        let url = |text: &str| Place::Online(Online::Url(text.into()));
        let root = |text: &str| Place::Online(Online::Root(text.into()));
        for (text, expected) in [
            ("file:///srv/cache", Place::Directory("/srv/cache".into())),
            ("https://cache.example.org", url("https://cache.example.org?compression=zstd")),
            ("http://[::1]:80/c?priority=1", url("http://[::1]:80/c?priority=1&compression=zstd")),
            ("s3://b?compression=xz", url("s3://b?compression=xz")),
            ("/srv/root", root("/srv/root")),
            ("local?root=/srv/root", root("/srv/root")),
            ("cachix:acme-1", Place::Cachix("acme-1".into())),
            ("oci:./d:t", Place::Image("oci:./d:t".parse().unwrap())),
            ("ghcr.io/acme/app:1", Place::Image("ghcr.io/acme/app:1".parse().unwrap())),
        ] {
            assert_eq!(place(text).unwrap(), expected, "{text}");
        }
        for text in [
            "file://srv",
            "file:///a?compression=xz",
            "https://user:secret@host/c",
            "cachix:",
            "cachix:--x",
            "ssh://host",
            "daemon",
            "",
        ] {
            let error = place(text).unwrap_err();
            assert_eq!(error.exit(), crate::error::Exit::Usage, "{text}");
            assert!(!error.causes().join(" ").contains("secret"), "{text}");
        }
    }
}
