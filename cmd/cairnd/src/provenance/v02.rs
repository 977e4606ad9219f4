//! SLSA provenance, version 0.2.
//!
//! See <https://slsa.dev/spec/v0.2/provenance>, and "SLSA definitions" in `BuildKit`'s documentation.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::predicate::{BuildConfig, Claims, Facts, Material, Metadata, Request};

const BUILD_TYPE: &str = "https://mobyproject.org/buildkit@v1";

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Predicate<'a> {
    builder: Builder<'a>,
    build_type: &'static str,
    #[serde(skip_serializing_if = "<[Material]>::is_empty")]
    materials: &'a [Material],
    invocation: Invocation<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    build_config: Option<&'a BuildConfig>,
    metadata: RunMetadata<'a>,
}

#[derive(Debug, Serialize)]
struct Builder<'a> {
    id: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Invocation<'a> {
    config_source: ConfigSource<'a>,
    parameters: &'a Request,
    environment: Environment<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ConfigSource<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    uri: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    digest: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    entry_point: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Environment<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    dockerfile_version: Option<&'static str>,
    platform: &'a str,
    /// What is the operator's.
    #[serde(flatten)]
    added: BTreeMap<&'a String, &'a Value>,
}

/// The members beside which operators can put others.
const ENVIRONMENT: &[&str] = &["dockerfileVersion", "platform"];

#[derive(Debug, Serialize)]
struct RunMetadata<'a> {
    #[serde(rename = "buildInvocationID")]
    invocation: &'a str,
    #[serde(rename = "buildStartedOn")]
    started: Timestamp,
    #[serde(rename = "buildFinishedOn")]
    finished: Timestamp,
    completeness: Completeness,
    reproducible: bool,
    #[serde(rename = "https://mobyproject.org/buildkit@v1#metadata")]
    metadata: &'a Metadata,
    #[serde(
        rename = "https://mobyproject.org/buildkit@v1#hermetic",
        skip_serializing_if = "std::ops::Not::not"
    )]
    is_hermetic: bool,
}

#[derive(Debug, Serialize)]
struct Completeness {
    parameters: bool,
    environment: bool,
    materials: bool,
}

impl<'a> Predicate<'a> {
    pub(super) fn new(facts: &'a Facts, claims: Claims<'a>) -> Self {
        Self {
            builder: Builder { id: claims.builder_id },
            build_type: BUILD_TYPE,
            materials: &facts.materials,
            invocation: Invocation {
                config_source: ConfigSource {
                    uri: &facts.origin.uri,
                    digest: &facts.origin.digest,
                    entry_point: &facts.origin.path,
                },
                parameters: &facts.request,
                environment: Environment {
                    dockerfile_version: facts.dockerfile_version,
                    platform: &facts.platform,
                    added: facts.environment.beside(ENVIRONMENT).collect(),
                },
            },
            build_config: facts.steps.as_ref(),
            metadata: RunMetadata {
                invocation: &facts.invocation,
                started: facts.started,
                finished: facts.finished,
                completeness: Completeness {
                    parameters: facts.tells_request(),
                    environment: true,
                    materials: facts.is_complete,
                },
                reproducible: claims.is_reproducible,
                metadata: &facts.metadata,
                is_hermetic: facts.is_hermetic(),
            },
        }
    }
}
