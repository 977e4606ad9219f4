//! Builds inside of builds.

use std::collections::BTreeMap;

use super::script::{By, Write, build, engine, logs, solve, soon, states, value};
use crate::SolveError;
use crate::engine::vertex::MAX_DEPTH;
use crate::llb::{BuildOp, Definition, LocalSource, NetMode, Op, OpMetadata, Output, SourceOp};

const ID: By = By::Identity;
const CONTENT: By = By::Content;

impl Write {
    /// Builds the definition that `input` holds.
    fn nested(&mut self, input: Output) -> Output {
        let inputs = BTreeMap::from([(BuildOp::DEFINITION.to_owned(), 0)]);
        let op = BuildOp::new(inputs, String::new()).unwrap();
        self.0.op(Op::Build(op), &[input], None, OpMetadata::default())
    }
}

fn bytes(definition: &Definition) -> Vec<u8> {
    use prost::Message as _;
    definition.to_wire().encode_to_vec()
}

/// What failed, in words.
fn refusal(outcome: Result<String, SolveError>) -> String {
    outcome.expect_err("it is refused").to_string()
}

#[tokio::test]
async fn a_definition_that_a_step_makes_is_built_and_known_the_second_time() {
    let (engine, script) = engine();
    let mut inner = Write::default();
    let base = inner.image("base");
    let made = inner.run("inner", &[(base, ID)]);
    script.file("definition", bytes(&inner.finish(made)));

    let mut write = Write::default();
    let writes = write.run("const definition", &[]);
    let nested = write.nested(writes);
    let by_identity = write.run("by identity", &[(nested, ID)]);
    let top = write.run("top", &[(by_identity, ID), (nested, CONTENT)]);
    let definition = write.finish(top);

    let (outcome, first) = solve(&engine, &script, &definition).await;
    let inner_value = value("inner", &["docker-image://base".to_owned()]);
    let by_identity = value("by identity", std::slice::from_ref(&inner_value));
    assert_eq!(outcome.unwrap(), value("top", &[by_identity, inner_value]));
    assert_eq!(script.total_runs(), 5);
    let told = states(&first);
    assert!(told["build"].completed.is_some() && told["build"].error.is_empty());
    assert!(told["inner"].completed.is_some());

    script.forget_runs();
    let (_, second) = solve(&engine, &script, &definition).await;
    assert_eq!(script.total_runs(), 0);
    for (name, state) in states(&second) {
        // It was read again.
        let is_read = name == "build";
        assert!(state.completed.is_some() && state.cached != is_read, "{state:?}");
    }

    // The definition is the same, and yet its result is another one.
    script.pin("docker-image://base", "newer");
    solve(&engine, &script, &definition).await.0.unwrap();
    assert_eq!((script.runs("inner"), script.runs("top")), (1, 1));
    assert_eq!(script.runs("const definition"), 0);
}

#[tokio::test]
async fn builds_share_what_is_nested_in_both() {
    let (engine, script) = engine();
    let mut inner = Write::default();
    let made = inner.run("inner", &[]);
    script.file("definition", bytes(&inner.finish(made)));
    script.on("inner", |context| async move {
        context.progress.log(1, "hello".into());
        Ok("made".to_owned())
    });
    let mut write = Write::default();
    let writes = write.run("const definition", &[]);
    let nested = write.nested(writes);
    let definition = write.finish(nested);
    let (one, two) = tokio::join!(
        solve(&engine, &script, &definition),
        solve(&engine, &script, &definition)
    );
    assert_eq!((one.0.unwrap(), two.0.unwrap()), ("made".to_owned(), "made".to_owned()));
    assert_eq!(script.runs("inner"), 1);
    assert!([one.1, two.1].iter().any(|build| logs(build, made.vertex()) == "hello"));
}

#[tokio::test]
async fn an_empty_definition_is_scratch() {
    let (engine, script) = engine();
    script.file("definition", Vec::new());
    let mut write = Write::default();
    let writes = write.run("const definition", &[]);
    let nested = write.nested(writes);
    let top = write.run("top", &[(nested, CONTENT)]);
    let (outcome, _) = solve(&engine, &script, &write.finish(top)).await;
    assert_eq!(outcome.unwrap(), value("top", &[String::new()]));
}

#[tokio::test]
async fn a_failure_inside_is_told_of_once_as_what_it_is() {
    let (engine, script) = engine();
    script.on("inner", |_| async { Err(crate::WorkerError::Failed("no".to_owned())) });
    let mut inner = Write::default();
    let made = inner.run("inner", &[]);
    script.file("definition", bytes(&inner.finish(made)));
    let mut write = Write::default();
    let writes = write.run("const definition", &[]);
    let nested = write.nested(writes);
    let (outcome, build) = solve(&engine, &script, &write.finish(nested)).await;
    let Err(SolveError::Vertex(error)) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((error.name.as_str(), error.vertex), ("inner", made.vertex()));
    let failed: Vec<String> = states(&build)
        .into_iter()
        .filter(|(_, state)| !state.error.is_empty())
        .map(|(name, _)| name)
        .collect();
    assert_eq!(failed, ["inner"]);
}

