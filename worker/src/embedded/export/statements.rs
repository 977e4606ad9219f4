//! What is stated about results, as in-toto statements.

use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use cairn_solver::attestation::SBOM_CORE;
use cairn_solver::worker::{Ref, WorkerError};
use cairn_solver::{Attestation, AttestationKind, AttestationSource, AttestationSubject};
use serde_json::value::RawValue;

use super::super::EmbeddedWorker;
use crate::image::{STATEMENT_TYPE, Statement, Subject};
use crate::tree::view::{self, Links, Located, View};

/// Largest statement.
const MAX_STATEMENT: u64 = 128 << 20;
/// Most statements in one bundle.
const MAX_BUNDLE: usize = 1000;
/// Most bytes that they may have together.
const MAX_BUNDLE_BYTES: usize = 256 << 20;
/// What bills of materials state.
pub(super) const SPDX: &str = "https://spdx.dev/Document";

/// A statement, and what its file is called.
#[derive(Debug, Clone)]
pub(super) struct NamedStatement {
    /// A file name, never a path.
    pub(super) name: String,
    pub(super) statement: Statement,
    /// Whether it is the bill of materials of the result itself, and not of something that went into it.
    pub(super) is_core: bool,
}

impl NamedStatement {
    fn new(attestation: &Attestation<Text>, path: &str, statement: Statement) -> Result<Self, WorkerError> {
        let name = file_name(path)?;
        let core = attestation.metadata.get(SBOM_CORE);
        let stem = name.split_once('.').map_or(name.as_str(), |(stem, _)| stem);
        Ok(Self {
            is_core: statement.predicate_type == SPDX && core.is_some_and(|core| *core == stem),
            name,
            statement,
        })
    }
}

/// Where the text of an attestation is, once all that it is about has been made.
#[derive(Debug, Clone)]
pub(super) enum Text {
    /// In a result; `None` is scratch.
    Result(Option<Ref>),
    /// Here: a predicate in JSON.
    Predicate(Bytes),
}

/// Has predicates told that are told on demand.
pub(super) async fn told(
    attestations: impl Iterator<Item = &Attestation<AttestationSource>>,
) -> Result<Vec<Attestation<Text>>, WorkerError> {
    let mut told = Vec::new();
    for attestation in attestations {
        let text = match &attestation.source {
            AttestationSource::Result(result) => Text::Result(result.clone()),
            AttestationSource::Predicate(predicate) => Text::Predicate(predicate.tell().await?),
        };
        told.push(attestation.clone().with_source(text));
    }
    Ok(told)
}

/// Those attestations that an export carries.
pub(super) fn wanted(
    attestations: &[Attestation<AttestationSource>],
    with_inline_only: bool,
) -> impl Iterator<Item = &Attestation<AttestationSource>> {
    attestations
        .iter()
        .filter(move |attestation| with_inline_only || !attestation.is_inline_only())
}

impl EmbeddedWorker {
    /// Reads attestations; bundles are taken apart. `itself` is what stands for the result that is exported. Blocks.
    pub(super) fn statements<'a>(
        &self,
        attestations: impl IntoIterator<Item = &'a Attestation<Text>>,
        itself: &[Subject],
    ) -> Result<Vec<NamedStatement>, WorkerError> {
        let mut statements = Vec::new();
        for attestation in attestations {
            let (view, path) = match &attestation.source {
                Text::Predicate(predicate) => {
                    let statement = state(attestation, predicate, itself)?;
                    statements.push(NamedStatement::new(attestation, &attestation.path, statement)?);
                    continue;
                }
                Text::Result(result) => (self.view(result.as_ref())?, &attestation.path),
            };
            match attestation.kind {
                AttestationKind::InToto => {
                    check_returned(attestation)?;
                    let predicate = read(&*view, &find(&*view, path)?)?;
                    let statement = state(attestation, &predicate, itself)?;
                    statements.push(NamedStatement::new(attestation, path, statement)?);
                }
                AttestationKind::Bundle => unbundle(attestation, &*view, itself, &mut statements)?,
            }
        }
        // Readers of several bills of materials take the first for that of the result itself.
        statements.sort_by_key(|statement| !statement.is_core);
        Ok(statements)
    }
}

/// Checks a statement whose predicate a frontend or client returns.
fn check_returned(attestation: &Attestation<Text>) -> Result<(), WorkerError> {
    let refused = if is_provenance(&attestation.predicate_type) {
        "frontend may not set provenance attestations"
    } else if attestation.path.is_empty() {
        "attestation does not have set path"
    } else if matches!(attestation.source, Text::Result(None)) {
        "attestation does not have available content"
    } else {
        return Ok(());
    };
    Err(WorkerError::Invalid(refused.to_owned()))
}

