//! What frontends say of the platforms that their results are for.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_solver::Platform;
use serde::Deserialize;

use crate::failure::Failure;

/// Key of a frontend's list of platforms.
pub(crate) const PLATFORMS: &str = "refs.platforms";
/// Key of the config of an image for one platform.
const CONFIG: &str = "containerimage.config";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Platforms {
    #[serde(default)]
    platforms: Vec<Listed>,
}

/// A platform in the list.
#[derive(Deserialize)]
pub(crate) struct Listed {
    /// The name of its result.
    #[serde(rename = "ID")]
    pub(crate) id: String,
    #[serde(rename = "Platform")]
    pub(crate) platform: Platform,
}

/// The list in a frontend's metadata; `None` if there is none.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn listed(metadata: &BTreeMap<String, Bytes>) -> Result<Option<Vec<Listed>>, Failure> {
    let Some(json) = metadata.get(PLATFORMS) else {
        return Ok(None);
    };
    let read = serde_json::from_slice::<Platforms>(json);
    let read =
        read.map_err(|error| Failure::unknown(format!("failed to parse platforms passed to exporter: {error}")))?;
    Ok(Some(read.platforms))
}

/// What a single result without a list is for: what its config says, else this machine's platform.
pub(crate) fn unlisted(metadata: &BTreeMap<String, Bytes>) -> Platform {
    let config = metadata.get(CONFIG);
    let said = config.and_then(|config| serde_json::from_slice::<Platform>(config).ok());
    let said = said.filter(|said| !said.os.is_empty() && !said.architecture.is_empty());
    said.unwrap_or_else(Platform::host).normalized()
}
