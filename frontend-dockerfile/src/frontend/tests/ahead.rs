//! The build context is sent while images are looked up.

use std::sync::Arc;

use cairn_solver::Digest;
use cairn_solver::frontend::FrontendRefs;
use cairn_solver::llb::{Definition, Op, SourceOp, decode};

use super::{FakeBridge, solve};
use crate::testing::ALPINE;

/// The step that loads the build context in a graph, and the paths that it asks for.
fn context(definition: &Definition) -> Option<(Digest, Vec<String>)> {
    let graph = decode(definition).unwrap()?;
    graph.topological().find_map(|index| {
        let vertex = graph.vertex(index);
        match &vertex.op {
            Op::Source(SourceOp::Local(local)) if local.name == "context" => {
                Some((vertex.digest, local.follow_paths.clone()))
            }
            _ => None,
        }
    })
}

/// Runs with a clock that goes on when everybody waits.
fn in_no_time<T>(work: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(work)
}

/// What was begun ahead of time, and what was needed in the end.
fn contexts(bridge: FakeBridge, options: &[(&str, &str)]) -> [Option<(Digest, Vec<String>)>; 2] {
    let bridge = Arc::new(bridge);
    let result = in_no_time(solve(&bridge, options)).unwrap();
    let FrontendRefs::Single(Some(built)) = result.refs else {
        panic!("nothing is built");
    };
    let begun = bridge.begun.lock().unwrap();
    assert!(begun.len() <= 1, "{begun:?}");
    [begun.first().and_then(context), context(&built.definition)]
}

#[test]
fn the_context_is_begun_if_it_is_certain() {
    let onbuild = ALPINE.replace("\"X-Unknown\":1", "\"OnBuild\":[\"COPY c /\"]");
    let variable = ALPINE
        .replace("\"X-Unknown\":1", "\"Labels\":{}")
        .replace("PATH=", "DIR=x\",\"PATH=");
    for (dockerfile, begun, needed) in [
        (
            "FROM alpine\nCOPY a b /x/\nRUN --mount=target=/m,source=c true",
            Some("a b c"),
            Some("a b c"),
        ),
        ("FROM alpine\nWORKDIR $HOME\nCOPY . .", Some(""), Some("")),
        (
            "FROM alpine AS x\nCOPY a /\nFROM debian\nCOPY b /\nADD https://h/c /\nCOPY <<d /\nd\n",
            Some("b"),
            Some("b"),
        ),
        ("FROM alpine\nRUN true", None, None),
        ("FROM scratch\nCOPY a /", None, Some("a")),
        ("ARG A=a\nFROM alpine\nARG A\nCOPY $A /", None, Some("a")),
        ("FROM variable\nADD $DIR /", None, Some("x")),
        ("FROM variable\nRUN --mount=target=/m,source=$DIR true", None, Some("x")),
        ("FROM onbuild\nRUN true", None, Some("c")),
        ("FROM onbuild\nCOPY a /", Some("a"), Some("a c")),
    ] {
        let bridge = FakeBridge::new(dockerfile)
            .image("docker.io/library/onbuild:latest", &onbuild)
            .image("docker.io/library/variable:latest", &variable);
        let found = contexts(bridge.slow_images(), &[]);
        let paths = found.clone().map(|context| context.map(|(_, paths)| paths.join(" ")));
        assert_eq!(paths.each_ref().map(Option::as_deref), [begun, needed], "{dockerfile}");
        // The very same step, so that it is done once.
        if begun == needed {
            assert_eq!(found[0], found[1], "{dockerfile}");
        }
    }
}

#[test]
fn the_ignore_file_counts_before() {
    let bridge = FakeBridge::new("FROM alpine\nCOPY a /").file("context", ".dockerignore", "*.log\n");
    let [begun, needed] = contexts(bridge.slow_images(), &[]);
    assert!(begun.is_some());
    assert_eq!(begun, needed);
}

#[test]
fn nothing_is_begun_that_nobody_wants() {
    let file = "FROM alpine\nCOPY a /";
    let remote = FakeBridge::new("").remote("git://h/r.git#v1:sub", "Dockerfile", file.as_bytes());
    for (bridge, option) in [
        (remote, ("context", "http://h/r.git#v1:sub")),
        (FakeBridge::new(file), ("requestid", "frontend.lint")),
        (FakeBridge::new(file), ("requestid", "frontend.outline")),
    ] {
        let bridge = Arc::new(bridge.slow_images());
        in_no_time(solve(&bridge, &[option])).unwrap();
        assert!(bridge.begun.lock().unwrap().is_empty(), "{option:?}");
    }
}
