//! Package URLs: names for images in statements about them.

use cairn_solver::Platform;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::registry::Reference;

/// What is left as it is in any part of a package URL.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The package URL of an image, such as `pkg:docker/alpine@3.20?platform=linux%2Famd64`.
///
/// See the purl specification, type `docker`; names are those that Docker's users write.
pub fn docker_purl(reference: &Reference, platform: Option<&Platform>) -> String {
    let path: Vec<String> = reference.familiar_name().split('/').map(escape).collect();
    let mut purl = format!("pkg:docker/{}", path.join("/"));
    if let Some(version) = reference.tag() {
        purl = format!("{purl}@{}", escape(version));
    }
    // Sorted by name.
    let qualifiers = [
        ("digest", reference.digest().map(|digest| digest.to_string())),
        ("platform", platform.map(ToString::to_string)),
    ];
    let mut separator = '?';
    for (key, value) in qualifiers {
        if let Some(value) = value {
            purl.push(separator);
            purl.push_str(&format!("{key}={}", escape(&value)));
            separator = '&';
        }
    }
    purl
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_have_the_names_that_users_write() {
        let hash = "a".repeat(64);
        let amd64 = "linux/amd64".parse().unwrap();
        let arm: Platform = "linux/arm/v7".parse().unwrap();
        for (reference, platform, want) in [
            ("alpine", None, "pkg:docker/alpine@latest".to_owned()),
            (
                "docker.io/library/x:1",
                Some(&amd64),
                "pkg:docker/x@1?platform=linux%2Famd64".to_owned(),
            ),
            (
                "team/app:v1",
                Some(&arm),
                "pkg:docker/team/app@v1?platform=linux%2Farm%2Fv7".to_owned(),
            ),
            (
                "localhost:5000/a/b:v1",
                Some(&amd64),
                "pkg:docker/localhost%3A5000/a/b@v1?platform=linux%2Famd64".to_owned(),
            ),
            (
                &format!("x:1@sha256:{hash}"),
                Some(&amd64),
                format!("pkg:docker/x@1?digest=sha256%3A{hash}&platform=linux%2Famd64"),
            ),
            (
                &format!("quay.io/x@sha256:{hash}"),
                None,
                format!("pkg:docker/quay.io/x?digest=sha256%3A{hash}"),
            ),
        ] {
            assert_eq!(docker_purl(&reference.parse().unwrap(), platform), want);
        }
    }
}
