//! Names of images: `[registry/]repository[:tag][@digest]`.
//!
//! The grammar is that of the distribution project's `reference` package, with the defaults that Docker's tools have
//! agreed on. It is small enough to be read by hand, and a regular expression for it takes longer to compile than most
//! builds take.

use std::fmt;
use std::str::FromStr;

use crate::Digest;

/// An image in a registry, with everything that may be left out filled in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Text that names no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// The repository has capitals.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// It may be mistaken for a digest.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Identifier(String),
    /// The repository is longer than [`Reference::MAX_REPOSITORY`].
    #[error("repository name must not be more than {} characters", Reference::MAX_REPOSITORY)]
    TooLong,
    /// The digest is not one that contents can be checked with.
    #[error("unsupported digest algorithm")]
    Algorithm,
    /// The digest has too many digits, or too few.
    #[error("invalid checksum digest length")]
    DigestLength,
    /// The digest has other characters than lower-case hex digits.
    #[error("invalid checksum digest format")]
    DigestFormat,
}

impl Reference {
    /// The registry of names that have none.
    pub const DEFAULT_REGISTRY: &str = "docker.io";
    /// The tag of names that have neither tag nor digest.
    pub const DEFAULT_TAG: &str = "latest";
    /// Most bytes of a repository.
    pub const MAX_REPOSITORY: usize = 255;
    /// Most bytes of a tag.
    const MAX_TAG: usize = 128;
    /// Where the default registry was long ago.
    const LEGACY_REGISTRY: &str = "index.docker.io";
    /// Where the default registry has images that belong to nobody in particular.
    const OFFICIAL: &str = "library/";

    /// Parses a name as users write it: `debian` is `docker.io/library/debian:latest`.
    ///
    /// # Errors
    /// What is wrong with it, in the words that users know.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.len() == 64 && text.bytes().all(is_hex) {
            return Err(ReferenceError::Identifier(text.to_owned()));
        }
        let (registry, rest) = match text.split_once('/') {
            Some((Self::LEGACY_REGISTRY, rest)) => (Self::DEFAULT_REGISTRY, rest),
            Some((first, rest)) if is_registry(first) => (first, rest),
            _ => (Self::DEFAULT_REGISTRY, text),
        };
        let (named, digest) = match rest.split_once('@') {
            Some((named, digest)) => (named, Some(digest)),
            None => (rest, None),
        };
        let (name, tag) = match named.split_once(':') {
            Some((name, tag)) => (name, Some(tag)),
            None => (named, None),
        };
        let prefix = match registry == Self::DEFAULT_REGISTRY && !name.contains('/') {
            true => Self::OFFICIAL,
            false => "",
        };
        let repository = [prefix, name].concat();
        if name.contains(char::is_uppercase) {
            return Err(ReferenceError::Uppercase(repository));
        }
        let is_good = is_host(registry) && name.split('/').all(is_component) && tag.is_none_or(is_tag);
        if !is_good {
            return Err(ReferenceError::Format);
        }
        if repository.len() > Self::MAX_REPOSITORY {
            return Err(ReferenceError::TooLong);
        }
        let digest = digest.map(parse_digest).transpose()?;
        let tag = tag.or(digest.is_none().then_some(Self::DEFAULT_TAG));
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// The host of the registry, and its port if that is not the usual one.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path of the repository.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest. There is a tag or a digest, or both.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Another image of the same repository, by its digest alone.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The same image, pinned.
    #[must_use]
    pub fn pinned(&self, digest: Digest) -> Self {
        Self {
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The name under which users give something else for the image: without what is implied, be it the tag.
    pub fn familiar(&self) -> String {
        let mut name = self.familiar_name();
        let is_implied = |tag: &&str| *tag == Self::DEFAULT_TAG && self.digest.is_none();
        if let Some(tag) = self.tag().filter(|tag| !is_implied(tag)) {
            name.extend([":", tag]);
        }
        if let Some(digest) = self.digest {
            name.extend(["@", &digest.to_string()]);
        }
        name
    }

    /// Registry and repository.
    pub fn name(&self) -> String {
        [&self.registry, "/", &self.repository].concat()
    }

    /// Registry and repository as Docker's users write them: without what is implied.
    pub fn familiar_name(&self) -> String {
        if self.registry != Self::DEFAULT_REGISTRY {
            return self.name();
        }
        let official = self.repository.strip_prefix(Self::OFFICIAL);
        let official = official.filter(|name| !name.contains('/'));
        official.unwrap_or(&self.repository).to_owned()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Whether what is before the first slash is a registry and not the beginning of a repository. Capitals are not allowed
/// in a repository, so what has some can only be a registry.
fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.contains(char::is_uppercase)
}

/// `name.of.a.host` or `[address]`, maybe with a port.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((address, rest)) => {
            if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
                return false;
            }
            (None, Some(rest).filter(|rest| !rest.is_empty()))
        }
        None => match text.find(':') {
            Some(colon) => (Some(&text[..colon]), Some(&text[colon..])),
            None => (Some(text), None),
        },
    };
    let is_label = |label: &str| {
        let is_inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !label.is_empty() && label.bytes().all(is_inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_port = |port: &str| {
        let digits = port.strip_prefix(':').unwrap_or_default();
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    };
    host.is_none_or(|host| host.split('.').all(is_label)) && port.is_none_or(is_port)
}

/// Lower-case letters and digits, between them a point, one or two underscores, or any number of hyphens.
fn is_component(part: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_separator = |text: &str| matches!(text, "" | "." | "_" | "__") || text.bytes().all(|b| b == b'-');
    part.starts_with(is_plain) && part.ends_with(is_plain) && part.split(is_plain).all(is_separator)
}

/// Word characters, and behind the first one points and hyphens as well.
fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=Reference::MAX_TAG).contains(&tag.len())
        && tag
            .bytes()
            .enumerate()
            .all(|(at, b)| is_word(b) || at > 0 && matches!(b, b'.' | b'-'))
}

