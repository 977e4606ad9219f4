//! Named contexts: `--build-context name=source`.

use cairn_solver::Platform;

use crate::options::Options;
use crate::reference::ImageRef;

use super::Base;

/// A named context that was asked for by its name.
#[derive(Debug, Clone)]
pub(super) struct NamedContext {
    pub(super) base: Base,
}

impl NamedContext {
    /// The context that stands for `name`, if there is one. `scratch` and `context` never have one.
    pub(super) fn find(options: &Options, name: &str, platform: &Platform) -> Result<Option<Self>, String> {
        if options.contexts.is_empty() || matches!(name, "scratch" | "context") {
            return Ok(None);
        }
        // A name that is no image reference is no name of a context either; what it is shows elsewhere.
        let Ok(reference) = ImageRef::parse(name) else {
            return Ok(None);
        };
        let name = reference.familiar();
        let specific = options.contexts.get(&format!("{name}::{platform}"));
        let Some(specifier) = specific.or_else(|| options.contexts.get(&name)) else {
            return Ok(None);
        };
        let base = base(&name, specifier)?;
        Ok(Some(Self { base }))
    }
}

fn base(name: &str, specifier: &str) -> Result<Base, String> {
    let Some((scheme, rest)) = specifier.split_once(':') else {
        return Err(format!("invalid context specifier {specifier} for {name}"));
    };
    match scheme {
        "docker-image" => match rest.strip_prefix("//").unwrap_or(rest) {
            "scratch" => Ok(Base::Scratch),
            image => {
                let reference =
                    ImageRef::parse(image).map_err(|cause| format!("failed to parse context {name}: {cause}"))?;
                Ok(Base::Image {
                    reference,
                    context: Some(name.to_owned()),
                    resolved: None,
                })
            }
        },
        "local" => Ok(Base::Local {
            context: name.to_owned(),
            local: rest.to_owned(),
        }),
        "git" | "http" | "https" | "ssh" | "oci-layout" | "input" => {
            Err(format!("context source {scheme} for {name} is not supported yet"))
        }
        _ if scheme.contains('@') => Err(format!("context source git for {name} is not supported yet")),
        _ => Err(format!("unsupported context source {scheme} for {name}")),
    }
}
