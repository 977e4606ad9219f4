//! Names that images get.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_solver::Digest;
use cairn_solver::worker::WorkerError;

use super::attrs::Attrs;
use crate::registry::Reference;

/// Stands for the name that the frontend gives.
const FRONTENDS: &str = "*";
/// Key of the name that a frontend gives.
const IMAGE_NAME: &str = "image.name";

/// Which names an image is to get.
#[derive(Debug, Clone, Default)]
pub(super) struct NameRules {
    /// As the client wrote them.
    given: Vec<String>,
    /// For a name made of this and the image's digest.
    dangling_prefix: Option<String>,
    /// Whether that name is only for images that have no other.
    dangling_if_unnamed: bool,
    /// Whether every name is given once more, with the image's digest.
    is_canonical: bool,
}

/// A name, as written and as meant.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Name {
    pub(super) text: String,
    pub(super) reference: Reference,
}

impl Name {
    fn parse(text: &str) -> Result<Self, WorkerError> {
        Ok(Self {
            text: text.to_owned(),
            reference: parsed(text)?,
        })
    }
}

impl Name {
    /// Checks that it names a repository alone, so that an image can be pushed there by its digest.
    ///
    /// # Errors
    /// If it has a tag or a digest.
    pub(super) fn expect_plain(&self) -> Result<(), WorkerError> {
        let Self { text, reference } = self;
        let last = text.rsplit('/').next().unwrap_or_default();
        if last.contains([':', '@']) {
            let problem = format!("can't push tagged ref {reference} by digest");
            return Err(WorkerError::Invalid(format!("failed to push {text}: {problem}")));
        }
        Ok(())
    }
}

impl NameRules {
    pub(super) fn new(attrs: &Attrs<'_>) -> Result<Self, WorkerError> {
        let rules = Self {
            given: split(attrs.get("name").unwrap_or_default())
                .map(str::to_owned)
                .collect(),
            dangling_prefix: attrs
                .get("dangling-name-prefix")
                .filter(|prefix| !prefix.is_empty())
                .map(str::to_owned),
            // Written like this by all clients.
            dangling_if_unnamed: attrs.flag("danging-name-empty-only", false)?,
            is_canonical: attrs.flag("name-canonical", false)?,
        };
        for name in rules.given.iter().filter(|name| *name != FRONTENDS) {
            parsed(name)?;
        }
        Ok(rules)
    }

    /// Checks that every name that is known already is one of a repository alone.
    ///
    /// # Errors
    /// If one has a tag or a digest.
    pub(super) fn expect_plain(&self) -> Result<(), WorkerError> {
        let mut given = self.given.iter().filter(|name| *name != FRONTENDS);
        given.try_for_each(|name| Name::parse(name)?.expect_plain())
    }

    /// Whether there is nothing to name an image after.
    pub(super) fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// Whether images can get names that are made up for them.
    pub(super) fn are_made_up(&self) -> bool {
        self.dangling_prefix.is_some()
    }

    /// The names that client and frontend give.
    pub(super) fn given(&self, metadata: &BTreeMap<String, Bytes>) -> Result<Vec<Name>, WorkerError> {
        let mut names = Vec::new();
        for name in &self.given {
            if name == FRONTENDS {
                let said = metadata.get(IMAGE_NAME).ok_or_else(|| {
                    let nothing = format!("invalid reference format: the frontend gave no {IMAGE_NAME}");
                    WorkerError::Invalid(format!("failed to parse {FRONTENDS}: {nothing}"))
                })?;
                for name in split(&String::from_utf8_lossy(said)) {
                    names.push(Name::parse(name)?);
                }
            } else {
                names.push(Name::parse(name)?);
            }
        }
        Ok(names)
    }