fn parse_digest(text: &str) -> Result<Digest, ReferenceError> {
    let (algorithm, hex) = text.split_once(':').ok_or(ReferenceError::Format)?;
    let is_name = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    let is_good = algorithm.split(['-', '_', '+', '.']).all(is_name)
        && hex.len() >= 32
        && hex.bytes().all(|b| b.is_ascii_hexdigit());
    match algorithm {
        _ if !is_good => Err(ReferenceError::Format),
        "sha256" if hex.len() != 64 => Err(ReferenceError::DigestLength),
        "sha256" => Digest::parse(text).map_err(|_| ReferenceError::DigestFormat),
        _ => Err(ReferenceError::Algorithm),
    }
}

fn is_hex(b: u8) -> bool {
    b.is_ascii_digit() || matches!(b, b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_left_out_is_filled_in() {
        let digest = Digest::sha256(b"");
        for (text, want) in [
            ("alpine", "docker.io/library/alpine:latest".to_owned()),
            ("alpine:3", "docker.io/library/alpine:3".to_owned()),
            ("a/b", "docker.io/a/b:latest".to_owned()),
            ("docker.io/alpine", "docker.io/library/alpine:latest".to_owned()),
            ("index.docker.io/alpine", "docker.io/library/alpine:latest".to_owned()),
            ("localhost/x", "localhost/x:latest".to_owned()),
            ("localhost:5000/x/y", "localhost:5000/x/y:latest".to_owned()),
            ("quay.io/coreos/etcd:v3.3.9", "quay.io/coreos/etcd:v3.3.9".to_owned()),
            ("[::1]:5000/x:y", "[::1]:5000/x:y".to_owned()),
            ("Host/x", "Host/x:latest".to_owned()),
            ("a__b/c-d---e.f_g", "docker.io/a__b/c-d---e.f_g:latest".to_owned()),
            ("x:_A.b-C", "docker.io/library/x:_A.b-C".to_owned()),
            (&format!("a/b@{digest}"), format!("docker.io/a/b@{digest}")),
            (&format!("a/b:c@{digest}"), format!("docker.io/a/b:c@{digest}")),
        ] {
            let parsed = Reference::parse(text).map(|reference| reference.to_string());
            assert_eq!(parsed, Ok(want), "{text}");
        }
    }

    #[test]
    fn malformed_names_say_why() {
        let hex = "a".repeat(64);
        let long = "a/".repeat(128) + "b";
        for (text, want) in [
            ("", ReferenceError::Format),
            ("a b", ReferenceError::Format),
            ("a/", ReferenceError::Format),
            ("/a", ReferenceError::Format),
            ("a//b", ReferenceError::Format),
            ("a___b", ReferenceError::Format),
            ("a..b", ReferenceError::Format),
            ("-a", ReferenceError::Format),
            ("a:", ReferenceError::Format),
            ("a:ü", ReferenceError::Format),
            ("a:-b", ReferenceError::Format),
            ("a:b:c", ReferenceError::Format),
            ("a@", ReferenceError::Format),
            ("a@sha256:x", ReferenceError::Format),
            ("-host.com/a", ReferenceError::Format),
            ("host:/a", ReferenceError::Format),
            ("host:1x/a", ReferenceError::Format),
            ("[::1/a", ReferenceError::Format),
            ("[]:5000/a", ReferenceError::Format),
            ("[::1]5000/a", ReferenceError::Format),
            ("../../a", ReferenceError::Format),
            ("Alpine", ReferenceError::Uppercase("library/Alpine".to_owned())),
            ("BAD/Name", ReferenceError::Uppercase("Name".to_owned())),
            ("a/B", ReferenceError::Uppercase("a/B".to_owned())),
            ("Bad_Name!", ReferenceError::Uppercase("library/Bad_Name!".to_owned())),
            ("localhost:5000/Foo:1", ReferenceError::Uppercase("Foo".to_owned())),
            (&hex, ReferenceError::Identifier(hex.clone())),
            (&long, ReferenceError::TooLong),
            (&format!("a@sha256:{}", &hex[1..]), ReferenceError::DigestLength),
            (
                &format!("a@sha256:{}", hex.to_uppercase()),
                ReferenceError::DigestFormat,
            ),
            (&format!("a@sha512:{hex}{hex}"), ReferenceError::Algorithm),
            (&format!("a@x:y:{hex}"), ReferenceError::Format),
            (&format!("a:{}", "b".repeat(129)), ReferenceError::Format),
        ] {
            assert_eq!(Reference::parse(text), Err(want), "{text}");
        }
    }

    #[test]
    fn familiar_names_leave_out_what_is_implied() {
        for (text, want) in [
            ("docker.io/library/alpine:3", "alpine"),
            ("docker.io/a/b", "a/b"),
            ("docker.io/library/a/b", "library/a/b"),
            ("quay.io/library/a", "quay.io/library/a"),
        ] {
            assert_eq!(Reference::parse(text).unwrap().familiar_name(), want, "{text}");
        }
    }

    /// Mostly nearly good ones, and any others.
    const TEXTS: &str = r"[a-zA-Z0-9._:/@\[\]-]{0,24}|[a-z]{1,4}(\.[a-z]{1,3})?(:[0-9]{1,4})?/[a-z_]{1,6}(:[a-zA-Z0-9.]{1,5})?|\PC{0,12}";

    proptest! {
        #[test]
        fn what_is_shown_is_the_same_reference(text in TEXTS) {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&reference.to_string()), Ok(reference));
            }
        }
    }
}
