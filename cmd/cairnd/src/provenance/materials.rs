//! What was used, as addresses and hashes.

use std::collections::{BTreeMap, BTreeSet};

use cairn_solver::Digest;
use cairn_solver::engine::ResolvedName;
use cairn_worker::image::docker_purl;
use cairn_worker::registry::Reference;

use super::capture::Capture;
use super::predicate::Material;

/// Hexadecimal digits of a SHA-256 hash; commits with fewer are SHA-1.
const SHA256_DIGITS: usize = 64;

/// Everything that can be named, in a stable order: images, commits, files.
pub(super) fn materials(capture: &Capture) -> Vec<Material> {
    let images = images(&capture.images).into_iter();
    let git = capture.git.iter().map(|(address, commit)| Material {
        uri: address.clone(),
        digest: of_commit(commit),
    });
    let http = capture.http.iter().map(|(address, digest)| Material {
        uri: address.clone(),
        digest: of_digest(digest),
    });
    images.chain(git).chain(http).collect()
}

/// The hashes of what is at an address, if it was used.
pub(super) fn find(capture: &Capture, address: &str) -> BTreeMap<String, String> {
    let git = capture.git.get(address).map(|commit| of_commit(commit));
    let http = || capture.http.get(address).map(of_digest);
    git.or_else(http).unwrap_or_default()
}

/// Images under the names that were asked for: a name with a digest says nothing new if it was made of one without.
fn images(names: &[ResolvedName]) -> Vec<Material> {
    let parsed: Vec<(&ResolvedName, Reference)> = names
        .iter()
        .filter_map(|name| Some((name, name.reference.parse().ok()?)))
        .collect();
    let tagged = |reference: &Reference| {
        let tag = reference.tag().unwrap_or("latest");
        format!("{}/{}:{tag}", reference.registry(), reference.repository())
    };
    let open: BTreeSet<(String, bool)> = parsed
        .iter()
        .filter(|(_, reference)| reference.digest().is_none())
        .map(|(name, reference)| (tagged(reference), name.is_layout))
        .collect();
    let mut found: BTreeMap<String, Material> = BTreeMap::new();
    for (name, reference) in &parsed {
        if reference.digest().is_some() && open.contains(&(tagged(reference), name.is_layout)) {
            continue;
        }
        let mut uri = docker_purl(reference, name.platform.as_ref());
        if let Some(rest) = uri.strip_prefix("pkg:docker/").filter(|_| name.is_layout) {
            uri = format!("pkg:oci/{rest}");
        }
        found.entry(uri.clone()).or_insert_with(|| Material {
            uri,
            digest: of_digest(&name.digest),
        });
    }
    found.into_values().collect()
}

fn of_digest(digest: &Digest) -> BTreeMap<String, String> {
    [("sha256".to_owned(), digest.hex())].into()
}

fn of_commit(commit: &str) -> BTreeMap<String, String> {
    let algorithm = if commit.len() == SHA256_DIGITS {
        "sha256"
    } else {
        "sha1"
    };
    [(algorithm.to_owned(), commit.to_owned())].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(reference: &str, is_layout: bool) -> ResolvedName {
        ResolvedName {
            reference: reference.to_owned(),
            platform: Some("linux/amd64".parse().unwrap()),
            is_layout,
            digest: Digest::sha256(b"image"),
        }
    }

    #[test]
    fn images_have_the_names_that_were_asked_for() {
        let digest = Digest::sha256(b"image");
        let escaped = digest.to_string().replace(':', "%3A");
        for (names, want) in [
            (
                vec![
                    name("docker.io/library/alpine:latest", false),
                    name(&format!("docker.io/library/alpine:latest@{digest}"), false),
                ],
                vec!["pkg:docker/alpine@latest?platform=linux%2Famd64".to_owned()],
            ),
            (
                vec![name(&format!("docker.io/a/b@{digest}"), false)],
                vec![format!("pkg:docker/a/b?digest={escaped}&platform=linux%2Famd64")],
            ),
            (
                vec![name(&format!("store@{digest}"), true)],
                vec![format!("pkg:oci/store?digest={escaped}&platform=linux%2Famd64")],
            ),
            (vec![name("no reference", false)], vec![]),
        ] {
            let uris: Vec<String> = images(&names).into_iter().map(|material| material.uri).collect();
            assert_eq!(uris, want);
        }
    }

    #[test]
    fn commits_have_the_hash_of_their_repository() {
        assert_eq!(of_commit("c0ffee"), [("sha1".to_owned(), "c0ffee".to_owned())].into());
        let long = "a".repeat(SHA256_DIGITS);
        assert_eq!(of_commit(&long), [("sha256".to_owned(), long.clone())].into());
    }
}