    /// The name made of a prefix and the image's digest, if there is to be one.
    pub(super) fn dangling(&self, given: &[Name], digest: Digest) -> Result<Option<Name>, WorkerError> {
        let wanted = self.dangling_prefix.as_ref();
        let wanted = wanted.filter(|_| given.is_empty() || !self.dangling_if_unnamed);
        wanted
            .map(|prefix| Name::parse(&format!("{prefix}@{digest}")))
            .transpose()
    }

    /// The names by which the image store knows an image that is called `name`.
    pub(super) fn stored(&self, name: &Name, digest: Digest) -> Result<Vec<Reference>, WorkerError> {
        let mut references = vec![name.reference.clone()];
        if self.is_canonical && name.reference.digest().is_none() {
            references.push(parsed(&format!("{}@{digest}", name.reference))?);
        }
        Ok(references)
    }
}

/// A reference, or what is wrong with it in the words that exporters have for it.
fn parsed(name: &str) -> Result<Reference, WorkerError> {
    let parsed = Reference::parse(name);
    parsed.map_err(|error| WorkerError::Invalid(format!("failed to parse {name}: {error}")))
}

fn split(names: &str) -> impl Iterator<Item = &str> {
    names.split(',').map(str::trim).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(pairs: &[(&str, &str)]) -> Result<NameRules, WorkerError> {
        let pairs = pairs.iter();
        let attrs = pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        NameRules::new(&Attrs::new("image", &attrs))
    }

    fn texts(names: &[Name]) -> Vec<&str> {
        names.iter().map(|name| name.text.as_str()).collect()
    }

    #[test]
    fn names_come_from_client_and_frontend() {
        let metadata = BTreeMap::from([("image.name".to_owned(), Bytes::from_static(b"b:1, c"))]);
        for (name, want) in [
            ("a", &["a"][..]),
            ("", &[]),
            ("*", &["b:1", "c"]),
            (" a ,*,", &["a", "b:1", "c"]),
        ] {
            let names = rules(&[("name", name)]).unwrap().given(&metadata).unwrap();
            assert_eq!(texts(&names), want);
        }
        let unsaid = rules(&[("name", "*")]).unwrap().given(&BTreeMap::new()).unwrap_err();
        assert!(unsaid.to_string().contains("invalid reference format"), "{unsaid}");
        let wrong = rules(&[("name", "a,B/../x")]).unwrap_err().to_string();
        assert!(
            wrong.contains("failed to parse B/../x: invalid reference format"),
            "{wrong}"
        );
        let hostile = BTreeMap::from([("image.name".to_owned(), Bytes::from_static(b"../../x"))]);
        assert!(rules(&[("name", "*")]).unwrap().given(&hostile).is_err());
    }

    #[test]
    fn images_without_a_name_are_called_by_their_digest() {
        let digest = Digest::sha256(b"image");
        let named = [Name::parse("a").unwrap()];
        let dangling = |pairs: &[(&str, &str)], names: &[Name]| {
            let name = rules(pairs).unwrap().dangling(names, digest).unwrap();
            name.map(|name| name.text)
        };
        let prefix = ("dangling-name-prefix", "moby-dangling");
        let empty_only = ("danging-name-empty-only", "true");
        let want = Some(format!("moby-dangling@{digest}"));
        assert_eq!(dangling(&[prefix], &named), want);
        assert_eq!(dangling(&[prefix, empty_only], &named), None);
        assert_eq!(dangling(&[prefix, empty_only], &[]), want);
        assert_eq!(dangling(&[empty_only], &[]), None);
    }

    #[test]
    fn canonical_names_have_a_digest() {
        let digest = Digest::sha256(b"image");
        let name = Name::parse("a:1").unwrap();
        let stored = |canonical| {
            let stored = rules(&[("name-canonical", canonical)])
                .unwrap()
                .stored(&name, digest)
                .unwrap();
            stored.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(stored("false"), ["docker.io/library/a:1"]);
        assert_eq!(stored("true")[1], format!("docker.io/library/a:1@{digest}"));
    }
}
