//! Contexts and sources that are not the client's directory.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_solver::frontend::{FrontendError, FrontendRefs, FrontendRequest, FrontendResult};
use cairn_solver::llb::{Builder, Definition, LocalSource, OpMetadata, SourceOp};

use super::{config, error, lowered};
use crate::testing::{FakeBridge, build, render, request_of, solve};

const REPOSITORY: &str = "git://h/r.git#v1:sub";
const URL: &str = "http://h/r.git#v1:sub";

/// Builds with a bridge, and returns the graph with what was asked of the bridge.
fn with(bridge: FakeBridge, options: &[(&str, &str)]) -> (String, Vec<String>) {
    let bridge = Arc::new(bridge);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let text = render(&runtime.block_on(solve(&bridge, options)));
    let log = bridge.log.lock().unwrap().clone();
    (text, log)
}

/// Builds with inputs made by somebody else.
fn with_inputs(
    bridge: FakeBridge,
    options: &[(&str, &str)],
    inputs: Vec<(&str, Definition)>,
) -> Result<FrontendResult, FrontendError> {
    let request = FrontendRequest {
        options: options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        inputs: inputs
            .into_iter()
            .map(|(name, input)| (name.to_owned(), input))
            .collect::<BTreeMap<_, _>>(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(request_of(&Arc::new(bridge), request))
}

fn directory(name: &str) -> Definition {
    let mut builder = Builder::new();
    let source = LocalSource {
        name: name.to_owned(),
        ..LocalSource::default()
    };
    let output = builder.source(
        SourceOp::Local(source),
        None,
        OpMetadata::named(format!("their {name}")),
    );
    builder.finish(output)
}

#[test]
fn add_fetches_what_it_is_told_to() {
    insta::assert_snapshot!(
        "add_fetches",
        lowered(
            "FROM alpine\nARG V=v1\nADD https://h/d/f.tgz?x=1 http://h/ /x/\n\
             ADD --unpack --chown=1:2 --chmod=600 https://h/f.tgz a /y\n\
             ADD --keep-git-dir https://u@h/r.git#$V:sub git@h:r?submodules=0 /z\n\
             ADD --checksum=abc --exclude=x git://h/r#v1 /w\n\
             ADD --link http://h/l /l\n",
            &[],
        )
    );
    let plain = lowered("FROM scratch\nADD http://h/f /x/", &[]);
    assert!(!plain.contains("load build context"), "{plain}");
}

#[test]
fn wrong_sources_are_named() {
    let zeros = "0".repeat(64);
    for (add, want) in [
        ("COPY http://x/y /x", "source can't be a URL for COPY"),
        ("COPY git@github.com:a/b.git /x", "source can't be a git ref for COPY"),
        (
            "COPY --from=alpine https://h/a.git /x",
            "source can't be a git ref for COPY",
        ),
        ("ADD http://h/r.git?tag=v1&branch=x /g", "branch conflicts with tag"),
        ("ADD http://h/r.git?foo=1 /g", "unexpected query \"foo\""),
        (
            "ADD --keep-git-dir=false http://h/r.git?keep-git-dir=1 /g",
            "inconsistent keep-git-dir configuration",
        ),
        (
            "ADD --checksum=a http://h/r.git?checksum=b /g",
            "checksum mismatch \"a\" != \"b\"",
        ),
        ("ADD --checksum=a http://h/f /g", "invalid checksum digest format"),
        ("ADD --checksum=md5:a http://h/f /g", "unsupported digest algorithm"),
        (
            &format!("ADD --checksum=sha256:{zeros} a /x"),
            "checksum requires HTTP(S) or Git sources",
        ),
        (
            &format!("ADD --checksum=sha256:{zeros} http://h/a http://h/b /x"),
            "checksum can't be specified for multiple sources",
        ),
    ] {
        assert_eq!(error(&format!("FROM scratch\n{add}"), &[]), want, "{add}");
    }
    let fine = format!("FROM scratch\nARG S=sha256:{zeros}\nADD --checksum=$S http://h/a /x");
    assert!(lowered(&fine, &[]).contains(&zeros[..8]));
}

#[test]
fn a_repository_is_context_and_dockerfile() {
    let bridge = FakeBridge::default()
        .remote(REPOSITORY, "Dockerfile", b"FROM scratch\nCOPY a /")
        .remote(REPOSITORY, "Dockerfile.dockerignore", b"a");
    let (text, log) = with(bridge, &[("context", URL)]);
    insta::assert_snapshot!("git_context", text);
    assert!(
        log.iter()
            .all(|entry| entry.starts_with(&format!("[internal] load git source {URL} "))),
        "{log:?}"
    );
}

#[test]
fn repositories_as_contexts_can_be_asked_for_more() {
    let context = |options: &[(&str, &str)], reference: &str| {
        let bridge = FakeBridge::default().remote(reference, "Dockerfile", b"FROM scratch\nCOPY a /");
        with(bridge, options).0
    };
    let kept = context(
        &[
            ("context", "github.com/a/b"),
            ("build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR", "1"),
        ],
        "git://github.com/a/b",
    );
    assert!(
        kept.contains("keep_git_dir: true") && kept.contains("https://github.com/a/b"),
        "{kept}"
    );
    let dated = [("context", "https://h/r.git"), ("build-arg:SOURCE_DATE_EPOCH", "1")];
    let dated = context(&dated, "git://h/r.git");
    assert!(dated.contains("mtime: Commit"), "{dated}");
    let told = [
        ("context", "https://h/r.git?mtime=checkout"),
        ("build-arg:SOURCE_DATE_EPOCH", "1"),
    ];
    let told = context(&told, "git://h/r.git");
    assert!(told.contains("mtime: Checkout"), "{told}");
    let wrong = with(FakeBridge::new("FROM scratch"), &[("context", "https://h/r.git?x=1")]).0;
    assert_eq!(wrong, "error: unexpected query \"x\"\n");
}

#[test]
fn a_subdirectory_is_the_root_of_the_context_but_not_of_the_dockerfile() {
    let bridge = FakeBridge::default().remote(REPOSITORY, "Dockerfile", b"FROM scratch\nCOPY . /");
    let (text, _) = with(bridge, &[("context", URL), ("contextsubdir", "x/../y")]);
    assert!(text.contains("copy in0 /y => / contents"), "{text}");
}

#[test]
fn archives_are_unpacked() {
    let url = "http://h/context.tgz";
    let bridge = FakeBridge::default()
        .remote(url, "context", b"\x1f\x8b\x08rest")
        .remote(&format!("{url} unpacked"), "sub/df", b"FROM scratch\nCOPY a /");
    let (text, _) = with(bridge, &[("context", url), ("filename", "sub/df")]);
    insta::assert_snapshot!("archive_context", text);
}

#[test]
fn a_file_that_is_no_archive_is_the_dockerfile() {
    let url = "http://h/df";
    let bridge = || FakeBridge::default().remote(url, "context", b"FROM scratch\nCOPY context /\nFOO");
    let (text, _) = with(bridge(), &[("context", url), ("filename", "ignored")]);
    assert_eq!(
        text,
        "error: dockerfile parse error on line 3: unknown instruction: FOO (did you mean FROM?)\nat context: 3\n"
    );
    let local = bridge().file("dockerfile", "context", "FROM scratch\nCOPY context /");
    let (text, _) = with(local, &[("context", url), ("dockerfilekey", "dockerfile")]);
    assert!(
        text.contains("[1/1] COPY context /") && text.contains("http HttpSource"),
        "{text}"
    );
    let (text, _) = with(bridge(), &[("context", url), ("dockerfilekey", "dockerfile")]);
    assert_eq!(
        text,
        "error: failed to read dockerfile: open context: no such file or directory\n"
    );
    let (text, _) = with(FakeBridge::new("FROM scratch"), &[("context", "http://h/none")]);
    assert!(text.starts_with("error: failed to read downloaded context: "), "{text}");
}

#[test]
fn inputs_are_contexts_and_dockerfiles() {
    let bridge = || FakeBridge::new("FROM scratch\nCOPY a /\nRUN --mount=target=/m true");
    let made = with_inputs(bridge(), &[], vec![("context", directory("mine"))]);
    let text = render(&made);
    assert!(
        text.contains("their mine") && !text.contains("load build context"),
        "{text}"
    );
    let empty = with_inputs(bridge(), &[], vec![("context", Definition::default())]);
    let text = render(&empty);
    assert!(text.contains("copy scratch /a"), "{text}");
    let broken = Definition::from_wire(cairn_proto::pb::Definition {
        def: vec![bytes::Bytes::from_static(b"x"), bytes::Bytes::new()],
        ..Default::default()
    });
    let refused = with_inputs(bridge(), &[], vec![("context", broken.clone())]);
    assert!(
        render(&refused)
            .starts_with("error: failed to load LLB of frontend input context: failed to parse llb proto op"),
        "{}",
        render(&refused)
    );
    // One that is not used does no harm; one that is fails the build.
    let bridge = || FakeBridge::new("FROM scratch\nCOPY --from=x a /");
    let options = [("context:x", "input:other")];
    let refused = with_inputs(bridge(), &options, vec![("other", broken)]);
    assert!(
        render(&refused).contains("failed to parse llb proto op"),
        "{}",
        render(&refused)
    );
}

#[test]
fn a_dockerfile_may_be_an_input() {
    // Its directory is asked for with no paths, so the fake would refuse to read from it: a repository it is.
    let mut builder = Builder::new();
    let source = crate::remote::GitRef::parse("https://h/r.git")
        .unwrap()
        .unwrap()
        .source();
    let output = builder.source(SourceOp::Git(source), None, OpMetadata::default());
    let input = builder.finish(output);
    let bridge = || {
        FakeBridge::new("FROM scratch\nLABEL a=local").remote(
            "git://h/r.git",
            "Dockerfile",
            b"FROM scratch\nLABEL a=input",
        )
    };
    let made = with_inputs(bridge(), &[], vec![("dockerfile", input.clone())]).unwrap();
    assert_eq!(config(&made)["config"]["Labels"]["a"], "input");
    let forced = with_inputs(
        bridge(),
        &[("dockerfilekey", "dockerfile")],
        vec![("dockerfile", input)],
    )
    .unwrap();
    assert_eq!(config(&forced)["config"]["Labels"]["a"], "local");
}

#[test]
fn named_contexts_come_from_everywhere() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let layout = format!("oci-layout://store:v1@{digest}");
    let dockerfile = "FROM base AS b\nRUN --mount=from=web,target=/m true\nFROM scratch\nCOPY --from=b / /\nCOPY --from=web context /\nCOPY --from=none / /\n";
    let bridge = FakeBridge::new(dockerfile).image(&format!("docker.io/library/base@{digest}"), crate::testing::ALPINE);
    let options = [
        ("context:base", layout.as_str()),
        ("context:web", "https://h/t.tar.gz"),
        ("context:none", "docker-image://scratch"),
    ];
    let (text, log) = with(bridge, &options);
    insta::assert_snapshot!("named_contexts", text);
    assert!(
        log.contains(&format!(
            "[context base] load metadata for docker.io/library/base@{digest}"
        )),
        "{log:?}"
    );
    let repository = lowered(
        "FROM x\nCOPY --from=y a /",
        &[
            ("context:x::linux/amd64", "git@h:r#v1"),
            ("context:x", "bogus"),
            ("context:y", "https://h/s.git"),
        ],
    );
    assert!(
        repository.contains("[internal] load git source git@h:r#v1 @1"),
        "{repository}"
    );
    assert!(
        repository.contains("[internal] load git source https://h/s.git"),
        "{repository}"
    );
}

#[test]
fn platforms_have_contexts_of_their_own() {
    let text = lowered(
        "FROM x\nCOPY a /",
        &[
            ("context:x::linux/amd64", "local:amd"),
            ("context:x::linux/arm64", "local:arm"),
            ("platform", "linux/arm64"),
        ],
    );
    assert!(text.contains("[context x::linux/arm64] load from client"), "{text}");
    assert!(text.contains("local arm"), "{text}");
}

#[test]
fn wrong_contexts_are_named() {
    let digest = format!("sha256:{}", "a".repeat(64));
    for (specifier, want) in [
        ("target:x", "unsupported context source target for foo"),
        ("bogus", "invalid context specifier bogus for foo"),
        ("input:x", "invalid input x for foo"),
        ("https://h/r.git?foo=1", "unexpected query \"foo\""),
        ("oci-layout://s:tag", "oci-layout reference \"s:tag\" has no digest"),
        ("oci-layout://s", "oci-layout reference \"s\" has no digest"),
        (
            "oci-layout://s@sha256:1",
            "could not parse oci-layout reference \"s@sha256:1\"",
        ),
        (
            &format!("oci-layout://@{digest}"),
            &format!("could not parse oci-layout reference \"@{digest}\""),
        ),
        ("git:", "invalid git context git:"),
    ] {
        let got = error("FROM scratch\nCOPY --from=foo / /", &[("context:foo", specifier)]);
        assert_eq!(got, want, "{specifier}");
    }
}

#[test]
fn inputs_bring_their_config_and_triggers_along() {
    use base64::Engine;
    let config_json = r#"{"architecture":"amd64","os":"linux","created":"2020-01-01T00:00:00Z","config":{"Env":["A=1"],"OnBuild":["ENV B=$A"]}}"#;
    let encoded = base64::prelude::BASE64_STANDARD.encode(config_json);
    let metadata = format!("{{\"containerimage.config\":\"{encoded}\",\"other\":null}}");
    let options = |name: &'static str| [(name, "input:theirs"), ("input-metadata:theirs", metadata.as_str())];
    let inputs = || vec![("theirs", directory("theirs"))];
    let base = with_inputs(
        FakeBridge::new("FROM alpine\nCOPY a /"),
        &options("context:alpine"),
        inputs(),
    )
    .unwrap();
    let env = &config(&base)["config"]["Env"];
    assert!(env.as_array().unwrap().contains(&"B=1".into()), "{env}");
    assert!(config(&base).get("created").is_none());
    // What stands in for a stage has triggers for those based on it.
    let dockerfile = "FROM alpine AS s\nLABEL a=b\nFROM s";
    let replaced = with_inputs(FakeBridge::new(dockerfile), &options("context:s"), inputs()).unwrap();
    let config = config(&replaced);
    assert!(
        config["config"]["Env"].as_array().unwrap().contains(&"B=1".into()),
        "{config}"
    );
    assert_eq!(config["config"].get("Labels"), None);
    let FrontendRefs::Single(Some(_)) = &replaced.refs else {
        panic!("{replaced:?}")
    };
    for wrong in [
        "{",
        "[]",
        "{\"containerimage.config\":\"%\"}",
        "{\"containerimage.config\":\"bm9uZQ==\"}",
    ] {
        let options = [("context:alpine", "input:theirs"), ("input-metadata:theirs", wrong)];
        let refused = with_inputs(FakeBridge::new("FROM alpine"), &options, inputs());
        assert!(render(&refused).starts_with("error: "), "{wrong}");
    }
}

#[test]
fn times_are_taken_from_sources() {
    let epoch = |bridge: FakeBridge, options: &[(&str, &str)]| {
        let result = build(bridge, options);
        match result {
            Ok(result) => result
                .metadata
                .get("source.date.epoch")
                .map_or("none".to_owned(), |value| String::from_utf8_lossy(value).into_owned()),
            Err(error) => error.to_string(),
        }
    };
    const EPOCH: &str = "build-arg:SOURCE_DATE_EPOCH";
    let repository = || {
        FakeBridge::default()
            .remote(
                "git://h/r.git",
                "Dockerfile",
                b"FROM scratch\nARG SOURCE_DATE_EPOCH\nENV E=$SOURCE_DATE_EPOCH",
            )
            .time("git://h/r.git", Some(77))
    };
    let from_git = [("context", "https://h/r.git"), (EPOCH, "context")];
    assert_eq!(epoch(repository(), &from_git), "77");
    let result = build(repository(), &from_git).unwrap();
    assert_eq!(config(&result)["config"]["Env"][1], "E=77");
    assert_eq!(config(&result)["history"][0]["created"], "1970-01-01T00:01:17Z");
    assert_eq!(epoch(FakeBridge::new("FROM scratch"), &[(EPOCH, "context")]), "none");
    let url = "http://h/x";
    let archive = |time| {
        let unpacked = "http://h/x unpacked";
        FakeBridge::default()
            .remote(url, "context", b"BZh9")
            .remote(unpacked, "Dockerfile", b"FROM scratch")
            .remote(unpacked, "d/e/f", b"")
            .time(url, time)
            .time("Dockerfile", Some(5))
            .time("d/e/f", Some(9))
    };
    assert_eq!(epoch(archive(Some(3)), &[("context", url), (EPOCH, "context")]), "3");
    assert_eq!(epoch(archive(None), &[("context", url), (EPOCH, "context")]), "9");
    let file = || {
        FakeBridge::default()
            .remote(url, "context", b"FROM scratch")
            .time(url, None)
    };
    assert_eq!(epoch(file(), &[("context", url), (EPOCH, "context")]), "none");
    let named = || FakeBridge::new("FROM scratch").time("git://h/n.git", Some(8));
    assert_eq!(epoch(named(), &[("context:n", "https://h/n.git"), (EPOCH, "n")]), "8");
    assert_eq!(epoch(named(), &[("context:n", "local:n"), (EPOCH, "n")]), "none");
    assert_eq!(epoch(named(), &[(EPOCH, "n")]), "invalid SOURCE_DATE_EPOCH: n");
    for (stage, want) in [
        ("FROM scratch AS Src\nARG V=1\nADD https://h/$V.git /", "11"),
        ("FROM scratch AS Src\nADD http://h/f /", "12"),
        (
            "FROM alpine AS Src\nADD http://h/f /",
            "SOURCE_DATE_EPOCH stage must use FROM scratch",
        ),
        (
            "FROM scratch AS Src\nADD http://h/f /\nRUN true",
            "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported RUN instruction",
        ),
        (
            "FROM scratch AS Src\nARG V",
            "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD",
        ),
        (
            "FROM scratch AS Src\nADD http://h/f /\nADD http://h/f /",
            "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD",
        ),
        (
            "FROM scratch AS Src\nADD http://h/f http://h/g /",
            "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD source",
        ),
        (
            "FROM scratch AS Src\nADD f /",
            "SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD",
        ),
    ] {
        let bridge = FakeBridge::new(&format!("{stage}\nFROM scratch"))
            .time("git://h/1.git", Some(11))
            .time("http://h/f", Some(12));
        assert_eq!(epoch(bridge, &[(EPOCH, "src")]), want, "{stage}");
    }
    let (_, log) = with(repository(), &from_git);
    assert!(
        log.contains(&"[internal] resolve main build context metadata".to_owned()),
        "{log:?}"
    );
}
