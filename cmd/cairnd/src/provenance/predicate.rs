//! What is stated of a build, and the parts of it that look the same in every version.

use std::collections::BTreeMap;

use cairn_worker::image::Descriptor;
use cairn_worker::usage::MachineSample;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::environment::Environment;
use super::usage::{ResourceUsage, Timed};
use super::{v1, v02};

/// How much is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Nothing that the client might not want others to see: no arguments, no steps, no files.
    Min,
    /// All there is.
    Max,
}

/// The form it is told in, as SLSA's versions are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// 0.2.
    V02,
    /// 1.
    V1,
}

impl Version {
    /// What is stated, as a URL.
    pub(crate) fn predicate_type(self) -> &'static str {
        match self {
            Self::V02 => "https://slsa.dev/provenance/v0.2",
            Self::V1 => "https://slsa.dev/provenance/v1",
        }
    }
}

/// All that is known of how a result was made.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// The id of the build.
    pub(super) invocation: String,
    pub(super) started: Timestamp,
    pub(super) finished: Timestamp,
    pub(super) origin: Origin,
    pub(super) request: Request,
    pub(super) materials: Vec<Material>,
    /// Whether `materials` are all that was used.
    pub(super) is_complete: bool,
    /// Whether processes could reach others.
    pub(super) has_network: bool,
    /// Where it was built.
    pub(super) platform: String,
    /// Version of the language, if it was a Dockerfile.
    pub(super) dockerfile_version: Option<&'static str>,
    /// What operators add.
    pub(super) environment: Environment,
    pub(super) steps: Option<BuildConfig>,
    pub(super) metadata: Metadata,
}

/// What a client adds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claims<'a> {
    pub(super) builder_id: &'a str,
    pub(super) is_reproducible: bool,
}

impl Facts {
    /// Whether the request tells everything that was asked for.
    pub(super) fn tells_request(&self) -> bool {
        !self.request.frontend.is_empty() && !self.request.is_reduced
    }

    /// Whether nothing could come in besides what is named.
    pub(super) fn is_hermetic(&self) -> bool {
        self.is_complete && !self.has_network
    }

    /// The same without what is only for those who want to know everything.
    pub(super) fn reduced(&self) -> Self {
        Self {
            request: self.request.reduced(),
            steps: None,
            metadata: Metadata {
                vcs: self.metadata.vcs.clone(),
                ..Metadata::default()
            },
            ..self.clone()
        }
    }

    /// The predicate, indented.
    ///
    /// # Errors
    /// If it cannot be written down.
    pub(super) fn to_json(&self, version: Version, claims: Claims<'_>) -> Result<Vec<u8>, serde_json::Error> {
        match version {
            Version::V02 => serde_json::to_vec_pretty(&v02::Predicate::new(self, claims)),
            Version::V1 => serde_json::to_vec_pretty(&v1::Predicate::new(self, claims)),
        }
    }
}

/// Something that was used, and what it was at that time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Material {
    pub(super) uri: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) digest: BTreeMap<String, String>,
}

/// Where the description of the build comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Origin {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) uri: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) digest: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) path: String,
}

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) frontend: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) args: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) secrets: Vec<Lent>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) ssh: Vec<Lent>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) locals: Vec<Local>,
    /// How results that were handed to the frontend were asked for, by their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) inputs: BTreeMap<String, Asked>,
    /// What the client asked for, if that led to this request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) root: Option<Box<Asked>>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) compatibility_version: i64,
    /// Whether arguments were left out.
    #[serde(skip)]
    pub(super) is_reduced: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl Request {
    fn reduced(&self) -> Self {
        let is_private = |key: &str| key.starts_with("build-arg:") || key.starts_with("label:");
        let mut reduced = self.clone();
        reduced.args.retain(|key, _| !is_private(key));
        reduced.secrets.clear();
        reduced.ssh.clear();
        reduced.is_reduced |= reduced.args.len() < self.args.len();
        for asked in reduced.inputs.values_mut().chain(reduced.root.as_deref_mut()) {
            asked.request = asked.request.reduced();
            reduced.is_reduced |= asked.request.is_reduced;
        }
        reduced
    }
}

/// A request that led to another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Asked {
    pub(super) config_source: Origin,
    pub(super) request: Request,
}

/// Something private that a client lent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Lent {
    pub(super) id: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) optional: bool,
}

/// A directory of the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Local {
    pub(super) name: String,
}

/// The steps of a build.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BuildConfig {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) llb_definition: Vec<Step>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) digest_mapping: BTreeMap<String, String>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Step {
    pub(super) id: String,
    pub(super) op: Value,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) inputs: Vec<String>,
    /// If it ran, and was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resource_usage: Option<ResourceUsage>,
}

/// What SLSA has no place for.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) vcs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<Source>,
    /// For each output of a step, the chains of layers that it is known as.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) layers: BTreeMap<String, Vec<Vec<Descriptor>>>,
    /// What was used of the whole machine meanwhile.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) sys_usage: Vec<Timed<MachineSample>>,
}

/// The user's files, and the places in them that steps come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Source {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) locations: BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) infos: Vec<SourceFile>,
}

/// A file of the user's.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct SourceFile {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) filename: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) language: String,
    /// In base64.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) data: String,
    /// How it was read.
    #[serde(flatten)]
    pub(super) steps: BuildConfig,
}

#[cfg(test)]
mod tests;
