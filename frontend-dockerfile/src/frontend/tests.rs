mod ahead;
mod conformance;
mod contexts;
mod findings;
mod host_keys;
mod hostile;
mod policies;
mod windows;

use std::sync::Arc;

use cairn_solver::frontend::{FrontendError, FrontendRefs, FrontendResult};
use cairn_solver::llb::decode;

use crate::testing::{FakeBridge, build, cases, render, solve};

fn config(result: &FrontendResult) -> serde_json::Value {
    serde_json::from_slice(&result.metadata["containerimage.config"]).expect("the config is JSON")
}

/// Builds a Dockerfile and returns the graph with the config.
fn lowered(dockerfile: &str, options: &[(&str, &str)]) -> String {
    render(&build(FakeBridge::new(dockerfile), options))
}

/// The names of the steps.
fn names(dockerfile: &str, options: &[(&str, &str)]) -> Vec<String> {
    let text = lowered(dockerfile, options);
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.split_once(' ').unwrap().1.to_owned())
        .collect()
}

fn error(dockerfile: &str, options: &[(&str, &str)]) -> String {
    let text = lowered(dockerfile, options);
    let first = text.lines().next().unwrap_or_default();
    first
        .strip_prefix("error: ")
        .unwrap_or_else(|| panic!("{dockerfile:?} was built:\n{text}"))
        .to_owned()
}

fn env(dockerfile: &str, options: &[(&str, &str)]) -> Vec<String> {
    let result = build(FakeBridge::new(dockerfile), options).unwrap_or_else(|error| panic!("{dockerfile}: {error}"));
    let config = config(&result);
    let env = config["config"]["Env"].as_array().unwrap().iter();
    env.map(|entry| entry.as_str().unwrap().to_owned())
        .filter(|entry| !entry.starts_with("PATH="))
        .collect()
}

#[test]
fn graphs_are_lowered_as_they_are_meant() {
    cases::check("lower", |case| {
        let text = lowered(&case.input, &case.options());
        // What of it is no graph stands in the config's own cases.
        let graph = text.split_once("--\n").map_or(text.as_str(), |(graph, _)| graph);
        graph.to_owned()
    });
}

#[test]
fn configs_say_what_they_should() {
    cases::check("config", |case| {
        match build(FakeBridge::new(&case.input), &case.options()) {
            Ok(result) => format!("{:#}", config(&result)),
            failed => render(&failed),
        }
    });
}

#[test]
fn options_can_be_wrong_too() {
    let two = "FROM scratch AS a\nFROM scratch AS builder";
    assert_eq!(
        error(two, &[("target", "bulder")]),
        "target stage \"bulder\" could not be found (did you mean builder?)"
    );
    assert_eq!(
        error("FROM scratch", &[("build-arg:SOURCE_DATE_EPOCH", "foo")]),
        "invalid SOURCE_DATE_EPOCH: foo"
    );
    let copy = "FROM scratch\nCOPY --from=foo / /";
    assert_eq!(
        error(copy, &[("context:foo", "target:x")]),
        "unsupported context source target for foo"
    );
    assert_eq!(
        error(copy, &[("context:foo", "bogus")]),
        "invalid context specifier bogus for foo"
    );
    let behind = "FROM scratch AS a\nCOPY --from=b /a /b\nFROM scratch AS b\nCOPY a /a";
    assert_eq!(
        error(behind, &[("target", "a")]),
        "cannot copy from stage \"b\", it needs to be defined before current stage \"a\""
    );
    assert_eq!(
        error("FROM scratch", &[("filename", "x")]),
        "failed to read dockerfile: open x: no such file or directory"
    );
}

