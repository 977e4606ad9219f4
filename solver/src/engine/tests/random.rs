//! Random graphs give what a naive evaluator gives.

use proptest::prelude::*;

use super::script::{By, Write, engine, solve, value};
use crate::llb::Output;

/// A vertex of a random graph: inputs are taken among those before it.
#[derive(Clone, Debug)]
struct Step {
    /// Makes the same whatever its inputs are.
    constant: Option<u8>,
    fresh: bool,
    inputs: Vec<(prop::sample::Index, bool)>,
}

fn step() -> impl Strategy<Value = Step> {
    let inputs = prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..4);
    (prop::option::weighted(0.3, 0_u8..3), prop::bool::weighted(0.1), inputs).prop_map(|(constant, fresh, inputs)| {
        Step {
            constant,
            fresh,
            inputs,
        }
    })
}

/// One build of a graph.
#[derive(Clone, Debug)]
struct Round {
    target: prop::sample::Index,
    /// What the first source stands for.
    pin: u8,
    /// Results that are gone before it, by their last bits.
    lost: u8,
}

fn round() -> impl Strategy<Value = Round> {
    (any::<prop::sample::Index>(), 0_u8..3, any::<u8>()).prop_map(|(target, pin, lost)| Round { target, pin, lost })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn builds_give_what_a_naive_evaluator_gives(
        steps in prop::collection::vec(step(), 1..25),
        rounds in prop::collection::vec(round(), 1..5),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (engine, script) = engine();
            let mut write = Write::default();
            let mut outputs: Vec<Output> = vec![write.image("base")];
            let mut names = vec![String::new()];
            let mut inputs_of: Vec<Vec<usize>> = vec![Vec::new()];
            for (n, step) in steps.iter().enumerate() {
                let name = match step.constant {
                    Some(constant) => format!("{n} const {constant}"),
                    None => n.to_string(),
                };
                let at: Vec<usize> = step.inputs.iter().map(|(index, _)| index.index(outputs.len())).collect();
                let inputs: Vec<(Output, By)> = at
                    .iter()
                    .zip(&step.inputs)
                    .map(|(at, (_, by_content))| (outputs[*at], if *by_content { By::Content } else { By::Identity }))
                    .collect();
                outputs.push(if step.fresh { write.run_fresh(&name, &inputs) } else { write.run(&name, &inputs) });
                names.push(name);
                inputs_of.push(at);
            }
            for round in &rounds {
                let pin = format!("pin {}", round.pin);
                script.pin("docker-image://base", &pin);
                script.prune(|value| value.bytes().fold(0, u8::wrapping_add) & 7 < round.lost & 7);
                script.forget_runs();
                let mut values = vec![pin];
                for n in 1..outputs.len() {
                    let inputs: Vec<String> = inputs_of[n].iter().map(|at| values[*at].clone()).collect();
                    values.push(value(&names[n], &inputs));
                }
                let target = round.target.index(outputs.len());
                let (outcome, _build) = solve(&engine, &script, &write.finish(outputs[target])).await;
                assert_eq!(outcome.unwrap(), values[target]);
                assert!(script.max_runs_of_a_vertex() <= 1);
                assert!(engine.is_idle());
            }
        });
    }
}