#[tokio::test]
async fn nothing_is_nested_too_deep() {
    for (depth, is_allowed) in [(MAX_DEPTH, true), (MAX_DEPTH + 1, false)] {
        let (engine, script) = engine();
        let mut last = Write::default();
        let target = last.run("const end", &[]);
        let mut definition = last.finish(target);
        for level in 0..depth {
            let name = format!("definition {level}");
            script.file(&name, bytes(&definition));
            let mut write = Write::default();
            let writes = write.run(&format!("const {name}"), &[]);
            let nested = write.nested(writes);
            definition = write.finish(nested);
        }
        let (outcome, _) = solve(&engine, &script, &definition).await;
        if is_allowed {
            assert_eq!(outcome.unwrap(), "end");
        } else {
            assert_eq!(refusal(outcome), "nested builds are more than 16 deep");
        }
    }
}

#[tokio::test]
async fn a_build_that_holds_itself_is_refused() {
    let (engine, script) = engine();
    let mut write = Write::default();
    let writes = write.run("const definition", &[]);
    let nested = write.nested(writes);
    let around = write.run("around", &[(nested, ID)]);
    let definition = write.finish(around);
    script.file("definition", bytes(&definition));
    let (outcome, _) = solve(&engine, &script, &definition).await;
    assert_eq!(refusal(outcome), "a nested build depends on itself");

    // Two that hold each other.
    let mut write = Write::default();
    let (a, b) = (write.run("const a", &[]), write.run("const b", &[]));
    let (a, b) = (write.nested(a), write.nested(b));
    script.file("a", bytes(&write.finish(b)));
    script.file("b", bytes(&write.finish(a)));
    let top = write.run("top", &[(a, ID), (b, CONTENT)]);
    let (outcome, _) = solve(&engine, &script, &write.finish(top)).await;
    assert_eq!(refusal(outcome), "a nested build depends on itself");
}

#[tokio::test]
async fn what_a_client_may_not_do_a_nested_build_may_not_either() {
    let (engine, script) = engine();
    let host = || {
        let mut inner = Write::default();
        let exec = crate::llb::ExecOp {
            args: vec!["true".to_owned()],
            cwd: "/".to_owned(),
            network: NetMode::Host,
            mounts: vec![crate::llb::Mount {
                dest: "/".to_owned(),
                input: None,
                selector: String::new(),
                readonly: false,
                output: Some(0),
                kind: crate::llb::MountKind::Bind,
                content_cache: crate::llb::ContentCache::Default,
            }],
            ..crate::llb::ExecOp::default()
        };
        let made = inner.0.exec(exec, &[], None, OpMetadata::default());
        bytes(&inner.finish(made))
    };
    let local = |session: &str| {
        let mut inner = Write::default();
        let local = LocalSource {
            name: "context".to_owned(),
            session: Some(session.to_owned()),
            ..LocalSource::default()
        };
        let made = inner.0.source(SourceOp::Local(local), None, OpMetadata::default());
        bytes(&inner.finish(made))
    };
    let other = "local://context in a nested build asks for files of another session";
    let cases = [
        (host(), Some("failed to load LLB: network.host is not allowed")),
        (local("somebody"), Some(other)),
        (local("own"), None),
        (
            vec![0xff; 9],
            Some("failed to load the definition in buildkit.llb.definition: "),
        ),
    ];
    for (number, (definition, refused)) in cases.into_iter().enumerate() {
        let name = format!("definition {number}");
        script.file(&name, definition);
        let mut write = Write::default();
        let writes = write.run(&format!("const {name}"), &[]);
        let nested = write.nested(writes);
        let build = build(&engine, "own");
        let outcome = soon(build.solve(&write.finish(nested))).await.map(|_| String::new());
        match refused {
            None => drop(outcome.unwrap()),
            Some(message) => {
                assert!(refusal(outcome).starts_with(message));
                assert!(states(&build)["build"].error.starts_with(message));
            }
        }
    }
}

#[tokio::test]
async fn what_is_for_another_worker_is_refused() {
    use prost::Message as _;

    let (engine, script) = engine();
    let mut write = Write::default();
    let made = write.run("run", &[]);
    let constrained = |filter: &[&str]| {
        let mut wire = write.finish(made).to_wire();
        let mut op = cairn_proto::pb::Op::decode(wire.def[0].clone()).unwrap();
        let filter = filter.iter().map(|&filter| filter.to_owned()).collect();
        op.constraints = Some(cairn_proto::pb::WorkerConstraints { filter });
        let op = op.encode_to_vec();
        let terminal = cairn_proto::pb::Op {
            inputs: vec![cairn_proto::pb::Input {
                digest: crate::Digest::sha256(&op).to_string(),
                index: 0,
            }],
            ..cairn_proto::pb::Op::default()
        };
        wire.def = vec![op.into(), terminal.encode_to_vec().into()];
        Definition::from_wire(wire)
    };
    for matching in [&["id==script"][..], &["id==other", "id==script"]] {
        solve(&engine, &script, &constrained(matching)).await.0.unwrap();
    }
    let (outcome, _) = solve(&engine, &script, &constrained(&["id==other"])).await;
    assert!(matches!(outcome, Err(SolveError::NoWorker { .. })), "{outcome:?}");
    let message = "no worker matches the constraint \"id==other\" of \"run\"";
    assert_eq!(refusal(outcome), message);
    assert_eq!(script.runs("run"), 1);
}