/// The statement that a predicate makes together with what it is stated of.
fn state(attestation: &Attestation<Text>, predicate: &[u8], itself: &[Subject]) -> Result<Statement, WorkerError> {
    let predicate: Result<Box<RawValue>, _> = serde_json::from_slice(predicate);
    let predicate = predicate
        .map_err(|error| WorkerError::Invalid(format!("attestation {:?} is no JSON: {error}", attestation.path)))?;
    let subjects = attestation.subjects.iter();
    let mut subject: Vec<Subject> = subjects
        .flat_map(|subject| match subject {
            AttestationSubject::Itself { name } => named_too(itself, name),
            AttestationSubject::Other { name, digests } => vec![Subject {
                name: or_unnamed(name),
                digest: digests.clone(),
            }],
        })
        .collect();
    if attestation.subjects.is_empty() {
        subject = itself.to_vec();
    }
    Ok(Statement {
        kind: STATEMENT_TYPE.to_owned(),
        predicate_type: attestation.predicate_type.clone(),
        subject,
        predicate,
    })
}

/// The result itself, each of its names followed by `name` if there is one.
fn named_too(itself: &[Subject], name: &str) -> Vec<Subject> {
    let further = Some(name).filter(|name| !matches!(*name, "" | "_"));
    let subjects = itself.iter().flat_map(|subject| {
        let again = further.map(|name| Subject {
            name: name.to_owned(),
            ..subject.clone()
        });
        std::iter::once(subject.clone()).chain(again)
    });
    subjects.collect()
}

/// Whether this is what the daemon alone states: how a result was made.
fn is_provenance(predicate_type: &str) -> bool {
    predicate_type.starts_with("https://slsa.dev/provenance/")
}

/// Reads a directory of whole statements.
fn unbundle(
    bundle: &Attestation<Text>,
    view: &dyn View,
    itself: &[Subject],
    statements: &mut Vec<NamedStatement>,
) -> Result<(), WorkerError> {
    let invalid = |text: String| WorkerError::Invalid(format!("attestation bundle {:?}: {text}", bundle.path));
    let dir = find(view, &bundle.path)?;
    if !dir.node.is_dir() {
        return Err(invalid("is not a directory".to_owned()));
    }
    let entries = view::children(view, &dir).map_err(|error| invalid(error.to_string()))?;
    if entries.len() > MAX_BUNDLE {
        return Err(invalid(format!("has {} entries", entries.len())));
    }
    let mut left = MAX_BUNDLE_BYTES;
    for entry in entries {
        let path = entry.path.to_string_lossy().into_owned();
        let text = read(view, &entry)?;
        left = left
            .checked_sub(text.len())
            .ok_or_else(|| invalid(format!("its statements have more than {MAX_BUNDLE_BYTES} bytes")))?;
        let mut statement: Statement = serde_json::from_slice(&text)
            .map_err(|error| invalid(format!("cannot decode in-toto statement {path:?}: {error}")))?;
        if !bundle.predicate_type.is_empty() && statement.predicate_type != bundle.predicate_type {
            return Err(invalid(format!(
                "bundle entry {} does not match required predicate type {}",
                statement.predicate_type, bundle.predicate_type
            )));
        }
        if is_provenance(&statement.predicate_type) {
            return Err(invalid("frontend may not bundle provenance attestations".to_owned()));
        }
        STATEMENT_TYPE.clone_into(&mut statement.kind);
        if statement.subject.is_empty() {
            statement.subject = itself.to_vec();
        }
        for subject in &mut statement.subject {
            subject.name = or_unnamed(&subject.name);
        }
        statements.push(NamedStatement::new(bundle, &path, statement)?);
    }
    Ok(())
}

fn or_unnamed(name: &str) -> String {
    if name.is_empty() { "_" } else { name }.to_owned()
}

/// The last part of a path.
fn file_name(path: &str) -> Result<String, WorkerError> {
    let name = Path::new(path).file_name().and_then(|name| name.to_str());
    let name = name.filter(|name| !name.contains('\0'));
    name.map(str::to_owned)
        .ok_or_else(|| WorkerError::Invalid(format!("attestation path {path:?} names no file")))
}

fn find(view: &dyn View, path: &str) -> Result<Located, WorkerError> {
    let found = view::find(view, Path::new(path), Links::Follow);
    let found = found.map_err(|error| WorkerError::Failed(format!("failed to find attestation {path:?}: {error}")))?;
    found.ok_or_else(|| WorkerError::NotFound(format!("attestation {path:?}: no such file or directory")))
}

