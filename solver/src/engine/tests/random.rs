//! Random graphs give what a naive evaluator gives.

use proptest::prelude::*;

use super::plan::{Plan, Step, step};
use super::script::{build, engine, solve, soon};
use crate::engine::Counters;
use crate::worker::WorkerError;

/// Builds of a graph, at the same time.
#[derive(Clone, Debug)]
struct Round {
    targets: Vec<prop::sample::Index>,
    /// What the first source stands for.
    pin: u8,
    /// Results that are gone before it, by their last bits.
    lost: u8,
    /// The step that fails.
    broken: Option<prop::sample::Index>,
}

fn round() -> impl Strategy<Value = Round> {
    let targets = prop::collection::vec(any::<prop::sample::Index>(), 1..4);
    let broken = prop::option::weighted(0.2, any::<prop::sample::Index>());
    (targets, 0_u8..3, any::<u8>(), broken).prop_map(|(targets, pin, lost, broken)| Round {
        targets,
        pin,
        lost,
        broken,
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Checks rounds of builds against the naive evaluator.
async fn check(steps: &[Step], rounds: &[Round], honours_fresh: bool) {
    let (engine, script) = engine();
    let plan = Plan::new(steps, honours_fresh);
    for round in rounds {
        let pin = format!("pin {}", round.pin);
        script.pin(Plan::SOURCE, &pin);
        script.prune(|value| value.bytes().fold(0, u8::wrapping_add) & 7 < round.lost & 7);
        script.forget_runs();
        let broken = round.broken.map(|index| plan.name(plan.pick(index)));
        if let Some(broken) = &broken {
            script.on(broken, |_| async { Err(WorkerError::Failed("broken".to_owned())) });
        }
        let values = plan.values(&pin);
        let solves = round.targets.iter().enumerate().map(|(n, index)| {
            let target = plan.pick(*index);
            let (engine, script, definition) = (&engine, &script, plan.definition(target));
            async move {
                let build = build(engine, &n.to_string());
                let outcome = soon(build.solve(&definition)).await;
                (target, outcome.map(|result| script.read(result.as_ref())))
            }
        });
        for (target, outcome) in futures_util::future::join_all(solves).await {
            match outcome {
                Ok(made) => assert_eq!(made, values[target]),
                Err(error) => {
                    assert_eq!(error.to_string(), "broken");
                    assert!(plan.depends_on(target, round.broken.map(|index| plan.pick(index))));
                }
            }
        }
        // What is told to ignore the cache, or fails, may run once for each build, though not twice at the same time.
        let most = match honours_fresh || broken.is_some() {
            true => round.targets.len(),
            false => 1,
        };
        assert!(script.max_runs_of_a_vertex() <= most);
        soon(engine.finished()).await;
        super::script::until(|| engine.counters() == Counters::default()).await;
        if let Some(broken) = &broken {
            script.off(broken);
        }
        if !honours_fresh && broken.is_none() && round.targets.len() == 1 {
            script.forget_runs();
            let (outcome, _build) = solve(&engine, &script, &plan.definition(plan.pick(round.targets[0]))).await;
            assert!(outcome.is_ok());
            assert_eq!(script.total_runs(), 0, "what was just made was made again");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn builds_give_what_a_naive_evaluator_gives(
        steps in prop::collection::vec(step(), 1..25),
        rounds in prop::collection::vec(round(), 1..5),
        honours_fresh in any::<bool>(),
    ) {
        runtime().block_on(check(&steps, &rounds, honours_fresh));
    }
}
