//! Statements that go with results, between the solver's form and that on the wire.

use std::collections::BTreeMap;

use cairn_solver::{Attestation, AttestationKind, AttestationSubject, BridgeRef};
use tonic::Status;

use super::{ref_to_wire, wire};

/// Statements by platform id.
type Statements = BTreeMap<String, Vec<Attestation<Option<BridgeRef>>>>;

/// Most statements about one platform's result.
const MAX_STATEMENTS: usize = 1000;

/// Statements, for whoever asked for the result.
pub(super) fn to_wire(statements: &Statements) -> BTreeMap<String, wire::Attestations> {
    let of_platform = |statements: &Vec<Attestation<Option<BridgeRef>>>| wire::Attestations {
        attestation: statements.iter().map(one_to_wire).collect(),
    };
    let platforms = statements.iter();
    platforms
        .map(|(platform, statements)| (platform.clone(), of_platform(statements)))
        .collect()
}

fn one_to_wire(statement: &Attestation<Option<BridgeRef>>) -> wire::Attestation {
    let kind = match statement.kind {
        AttestationKind::InToto => wire::AttestationKind::InToto,
        AttestationKind::Bundle => wire::AttestationKind::Bundle,
    };
    let subjects = statement.subjects.iter().map(|subject| match subject {
        AttestationSubject::Itself { name } => wire::InTotoSubject {
            kind: wire::InTotoSubjectKind::Self_.into(),
            name: name.clone(),
            ..wire::InTotoSubject::default()
        },
        AttestationSubject::Other { name, digests } => wire::InTotoSubject {
            kind: wire::InTotoSubjectKind::Raw.into(),
            digest: digests.iter().map(|(kind, hash)| format!("{kind}:{hash}")).collect(),
            name: name.clone(),
        },
    });
    wire::Attestation {
        kind: kind.into(),
        metadata: statement.metadata.clone(),
        r#ref: Some(ref_to_wire(statement.source.as_ref())),
        path: statement.path.clone(),
        in_toto_predicate_type: statement.predicate_type.clone(),
        in_toto_subjects: subjects.collect(),
    }
}

/// Statements that somebody returns; `find` knows the results that they name.
pub(super) fn from_wire(
    statements: BTreeMap<String, wire::Attestations>,
    find: impl Fn(&str) -> Result<Option<BridgeRef>, Status>,
) -> Result<Statements, Status> {
    let mut read = Statements::new();
    for (platform, wire::Attestations { attestation }) in statements {
        if attestation.len() > MAX_STATEMENTS {
            let count = attestation.len();
            return Err(Status::invalid_argument(format!(
                "{count} attestations of {platform:?}"
            )));
        }
        let one = |statement: wire::Attestation| {
            let id = statement.r#ref.as_ref().map_or("", |reference| &reference.id);
            let source = find(id)?;
            one_from_wire(statement, source)
        };
        let attestations = attestation.into_iter().map(one).collect::<Result<_, Status>>()?;
        read.insert(platform, attestations);
    }
    Ok(read)
}

fn one_from_wire(
    statement: wire::Attestation,
    source: Option<BridgeRef>,
) -> Result<Attestation<Option<BridgeRef>>, Status> {
    let kind = match wire::AttestationKind::try_from(statement.kind) {
        Ok(wire::AttestationKind::InToto) => AttestationKind::InToto,
        Ok(wire::AttestationKind::Bundle) => AttestationKind::Bundle,
        Err(_) => {
            let kind = statement.kind;
            return Err(Status::invalid_argument(format!("unknown attestation kind {kind}")));
        }
    };
    let subjects = statement.in_toto_subjects.into_iter().map(subject_from_wire);
    Ok(Attestation {
        kind,
        metadata: statement.metadata,
        source,
        path: statement.path,
        predicate_type: statement.in_toto_predicate_type,
        subjects: subjects.collect::<Result<_, _>>()?,
    })
}

fn subject_from_wire(subject: wire::InTotoSubject) -> Result<AttestationSubject, Status> {
    match wire::InTotoSubjectKind::try_from(subject.kind) {
        Ok(wire::InTotoSubjectKind::Self_) => Ok(AttestationSubject::Itself { name: subject.name }),
        Ok(wire::InTotoSubjectKind::Raw) => {
            let digests = subject.digest.iter().map(|digest| split(digest));
            Ok(AttestationSubject::Other {
                name: subject.name,
                digests: digests.collect::<Result<_, _>>()?,
            })
        }
        Err(_) => {
            let kind = subject.kind;
            Err(Status::invalid_argument(format!("unknown subject kind {kind}")))
        }
    }
}

/// Algorithm and hash of a digest of any algorithm.
fn split(digest: &str) -> Result<(String, String), Status> {
    let parts = digest.split_once(':').filter(|(kind, hash)| {
        let is_kind = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_kind && !hash.is_empty() && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    let (kind, hash) =
        parts.ok_or_else(|| Status::invalid_argument(format!("invalid digest {digest:?} of a subject")))?;
    Ok((kind.to_owned(), hash.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_survive_the_wire() {
        let subject = AttestationSubject::Other {
            name: "app".to_owned(),
            digests: BTreeMap::from([("sha1".to_owned(), "ab12".to_owned())]),
        };
        let mut statement = Attestation::new("https://example.org/p", "p.json", None).with_metadata("reason", "sbom");
        let itself = AttestationSubject::Itself {
            name: "more".to_owned(),
        };
        statement.subjects = vec![itself, subject];
        let mut bundle = Attestation::new("", "/out", None);
        bundle.kind = AttestationKind::Bundle;
        let statements = Statements::from([("linux/amd64".to_owned(), vec![statement, bundle])]);
        let back = from_wire(to_wire(&statements), |id| {
            assert_eq!(id, "");
            Ok(None)
        });
        assert_eq!(back.unwrap(), statements);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = |change: &dyn Fn(&mut wire::Attestation)| {
            let mut statement = wire::Attestation::default();
            change(&mut statement);
            let statements = wire::Attestations {
                attestation: vec![statement],
            };
            let statements = BTreeMap::from([("linux/amd64".to_owned(), statements)]);
            let error = from_wire(statements, |id| match id {
                "" => Ok(None),
                other => Err(Status::unknown(format!("return reference {other} not found"))),
            });
            error.unwrap_err().message().to_owned()
        };
        let subject = |kind, digest: &str| {
            let digest = vec![digest.to_owned()];
            let name = String::new();
            vec![wire::InTotoSubject { kind, digest, name }]
        };
        assert_eq!(refused(&|statement| statement.kind = 7), "unknown attestation kind 7");
        let unknown = refused(&|statement| statement.in_toto_subjects = subject(2, "sha256:00"));
        assert_eq!(unknown, "unknown subject kind 2");
        for digest in ["", "sha256", ":00", "sha256:", "sha256:../..", "a/b:00"] {
            let message = refused(&|statement| statement.in_toto_subjects = subject(1, digest));
            assert_eq!(message, format!("invalid digest {digest:?} of a subject"));
        }
        let reference = wire::Ref {
            id: "x".to_owned(),
            def: None,
        };
        let message = refused(&|statement| statement.r#ref = Some(reference.clone()));
        assert_eq!(message, "return reference x not found");
    }
}
