//! Parts of the graph language outside of a graph, checked as inside of one.

use cairn_proto::pb;
use cairn_solver::llb::{self, Definition, ExecOp, Op, SourceOp};
use cairn_solver::{Digest, SolveError};
use prost::Message as _;

use crate::failure::Failure;

/// Decodes a source that stands for itself.
pub(super) fn source(source: pb::SourceOp, platform: Option<pb::Platform>) -> Result<SourceOp, Failure> {
    let op = pb::Op {
        op: Some(pb::op::Op::Source(source)),
        platform,
        ..pb::Op::default()
    };
    match decode(op, &[])? {
        Op::Source(source) => Ok(source),
        _ => Err(Failure::unknown("not a source")),
    }
}

/// Decodes a process whose mounts refer to `inputs` results.
pub(super) fn exec(mut exec: pb::ExecOp, inputs: usize) -> Result<ExecOp, Failure> {
    // Nothing becomes of what it writes, but in a graph something has to.
    for mount in &mut exec.mounts {
        mount.output = if mount.dest == "/" { 0 } else { -1 };
    }
    // Something to refer to; nobody asks for it.
    let placeholder = pb::Op {
        op: Some(pb::op::Op::Source(pb::SourceOp {
            identifier: "docker-image://docker.io/library/scratch:latest".to_owned(),
            ..pb::SourceOp::default()
        })),
        ..pb::Op::default()
    };
    let placeholder = placeholder.encode_to_vec();
    let input = pb::Input {
        digest: Digest::sha256(&placeholder).to_string(),
        index: 0,
    };
    let op = pb::Op {
        inputs: vec![input; inputs],
        op: Some(pb::op::Op::Exec(exec)),
        ..pb::Op::default()
    };
    let before = if inputs > 0 { vec![placeholder] } else { Vec::new() };
    match decode(op, &before)? {
        Op::Exec(exec) => Ok(exec),
        _ => Err(Failure::unknown("not a process")),
    }
}

/// Decodes one op by way of a definition that asks for it.
fn decode(op: pb::Op, before: &[Vec<u8>]) -> Result<Op, Failure> {
    let op = op.encode_to_vec();
    let target = pb::Op {
        inputs: vec![pb::Input {
            digest: Digest::sha256(&op).to_string(),
            index: 0,
        }],
        ..pb::Op::default()
    };
    let ops = before.iter().cloned().chain([op, target.encode_to_vec()]);
    let definition = Definition::from_wire(pb::Definition {
        def: ops.map(Into::into).collect(),
        ..pb::Definition::default()
    });
    let graph = llb::decode(&definition).map_err(SolveError::from)?;
    let graph = graph.ok_or_else(|| Failure::unknown("there is nothing to decode"))?;
    Ok(graph.vertex(graph.target().vertex).op.clone())
}

/// Sources and processes of drivers.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check(data: &[u8]) {
    let Ok(op) = pb::Op::decode(data) else { return };
    match op.op {
        Some(pb::op::Op::Source(op_source)) => drop(source(op_source, op.platform)),
        Some(pb::op::Op::Exec(op_exec)) => drop(exec(op_exec, op.inputs.len())),
        _ => {}
    }
}
