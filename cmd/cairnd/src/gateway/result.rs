//! Results of frontends, between the solver's form and that on the wire.

mod attestations;

use cairn_proto::pb;
use cairn_solver::{BridgeRef, FrontendRefs, FrontendResult};
use tonic::Status;

use super::wire;

fn ref_to_wire(reference: Option<&BridgeRef>) -> wire::Ref {
    match reference {
        // Never a message without any field: as the value of a map it would be left out of the encoding, and clients
        // written in Go take a missing value for a null pointer.
        None => wire::Ref {
            id: String::new(),
            def: Some(pb::Definition::default()),
        },
        Some(reference) => wire::Ref {
            id: reference.id.clone(),
            def: Some(pb::Definition::clone(&reference.definition.to_wire())),
        },
    }
}

/// A result, for whoever asked for it.
pub(super) fn result_to_wire(result: &FrontendResult) -> wire::Result {
    let refs = match &result.refs {
        FrontendRefs::Single(reference) => wire::result::Result::Ref(ref_to_wire(reference.as_ref())),
        FrontendRefs::Platforms(refs) => wire::result::Result::Refs(wire::RefMap {
            refs: refs
                .iter()
                .map(|(platform, reference)| (platform.clone(), ref_to_wire(reference.as_ref())))
                .collect(),
        }),
    };
    wire::Result {
        metadata: result.metadata.clone(),
        attestations: attestations::to_wire(&result.attestations),
        result: Some(refs),
    }
}

/// The result that a driver returns; `known` finds what it names.
pub(super) fn result_from_wire(
    known: impl Fn(&str) -> Result<Option<BridgeRef>, Status>,
    result: wire::Result,
) -> Result<FrontendResult, Status> {
    let find = |id: &str| match known(id) {
        Ok(found) => Ok(found),
        Err(_) => Err(Status::unknown(format!("return reference {id} not found"))),
    };
    let map = |refs: Vec<(String, String)>| {
        refs.into_iter()
            .map(|(platform, id)| Ok((platform, find(&id)?)))
            .collect::<Result<_, Status>>()
            .map(FrontendRefs::Platforms)
    };
    let refs = match result.result {
        None => FrontendRefs::Single(None),
        Some(wire::result::Result::RefDeprecated(id)) => FrontendRefs::Single(find(&id)?),
        Some(wire::result::Result::Ref(reference)) => FrontendRefs::Single(find(&reference.id)?),
        Some(wire::result::Result::RefsDeprecated(refs)) => map(refs.refs.into_iter().collect())?,
        Some(wire::result::Result::Refs(refs)) => map(refs
            .refs
            .into_iter()
            .map(|(platform, reference)| (platform, reference.id))
            .collect())?,
    };
    Ok(FrontendResult {
        refs,
        metadata: result.metadata,
        attestations: attestations::from_wire(result.attestations, find)?,
    })
}

/// Results of drivers: one that is read says the same when it is passed on.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check(data: &[u8]) {
    use std::sync::Arc;

    use cairn_solver::llb::Definition;
    use prost::Message as _;

    let Ok(wire) = wire::Result::decode(data) else { return };
    let definition = Arc::new(Definition::default());
    let known = |id: &str| match id {
        "" => Ok(None),
        "missing" => Err(Status::not_found("missing")),
        id => Ok(Some(BridgeRef {
            id: id.to_owned(),
            definition: definition.clone(),
        })),
    };
    let Ok(read) = result_from_wire(known, wire) else {
        return;
    };
    let again = result_from_wire(known, result_to_wire(&read)).expect("what was written is read");
    assert_eq!(again.refs, read.refs);
    assert_eq!(again.metadata, read.metadata);
    assert_eq!(again.attestations, read.attestations);
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn scratch_for_a_platform_is_an_entry_with_a_value() {
        let result = FrontendResult {
            refs: FrontendRefs::Platforms([("linux/arm64".to_owned(), None)].into_iter().collect()),
            ..FrontendResult::default()
        };
        let Some(wire::result::Result::Refs(refs)) = result_to_wire(&result).result else {
            panic!("one result for all platforms");
        };
        // refs (1): an entry of 17 bytes, with key (1) and value (2).
        let expected = b"\x0a\x11\x0a\x0blinux/arm64\x12\x02\x12\x00";
        assert_eq!(refs.encode_to_vec(), expected);
    }
}
