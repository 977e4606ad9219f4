//! Statements about results, which are handed over together with them.
//!
//! The same shape serves both ends. A frontend names results that hold the statements:
//! `Attestation<Option<BridgeRef>>`. An exporter gets those results made, or the text itself:
//! `Attestation<`[`AttestationSource`]`>`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Ref, WorkerError};

/// Metadata: why the statement was made, such as `sbom` or `provenance`.
pub const REASON: &str = "reason";
/// Metadata: `true` if only images carry the statement, not files.
pub const INLINE_ONLY: &str = "inline-only";
/// Metadata: what of a scan is the result itself.
pub const SBOM_CORE: &str = "sbom-core";

/// A statement about a result, or several of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attestation<S> {
    /// What `source` holds.
    pub kind: AttestationKind,
    /// Notes for exporters, such as [`REASON`] and [`INLINE_ONLY`].
    pub metadata: BTreeMap<String, Bytes>,
    /// Where the text is.
    pub source: S,
    /// The file or directory in `source`; its last part is the file's name where statements become files.
    pub path: String,
    /// What is stated, as a URL. For a bundle, what all of its statements must state; empty for anything.
    pub predicate_type: String,
    /// What it is stated of; empty for the result itself.
    pub subjects: Vec<AttestationSubject>,
}

/// Where an exporter finds the text of an attestation.
#[derive(Clone, Debug)]
pub enum AttestationSource {
    /// In a result; `None` is scratch.
    Result(Option<Ref>),
    /// Told on demand. Only for [`AttestationKind::InToto`].
    Predicate(Arc<dyn PredicateSource>),
}

/// A predicate about results, some of which is only known when they have been made into what is handed over.
#[async_trait]
pub trait PredicateSource: fmt::Debug + Send + Sync {
    /// The predicate in JSON. An exporter asks for it when it has made all else.
    async fn tell(&self) -> Result<Bytes, WorkerError>;
}

/// What the text of an attestation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttestationKind {
    /// The predicate of one in-toto statement, in JSON.
    InToto,
    /// A directory of whole in-toto statements.
    Bundle,
}

/// What something is stated of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttestationSubject {
    /// The result that is exported, under its own names.
    Itself {
        /// A further name; may be empty.
        name: String,
    },
    /// Something else, by its digests.
    Other {
        /// Name; may be empty.
        name: String,
        /// Hashes in hexadecimal, by algorithm; at least one.
        digests: BTreeMap<String, String>,
    },
}

impl<S> Attestation<S> {
    /// A statement of `predicate_type` about the result itself, in the file `path`.
    pub fn new(predicate_type: impl Into<String>, path: impl Into<String>, source: S) -> Self {
        Self {
            kind: AttestationKind::InToto,
            metadata: BTreeMap::new(),
            source,
            path: path.into(),
            predicate_type: predicate_type.into(),
            subjects: Vec::new(),
        }
    }

    /// Adds a note, such as [`REASON`].
    #[must_use]
    pub fn with_metadata(mut self, key: &str, value: impl Into<Bytes>) -> Self {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }

    /// Whether only images carry it.
    pub fn is_inline_only(&self) -> bool {
        self.metadata.get(INLINE_ONLY).is_some_and(|value| value == "true")
    }

    /// The same with another source.
    pub fn with_source<T>(self, source: T) -> Attestation<T> {
        Attestation {
            kind: self.kind,
            metadata: self.metadata,
            source,
            path: self.path,
            predicate_type: self.predicate_type,
            subjects: self.subjects,
        }
    }
}
