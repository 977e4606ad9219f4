//! Statements about images: in-toto statements, and the manifests by which images carry them.
//!
//! See the in-toto attestation framework, "Statement layer", and Docker's "Image attestation storage".

use std::collections::BTreeMap;

use cairn_solver::{Digest, Platform};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::assemble::{AssembleError, Manifest};
use super::descriptor::Descriptor;
use super::document::Document;
use super::json;
use super::media_type::{MediaTypes, OCI_CONFIG};
use crate::content::ContentStore;

/// Type of a statement as a blob.
const STATEMENT: &str = "application/vnd.in-toto+json";
/// Type of a manifest of statements as an artifact.
const ARTIFACT: &str = "application/vnd.docker.attestation.manifest.v1+json";
/// Type of the config of an artifact that has none.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// The config of an artifact that has none.
const EMPTY_CONFIG: &[u8] = b"{}";
/// The same in base64.
const EMPTY_CONFIG_DATA: &str = "e30=";
/// Annotation of a statement: what it states.
pub(crate) const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// Annotation of a manifest in an index: what it is.
pub(crate) const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// Annotation of a manifest in an index: which other one it is about.
pub(crate) const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
/// Value of [`REFERENCE_TYPE`] for a manifest of statements.
pub(crate) const ATTESTATION_MANIFEST: &str = "attestation-manifest";
/// Stands where an image has an operating system and an architecture.
const UNKNOWN: &str = "unknown";

/// Most bytes of an indented statement.
const MAX_INDENTED: usize = 512 << 20;

/// Version of the form of statements.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";

/// Something that is stated of something.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Statement {
    /// [`STATEMENT_TYPE`]; anything is read.
    #[serde(rename = "_type", default)]
    pub kind: String,
    /// What is stated, as a URL.
    #[serde(default)]
    pub predicate_type: String,
    /// What it is stated of.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub subject: Vec<Subject>,
    /// The statement itself.
    pub predicate: Box<RawValue>,
}

/// What something is stated of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Name, such as a package URL or a path.
    #[serde(default)]
    pub name: String,
    /// Hashes in hexadecimal, by algorithm.
    #[serde(default)]
    pub digest: BTreeMap<String, String>,
}

impl Subject {
    /// A subject with one digest.
    pub fn new(name: impl Into<String>, digest: &Digest) -> Self {
        Self {
            name: name.into(),
            digest: BTreeMap::from([("sha256".to_owned(), digest.hex())]),
        }
    }
}

impl Statement {
    /// The statement in one line.
    ///
    /// # Errors
    /// If it cannot be written down.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        Ok(json::compact(&serde_json::to_vec(self)?))
    }

    /// The statement for people: indented, unless that would blow it up.
    ///
    /// # Errors
    /// If it cannot be written down.
    pub fn to_indented_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let text = serde_json::to_vec(self)?;
        Ok(json::indent(&text, MAX_INDENTED).unwrap_or_else(|| json::compact(&text)))
    }
}

fn null_as_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Subject>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// How statements are tied to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AttestationForm {
    /// As an OCI artifact whose subject is the image.
    #[default]
    Artifact,
    /// As an image of an unknown platform.
    Image,
}

/// Config of statements in the form of an image.
#[derive(Serialize)]
struct ImageForm {
    architecture: &'static str,
    os: &'static str,
    config: serde_json::Map<String, serde_json::Value>,
    rootfs: RootFs,
}

#[derive(Serialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: &'static str,
    diff_ids: Vec<Digest>,
}