#[test]
fn what_is_wrong_with_an_instruction_is_told_in_the_order_that_users_know() {
    for (line, want) in [
        (
            "FROM --foo a b",
            "dockerfile parse error on line 1: FROM requires either one or three arguments",
        ),
        (
            "FROM --foo a AS \u{1}",
            "dockerfile parse error on line 1: invalid name for build stage: \"\\x01\", name can't start with a number \
             or contain symbols",
        ),
        (
            "FROM scratch\nADD --foo a",
            "dockerfile parse error on line 2: ADD requires at least two arguments, but only one was provided. \
             Destination could not be determined",
        ),
        (
            "FROM scratch\nUSER --foo",
            "dockerfile parse error on line 2: USER requires exactly one argument",
        ),
        (
            "FROM scratch\nEXPOSE --foo",
            "dockerfile parse error on line 2: EXPOSE requires at least one argument",
        ),
        (
            "FROM scratch\nVOLUME --foo",
            "dockerfile parse error on line 2: VOLUME requires at least one argument",
        ),
        (
            "FROM scratch\nONBUILD --foo",
            "dockerfile parse error on line 2: ONBUILD requires at least one argument",
        ),
        (
            "FROM scratch\nHEALTHCHECK --foo X",
            "dockerfile parse error on line 2: unknown flag: --foo",
        ),
        (
            "FROM scratch\nRUN --mount=target=/ --mount=type=cache,MODE=x []",
            "invalid value x for mode",
        ),
        (
            "FROM scratch\nRUN --mount=ZZZZZZ=1 a",
            "unexpected key 'zzzzzz' in 'ZZZZZZ=1'",
        ),
        (
            "FROM scratch\nRUN --mount=type=tmpfs,target=/a,gid=1 a",
            "gid not allowed for \"tmpfs\" type mounts",
        ),
        (
            "FROM $A\\\\",
            "failed to parse stage name \"\\\\\": invalid reference format",
        ),
        (
            "FROM --platform=${P scratch",
            "failed to process arguments for platform : failed to process \"${P\": unsupported modifier (\u{fffd}) in \
             substitution",
        ),
        (
            "ARG P=foo\nFROM --platform=$P scratch",
            "failed to parse platform $P: \"foo\": unknown operating system or architecture: invalid argument",
        ),
        (
            "ARG B=missing\nFROM $B",
            "missing: failed to resolve source metadata for docker.io/library/missing:latest: \
             docker.io/library/missing:latest: not found",
        ),
    ] {
        assert_eq!(error(line, &[]), want, "{line}");
    }
}

#[test]
fn platforms_that_say_little_are_those_of_the_daemon() {
    let text = lowered("FROM --platform=linux alpine\nRUN a", &[("platform", "linux/arm64")]);
    assert!(
        text.contains("(linux/amd64)") && !text.contains("(linux/arm64)"),
        "{text}"
    );
}

#[test]
fn errors_point_at_every_line_they_are_about() {
    let text = lowered(
        "FROM scratch AS a\nCOPY --from=b /a /b\nFROM scratch AS b\nCOPY --from=a \\\n /b /a",
        &[],
    );
    assert_eq!(
        text,
        "error: circular dependency detected on stage: a\nat Dockerfile: 2; 4,5\n"
    );
}

