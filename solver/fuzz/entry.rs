//! What is fuzzed, apart from the fuzzer, so that a test of the crate can run it too.

use cairn_proto::pb;
use cairn_solver::llb::{self, Definition};
use prost::Message as _;

/// Takes any bytes for a definition. Whether they are one does not matter; nothing may panic or take long.
pub(crate) fn decode(bytes: &[u8]) {
    let Ok(wire) = pb::Definition::decode(bytes) else {
        return;
    };
    let definition = Definition::from_wire(wire);
    let Ok(Some(graph)) = llb::decode(&definition) else {
        return;
    };
    for index in graph.topological() {
        let vertex = graph.vertex(index);
        assert!(
            vertex.inputs.iter().all(|edge| edge.vertex < index),
            "an input comes after what uses it"
        );
        assert!(!graph.name(index).is_empty() || vertex.name().is_empty());
        drop(cairn_solver::cache_key::dependencies(vertex));
    }
    let again = Definition::from_wire(definition.to_wire());
    assert!(
        llb::decode(&again).is_ok(),
        "a definition that was accepted is refused when it is sent on"
    );
}
