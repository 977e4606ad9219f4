//! Random graphs, and what a naive evaluator makes of them.

use proptest::prelude::*;

use super::script::{By, Write, value};
use crate::llb::{Definition, Output};

/// A vertex of a random graph: inputs are taken among those before it.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// Makes the same whatever its inputs are.
    constant: Option<u8>,
    fresh: bool,
    inputs: Vec<(prop::sample::Index, bool)>,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let inputs = prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..4);
    (prop::option::weighted(0.3, 0_u8..3), prop::bool::weighted(0.1), inputs).prop_map(|(constant, fresh, inputs)| {
        Step {
            constant,
            fresh,
            inputs,
        }
    })
}

/// A graph: one source, and steps on it.
pub(super) struct Plan {
    write: Write,
    outputs: Vec<Output>,
    names: Vec<String>,
    inputs: Vec<Vec<usize>>,
}

impl Plan {
    /// The only source.
    pub(super) const SOURCE: &str = "docker-image://base";

    /// `honours_fresh` says whether steps are told to ignore the cache.
    pub(super) fn new(steps: &[Step], honours_fresh: bool) -> Self {
        let mut write = Write::default();
        let mut plan = Self {
            outputs: vec![write.image("base")],
            names: vec![String::new()],
            inputs: vec![Vec::new()],
            write: Write::default(),
        };
        for (n, step) in steps.iter().enumerate() {
            let name = match step.constant {
                Some(constant) => format!("{n} const {constant}"),
                None => n.to_string(),
            };
            let at = step.inputs.iter().map(|(index, _)| index.index(plan.outputs.len()));
            let at: Vec<usize> = at.collect();
            let by = step
                .inputs
                .iter()
                .map(|(_, by_content)| if *by_content { By::Content } else { By::Identity });
            let inputs: Vec<(Output, By)> = at.iter().map(|at| plan.outputs[*at]).zip(by).collect();
            plan.outputs.push(if step.fresh && honours_fresh {
                write.run_fresh(&name, &inputs)
            } else {
                write.run(&name, &inputs)
            });
            plan.names.push(name);
            plan.inputs.push(at);
        }
        plan.write = write;
        plan
    }

    /// One of the vertices.
    pub(super) fn pick(&self, index: prop::sample::Index) -> usize {
        index.index(self.outputs.len())
    }

    /// The name of a vertex.
    pub(super) fn name(&self, vertex: usize) -> String {
        match vertex {
            0 => Self::SOURCE.to_owned(),
            _ => self.names[vertex].clone(),
        }
    }

    /// Whether `vertex` needs `other`, or is it.
    pub(super) fn depends_on(&self, vertex: usize, other: Option<usize>) -> bool {
        Some(vertex) == other || self.inputs[vertex].iter().any(|input| self.depends_on(*input, other))
    }

    /// Asks for a vertex.
    pub(super) fn definition(&self, target: usize) -> Definition {
        self.write.finish(self.outputs[target])
    }

    /// What each vertex is when the source stands for `pin`.
    pub(super) fn values(&self, pin: &str) -> Vec<String> {
        let mut values = vec![pin.to_owned()];
        for n in 1..self.outputs.len() {
            let inputs: Vec<String> = self.inputs[n].iter().map(|at| values[*at].clone()).collect();
            values.push(value(&self.names[n], &inputs));
        }
        values
    }
}
