//! SLSA provenance, version 1.
//!
//! See <https://slsa.dev/spec/v1.1/provenance>, and "SLSA definitions" in `BuildKit`'s documentation.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::predicate::{BuildConfig, Claims, Facts, Material, Metadata, Origin, Request};

const BUILD_TYPE: &str = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Predicate<'a> {
    build_definition: Definition<'a>,
    run_details: Details<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Definition<'a> {
    build_type: &'static str,
    external_parameters: External<'a>,
    internal_parameters: Internal<'a>,
    #[serde(skip_serializing_if = "<[Material]>::is_empty")]
    resolved_dependencies: &'a [Material],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct External<'a> {
    config_source: &'a Origin,
    request: &'a Request,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Internal<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    build_config: Option<&'a BuildConfig>,
    builder_platform: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dockerfile_version: Option<&'static str>,
    /// What is the operator's.
    #[serde(flatten)]
    added: BTreeMap<&'a String, &'a Value>,
}

/// The members beside which operators can put others.
const INTERNAL: &[&str] = &["buildConfig", "builderPlatform", "dockerfileVersion"];

#[derive(Debug, Serialize)]
struct Details<'a> {
    builder: Builder<'a>,
    metadata: RunMetadata<'a>,
}

#[derive(Debug, Serialize)]
struct Builder<'a> {
    id: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RunMetadata<'a> {
    invocation_id: &'a str,
    started_on: Timestamp,
    finished_on: Timestamp,
    #[serde(rename = "buildkit_metadata")]
    metadata: &'a Metadata,
    #[serde(rename = "buildkit_hermetic", skip_serializing_if = "std::ops::Not::not")]
    is_hermetic: bool,
    #[serde(rename = "buildkit_completeness")]
    completeness: Completeness,
    #[serde(rename = "buildkit_reproducible", skip_serializing_if = "std::ops::Not::not")]
    is_reproducible: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Completeness {
    request: bool,
    resolved_dependencies: bool,
}

impl<'a> Predicate<'a> {
    pub(super) fn new(facts: &'a Facts, claims: Claims<'a>) -> Self {
        Self {
            build_definition: Definition {
                build_type: BUILD_TYPE,
                external_parameters: External {
                    config_source: &facts.origin,
                    request: &facts.request,
                },
                internal_parameters: Internal {
                    build_config: facts.steps.as_ref(),
                    builder_platform: &facts.platform,
                    dockerfile_version: facts.dockerfile_version,
                    added: facts.environment.beside(INTERNAL).collect(),
                },
                resolved_dependencies: &facts.materials,
            },
            run_details: Details {
                builder: Builder { id: claims.builder_id },
                metadata: RunMetadata {
                    invocation_id: &facts.invocation,
                    started_on: facts.started,
                    finished_on: facts.finished,
                    metadata: &facts.metadata,
                    is_hermetic: facts.is_hermetic(),
                    completeness: Completeness {
                        request: facts.tells_request(),
                        resolved_dependencies: facts.is_complete,
                    },
                    is_reproducible: claims.is_reproducible,
                },
            },
        }
    }
}