#[test]
fn variables_have_the_scope_users_expect() {
    let args = "FROM scratch\nARG a\nARG b=2 c d=$b-$a\nENV r=$a,$b,$c,$d";
    for (dockerfile, options, want) in [
        ("FROM scratch\nENV a=\\\nb", &[][..], &["a=b"][..]),
        ("FROM scratch\nENV a=b \\\n\n  c=d", &[], &["a=b", "c=d"]),
        ("FROM scratch\nENV a=b \\\n  # c \\\n  c=d", &[], &["a=b", "c=d"]),
        ("FROM scratch\nENV a=b\\ \nENV c=d", &[], &["a=bENV", "c=d"]),
        ("FROM scratch\nENV a=b \\", &[], &["a=b"]),
        ("\u{feff}FROM scratch\r\nENV a=b \\\r\n c=d\r\n", &[], &["a=b", "c=d"]),
        (
            "# escape=`\nFROM scratch\nENV a=c:\\x\\ b=`\nd",
            &[],
            &["a=c:\\x\\", "b=d"],
        ),
        ("\n# escape=`\nFROM scratch\nENV a=b\\\n c=d", &[], &["a=b", "c=d"]),
        ("  # escape=`\nFROM scratch\nENV a=b`\n c=d", &[], &["a=b", "c=d"]),
        (
            "FROM scratch\nENV abc=hello\nENV abc=bye def=$abc\nENV ghi=$abc",
            &[],
            &["abc=bye", "def=hello", "ghi=bye"],
        ),
        ("FROM scratch\nENV a b  c=$d \"q\"", &[], &["a=b  c= q"]),
        (
            "FROM scratch\nENV a=\"b c\" d=e\\ f g='h i' j=k\"l\"m n=",
            &[],
            &["a=b c", "d=e f", "g=h i", "j=klm", "n="],
        ),
        ("FROM scratch\nENV a = b", &[], &["a== b"]),
        (args, &[], &["r=,2,,2-"]),
        (
            args,
            &[("build-arg:a", "A"), ("build-arg:b", "B"), ("build-arg:c", "C")],
            &["r=A,B,C,B-A"],
        ),
        ("ARG g=G\nFROM scratch\nENV r=$g\nARG g\nENV s=$g", &[], &["r=", "s=G"]),
        ("ARG g=G\nFROM scratch\nARG g=$g-l\nENV s=$g", &[], &["s=-l"]),
        (
            "ARG g=1\nARG h=$g-2\nFROM scratch\nARG h\nENV s=$h",
            &[("build-arg:g", "9")],
            &["s=9-2"],
        ),
        (
            "FROM scratch\nARG v=arg\nENV v=env\nENV r=$v",
            &[("build-arg:v", "cli")],
            &["v=env", "r=env"],
        ),
        (
            "FROM scratch\nENV v=env\nARG v=arg\nENV r=$v",
            &[("build-arg:v", "cli")],
            &["v=env", "r=cli"],
        ),
        ("FROM scratch\nENV v=env\nARG v\nENV r=$v", &[], &["v=env", "r=env"]),
        ("FROM scratch\nARG v=\nENV r=${v-unset}", &[], &["r="]),
        ("FROM scratch AS a\nARG x=1\nFROM a\nENV z=$x", &[], &["z=1"]),
        ("FROM scratch AS a\nARG x=1\nFROM scratch\nENV z=$x", &[], &["z="]),
        ("FROM scratch\nARG \"a\"=b\nENV r=$a", &[], &["r="]),
        ("FROM scratch\nENV a=${q:?no}\nFROM scratch", &[], &[]),
        (
            "FROM scratch\nARG TARGETPLATFORM TARGETVARIANT TARGETSTAGE\nENV r=$TARGETPLATFORM,$TARGETVARIANT,$TARGETSTAGE",
            &[("platform", "linux/arm/v7")],
            &["r=linux/arm/v7,v7,default"],
        ),
        ("FROM scratch\nENV r=$TARGETARCH", &[], &["r="]),
        ("FROM scratch\nARG TARGETARCH=foo\nENV r=$TARGETARCH", &[], &["r=foo"]),
        ("FROM scratch\nARG --foo a=1\nENV r=$a", &[], &["r=1"]),
    ] {
        assert_eq!(env(dockerfile, options), want, "{dockerfile:?} {options:?}");
    }
}

#[test]
fn steps_are_numbered_and_named() {
    let copies = (0..10).map(|n| format!("COPY a /a{n}\n")).collect::<String>();
    let numbered = names(&format!("FROM scratch\n{copies}"), &[]);
    assert_eq!(numbered[1], "[ 1/10] COPY a /a0 @2");
    assert_eq!(numbered[10], "[10/10] COPY a /a9 @11");
    let workdirs = names("FROM alpine\nWORKDIR /\nWORKDIR /w\nCOPY a /", &[]);
    assert_eq!(
        &workdirs[1..],
        [
            "[2/4] WORKDIR /w @3",
            "[internal] load build context",
            "[3/4] COPY a / @4"
        ]
    );
    let triggers = names(
        "FROM scratch AS a\nONBUILD COPY a /ob\nONBUILD ENV X=1\nFROM a\nCOPY b /own$X",
        &[],
    );
    assert_eq!(
        &triggers[1..],
        ["[stage-1 1/3] ONBUILD COPY a /ob @4", "[stage-1 2/3] COPY b /own1 @5"]
    );
    let shown = names("FROM debian\nENV X=1\nRUN echo $X ${Y} ${Y:-d} \\$X", &[]);
    assert_eq!(shown[1], "[2/2] RUN echo 1 ${Y} ${Y:-d} $X @3");
}

