//! Facts about results, for exporters.

use bytes::Bytes;
use cairn_solver::Platform;
use serde_json::{Map, Value, json};

use crate::platform;

/// `refs.platforms`: which result is for which platform.
pub(super) fn platforms<'a>(platforms: impl Iterator<Item = &'a Platform>) -> (String, Bytes) {
    let entries: Vec<Value> = platforms
        .map(|platform| json!({"ID": platform::full(platform), "Platform": describe(platform)}))
        .collect();
    (
        "refs.platforms".to_owned(),
        json!({ "Platforms": entries }).to_string().into(),
    )
}

/// A platform in the form of the OCI image index specification.
fn describe(platform: &Platform) -> Value {
    let mut members = Map::from_iter([
        ("architecture".to_owned(), platform.architecture.clone().into()),
        ("os".to_owned(), platform.os.clone().into()),
    ]);
    for (key, value) in [("variant", &platform.variant), ("os.version", &platform.os_version)] {
        if !value.is_empty() {
            members.insert(key.to_owned(), value.clone().into());
        }
    }
    if !platform.os_features.is_empty() {
        members.insert("os.features".to_owned(), json!(platform.os_features));
    }
    members.into()
}
