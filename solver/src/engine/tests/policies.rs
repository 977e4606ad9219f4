//! Sources under policies.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::script::{By, Script, Write, engine, soon, states, value};
use crate::engine::{BuildBridge, BuildOptions, Engine, Frontends, SourceFacts};
use crate::frontend::{Bridge as _, FrontendError, FrontendRequest, FrontendResult};
use crate::llb::{BuildOp, Definition, GitSource, Op, OpMetadata, SourceFile, SourceLocation};
use crate::policy::{Action, Judgement, MatchKind, Policy, Rule, Selector, SourceJudge, Update};
use crate::worker::ImageQuery;
use crate::{Platform, PolicyError, RawSource, SolveError};

fn policy(action: Action, identifier: &str, into: &str) -> Arc<Policy> {
    let rule = Rule {
        action,
        selector: Selector {
            identifier: identifier.to_owned(),
            kind: MatchKind::Wildcard,
            constraints: Vec::new(),
        },
        update: Some(Update {
            identifier: into.to_owned(),
            attrs: BTreeMap::new(),
        }),
    };
    Arc::new(Policy::new(vec![rule]).unwrap())
}

async fn solve_under(
    engine: &Arc<Engine>,
    script: &Script,
    policies: Vec<Arc<Policy>>,
    definition: &Definition,
) -> Result<String, String> {
    let build = engine.build(BuildOptions {
        policies,
        ..BuildOptions::default()
    });
    let outcome = soon(build.solve(definition)).await;
    let outcome = outcome.map(|result| script.read(result.as_ref()));
    outcome.map_err(|error| error.to_string())
}

#[tokio::test]
async fn what_is_denied_is_neither_resolved_nor_announced() {
    let (engine, script) = engine();
    let mut write = Write::default();
    let base = write.image("base");
    let top = write.run("top", &[(base, By::Identity)]);
    let definition = write.finish(top);
    let deny = policy(Action::Deny, "docker-image://b*", "");
    let build = engine.build(BuildOptions {
        policies: vec![deny],
        ..BuildOptions::default()
    });
    let error = soon(build.solve(&definition)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to load LLB: error evaluating the source policy: \
         source \"docker-image://base\" denied by policy: source denied by policy"
    );
    assert!(states(&build).is_empty());
    assert_eq!(script.total_runs(), 0);
}

#[tokio::test]
async fn what_is_converted_is_what_is_built_and_what_is_remembered() {
    let (engine, script) = engine();
    let mut write = Write::default();
    let (old, side) = (write.image("old"), write.image("side"));
    let middle = write.run("middle", &[(old, By::Identity), (side, By::Identity)]);
    let top = write.run("top", &[(middle, By::Content)]);
    let definition = write.finish(top);
    let convert = || vec![policy(Action::Convert, "docker-image://old", "docker-image://new")];
    let want = |base: &str| {
        let inputs = ["docker-image://".to_owned() + base, "docker-image://side".to_owned()];
        value("top", &[value("middle", &inputs)])
    };
    let made = solve_under(&engine, &script, convert(), &definition).await;
    assert_eq!(made, Ok(want("new")));

    // Known from then on, also to whoever asks for it without a policy; and what was not built is not known.
    script.forget_runs();
    let mut write = Write::default();
    let (new, side) = (write.image("new"), write.image("side"));
    let middle = write.run("middle", &[(new, By::Identity), (side, By::Identity)]);
    let top = write.run("top", &[(middle, By::Content)]);
    let plain = solve_under(&engine, &script, Vec::new(), &write.finish(top)).await;
    assert_eq!((plain, script.total_runs()), (Ok(want("new")), 0));
    let plain = solve_under(&engine, &script, Vec::new(), &definition).await;
    assert_eq!(plain, Ok(want("old")));
    assert_eq!(script.runs("middle"), 1);
}

