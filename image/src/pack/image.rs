//! The image around the layers: configuration and manifest.

use std::collections::BTreeMap;

use super::work::Made;
use super::{Base, Options, PackError, Role};
use crate::closure::Closure;
use crate::manifest::{
    Config, Descriptor, History, Manifest, Platform, RootFs, RunConfig, annotation, media_type,
};
use crate::seed::{FORMAT_VERSION, label};

/// When the image says that it was made: the time of everything in it, RFC 3339.
const CREATED: &str = "1970-01-01T00:00:01Z";

/// What OCI calls a Nix system.
pub(super) fn platform(system: &str) -> Result<Platform, PackError> {
    let unknown = || PackError::System(system.to_owned());
    let (processor, os) = system.split_once('-').ok_or_else(unknown)?;
    let (architecture, variant) = match processor {
        "x86_64" => ("amd64", None),
        "aarch64" => ("arm64", None),
        "i686" => ("386", None),
        "armv6l" => ("arm", Some("v6")),
        "armv7l" => ("arm", Some("v7")),
        "powerpc64le" => ("ppc64le", None),
        "riscv64" => ("riscv64", None),
        "s390x" => ("s390x", None),
        _ => return Err(unknown()),
    };
    match os {
        "linux" => Ok(Platform {
            architecture: architecture.to_owned(),
            os: os.to_owned(),
            variant: variant.map(str::to_owned),
        }),
        _ => Err(unknown()),
    }
}

pub(super) fn config(closure: &Closure, options: &Options, platform: Platform, made: &[Made]) -> Config {
    let history = |made: &Made| History {
        created: Some(CREATED.to_owned()),
        created_by: Some(format!("nix-seed: {}", made.role().name())),
        ..History::default()
    };
    let (below, before) = options.base.as_ref().map_or_else(Default::default, |base| {
        (base.config.rootfs.diff_ids.clone(), base.config.history.clone())
    });
    let own = made.iter().map(|made| made.layer.diff_id);
    Config {
        created: Some(CREATED.to_owned()),
        architecture: platform.architecture,
        os: platform.os,
        config: run_config(closure, options),
        rootfs: RootFs { diff_ids: below.into_iter().chain(own).collect(), ..RootFs::default() },
        history: before.into_iter().chain(made.iter().map(history)).collect(),
    }
}

/// The manifest: the base image's layers, and the seed's `own`.
pub(super) fn manifest(
    config: Descriptor,
    base: Option<&Base>,
    own: impl Iterator<Item = Descriptor>,
) -> Manifest {
    let below = base.map(|base| base.layers.clone()).unwrap_or_default();
    let digest = base.map(|base| (annotation::BASE_DIGEST.to_owned(), base.digest.to_string()));
    Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.to_owned()),
        artifact_type: None,
        config,
        layers: below.into_iter().chain(own).collect(),
        subject: None,
        annotations: digest.into_iter().collect(),
    }
}

/// What the user asked for, over what the base image says, over the defaults.
fn run_config(closure: &Closure, options: &Options) -> RunConfig {
    let base = options.base.as_ref().map(|base| &base.config.config);
    let mut run = base.map_or_else(|| options.run.clone(), |base| over(base, &options.run));
    let programs = &closure.programs;
    if run.entrypoint.is_none() && run.cmd.is_none() && programs.shell.is_some() {
        run.cmd = Some(vec!["/bin/sh".to_owned()]);
    }
    let own = [&programs.nix, &programs.shell, &programs.env];
    let mut own: Vec<String> = own.into_iter().flatten().map(|program| format!("{program}/bin")).collect();
    // The base image's programs find those that they were made with first.
    let of_base = base.and_then(|base| base.env.iter().find_map(|line| line.strip_prefix("PATH=")));
    let mut path: Vec<String> = of_base.into_iter().map(str::to_owned).collect();
    path.append(&mut own);
    if of_base.is_none() {
        path.extend(["/bin", "/usr/bin"].map(str::to_owned));
    }
    path.dedup();
    let mut environment = vec![format!("PATH={}", path.join(":"))];
    if programs.certificates.is_some() {
        for name in ["NIX_SSL_CERT_FILE", "SSL_CERT_FILE"] {
            environment.push(format!("{name}=/etc/ssl/certs/ca-bundle.crt"));
        }
    }
    if !options.run.env.iter().any(|line| line.starts_with("PATH=")) {
        run.env.retain(|line| !line.starts_with("PATH="));
    }
    environment.retain(|default| run.env.iter().all(|asked| name(asked) != name(default)));
    environment.append(&mut run.env);
    run.env = environment;

    let layer = options.compression;
    let mut labels = BTreeMap::from([
        (label::VERSION, FORMAT_VERSION.to_string()),
        (label::SYSTEM, options.system.clone()),
        (
            label::COMPRESSOR,
            format!("zstd {}, level {}, chunks of {}", zstd_version(), layer.level, layer.chunk_size),
        ),
    ]);
    labels.extend(programs.nix.as_ref().map(|nix| (label::NIX, nix.to_string())));
    labels.extend(programs.shell.as_ref().map(|shell| (label::SHELL, shell.to_string())));
    run.labels.extend(options.labels.clone());
    run.labels.extend(labels.into_iter().map(|(key, value)| (key.to_owned(), value)));
    run
}

