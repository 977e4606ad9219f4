//! The frontends of this daemon, by the names that clients use: the built-in one, and those in images.

mod external;
mod image;
mod stderr;
mod stdio;

use std::sync::Arc;

use async_trait::async_trait;
use cairn_dockerfile::DockerfileFrontend;
use cairn_solver::{BuildBridge, Frontend, FrontendError, FrontendRequest, FrontendResult, Frontends};
use cairn_worker::service::WorkerService;

use crate::config::FrontendRules;

/// The built-in frontend.
const BUILT_IN: &str = "dockerfile.v0";
/// Frontends from images.
const GATEWAY: &str = "gateway.v0";

/// What is there without pulling anything, and the way to everything else.
pub(crate) struct BuiltInFrontends {
    pub(crate) worker: Arc<dyn WorkerService>,
    pub(crate) rules: FrontendRules,
}

#[async_trait]
impl Frontends for BuiltInFrontends {
    async fn solve(
        &self,
        name: &str,
        bridge: Arc<BuildBridge>,
        request: FrontendRequest,
    ) -> Result<FrontendResult, FrontendError> {
        match name {
            BUILT_IN if self.rules.dockerfile => DockerfileFrontend.solve(bridge, request).await,
            GATEWAY if self.rules.gateway => {
                check_source(&self.rules, &request)?;
                // Clients ask for the built-in frontend in this way too.
                if self.rules.dockerfile && is_built_in(&request) {
                    return DockerfileFrontend.solve(bridge, request).await;
                }
                external::solve(&self.worker, bridge, request, &self.rules).await
            }
            _ => Err(FrontendError::Option(format!("invalid frontend: {name}"))),
        }
    }
}

/// Refuses images that frontends may not come from; what stands for an image may come from anywhere.
fn check_source(rules: &FrontendRules, request: &FrontendRequest) -> Result<(), FrontendError> {
    let source = request.options.get("source").map_or("", String::as_str);
    let is_allowed = source == BUILT_IN && rules.dockerfile || rules.allow(source);
    let is_substituted = !rules.repositories.is_empty() && image::is_substituted(source, &request.options);
    if is_allowed && !is_substituted {
        return Ok(());
    }
    Err(not_allowed(source))
}

fn not_allowed(source: &str) -> FrontendError {
    FrontendError::Option(format!("'{source}' is not an allowed gateway source"))
}

/// Whether the image asked for is what this daemon has built in, and nothing else is to stand for it.
fn is_built_in(request: &FrontendRequest) -> bool {
    let source = request.options.get("source").map_or("", String::as_str);
    let is_named = source == BUILT_IN || cairn_dockerfile::is_official(source);
    is_named && !image::is_substituted(source, &request.options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frontends_come_from_allowed_repositories_only() {
        let rules = |repositories: &[&str]| FrontendRules {
            dockerfile: true,
            gateway: true,
            repositories: repositories.iter().map(|&name| name.to_owned()).collect(),
        };
        let request = |source: &str, context: Option<&str>| {
            let context = context.map(|name| (format!("context:{name}"), "docker-image://evil/x".to_owned()));
            FrontendRequest {
                options: context
                    .into_iter()
                    .chain([("source".to_owned(), source.to_owned())])
                    .collect(),
                inputs: [].into(),
            }
        };
        let ours = &["docker.io/docker/dockerfile"][..];
        for (repositories, source, context, want) in [
            (&[][..], "evil/x", None, true),
            (&[], "a/b", Some("a/b"), true),
            (ours, "docker/dockerfile:1", None, true),
            (ours, "docker.io/docker/dockerfile", None, true),
            (ours, "dockerfile.v0", None, true),
            (ours, "docker/dockerfile-upstream:master", None, false),
            (ours, "evil.example/docker/dockerfile", None, false),
            (ours, "", None, false),
            (ours, "docker/dockerfile:1", Some("docker/dockerfile:1"), false),
        ] {
            let checked = check_source(&rules(repositories), &request(source, context));
            assert_eq!(checked.is_ok(), want, "{repositories:?} {source} {context:?}");
        }
    }
}
