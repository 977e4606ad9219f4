//! What a result was to be, as the record of a build has it.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_solver::Platform;
use serde_json::json;

/// What clients call it in the record of a build.
pub(super) const NAME: &str = "verifier.requestopts";

/// What results were to be, for who reads the record of the build.
pub(super) fn told(options: &BTreeMap<String, String>) -> Bytes {
    let platforms: Vec<String> = match options.get("platform") {
        Some(list) => list.split(',').map(str::to_owned).collect(),
        None => vec![Platform::host().to_string()],
    };
    let labels = options
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("label:")?, value)));
    let labels: BTreeMap<&str, &String> = labels.collect();
    let request = options.get("requestid").map_or("", String::as_str);
    json!({ "Platforms": platforms, "Labels": labels, "Request": request })
        .to_string()
        .into()
}

#[cfg(test)]
mod tests {
    use cairn_solver::Platform;
    use serde_json::json;

    #[test]
    fn what_was_asked_for_is_told() {
        let host = Platform::host().to_string();
        for (options, want) in [
            (&[][..], json!({ "Platforms": [host], "Labels": {}, "Request": "" })),
            (
                &[
                    ("platform", "linux/amd64,linux/arm64"),
                    ("label:a", "b"),
                    ("requestid", "frontend.lint"),
                    ("target", "x"),
                ],
                json!({ "Platforms": ["linux/amd64", "linux/arm64"], "Labels": { "a": "b" }, "Request": "frontend.lint" }),
            ),
        ] {
            let options = options.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
            let told = super::told(&options.collect());
            assert_eq!(serde_json::from_slice::<serde_json::Value>(&told).unwrap(), want);
        }
    }
}