#[test]
fn only_what_the_target_needs_is_looked_up() {
    let bridge = Arc::new(FakeBridge::new(
        "FROM nonexistent AS u\nRUN x\nFROM alpine AS a\nFROM scratch AS b\nCOPY --from=a / /",
    ));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(solve(&bridge, &[])).unwrap();
    let mut log = bridge.log.lock().unwrap().clone();
    log.sort();
    assert_eq!(
        log,
        [
            "[internal] load .dockerignore .dockerignore",
            "[internal] load build definition from Dockerfile Dockerfile",
            "[internal] load build definition from Dockerfile Dockerfile.dockerignore",
            "[internal] load metadata for docker.io/library/alpine:latest",
        ]
    );
}

#[test]
fn ignore_rules_and_used_paths_reach_the_client() {
    let bridge = FakeBridge::new("FROM scratch\nCOPY a d/* /x/").file("context", ".dockerignore", "*.md\n!README.md\n");
    let text = render(&build(bridge, &[]));
    assert!(
        text.contains(
            r#"local context follow=["a", "d/*"] exclude=["*.md", "!README.md"] hint=context session=session"#
        ),
        "{text}"
    );
    let own = FakeBridge::new("FROM scratch\nCOPY . /")
        .file("context", ".dockerignore", "b")
        .file("dockerfile", "Dockerfile.dockerignore", "a");
    let text = render(&build(own, &[]));
    assert!(text.contains(r#"follow=[] exclude=["a"]"#), "{text}");
    let bad = FakeBridge::new("FROM scratch").file("context", ".dockerignore", "a\n!\n");
    let text = render(&build(bad, &[]));
    assert!(
        text.contains("illegal exclusion pattern: \"!\"") && text.contains("at .dockerignore: 2"),
        "{text}"
    );
}

#[test]
fn the_lower_case_dockerfile_is_found() {
    let bridge = FakeBridge::default().file("dockerfile", "dockerfile", "FROM scratch");
    assert!(build(bridge, &[]).is_ok());
}

#[test]
fn named_contexts_stand_in() {
    let bases = "FROM alpine:latest\nCOPY a /";
    let text = lowered(bases, &[("context:alpine", "local:foo")]);
    assert!(
        text.contains("[context alpine] load from client") && !text.contains("docker.io/library/alpine"),
        "{text}"
    );
    assert!(lowered(bases, &[("context:alpine:latest", "local:foo")]).contains("docker.io/library/alpine"));
    let stage = "FROM scratch AS base\nCOPY a /\nFROM base\nCOPY b /";
    let text = lowered(stage, &[("context:base", "docker-image://debian")]);
    assert!(
        text.contains("[context base] debian @1") && !text.contains("COPY a /"),
        "{text}"
    );
    let source = lowered("FROM scratch\nCOPY --from=foo n1 /", &[("context:foo", "local:dir")]);
    assert!(source.contains(r#"local dir follow=["n1"]"#), "{source}");
}

#[test]
fn commands_are_kept_or_cleared() {
    for (dockerfile, want) in [
        ("FROM debian\nENTRYPOINT [\"x\"]", "null"),
        ("FROM debian\nCMD [\"y\"]\nENTRYPOINT [\"x\"]", "[\"y\"]"),
        ("FROM scratch AS a\nCMD [\"y\"]\nFROM a\nENTRYPOINT [\"x\"]", "null"),
        ("FROM scratch\nCMD", "[\"/bin/sh\",\"-c\",\"\"]"),
        ("FROM scratch\nCMD [ \"a\" , \"b\" ]  ", "[\"a\",\"b\"]"),
        ("FROM scratch\nCMD [\"a\"] x", "[\"/bin/sh\",\"-c\",\"[\\\"a\\\"] x\"]"),
        ("FROM scratch\nCMD ['a']", "[\"/bin/sh\",\"-c\",\"['a']\"]"),
        ("FROM scratch\nCMD [\"a\",\"\\u0041\"]", "[\"a\",\"A\"]"),
    ] {
        let result = build(FakeBridge::new(dockerfile), &[]).unwrap();
        assert_eq!(config(&result)["config"]["Cmd"].to_string(), want, "{dockerfile:?}");
    }
}

#[test]
fn official_syntax_images_are_built_in_and_others_forwarded() {
    for first in [
        "# syntax=docker/dockerfile:1",
        "# syntax = docker.io/docker/dockerfile:1.7-labs",
        "// syntax=docker/dockerfile\n",
    ] {
        let dockerfile = format!("{first}\nFROM scratch\n");
        let text = lowered(&dockerfile, &[]);
        assert_eq!(text.starts_with("scratch"), first.starts_with('#'), "{text}");
    }
    let text = lowered("# syntax=nonexist/foo\nFROM scratch", &[]);
    assert_eq!(text, "error: invalid frontend: gateway.v0\n");
    let error = build(FakeBridge::new("# syntax=nonexist/foo\nFROM scratch"), &[]).unwrap_err();
    assert!(matches!(error, FrontendError::At { locations, .. } if locations[0].ranges[0].start_line == 1));
    let text = lowered("FROM scratch", &[("build-arg:BUILDKIT_SYNTAX", "nonexist/foo x")]);
    assert_eq!(
        text,
        "error: failed with build-arg:BUILDKIT_SYNTAX = nonexist/foo x: invalid frontend: gateway.v0\n"
    );
    assert!(lowered("# syntax=nonexist/foo\nFROM scratch", &[("cmdline", "x")]).starts_with("scratch"));
}

#[test]
fn triggers_of_images_run_and_may_ask_for_more_images() {
    let config = crate::testing::ALPINE.replace("\"Cmd\"", "\"OnBuild\":[\"COPY --from=debian /a /b\"],\"Cmd\"");
    let bridge = FakeBridge::new("FROM base\nRUN x").image("docker.io/library/base:latest", &config);
    let text = render(&build(bridge, &[]));
    assert!(
        text.contains("[stage-0 2/3] ONBUILD COPY --from=debian /a /b @1"),
        "{text}"
    );
    let (_, exported) = text.split_once("containerimage.config").unwrap();
    assert!(!exported.contains("OnBuild"), "{text}");
}

#[test]
fn hostile_files_end_in_bounded_time() {
    let doubling = format!("FROM scratch\nENV a=xxxxxxxx\n{}", "ENV a=$a$a\n".repeat(64));
    assert!(
        error(&doubling, &[]).contains("result is longer than"),
        "{}",
        error(&doubling, &[])
    );
    let chain: String = (1..3_000)
        .map(|n| format!("FROM s{} AS s{n}\nENV a{n}=1\n", n - 1))
        .collect();
    let text = lowered(&format!("FROM scratch AS s0\n{chain}"), &[]);
    assert!(
        text.starts_with("error: variables and inherited settings") || text.starts_with("scratch"),
        "{:.200}",
        text
    );
    let many: String = (0..5_000)
        .map(|n| format!("FROM scratch AS s{n}\nCOPY --from={} /a /b\n", (n + 1) % 5_000))
        .collect();
    assert!(error(&many, &[]).starts_with("circular dependency"));
}

#[test]
fn images_are_looked_up_once() {
    let bridge = Arc::new(FakeBridge::new(
        "FROM alpine AS a\nRUN x\nFROM alpine AS b\nCOPY --from=alpine /a /b\nFROM alpine\nCOPY --from=a / /\nCOPY --from=b / /",
    ));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(solve(&bridge, &[])).unwrap();
    let looked_up = bridge
        .log
        .lock()
        .unwrap()
        .iter()
        .filter(|entry| entry.contains("metadata"))
        .count();
    assert_eq!(looked_up, 1);
}

/// What other programs that lower Dockerfiles name these steps, so that clients and caches agree on them.
#[test]
fn digests_are_those_of_other_frontends() {
    let bridge = FakeBridge::new("FROM scratch\nCOPY f /f").session("i6spbtjuew9oa0t499odmn0x7");
    let result = build(bridge, &[]).unwrap();
    let FrontendRefs::Single(Some(reference)) = result.refs else {
        panic!("one result")
    };
    let graph = decode(&reference.definition).unwrap().unwrap();
    let copy = graph.vertex(graph.target().vertex);
    let context = graph.vertex(copy.inputs[0].vertex);
    assert_eq!(
        context.digest.hex(),
        "2131be25b90edb2eb842dfb9cefed78ccf00dc0bc5b8304a4f17b27207210871"
    );
    assert_eq!(
        copy.digest.hex(),
        "1703c76fb19070b5a41863002bc35796e914d80b8bfebff1d758bbcaf21fb03b"
    );
}

#[test]
fn forms_that_look_odd_are_fine() {
    for dockerfile in [
        "FROM \"scratch\"",
        "FROM scratch AS a_b.c-d",
        "FROM --platform= scratch",
        "FROM scratch\nADD --keep-git-dir a /b",
        "FROM scratch\nADD --unpack=false t.tar /x",
        "FROM scratch\nHEALTHCHECK --bogus none",
        "FROM scratch\nUSER a b",
        "FROM scratch\nCOPY --chmod= a /x",
        "FROM scratch\nSTOPSIGNAL --x sigrtmin+3",
        "FROM alpine\nRUN -- echo a",
        "FROM alpine\nRUN",
        "FROM alpine\nRUN --mount=type=foo,target=/m ls\nFROM scratch",
        "FROM alpine\nARG ty=cache\nRUN --mount=type=$ty,target=/m touch /m/x",
    ] {
        let result = build(FakeBridge::new(dockerfile), &[]);
        assert!(result.is_ok(), "{dockerfile:?}: {}", render(&result));
    }
}

#[test]
fn devices_are_for_those_who_ask_for_labs() {
    let run = "FROM alpine\nRUN --device=vendor.com/gpu=all --device=x,required true";
    let devices = " device=vendor.com/gpu=all optional device=x";
    assert!(lowered(&format!("# syntax=docker/dockerfile:1-labs\n{run}"), &[]).contains(devices));
    assert!(lowered(run, &[("cmdline", "docker/dockerfile:1.20-labs")]).contains(devices));
    assert!(lowered(run, &[("build-arg:BUILDKIT_SYNTAX", "docker/dockerfile:labs")]).contains(devices));
    for options in [&[][..], &[("cmdline", "docker/dockerfile:1")]] {
        assert_eq!(
            error(run, options),
            "device feature is only supported in Dockerfile frontend 1.14.0-labs or later"
        );
    }
}

#[test]
fn names_of_images_are_told_last() {
    for (text, options, want) in [
        (
            "FROM BAD!\nFROM a\n",
            &[("target", "nope")][..],
            "target stage \"nope\" could not be found",
        ),
        (
            "FROM BAD!\nFROM a AS x\nCOPY --from=x a b\n",
            &[],
            "circular dependency",
        ),
        ("FROM BAD!\nFROM a\nCOPY --from=9 a b\n", &[], "invalid stage index 9"),
        ("FROM BAD!\nFROM alpine\n", &[], "failed to parse stage name \"BAD!\""),
    ] {
        let error = build(FakeBridge::new(text), options).unwrap_err().to_string();
        assert!(error.contains(want), "{text}: {error}");
    }
}