/// The name of `NAME=VALUE`.
fn name(variable: &str) -> &str {
    variable.split('=').next().unwrap_or_default()
}

/// What `run` says, and where it says nothing, what `base` says, as when an image is built from another: a
/// new entry point is not followed by the old command.
fn over(base: &RunConfig, run: &RunConfig) -> RunConfig {
    let mut env = base.env.clone();
    env.retain(|old| run.env.iter().all(|new| name(new) != name(old)));
    env.extend(run.env.iter().cloned());
    let cmd = run.cmd.clone().or_else(|| base.cmd.clone().filter(|_| run.entrypoint.is_none()));
    RunConfig {
        user: run.user.clone().or_else(|| base.user.clone()),
        exposed_ports: base
            .exposed_ports
            .iter()
            .chain(&run.exposed_ports)
            .map(|(k, v)| (k.clone(), *v))
            .collect(),
        env,
        entrypoint: run.entrypoint.clone().or_else(|| base.entrypoint.clone()),
        cmd,
        volumes: base.volumes.iter().chain(&run.volumes).map(|(k, v)| (k.clone(), *v)).collect(),
        working_dir: run.working_dir.clone().or_else(|| base.working_dir.clone()),
        labels: base.labels.iter().chain(&run.labels).map(|(k, v)| (k.clone(), v.clone())).collect(),
        stop_signal: run.stop_signal.clone().or_else(|| base.stop_signal.clone()),
    }
}

/// The version of the zstd library, `1.5.7`.
fn zstd_version() -> String {
    let number = zstd::zstd_safe::version_number();
    format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
}

impl Role {
    /// What users call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root file system",
            Self::Database => "Nix database",
            Self::Store => "store paths",
            Self::Index => "seed index",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems() {
        let platform = platform("armv7l-linux").unwrap();
        assert_eq!((platform.architecture.as_str(), platform.variant.as_deref()), ("arm", Some("v7")));
        for system in ["", "x86_64", "x86_64-darwin", "vax-linux"] {
            assert!(matches!(super::platform(system), Err(PackError::System(_))), "{system}");
        }
    }

    #[test]
    fn what_the_base_image_says_counts_where_the_user_says_nothing() {
        let words = |words: &[&str]| Some(words.iter().map(|word| word.to_string()).collect::<Vec<_>>());
        let base = RunConfig {
            env: vec!["A=base".to_owned(), "B=base".to_owned()],
            entrypoint: words(&["/entry"]),
            cmd: words(&["command"]),
            user: Some("7".to_owned()),
            ..RunConfig::default()
        };
        let same = over(&base, &RunConfig::default());
        assert_eq!(same, base);
        let run = RunConfig {
            env: vec!["A=mine".to_owned()],
            entrypoint: words(&["/mine"]),
            ..RunConfig::default()
        };
        let both = over(&base, &run);
        assert_eq!(both.env, ["B=base", "A=mine"]);
        assert_eq!((both.entrypoint, both.cmd), (words(&["/mine"]), None));
        assert_eq!(both.user.as_deref(), Some("7"));
        let command = RunConfig { cmd: words(&["other"]), ..RunConfig::default() };
        let both = over(&base, &command);
        assert_eq!((both.entrypoint, both.cmd), (words(&["/entry"]), words(&["other"])));
    }

    #[test]
    fn what_the_user_asks_for_wins() {
        let mut options = Options::new("x86_64-linux");
        options.run.env = vec!["PATH=/mine".to_owned(), "A=b".to_owned()];
        options.run.entrypoint = Some(vec!["/run".to_owned()]);
        options.labels.insert("a".to_owned(), "b".to_owned());
        options.labels.insert(label::SYSTEM.to_owned(), "another".to_owned());
        let run = run_config(&Closure::default(), &options);
        assert_eq!(run.env, ["PATH=/mine", "A=b"]);
        assert_eq!(run.cmd, None);
        assert_eq!(run.labels["a"], "b");
        assert_eq!(
            run.labels[label::SYSTEM],
            "x86_64-linux",
            "what the format says is not the user's to say"
        );
        assert_eq!(run.labels[label::VERSION], "1");
    }
}