#[tokio::test]
async fn errors_still_point_at_the_lines_that_the_client_knows() {
    let (engine, script) = engine();
    script.on("fails", |_| async { Err(crate::WorkerError::Failed("no".to_owned())) });
    let mut write = Write::default();
    let base = write.image("old");
    let top = write.run("fails", &[(base, By::Identity)]);
    let file = write.0.add_source_file(SourceFile {
        filename: "Dockerfile".to_owned(),
        ..SourceFile::default()
    });
    write.0.locate(
        top,
        SourceLocation {
            file,
            ranges: Vec::new(),
        },
    );
    let build = engine.build(BuildOptions {
        policies: vec![policy(Action::Convert, "docker-image://old", "docker-image://new")],
        ..BuildOptions::default()
    });
    let error = soon(build.solve(&write.finish(top))).await.unwrap_err();
    let SolveError::Vertex(error) = error else {
        panic!("{error}")
    };
    assert_eq!(error.places[0].0.filename, "Dockerfile");
}

#[tokio::test]
async fn nested_definitions_are_under_the_same_policies() {
    let (engine, script) = engine();
    let mut inner = Write::default();
    let base = inner.image("base");
    let made = inner.run("inner", &[(base, By::Identity)]);
    let bytes = {
        use prost::Message as _;
        inner.finish(made).to_wire().encode_to_vec()
    };
    script.file("definition", bytes);
    let mut write = Write::default();
    let writes = write.run("const definition", &[]);
    let inputs = BTreeMap::from([(BuildOp::DEFINITION.to_owned(), 0)]);
    let op = Op::Build(BuildOp::new(inputs, String::new()).unwrap());
    let nested = write.0.op(op, &[writes], None, OpMetadata::default());
    let definition = write.finish(nested);

    let deny = policy(Action::Deny, "docker-image://base", "");
    let denied = solve_under(&engine, &script, vec![deny], &definition).await;
    assert!(denied.unwrap_err().contains("denied by policy"));
    let convert = policy(Action::Convert, "docker-image://base", "docker-image://other");
    let made = solve_under(&engine, &script, vec![convert], &definition).await;
    assert_eq!(made, Ok(value("inner", &["docker-image://other".to_owned()])));
}

/// No frontend is called.
struct NoFrontends;

#[async_trait]
impl Frontends for NoFrontends {
    async fn solve(
        &self,
        name: &str,
        _: Arc<BuildBridge>,
        _: FrontendRequest,
    ) -> Result<FrontendResult, FrontendError> {
        Err(FrontendError::Option(name.to_owned()))
    }
}

fn query(reference: &str) -> ImageQuery {
    ImageQuery {
        reference: reference.to_owned(),
        platform: None,
        mode: Default::default(),
        layout: None,
    }
}

#[tokio::test]
async fn metadata_is_asked_for_what_policies_leave() {
    let (engine, script) = engine();
    let build = engine.build(BuildOptions {
        policies: vec![policy(Action::Convert, "docker-image://a:*", "docker-image://b:$1")],
        ..BuildOptions::default()
    });
    let bridge = BuildBridge::new(build.clone(), Arc::new(NoFrontends));
    let found = bridge.resolve_image(query("a:1"), "").await.unwrap();
    assert_eq!(found.reference, "b:1");
    // Policies of one request come on top, and hold for what it names.
    let strict = bridge.under(&[policy(Action::Deny, "docker-image://b:*", "")]);
    let error = strict.resolve_image(query("a:1"), "").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "could not resolve image due to policy: \
         source \"docker-image://b:1\" denied by policy: source denied by policy"
    );
    let mut write = Write::default();
    let image = write.image("a:1");
    let reference = strict.solve(write.finish(image)).await.unwrap().unwrap();
    let error = bridge.evaluate(&reference).await.unwrap_err();
    assert!(matches!(error, SolveError::Policy(PolicyError::Denied(_))), "{error}");
    let child = strict.child().unwrap();
    assert!(child.resolve_image(query("a:2"), "").await.is_err());
    // Without them it is there.
    let reference = bridge.solve(write.finish(image)).await.unwrap().unwrap();
    let made = bridge.evaluate(&reference).await.unwrap();
    assert_eq!(script.read(made.as_ref()), "docker-image://b:1");

    let elsewhere = bridge.under(&[policy(Action::Convert, "docker-image://b:*", "http://files/$1")]);
    let error = elsewhere.resolve_image(query("a:1"), "").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "ref mutated by policy to non-image: docker-image://a:1 -> http://files/1"
    );
}

