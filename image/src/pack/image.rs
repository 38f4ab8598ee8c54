//! The image around the layers: configuration and manifest.

use std::collections::BTreeMap;

use super::work::Made;
use super::{Options, PackError, Role};
use crate::closure::Closure;
use crate::manifest::{Config, Descriptor, History, Manifest, Platform, RootFs, RunConfig, media_type};
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
    Config {
        created: Some(CREATED.to_owned()),
        architecture: platform.architecture,
        os: platform.os,
        config: run_config(closure, options),
        rootfs: RootFs {
            diff_ids: made.iter().map(|made| made.layer.diff_id).collect(),
            ..RootFs::default()
        },
        history: made.iter().map(history).collect(),
    }
}

pub(super) fn manifest(config: Descriptor, layers: Vec<Descriptor>) -> Manifest {
    Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.to_owned()),
        artifact_type: None,
        config,
        layers,
        subject: None,
        annotations: BTreeMap::new(),
    }
}

/// What the user asked for, over the defaults.
fn run_config(closure: &Closure, options: &Options) -> RunConfig {
    let mut run = options.run.clone();
    let programs = &closure.programs;
    if run.entrypoint.is_none() && run.cmd.is_none() && programs.shell.is_some() {
        run.cmd = Some(vec!["/bin/sh".to_owned()]);
    }
    let mut path = vec!["/bin".to_owned(), "/usr/bin".to_owned()];
    for program in [&programs.env, &programs.shell, &programs.nix].into_iter().flatten() {
        path.insert(0, format!("{program}/bin"));
    }
    path.dedup();
    let mut environment = vec![format!("PATH={}", path.join(":"))];
    if programs.certificates.is_some() {
        for name in ["NIX_SSL_CERT_FILE", "SSL_CERT_FILE"] {
            environment.push(format!("{name}=/etc/ssl/certs/ca-bundle.crt"));
        }
    }
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
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
