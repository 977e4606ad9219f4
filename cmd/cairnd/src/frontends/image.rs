//! The image that a frontend is in.

use std::collections::BTreeMap;

use base64::Engine as _;
use bytes::Bytes;
use cairn_solver::Reference;
use cairn_solver::llb::{Builder, Definition, ImageSource, OciLayoutSource, OpMetadata, SourceOp};
use cairn_solver::worker::{ImageQuery, LayoutStore};
use cairn_solver::{Bridge as _, BuildBridge, FrontendError, FrontendRequest, Platform, SolveError};
use serde::Deserialize;

use super::not_allowed;
use crate::config::FrontendRules;

/// How disk usage calls what such an image leaves.
const RECORD_TYPE: &str = "frontend";
/// Says that the frontend does without a network.
const NO_NETWORK: &str = "moby.buildkit.frontend.network.none";
/// Lists what the frontend can do.
const CAPS: &str = "moby.buildkit.frontend.caps";
/// Program of an image that names none.
const DEFAULT_ENTRYPOINT: &str = "/run";

/// A frontend's image: what it consists of, and what it says about itself.
pub(super) struct FrontendImage {
    pub(super) definition: Definition,
    /// The source that is all there is to it, and what it is for; `None` if the client built it.
    source: Option<(SourceOp, Option<Platform>)>,
    config: Config,
}

