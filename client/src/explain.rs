//! Asking why steps of builds ran. Only Cairn's own daemon answers.

use cairn_proto::explain::{Build, ListBuildsRequest, WhyRequest, WhyResponse};

use crate::client::Client;
use crate::error::ClientError;

impl Client {
    /// Lists the builds that the daemon remembers, newest first.
    ///
    /// # Errors
    /// [`ClientError::Call`], with code `UNIMPLEMENTED` from daemons that do not have the service.
    pub async fn list_builds(&self) -> Result<Vec<Build>, ClientError> {
        let response = self.explain().list_builds(ListBuildsRequest {}).await;
        let response = response.map_err(|status| ClientError::call("list builds", &status))?;
        Ok(response.into_inner().builds)
    }

    /// Asks why steps of a build ran. `build` is its id or the beginning of it, empty for the last one; `step` is a
    /// number, or the beginning of a digest or name, empty for every step that ran.
    ///
    /// # Errors
    /// [`ClientError::Call`], with code `UNIMPLEMENTED` from daemons that do not have the service.
    pub async fn why(&self, build: &str, step: &str) -> Result<WhyResponse, ClientError> {
        let request = WhyRequest {
            build: build.to_owned(),
            step: step.to_owned(),
        };
        let response = self.explain().why(request).await;
        let response = response.map_err(|status| ClientError::call("ask why steps ran", &status))?;
        Ok(response.into_inner())
    }
}
