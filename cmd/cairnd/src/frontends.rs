//! The frontends of this daemon, by the names that clients use.

use std::sync::Arc;

use async_trait::async_trait;
use cairn_dockerfile::DockerfileFrontend;
use cairn_solver::{BuildBridge, Frontend, FrontendError, FrontendRequest, FrontendResult, Frontends};

/// What is there without pulling anything.
pub(crate) struct BuiltInFrontends;

#[async_trait]
impl Frontends for BuiltInFrontends {
    async fn solve(
        &self,
        name: &str,
        bridge: Arc<BuildBridge>,
        request: FrontendRequest,
    ) -> Result<FrontendResult, FrontendError> {
        match (name, request.options.get("source").map(String::as_str)) {
            // Clients ask for the built-in frontend in the second way too.
            ("dockerfile.v0", _) | ("gateway.v0", Some("dockerfile.v0")) => {
                DockerfileFrontend.solve(bridge, request).await
            }
            ("gateway.v0", _) => Err(FrontendError::Option(
                "frontends from images are not supported by this daemon".to_owned(),
            )),
            _ => Err(FrontendError::Option(format!("invalid frontend: {name}"))),
        }
    }
}
