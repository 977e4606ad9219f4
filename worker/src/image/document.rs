//! Manifests and indexes as they were received: raw bytes, and the few fields that are acted on.

use bytes::Bytes;
use cairn_solver::Digest;
use serde::Deserialize;

use super::descriptor::Descriptor;
use super::media_type::{self, DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};

/// A manifest or index, byte for byte, with its meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Type, digest and size.
    pub descriptor: Descriptor,
    /// The bytes the digest is about.
    pub bytes: Bytes,
    /// What they say.
    pub content: Content,
}

/// What a document refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// One image.
    Manifest {
        /// Its config blob.
        config: Box<Descriptor>,
        /// Its layers, bottom first.
        layers: Vec<Descriptor>,
    },
    /// Several.
    Index {
        /// Their manifests, in order.
        manifests: Vec<Descriptor>,
    },
}

/// Why bytes are no usable manifest.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The bytes are not JSON of the right shape.
    #[error("malformed manifest")]
    Json(#[from] serde_json::Error),
    /// The registry and the document say different things about what it is.
    #[error("manifest says it is {document:?}, but was delivered as {delivered:?}")]
    Confused {
        /// The document's own `mediaType`.
        document: String,
        /// The type in the descriptor or header.
        delivered: String,
    },
    /// The document could be read both ways.
    #[error("manifest has both manifests and layers")]
    Ambiguous,
    /// The document is something else.
    #[error("unsupported manifest type {0:?}")]
    Unsupported(String),
    /// More entries than any image has.
    #[error("manifest refers to {0} blobs")]
    TooMany(usize),
}

/// The most layers or manifests in one document.
const MAX_ENTRIES: usize = 10_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    #[serde(default)]
    media_type: Option<String>,
    config: Option<Box<Descriptor>>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a document. `delivered_as` is the type that whoever delivered it gave, if any.
    ///
    /// # Errors
    /// [`DocumentError`] when it is malformed, unsupported, or when its type is in doubt (CVE-2021-41190).
    pub fn parse(bytes: Bytes, delivered_as: Option<&str>) -> Result<Self, DocumentError> {
        let fields: Fields = serde_json::from_slice(&bytes)?;
        if fields.fs_layers.is_some() {
            return Err(DocumentError::Unsupported("docker schema 1".into()));
        }
        if fields.manifests.is_some() && (fields.layers.is_some() || fields.config.is_some()) {
            return Err(DocumentError::Ambiguous);
        }
        let media_type = agreed_type(&fields, delivered_as)?;
        let content = content(&media_type, fields)?;
        let descriptor = Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64);
        Ok(Self {
            descriptor,
            bytes,
            content,
        })
    }

    /// The digest of the bytes.
    pub const fn digest(&self) -> Digest {
        self.descriptor.digest
    }
}

/// The one type that the document, its deliverer and its shape agree on.
fn agreed_type(fields: &Fields, delivered_as: Option<&str>) -> Result<String, DocumentError> {
    let delivered = delivered_as.filter(|kind| is_known(kind));
    let own = fields.media_type.as_deref().filter(|kind| !kind.is_empty());
    match (own, delivered) {
        (Some(own), Some(delivered)) if own != delivered => Err(DocumentError::Confused {
            document: own.to_owned(),
            delivered: delivered.to_owned(),
        }),
        (Some(kind), _) | (None, Some(kind)) => Ok(kind.to_owned()),
        // Old OCI documents carry no type, and some servers deliver everything as plain text.
        (None, None) if fields.manifests.is_some() => Ok(OCI_INDEX.to_owned()),
        (None, None) if fields.layers.is_some() => Ok(OCI_MANIFEST.to_owned()),
        (None, None) => Err(DocumentError::Unsupported(delivered_as.unwrap_or_default().to_owned())),
    }
}

fn is_known(media_type: &str) -> bool {
    media_type::is_index(media_type) || media_type::is_manifest(media_type)
}

fn content(media_type: &str, fields: Fields) -> Result<Content, DocumentError> {
    let bounded = |entries: Vec<Descriptor>| match entries.len() {
        0..=MAX_ENTRIES => Ok(entries),
        count => Err(DocumentError::TooMany(count)),
    };
    match (media_type, fields) {
        (
            OCI_INDEX | DOCKER_INDEX,
            Fields {
                manifests: Some(manifests),
                ..
            },
        ) => Ok(Content::Index {
            manifests: bounded(manifests)?,
        }),
        (
            OCI_MANIFEST | DOCKER_MANIFEST,
            Fields {
                config: Some(config),
                layers: Some(layers),
                ..
            },
        ) => Ok(Content::Manifest {
            config,
            layers: bounded(layers)?,
        }),
        (other, _) => Err(DocumentError::Unsupported(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str, delivered: Option<&str>) -> Result<Document, DocumentError> {
        Document::parse(Bytes::copy_from_slice(json.as_bytes()), delivered)
    }

    const DIGEST: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    fn manifest(extra: &str) -> String {
        format!(r#"{{"schemaVersion":2,{extra}"config":{{"mediaType":"c","digest":"{DIGEST}","size":2}},"layers":[]}}"#)
    }

    #[test]
    fn types_come_from_wherever_they_are_said() {
        let typed = manifest(&format!(r#""mediaType":"{DOCKER_MANIFEST}","#));
        for (json, delivered, want) in [
            (&typed, None, DOCKER_MANIFEST),
            (&typed, Some(DOCKER_MANIFEST), DOCKER_MANIFEST),
            (&typed, Some("text/plain"), DOCKER_MANIFEST),
            (&manifest(""), Some(DOCKER_MANIFEST), DOCKER_MANIFEST),
            (&manifest(""), None, OCI_MANIFEST),
            (&r#"{"manifests":[]}"#.to_owned(), None, OCI_INDEX),
        ] {
            assert_eq!(parse(json, delivered).unwrap().descriptor.media_type, want);
        }
    }

    /// CVE-2021-41190: one digest that is an image to one reader and an index to another.
    #[test]
    fn cve_2021_41190_documents_of_two_kinds_are_refused() {
        let both = manifest(r#""manifests":[],"#);
        assert!(matches!(parse(&both, None), Err(DocumentError::Ambiguous)));
        assert!(matches!(parse(&both, Some(OCI_INDEX)), Err(DocumentError::Ambiguous)));
        let typed = manifest(&format!(r#""mediaType":"{OCI_MANIFEST}","#));
        for delivered in [OCI_INDEX, DOCKER_MANIFEST] {
            assert!(
                matches!(parse(&typed, Some(delivered)), Err(DocumentError::Confused { .. })),
                "{delivered}"
            );
        }
        assert!(matches!(
            parse(&manifest(""), Some(OCI_INDEX)),
            Err(DocumentError::Unsupported(_))
        ));
    }

    #[test]
    fn other_documents_are_refused() {
        for json in [
            "",
            "[]",
            "{}",
            r#"{"schemaVersion":1,"fsLayers":[]}"#,
            r#"{"mediaType":"text/html","layers":[]}"#,
            r#"{"layers":[{"digest":"sha256:../../x","size":1}]}"#,
            r#"{"layers":[{"digest":"md5:00","size":1}]}"#,
            r#"{"layers":[{"size":-1}]}"#,
        ] {
            assert!(parse(json, None).is_err(), "{json}");
        }
    }
}