fn read(view: &dyn View, at: &Located) -> Result<Bytes, WorkerError> {
    let path = at.path.display();
    if !at.node.is_file() {
        return Err(WorkerError::Invalid(format!(
            "attestation {path} is not a regular file"
        )));
    }
    let mut text = Vec::new();
    let read = view
        .open(at)
        .and_then(|file| file.take(MAX_STATEMENT + 1).read_to_end(&mut text));
    read.map_err(|error| WorkerError::Failed(format!("failed to read attestation {path}: {error}")))?;
    if text.len() as u64 > MAX_STATEMENT {
        return Err(WorkerError::Invalid(format!(
            "attestation {path} has more than {MAX_STATEMENT} bytes"
        )));
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Root;

    fn bundle(files: &[(&str, &str)], predicate_type: &str) -> Result<Vec<NamedStatement>, WorkerError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("out")).unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join("out").join(name), text).unwrap();
        }
        let view = Root::open(dir.path()).unwrap();
        let mut bundle = Attestation::new(predicate_type, "/out", Text::Result(None));
        bundle.kind = AttestationKind::Bundle;
        let itself = [Subject::new("image", &cairn_solver::Digest::sha256(b"image"))];
        let mut statements = Vec::new();
        unbundle(&bundle, &view, &itself, &mut statements)?;
        Ok(statements)
    }

    #[test]
    fn bundles_are_taken_apart() {
        let own = r#"{"_type":"old","predicateType":"p","subject":[{"digest":{"sha1":"00"}}],"predicate":[1.0]}"#;
        let general = r#"{"_type":"old","predicateType":"p","predicate":{}}"#;
        let statements = bundle(&[("b.json", general), ("a.json", own)], "p").unwrap();
        let names: Vec<_> = statements.iter().map(|named| named.name.as_str()).collect();
        assert_eq!(names, ["a.json", "b.json"]);
        let (a, b) = (&statements[0].statement, &statements[1].statement);
        assert_eq!((a.kind.as_str(), a.predicate.get()), (STATEMENT_TYPE, "[1.0]"));
        assert_eq!(
            (a.subject[0].name.as_str(), &a.subject[0].digest["sha1"]),
            ("_", &"00".to_owned())
        );
        assert_eq!(b.subject[0].name, "image");
    }

    #[test]
    fn the_bill_of_materials_of_the_result_itself_is_known_by_its_name() {
        let text = r#"{"_type":"x","predicateType":"https://spdx.dev/Document","predicate":{}}"#;
        for (path, notes_core, want) in [
            ("out/sbom.spdx.json", true, true),
            ("sbom", true, true),
            ("sbom-base.spdx.json", true, false),
            ("sbom.spdx.json", false, false),
        ] {
            let mut bundle = Attestation::new(SPDX, "/", Text::Result(None));
            if notes_core {
                bundle = bundle.with_metadata(SBOM_CORE, "sbom");
            }
            let mut statement: Statement = serde_json::from_str(text).unwrap();
            let is_core =
                |statement: &Statement| NamedStatement::new(&bundle, path, statement.clone()).unwrap().is_core;
            assert_eq!(is_core(&statement), want, "{path}");
            statement.predicate_type = "other".to_owned();
            assert!(!is_core(&statement), "{path}");
        }
    }

    #[test]
    fn bundles_that_make_no_sense_are_refused() {
        for (files, want) in [
            (&[("a.json", "{")][..], "cannot decode in-toto statement"),
            (
                &[("a.json", r#"{"_type":"x","predicateType":"q","predicate":{}}"#)],
                "bundle entry q does not match required predicate type p",
            ),
            (
                &[("a.json", r#"{"predicateType":"q","predicate":{}}"#)],
                "bundle entry q does not match required predicate type p",
            ),
        ] {
            let error = bundle(files, "p").unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
        let forged = r#"{"_type":"x","predicateType":"https://slsa.dev/provenance/v1","predicate":{}}"#;
        let error = bundle(&[("a.json", forged)], "").unwrap_err().to_string();
        assert!(
            error.contains("frontend may not bundle provenance attestations"),
            "{error}"
        );
    }

    #[test]
    fn predicates_are_stated_of_what_they_name_or_of_the_result() {
        let itself = [Subject::new("image", &cairn_solver::Digest::sha256(b"image"))];
        let mut attestation = Attestation::new("p", "p.json", Text::Predicate(Bytes::new()));
        assert_eq!(state(&attestation, b"{}", &itself).unwrap().subject, itself);
        let digests = [("sha512".to_owned(), "ff".to_owned())].into();
        attestation.subjects = vec![
            AttestationSubject::Other {
                name: "other".to_owned(),
                digests,
            },
            AttestationSubject::Itself { name: "_".to_owned() },
            AttestationSubject::Itself {
                name: "more".to_owned(),
            },
        ];
        let stated = state(&attestation, b"{}", &itself).unwrap();
        let names: Vec<_> = stated.subject.iter().map(|subject| subject.name.as_str()).collect();
        assert_eq!(names, ["other", "image", "image", "more"]);
        assert_eq!(stated.subject[3].digest, itself[0].digest);
        assert!(state(&attestation, b"{} x", &itself).is_err());
    }

    #[test]
    fn what_frontends_may_not_return_is_refused() {
        for (predicate_type, path, want) in [
            ("https://slsa.dev/provenance/v1", "/p", "may not set provenance"),
            ("p", "", "does not have set path"),
            ("p", "/p", "does not have available content"),
        ] {
            let attestation = Attestation::new(predicate_type, path, Text::Result(None));
            let error = check_returned(&attestation).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn statements_have_file_names() {
        assert_eq!(file_name("/a/b.json").unwrap(), "b.json");
        for path in ["", "/", "..", "a/.."] {
            assert!(file_name(path).is_err(), "{path}");
        }
    }
}
