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

/// The built-in frontend.
const BUILT_IN: &str = "dockerfile.v0";
/// Frontends from images.
const GATEWAY: &str = "gateway.v0";

/// What is there without pulling anything, and the way to everything else.
pub(crate) struct BuiltInFrontends {
    pub(crate) worker: Arc<dyn WorkerService>,
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
            BUILT_IN => DockerfileFrontend.solve(bridge, request).await,
            // Clients ask for the built-in frontend in this way too.
            GATEWAY if is_built_in(&request) => DockerfileFrontend.solve(bridge, request).await,
            GATEWAY => external::solve(&self.worker, bridge, request).await,
            _ => Err(FrontendError::Option(format!("invalid frontend: {name}"))),
        }
    }
}

/// Whether the image asked for is what this daemon has built in, and nothing else is to stand for it.
fn is_built_in(request: &FrontendRequest) -> bool {
    let source = request.options.get("source").map_or("", String::as_str);
    let is_named = source == BUILT_IN || cairn_dockerfile::is_official(source);
    is_named && !image::is_substituted(source, &request.options)
}
