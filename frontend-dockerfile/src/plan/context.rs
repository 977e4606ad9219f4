//! Named contexts: `--build-context name=source`.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use cairn_solver::llb::{Builder, HttpSource, OpMetadata, SourceOp};
use cairn_solver::{Digest, Platform};

use crate::options::Options;
use crate::remote::GitRef;
use cairn_solver::Reference;

use super::{Base, ContextImage, GraphBase};

/// A named context that was asked for by its name.
#[derive(Debug, Clone)]
pub(crate) struct NamedContext {
    pub(crate) base: Base,
}

impl NamedContext {
    /// The context that stands for `name`, if there is one. `scratch` and `context` never have one.
    pub(crate) fn find(options: &Options, name: &str, platform: &Platform) -> Result<Option<Self>, String> {
        if options.contexts.is_empty() || matches!(name, "scratch" | "context") {
            return Ok(None);
        }
        // A name that is no image reference is no name of a context either; what it is shows elsewhere.
        let Ok(reference) = Reference::parse(name) else {
            return Ok(None);
        };
        let name = reference.familiar();
        let specific = format!("{name}::{platform}");
        let found = options.contexts.get_key_value(&specific);
        let Some((title, specifier)) = found.or_else(|| options.contexts.get_key_value(&name)) else {
            return Ok(None);
        };
        let context = Lookup {
            options,
            name: &name,
            title,
        };
        let base = context.base(specifier)?;
        Ok(Some(Self { base }))
    }

    /// The context called `title` with another specifier than the one that was asked for.
    pub(crate) fn instead(options: &Options, title: &str, specifier: &str) -> Result<Self, String> {
        let context = Lookup {
            options,
            name: title.split("::").next().unwrap_or(title),
            title,
        };
        let base = context.base(specifier)?;
        Ok(Self { base })
    }
}

/// A context that has a specifier.
struct Lookup<'a> {
    options: &'a Options,
    /// The name that it is looked up by.
    name: &'a str,
    /// The name that it is shown by: with the platform, if it is of one only.
    title: &'a str,
}

impl Lookup<'_> {
    fn base(&self, specifier: &str) -> Result<Base, String> {
        let Some((scheme, rest)) = specifier.split_once(':') else {
            return Err(format!("invalid context specifier {specifier} for {}", self.title));
        };
        match scheme {
            "docker-image" => self.image(rest.strip_prefix("//").unwrap_or(rest)),
            "git" | "ssh" => self.git(specifier),
            _ if scheme.contains('@') => self.git(specifier),
            "http" | "https" => match GitRef::parse(specifier) {
                Some(_) => self.git(specifier),
                None => Ok(self.file(specifier)),
            },
            "oci-layout" => self.layout(rest.strip_prefix("//").unwrap_or(rest)),
            "local" => Ok(Base::Local {
                context: self.title.to_owned(),
                local: rest.to_owned(),
            }),
            "input" => self.input(rest),
            _ => Err(format!("unsupported context source {scheme} for {}", self.title)),
        }
    }

    fn image(&self, image: &str) -> Result<Base, String> {
        if image == "scratch" {
            return Ok(Base::Scratch);
        }
        let reference =
            Reference::parse(image).map_err(|cause| format!("failed to parse context {}: {cause}", self.title))?;
        Ok(Base::Image {
            reference,
            context: Some(self.shown(image)),
            layout: None,
            resolved: None,
        })
    }

    fn shown(&self, written: &str) -> ContextImage {
        ContextImage {
            title: self.title.to_owned(),
            written: written.to_owned(),
        }
    }

    fn git(&self, specifier: &str) -> Result<Base, String> {
        let reference = GitRef::parse(specifier).ok_or_else(|| format!("invalid git context {specifier}"))??;
        let mut source = reference.source();
        source.mtime = reference.mtime.unwrap_or_default();
        let title = format!("[internal] load git source {specifier}");
        Ok(graph(SourceOp::Git(source), title))
    }

    fn file(&self, url: &str) -> Base {
        let source = HttpSource {
            url: url.to_owned(),
            filename: "context".to_owned(),
            ..HttpSource::default()
        };
        graph(SourceOp::Http(source), format!("[context {}] {url}", self.title))
    }

    /// An image in an OCI layout: `store[:tag]@digest`.
    fn layout(&self, text: &str) -> Result<Base, String> {
        let fail = || format!("could not parse oci-layout reference \"{text}\"");
        let (tagged, digest) = match text.split_once('@') {
            Some((tagged, digest)) => (tagged, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash is of a port.
        let last = tagged.rfind('/').map_or(0, |at| at + 1);
        let store = tagged[last..].find(':').map_or(tagged, |at| &tagged[..last + at]);
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':');
        if store.is_empty() || !tagged.chars().all(is_name) {
            return Err(fail());
        }
        let digest = digest.ok_or_else(|| format!("oci-layout reference \"{text}\" has no digest"))?;
        let digest = Digest::parse(digest).map_err(|_| fail())?;
        let name = self.name.split('@').next().unwrap_or(self.name);
        let reference = Reference::parse(&format!("{name}@{digest}")).map_err(|_| fail())?;
        Ok(Base::Image {
            reference,
            context: Some(self.shown(text)),
            layout: Some(store.to_owned()),
            resolved: None,
        })
    }

    fn input(&self, input: &str) -> Result<Base, String> {
        let Some(definition) = self.options.inputs.get(input) else {
            return Err(format!("invalid input {input} for {}", self.title));
        };
        let config = match self.options.input_metadata.get(input) {
            Some(metadata) => input_config(metadata)?,
            None => None,
        };
        Ok(Base::Graph(GraphBase {
            definition: Arc::clone(definition),
            source: None,
            config,
        }))
    }
}

/// A graph of nothing but a source.
fn graph(source: SourceOp, title: String) -> Base {
    let mut builder = Builder::new();
    let output = builder.source(source.clone(), None, OpMetadata::named(title));
    Base::Graph(GraphBase {
        definition: Arc::new(builder.finish(output)),
        source: Some(Box::new(source)),
        config: None,
    })
}

/// The image config in what a client says about an input: JSON, with its values in base64.
fn input_config(metadata: &str) -> Result<Option<Bytes>, String> {
    let fail = |cause: &dyn std::fmt::Display| format!("failed to parse input metadata {metadata}: {cause}");
    let mut entries: BTreeMap<String, Option<String>> = serde_json::from_str(metadata).map_err(|error| fail(&error))?;
    let Some(encoded) = entries.remove("containerimage.config").flatten() else {
        return Ok(None);
    };
    let config = BASE64_STANDARD.decode(encoded).map_err(|error| fail(&error))?;
    Ok(Some(config.into()))
}