/// Stores `statements` about the image whose manifest `image` is, with a manifest of their own. What is returned is to
/// be an entry of the index that has the image.
///
/// # Errors
/// [`AssembleError`].
pub fn assemble_attestations(
    image: &Descriptor,
    statements: &[Statement],
    form: AttestationForm,
    store: &ContentStore,
) -> Result<Descriptor, AssembleError> {
    let mut layers = Vec::with_capacity(statements.len());
    for statement in statements {
        let blob = store.put(&statement.to_json()?)?;
        let mut layer = Descriptor::new(STATEMENT, blob.digest, blob.size);
        layer
            .annotations
            .insert(PREDICATE_TYPE.to_owned(), statement.predicate_type.clone());
        layers.push(layer);
    }
    let manifest = match form {
        AttestationForm::Artifact => {
            let blob = store.put(EMPTY_CONFIG)?;
            let mut config = Descriptor::new(EMPTY, blob.digest, blob.size);
            config.data = Some(EMPTY_CONFIG_DATA.to_owned());
            let mut manifest = Manifest::new(MediaTypes::Oci, config, layers);
            manifest.artifact_type = Some(ARTIFACT);
            manifest.subject = Some(Descriptor::new(image.media_type.clone(), image.digest, image.size));
            manifest
        }
        AttestationForm::Image => {
            let config = ImageForm {
                architecture: UNKNOWN,
                os: UNKNOWN,
                config: serde_json::Map::new(),
                rootfs: RootFs {
                    kind: "layers",
                    diff_ids: layers.iter().map(|layer| layer.digest).collect(),
                },
            };
            let blob = store.put(&serde_json::to_vec(&config)?)?;
            let config = Descriptor::new(OCI_CONFIG, blob.digest, blob.size);
            Manifest::new(MediaTypes::Oci, config, layers)
        }
    };
    let Document { descriptor, .. } = manifest.store(store)?;
    Ok(Descriptor {
        platform: Some(Platform {
            architecture: UNKNOWN.to_owned(),
            os: UNKNOWN.to_owned(),
            ..Platform::default()
        }),
        annotations: BTreeMap::from([
            (REFERENCE_DIGEST.to_owned(), image.digest.to_string()),
            (REFERENCE_TYPE.to_owned(), ATTESTATION_MANIFEST.to_owned()),
        ]),
        ..descriptor
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::tests::temp_store;

    fn statement() -> Statement {
        Statement {
            kind: STATEMENT_TYPE.to_owned(),
            predicate_type: "https://example.org/p".to_owned(),
            subject: vec![Subject::new("_", &Digest::sha256(b"image"))],
            predicate: serde_json::from_str(r#"{ "n": 1.0, "a": [ ] }"#).unwrap(),
        }
    }

    fn read(store: &ContentStore, digest: &Digest) -> String {
        String::from_utf8(store.read(digest, 100_000).unwrap()).unwrap()
    }

    #[test]
    fn statements_are_short_in_images_and_long_in_files() {
        let hash = Digest::sha256(b"image").hex();
        let text = format!(
            r#"{{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://example.org/p","subject":[{{"name":"_","digest":{{"sha256":"{hash}"}}}}],"predicate":{{"n":1.0,"a":[]}}}}"#
        );
        assert_eq!(String::from_utf8(statement().to_json().unwrap()).unwrap(), text);
        let long = String::from_utf8(statement().to_indented_json().unwrap()).unwrap();
        assert!(
            long.starts_with("{\n  \"_type\": \"https://in-toto.io/Statement/v1\",\n"),
            "{long}"
        );
        assert!(
            long.ends_with("\"predicate\": {\n    \"n\": 1.0,\n    \"a\": []\n  }\n}"),
            "{long}"
        );
    }

    #[test]
    fn statements_of_other_programs_are_read() {
        for subject in ["", r#""subject":null,"#, r#""subject":[],"#] {
            let text = format!(r#"{{"_type":"x","predicateType":"y",{subject}"predicate":{{}},"more":1}}"#);
            let read: Statement = serde_json::from_str(&text).unwrap();
            assert!(read.subject.is_empty(), "{subject}");
        }
        for text in [
            "{}",
            "[]",
            r#"{"_type":"x","predicateType":"y","subject":[1],"predicate":{}}"#,
        ] {
            assert!(serde_json::from_str::<Statement>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_artifact_has_a_subject_and_an_empty_config() {
        let (_dir, store) = temp_store();
        let image = Descriptor {
            platform: Some(Platform::host()),
            ..Descriptor::of("application/vnd.oci.image.manifest.v1+json", b"image")
        };
        let entry = assemble_attestations(&image, &[statement()], AttestationForm::Artifact, &store).unwrap();
        let blob = Digest::sha256(&statement().to_json().unwrap());
        let size = store.size(&blob).unwrap().unwrap();
        let expected = format!(
            r#"{{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.manifest.v1+json",
  "artifactType": "application/vnd.docker.attestation.manifest.v1+json",
  "config": {{
    "mediaType": "application/vnd.oci.empty.v1+json",
    "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    "size": 2,
    "data": "e30="
  }},
  "layers": [
    {{
      "mediaType": "application/vnd.in-toto+json",
      "digest": "{blob}",
      "size": {size},
      "annotations": {{
        "in-toto.io/predicate-type": "https://example.org/p"
      }}
    }}
  ],
  "subject": {{
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "digest": "{}",
    "size": 5
  }}
}}"#,
            image.digest
        );
        assert_eq!(read(&store, &entry.digest), expected);
        let expected = format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":{},"annotations":{{"vnd.docker.reference.digest":"{}","vnd.docker.reference.type":"attestation-manifest"}},"platform":{{"architecture":"unknown","os":"unknown"}}}}"#,
            entry.digest, entry.size, image.digest
        );
        assert_eq!(serde_json::to_string(&entry).unwrap(), expected);
    }

    #[test]
    fn the_older_form_is_an_image_of_no_platform() {
        let (_dir, store) = temp_store();
        let image = Descriptor::of("application/vnd.oci.image.manifest.v1+json", b"image");
        let entry = assemble_attestations(&image, &[statement()], AttestationForm::Image, &store).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&read(&store, &entry.digest)).unwrap();
        assert!(
            manifest["subject"].is_null() && manifest["artifactType"].is_null(),
            "{manifest}"
        );
        let config = manifest["config"]["digest"].as_str().unwrap();
        let blob = Digest::sha256(&statement().to_json().unwrap());
        assert_eq!(
            read(&store, &Digest::parse(config).unwrap()),
            format!(
                r#"{{"architecture":"unknown","os":"unknown","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{blob}"]}}}}"#
            )
        );
    }
}
