//! Image references as written in Dockerfiles.

use cairn_solver::Digest;
use oci_spec::distribution::Reference;

/// A parsed, normalised image reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageRef(Reference);

impl ImageRef {
    /// Parses a reference, adding the default registry and tag.
    ///
    /// # Errors
    /// What is wrong with it, in words that users know.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let reference: Reference = text.parse().map_err(|_| Self::explain(text))?;
        // What has no point or port is no registry, though the grammar takes capitals for the name of one.
        if reference.repository().contains(|c: char| c.is_ascii_uppercase()) {
            return Err(Self::explain(text));
        }
        if reference.digest().is_some_and(|digest| Digest::parse(digest).is_err()) {
            return Err("invalid reference format".to_owned());
        }
        Ok(Self(reference))
    }

    /// Whether `text` is a reference.
    pub(crate) fn is_valid(text: &str) -> bool {
        // Most names are this plain, and need no grammar. From 64 digits on a name may be taken for a digest.
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        (1..64).contains(&text.len()) && text.bytes().all(is_plain) || Self::parse(text).is_ok()
    }

    fn explain(text: &str) -> String {
        let has_capital = |text: &str| text.contains(|c: char| c.is_ascii_uppercase());
        // What looks like a registry is none of the name's business.
        let is_registry = |first: &str, rest: &str| {
            first == "localhost" || first.contains(['.', ':']) || has_capital(first) && has_capital(rest)
        };
        let behind = text.split_once('/').filter(|(first, rest)| is_registry(first, rest));
        let name = behind.map_or(text, |(_, rest)| rest);
        let name = name.split(['@', ':']).next().unwrap_or_default();
        if has_capital(name) {
            let repository = if behind.is_none() && !name.contains('/') {
                format!("library/{name}")
            } else {
                name.to_owned()
            };
            return format!("invalid reference format: repository name ({repository}) must be lowercase");
        }
        "invalid reference format".to_owned()
    }

    fn name(&self) -> String {
        format!("{}/{}", self.0.registry(), self.0.repository())
    }

    fn tag(&self) -> Option<&str> {
        self.0.tag().or_else(|| self.0.digest().is_none().then_some("latest"))
    }

    /// The whole reference: `docker.io/library/alpine:latest`.
    pub(crate) fn full(&self) -> String {
        let tag = self.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.0.digest().map(|digest| format!("@{digest}")).unwrap_or_default();
        format!("{}{tag}{digest}", self.name())
    }

    /// The whole reference, pinned.
    pub(crate) fn pinned(&self, digest: &Digest) -> String {
        let tag = self.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
        format!("{}{tag}@{digest}", self.name())
    }

    /// The short form under which named contexts are looked up: `alpine`, `alpine:3`, `quay.io/a/b`.
    pub(crate) fn familiar(&self) -> String {
        let name = self.name();
        let name = name.strip_prefix("docker.io/").unwrap_or(&name);
        let name = name.strip_prefix("library/").unwrap_or(name);
        let tag = self.tag().filter(|tag| *tag != "latest" || self.0.digest().is_some());
        let tag = tag.map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.0.digest().map(|digest| format!("@{digest}")).unwrap_or_default();
        format!("{name}{tag}{digest}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_normalised() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, full, familiar) in [
            (
                "alpine",
                "docker.io/library/alpine:latest".to_owned(),
                "alpine".to_owned(),
            ),
            (
                "alpine:3",
                "docker.io/library/alpine:3".to_owned(),
                "alpine:3".to_owned(),
            ),
            (
                "docker.io/library/alpine",
                "docker.io/library/alpine:latest".to_owned(),
                "alpine".to_owned(),
            ),
            (
                "quay.io/coreos/etcd:v3.3.9",
                "quay.io/coreos/etcd:v3.3.9".to_owned(),
                "quay.io/coreos/etcd:v3.3.9".to_owned(),
            ),
            (
                "localhost:5000/x",
                "localhost:5000/x:latest".to_owned(),
                "localhost:5000/x".to_owned(),
            ),
            (
                &format!("a/b@{digest}"),
                format!("docker.io/a/b@{digest}"),
                format!("a/b@{digest}"),
            ),
        ] {
            let parsed = ImageRef::parse(text).unwrap();
            assert_eq!((parsed.full(), parsed.familiar()), (full, familiar), "{text}");
        }
    }

    #[test]
    fn malformed_references_say_why() {
        for (text, want) in [
            (
                "Alpine",
                "invalid reference format: repository name (library/Alpine) must be lowercase",
            ),
            (
                "BAD/Name",
                "invalid reference format: repository name (Name) must be lowercase",
            ),
            (
                "Bad/name",
                "invalid reference format: repository name (Bad/name) must be lowercase",
            ),
            (
                "Bad_Name!",
                "invalid reference format: repository name (library/Bad_Name!) must be lowercase",
            ),
            (
                "localhost:5000/Foo:1",
                "invalid reference format: repository name (Foo) must be lowercase",
            ),
            ("a b", "invalid reference format"),
            ("a@sha256:x", "invalid reference format"),
            ("", "invalid reference format"),
        ] {
            assert_eq!(ImageRef::parse(text).unwrap_err(), want, "{text}");
        }
    }
}
