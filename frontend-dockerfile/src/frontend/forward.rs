//! Handing a request on to another frontend, when the file or the client asks for that.

use std::sync::Arc;

use cairn_solver::frontend::{Bridge, FrontendError, FrontendRequest, FrontendResult};
use cairn_solver::llb::SourceLocation;

use super::inputs::Inputs;
use crate::lower;
use crate::options::{Options, is_official};
use crate::syntax;

/// What runs frontends that are in images.
const GATEWAY: &str = "gateway.v0";

/// Has another frontend carry out the request, if one is asked for that this one does not stand for.
///
/// The option `cmdline` says that this has happened already: whoever is forwarded to decides by itself.
pub(super) async fn forward(
    bridge: &Arc<dyn Bridge>,
    options: &Options,
    inputs: &Inputs,
    request: &FrontendRequest,
) -> Option<Result<FrontendResult, FrontendError>> {
    if options.has_cmdline {
        return None;
    }
    let asked = options.build_args.get("BUILDKIT_SYNTAX");
    let directive = syntax::external_syntax(&inputs.file.data);
    let (value, lines) = match (asked, &directive) {
        (Some(asked), _) => (asked.clone(), None),
        (None, Some(directive)) => (directive.value.clone(), Some(directive.lines)),
        (None, None) => return None,
    };
    let image = value.split(' ').next().unwrap_or_default();
    // Images of the official frontend, of any version, are what this one stands for, unless something else is to.
    let is_substituted = options.contexts.keys().any(|name| is_official(name));
    if image == "dockerfile.v0" || (is_official(image) && !is_substituted) {
        return None;
    }
    let mut request = request.clone();
    request.options.insert("source".to_owned(), image.to_owned());
    request.options.insert("cmdline".to_owned(), value.clone());
    let outcome = bridge.clone().solve_frontend(GATEWAY, request).await;
    Some(outcome.map_err(|error| match lines {
        Some(lines) => FrontendError::At {
            source: Box::new(error),
            file: Box::new(inputs.file.clone()),
            locations: vec![SourceLocation {
                file: 0,
                ranges: lower::ranges(lines),
            }],
        },
        None => FrontendError::For {
            what: format!("failed with build-arg:BUILDKIT_SYNTAX = {value}"),
            source: Box::new(error),
        },
    }))
}