/// The parts of an image config that count.
#[derive(Debug, Default, Deserialize)]
struct ImageConfig {
    #[serde(default)]
    config: Option<Config>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Config {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    working_dir: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

impl FrontendImage {
    /// Finds the image called `source`, or what the options put in its place.
    pub(super) async fn find(
        bridge: &BuildBridge,
        source: &str,
        request: &FrontendRequest,
    ) -> Result<Self, FrontendError> {
        let platform = bridge.workers().into_iter().flat_map(|worker| worker.platforms).next();
        match substitute(source, &request.options) {
            None => Self::resolve(bridge, source, platform.as_ref()).await,
            Some((name, value)) => {
                let of_context = |cause: String| FrontendError::Option(format!("context {name}: {cause}"));
                match value.split_once(':') {
                    Some(("docker-image", rest)) if rest.starts_with("//") => {
                        Self::resolve(bridge, &rest[2..], platform.as_ref()).await
                    }
                    Some(("oci-layout", rest)) if rest.starts_with("//") => {
                        Self::of_layout(bridge, &rest[2..], platform.as_ref()).await
                    }
                    Some(("input", input)) => Self::of_input(input, request).map_err(of_context),
                    _ => Err(of_context(format!("{value} holds no frontend: only an image does"))),
                }
            }
        }
    }

    /// An image in a registry.
    async fn resolve(bridge: &BuildBridge, name: &str, platform: Option<&Platform>) -> Result<Self, FrontendError> {
        let reference = normalize(name)?;
        let query = ImageQuery {
            reference: reference.to_string(),
            platform: platform.cloned(),
            mode: Default::default(),
            layout: None,
        };
        let found = bridge.resolve_image(query, "").await;
        let found = found.map_err(|error| FrontendError::For {
            what: format!("failed to resolve source metadata for {}", reference),
            source: Box::new(error.into()),
        })?;
        let reference = normalize(&found.reference)?;
        let source = SourceOp::Image(ImageSource {
            reference: reference.pinned(found.digest).to_string(),
            record_type: RECORD_TYPE.to_owned(),
            ..ImageSource::default()
        });
        Self::new(source, platform, &found.config)
    }

    /// An image in an OCI layout of the client: a store and a digest.
    async fn of_layout(bridge: &BuildBridge, name: &str, platform: Option<&Platform>) -> Result<Self, FrontendError> {
        let (store, _) = name.split_once(['@', ':']).unwrap_or((name, ""));
        let store = LayoutStore {
            session: None,
            store: store.to_owned(),
        };
        let query = ImageQuery {
            reference: name.to_owned(),
            platform: platform.cloned(),
            mode: Default::default(),
            layout: Some(store.clone()),
        };
        let found = bridge.resolve_image(query, "").await?;
        let source = SourceOp::OciLayout(OciLayoutSource {
            reference: found.reference,
            store: store.store,
            ..OciLayoutSource::default()
        });
        Self::new(source, platform, &found.config)
    }

    /// What the client built before, with what it says about it.
    fn of_input(name: &str, request: &FrontendRequest) -> Result<Self, String> {
        let definition = request.inputs.get(name);
        let definition = definition.ok_or_else(|| format!("there is no input {name}"))?;
        let metadata = request.options.get(&format!("input-metadata:{name}"));
        let config = metadata.map(|metadata| config_of_input(metadata)).transpose()?;
        Ok(Self {
            definition: definition.clone(),
            source: None,
            config: config
                .flatten()
                .map_or(Ok(Config::default()), |config| parse(&config))?,
        })
    }

    fn new(source: SourceOp, platform: Option<&Platform>, config: &Bytes) -> Result<Self, FrontendError> {
        let mut builder = Builder::new();
        let output = builder.source(source.clone(), platform, OpMetadata::default());
        Ok(Self {
            definition: builder.finish(output),
            source: Some((source, platform.cloned())),
            config: parse(config).map_err(FrontendError::Option)?,
        })
    }

    /// Checks that it comes from where frontends may come from, also if policies of the client put another image in
    /// its place.
    pub(super) async fn check_origin(&self, bridge: &BuildBridge, rules: &FrontendRules) -> Result<(), FrontendError> {
        if rules.repositories.is_empty() {
            return Ok(());
        }
        let Some((source, platform)) = &self.source else {
            return Err(not_allowed("an input"));
        };
        let admitted = bridge.admit_source(&source.to_raw(), platform.as_ref()).await?;
        match SourceOp::from_raw(&admitted).map_err(SolveError::from)? {
            SourceOp::Image(image) if rules.allow(&image.reference) => Ok(()),
            _ => Err(not_allowed(&admitted.identifier)),
        }
    }

    /// What is run: the entrypoint alone.
    pub(super) fn args(&self) -> Vec<String> {
        let own = self.config.entrypoint.clone().filter(|args| !args.is_empty());
        own.unwrap_or_else(|| vec![DEFAULT_ENTRYPOINT.to_owned()])
    }

    /// Its environment.
    pub(super) fn env(&self) -> Vec<String> {
        self.config.env.clone().unwrap_or_default()
    }

    /// Where it is run.
    pub(super) fn cwd(&self) -> String {
        let own = self.config.working_dir.clone().filter(|dir| dir.starts_with('/'));
        own.unwrap_or_else(|| "/".to_owned())
    }

    /// Whether it does without a network.
    pub(super) fn has_no_network(&self) -> bool {
        matches!(self.label(NO_NETWORK), "1" | "t" | "T" | "TRUE" | "true" | "True")
    }

    /// Checks that it can do what the request needs.
    pub(super) fn check_caps(&self, request: &FrontendRequest) -> Result<(), FrontendError> {
        let names = |list: &str| -> Vec<String> {
            let names = list
                .split(',')
                .map(|name| name.split('+').next().unwrap_or_default().trim());
            names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
        };
        let has = names(self.label(CAPS));
        let mut needs = names(request.options.get("frontend.caps").map_or("", String::as_str));
        if !request.inputs.is_empty() {
            needs.push("moby.buildkit.frontend.inputs".to_owned());
        }
        match needs.into_iter().find(|needed| !has.contains(needed)) {
            Some(missing) => Err(FrontendError::Capability(missing)),
            None => Ok(()),
        }
    }

    fn label(&self, name: &str) -> &str {
        let labels = self.config.labels.as_ref();
        labels.and_then(|labels| labels.get(name)).map_or("", String::as_str)
    }
}

/// Whether the options put something else in the place of the image called `source`.
pub(super) fn is_substituted(source: &str, options: &BTreeMap<String, String>) -> bool {
    substitute(source, options).is_some()
}

/// The named context that stands for the image called `source`.
fn substitute<'a>(source: &str, options: &'a BTreeMap<String, String>) -> Option<(String, &'a str)> {
    let mut names = vec![source.to_owned()];
    names.extend(normalize(source).ok().map(|reference| reference.familiar()));
    let host = Platform::host();
    for name in names {
        for key in [format!("context:{name}::{host}"), format!("context:{name}")] {
            if let Some(value) = options.get(&key) {
                return Some((name, value));
            }
        }
    }
    None
}

fn normalize(name: &str) -> Result<Reference, FrontendError> {
    let invalid = |_| FrontendError::Option(format!("failed to parse {name:?}: invalid reference format"));
    name.parse().map_err(invalid)
}

fn parse(config: &[u8]) -> Result<Config, String> {
    let config: ImageConfig = serde_json::from_slice(config)
        .map_err(|error| format!("failed to parse the frontend's image config: {error}"))?;
    Ok(config.config.unwrap_or_default())
}

/// The image config among what a client says about an input: a map of values in base64, as JSON.
fn config_of_input(metadata: &str) -> Result<Option<Vec<u8>>, String> {
    let metadata: BTreeMap<String, String> =
        serde_json::from_str(metadata).map_err(|error| format!("its metadata is malformed: {error}"))?;
    let Some(config) = metadata.get("containerimage.config") else {
        return Ok(None);
    };
    let config = base64::engine::general_purpose::STANDARD.decode(config);
    config
        .map(Some)
        .map_err(|error| format!("its metadata is malformed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(config: &str) -> FrontendImage {
        FrontendImage {
            definition: Definition::default(),
            source: None,
            config: parse(config.as_bytes()).unwrap(),
        }
    }

    fn request(options: &[(&str, &str)]) -> FrontendRequest {
        let options = options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        FrontendRequest {
            options: options.collect(),
            ..FrontendRequest::default()
        }
    }

    #[test]
    fn an_image_that_says_nothing_has_defaults() {
        for config in [
            "{}",
            r#"{"config":null}"#,
            r#"{"config":{"Entrypoint":[],"WorkingDir":"","Labels":null}}"#,
        ] {
            let image = image(config);
            assert_eq!((image.args(), image.cwd()), (vec!["/run".to_owned()], "/".to_owned()));
            assert!(image.env().is_empty() && !image.has_no_network());
        }
        assert!(parse(b"no config").is_err());
    }

    #[test]
    fn capabilities_are_cut_at_the_plus() {
        let image = image(r#"{"config":{"Labels":{"moby.buildkit.frontend.caps":"a.inputs, b+forward"}}}"#);
        assert!(image.check_caps(&request(&[("frontend.caps", "b+x,a.inputs")])).is_ok());
        let error = image
            .check_caps(&request(&[("frontend.caps", "b,c+forward")]))
            .unwrap_err();
        assert!(matches!(error, FrontendError::Capability(name) if name == "c"));
        let mut with_inputs = request(&[]);
        with_inputs.inputs.insert("x".to_owned(), Definition::default());
        assert!(image.check_caps(&with_inputs).is_err());
    }

    #[test]
    fn named_contexts_stand_for_images() {
        let options = request(&[
            ("context:a/b:1", "docker-image://c"),
            ("context:dockerfile.v0", "input:x"),
        ])
        .options;
        assert_eq!(
            substitute("docker.io/a/b:1", &options),
            Some(("a/b:1".to_owned(), "docker-image://c"))
        );
        assert!(is_substituted("dockerfile.v0", &options));
        assert!(!is_substituted("a/b:2", &options));
    }
}