/// Answers in turn, and remembers what it was asked.
#[derive(Debug, Default)]
struct Scripted {
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl SourceJudge for Scripted {
    async fn judge(
        &self,
        source: &RawSource,
        _: Option<&Platform>,
        facts: &SourceFacts,
        rounds: &mut usize,
    ) -> Result<Judgement, SolveError> {
        *rounds = rounds.saturating_sub(1);
        self.asked.lock().push(source.identifier.clone());
        let becomes = |identifier: &str| {
            Ok(Judgement::Convert(RawSource {
                identifier: identifier.to_owned(),
                ..RawSource::default()
            }))
        };
        match source.identifier.as_str() {
            "docker-image://first" => {
                facts.image(&query("first"), "").await?;
                becomes("docker-image://second")
            }
            "docker-image://endless" => becomes("docker-image://endless"),
            "docker-image://no" => Err(SolveError::ResolvePolicy(PolicyError::Refused {
                identifier: source.identifier.clone(),
                messages: vec!["because".to_owned()],
            })),
            _ => Ok(Judgement::Allow),
        }
    }
}

#[tokio::test]
async fn a_judge_has_the_last_word_and_is_asked_once() {
    let (engine, script) = engine();
    let judge = Arc::new(Scripted::default());
    let build = engine.build(BuildOptions {
        policies: vec![policy(Action::Convert, "docker-image://zero", "docker-image://first")],
        judge: Some(judge.clone()),
        ..BuildOptions::default()
    });
    let mut write = Write::default();
    let image = write.image("zero");
    let definition = write.finish(image);
    for _ in 0..2 {
        let made = soon(build.solve(&definition)).await.unwrap();
        assert_eq!(script.read(made.as_ref()), "docker-image://second");
    }
    assert_eq!(*judge.asked.lock(), ["docker-image://first", "docker-image://second"]);
    for (name, want) in [
        (
            "no",
            "failed to load LLB: error evaluating the source policy: \
             source \"docker-image://no\" not allowed by policy: action DENY",
        ),
        (
            "endless",
            "failed to load LLB: error evaluating the source policy: too many policy requests",
        ),
    ] {
        let mut write = Write::default();
        let image = write.image(name);
        let error = soon(build.solve(&write.finish(image))).await.unwrap_err();
        assert_eq!(error.to_string(), want);
    }
}

#[tokio::test]
async fn what_a_judge_puts_in_place_passes_the_policies_of_whoever_asks() {
    let (engine, _) = engine();
    let judge = Arc::new(Scripted::default());
    let build = engine.build(BuildOptions {
        judge: Some(judge.clone()),
        ..BuildOptions::default()
    });
    let bridge = BuildBridge::new(build, Arc::new(NoFrontends));
    let found = bridge.resolve_image(query("first"), "").await.unwrap();
    assert_eq!(found.reference, "second");
    let strict = bridge.under(&[policy(Action::Deny, "docker-image://second", "")]);
    let error = strict.resolve_image(query("first"), "").await.unwrap_err();
    assert!(error.to_string().contains("denied by policy"), "{error}");
    let other = bridge.under(&[policy(Action::Convert, "docker-image://second", "docker-image://third")]);
    let found = other.resolve_image(query("first"), "").await.unwrap();
    assert_eq!(found.reference, "third");
}

#[tokio::test]
async fn hosts_are_not_asked_for_keys_of_what_may_be_refused() {
    let source = GitSource {
        repository: "h/r".to_owned(),
        full_url: "ssh://git@h/r".to_owned(),
        ..GitSource::default()
    };
    let (engine, _) = engine();
    let asked = async |options: BuildOptions| {
        let bridge = BuildBridge::new(engine.build(options), Arc::new(NoFrontends));
        bridge.host_keys(&source).await
    };
    let under = |policy: Arc<Policy>| BuildOptions {
        policies: vec![policy],
        ..BuildOptions::default()
    };
    assert_eq!(asked(BuildOptions::default()).await, "keys of h/r");
    assert_eq!(
        asked(under(policy(Action::Deny, "git://other/*", ""))).await,
        "keys of h/r"
    );
    assert_eq!(asked(under(policy(Action::Deny, "git://h/*", ""))).await, "");
    assert_eq!(
        asked(under(policy(Action::Convert, "git://h/*", "git://i/$1"))).await,
        ""
    );
    let judged = BuildOptions {
        judge: Some(Arc::new(Scripted::default())),
        ..BuildOptions::default()
    };
    assert_eq!(asked(judged).await, "");
}
