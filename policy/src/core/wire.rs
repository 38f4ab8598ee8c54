//! The JSON shape of a core statement, field by field, and its conversion.

use seed_format::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    ANY_BUILDER, CoreError, CoreStatement, Kind, NixConfig, PREDICATE_TYPE, STATEMENT_TYPE, Sbom, Subject,
};
use crate::{Commit, SourceUri, System};

const NETWORK: &str = "none";
const SOURCE: &str = "source";
const FLAKE_LOCK: &str = "flake.lock";
const SBOM: &str = "sbom";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<NamedSubject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: Predicate,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedSubject {
    name: String,
    digest: Sha256,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Predicate {
    build_definition: BuildDefinition,
    run_details: RunDetails,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct BuildDefinition {
    build_type: String,
    external_parameters: ExternalParameters,
    internal_parameters: InternalParameters,
    resolved_dependencies: Vec<Dependency>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ExternalParameters {
    kind: Kind,
    system: System,
    output: String,
    source: Source,
    flake_lock: FlakeLock,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    uri: SourceUri,
    digest: GitCommit,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FlakeLock {
    digest: Sha256,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct InternalParameters {
    network: String,
    nix_config: NixConfig,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dependency {
    name: String,
    uri: String,
    digest: DependencyDigest,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum DependencyDigest {
    Commit(GitCommit),
    Content(Sha256),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunDetails {
    builder: Builder,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    byproducts: Vec<Byproduct>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Builder {
    id: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Byproduct {
    name: String,
    media_type: String,
    digest: Sha256,
}

#[derive(Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct GitCommit {
    git_commit: Commit,
}

/// A digest set with one member. In-toto writes the hexadecimal digits without the algorithm.
#[derive(Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Sha256 {
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    sha256: Digest,
}

fn to_hex<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&digest.hex())
}

fn from_hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
    let hex = String::deserialize(deserializer)?;
    format!("sha256:{hex}").parse().map_err(serde::de::Error::custom)
}

impl From<&CoreStatement> for Statement {
    fn from(core: &CoreStatement) -> Self {
        let commit = || GitCommit { git_commit: core.commit.clone() };
        let flake_lock = || Sha256 { sha256: core.flake_lock };
        let byproducts = core.sbom.iter().map(|sbom| Byproduct {
            name: SBOM.into(),
            media_type: sbom.media_type.clone(),
            digest: Sha256 { sha256: sbom.digest },
        });
        Self {
            kind: STATEMENT_TYPE.into(),
            subject: vec![NamedSubject {
                name: core.subject.name.clone(),
                digest: Sha256 { sha256: core.subject.digest },
            }],
            predicate_type: PREDICATE_TYPE.into(),
            predicate: Predicate {
                build_definition: BuildDefinition {
                    build_type: core.kind.build_type().into(),
                    external_parameters: ExternalParameters {
                        kind: core.kind,
                        system: core.system.clone(),
                        output: core.output.clone(),
                        source: Source { uri: core.source.clone(), digest: commit() },
                        flake_lock: FlakeLock { digest: flake_lock() },
                    },
                    internal_parameters: InternalParameters {
                        network: NETWORK.into(),
                        nix_config: core.nix_config.clone(),
                    },
                    resolved_dependencies: vec![
                        Dependency {
                            name: SOURCE.into(),
                            uri: core.source.to_string(),
                            digest: DependencyDigest::Commit(commit()),
                        },
                        Dependency {
                            name: FLAKE_LOCK.into(),
                            uri: flake_lock_uri(&core.source),
                            digest: DependencyDigest::Content(flake_lock()),
                        },
                    ],
                },
                run_details: RunDetails {
                    builder: Builder { id: ANY_BUILDER.into() },
                    byproducts: byproducts.collect(),
                },
            },
        }
    }
}

fn flake_lock_uri(source: &SourceUri) -> String {
    format!("{source}#{FLAKE_LOCK}")
}

impl TryFrom<Statement> for CoreStatement {
    type Error = CoreError;

    fn try_from(wire: Statement) -> Result<Self, CoreError> {
        let Predicate { build_definition: definition, run_details } = wire.predicate;
        let parameters = definition.external_parameters;
        constant("_type", &wire.kind, STATEMENT_TYPE)?;
        constant("predicateType", &wire.predicate_type, PREDICATE_TYPE)?;
        constant("buildType", &definition.build_type, parameters.kind.build_type())?;
        constant("network", &definition.internal_parameters.network, NETWORK)?;
        constant("builder.id", &run_details.builder.id, ANY_BUILDER)?;
        check_dependencies(&definition.resolved_dependencies, &parameters)?;
        let [subject] = <[NamedSubject; 1]>::try_from(wire.subject)
            .map_err(|_| CoreError::Items { field: "subject", expected: "one item" })?;
        Ok(Self {
            subject: Subject { name: subject.name, digest: subject.digest.sha256 },
            kind: parameters.kind,
            system: parameters.system,
            output: parameters.output,
            source: parameters.source.uri,
            commit: parameters.source.digest.git_commit,
            flake_lock: parameters.flake_lock.digest.sha256,
            nix_config: definition.internal_parameters.nix_config,
            sbom: sbom(run_details.byproducts)?,
        })
    }
}

fn constant(field: &'static str, found: &str, expected: &'static str) -> Result<(), CoreError> {
    if found == expected { Ok(()) } else { Err(CoreError::Constant { field, expected }) }
}

fn check_dependencies(dependencies: &[Dependency], parameters: &ExternalParameters) -> Result<(), CoreError> {
    let [source, flake_lock] = dependencies else {
        return Err(CoreError::Items {
            field: "resolvedDependencies",
            expected: "two items, \"source\" and \"flake.lock\"",
        });
    };
    constant("resolvedDependencies[0].name", &source.name, SOURCE)?;
    constant("resolvedDependencies[1].name", &flake_lock.name, FLAKE_LOCK)?;
    let commit =
        matches!(&source.digest, DependencyDigest::Commit(commit) if *commit == parameters.source.digest);
    let content = matches!(&flake_lock.digest, DependencyDigest::Content(content) if *content == parameters.flake_lock.digest);
    let copies = [
        ("source.uri", source.uri == parameters.source.uri.as_str()),
        ("source.digest", commit),
        ("flakeLock.uri", flake_lock.uri == flake_lock_uri(&parameters.source.uri)),
        ("flakeLock.digest", content),
    ];
    match copies.into_iter().find(|(_, agree)| !agree) {
        Some((field, _)) => Err(CoreError::Disagree { field }),
        None => Ok(()),
    }
}

fn sbom(byproducts: Vec<Byproduct>) -> Result<Option<Sbom>, CoreError> {
    let mut byproducts = byproducts.into_iter();
    let first = byproducts.next();
    if byproducts.next().is_some() {
        return Err(CoreError::Items { field: "byproducts", expected: "at most one item, \"sbom\"" });
    }
    first
        .map(|byproduct| {
            constant("byproducts[0].name", &byproduct.name, SBOM)?;
            Ok(Sbom { media_type: byproduct.media_type, digest: byproduct.digest.sha256 })
        })
        .transpose()
}
