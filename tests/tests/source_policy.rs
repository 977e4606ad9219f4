//! Rules about sources: what they let through, what they refuse, and what they put in place.

use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, ensure};
use cairn_client::{Answer, Decide, LocalDir, SolveOptions};
use cairn_proto::gateway::{ResolveSourceImageRequest, ResolveSourceMetaRequest};
use cairn_proto::pb;
use cairn_proto::policysession::{CheckPolicyRequest, DecisionResponse, DenyMessage};
use cairn_proto::sourcepolicy::PolicyAction;
use cairn_tests::lab::{base_registry, mirror_config};
use cairn_tests::llb::{Graph, source};
use cairn_tests::{Buildx, Cairn, Daemon, Engine, Lab, Need, Program, WebReply, WebServer, to_dir};
use serde_json::json;

/// Names the policy's file to clients.
const VARIABLE: &str = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY";

/// Every file holds its own path.
fn web() -> anyhow::Result<WebServer> {
    WebServer::start(|request| match request.path.as_str() {
        "/gone" => WebReply::status("404 Not Found"),
        path => WebReply::file(path),
    })
}

fn rule(action: &str, kind: &str, identifier: &str, into: Option<&str>) -> serde_json::Value {
    let mut rule = json!({ "action": action, "selector": { "identifier": identifier, "match_type": kind } });
    if let Some(into) = into {
        rule["updates"] = json!({ "identifier": into });
    }
    rule
}

fn deny(identifier: &str) -> serde_json::Value {
    rule("DENY", "WILDCARD", identifier, None)
}

fn convert(kind: &str, identifier: &str, into: &str) -> serde_json::Value {
    rule("CONVERT", kind, identifier, Some(into))
}

/// Builds under rules, with the files in `out`. What failed is the line that says so.
fn build(
    program: Program,
    lab: &Lab,
    rules: &[serde_json::Value],
    dockerfile: &str,
    out: &Path,
) -> anyhow::Result<Result<(), String>> {
    let policy = lab.path("policy.json");
    std::fs::write(&policy, json!({ "rules": rules }).to_string())?;
    let context = lab.files("context", &[("Dockerfile", dockerfile)])?;
    let output = format!("type=local,dest={}", out.display());
    let program = program
        .env(VARIABLE, &policy)
        .args(["--progress", "plain", "-o", &output]);
    let finished = program.args([&context]).run()?;
    if finished.status.success() {
        return Ok(Ok(()));
    }
    let line = finished.stderr.lines().rev().find(|line| line.starts_with("ERROR: "));
    let line = line.with_context(|| format!("no error in\n{}", finished.stderr))?;
    Ok(Err(line.to_owned()))
}

/// Rules and a Dockerfile, with what is in `file` of the result, or at the end of the error.
struct Case {
    rules: Vec<serde_json::Value>,
    dockerfile: String,
    want: Result<(&'static str, &'static str), String>,
}

fn cases(server: &WebServer) -> Vec<Case> {
    let url = server.url("/a");
    let add = format!("FROM scratch\nADD {url} /file\n");
    let image = "FROM alpine AS a\nFROM scratch\nCOPY --from=a /etc/os-release /file\n".to_owned();
    let alpine = "docker-image://docker.io/library/alpine:latest";
    let refused = |text: &str| Err(text.replace("URL", &url));
    let file = |text: &'static str| Ok(("file", text));
    let case = |rules: Vec<serde_json::Value>, dockerfile: &String, want| Case {
        rules,
        dockerfile: dockerfile.clone(),
        want,
    };
    let denied = "failed to load LLB: error evaluating the source policy: source \"URL\" denied by policy: \
                  source denied by policy";
    let everything = rule("ALLOW", "WILDCARD", "*", None);
    vec![
        case(vec![deny("http://*")], &add, refused(denied)),
        case(
            vec![deny("*"), rule("ALLOW", "REGEX", "^local:", None)],
            &add,
            refused(denied),
        ),
        case(vec![deny("http://*"), everything], &add, file("/a")),
        // Only the star is special.
        case(vec![deny(&server.url("/?"))], &add, file("/a")),
        case(vec![convert("WILDCARD", &url, &server.url("/b"))], &add, file("/b")),
        case(
            vec![convert("WILDCARD", "http://*/a", "http://$1/${1}")],
            &add,
            Ok(("file", "")),
        ),
        case(vec![convert("REGEX", "^(http://.*)/a$", "${1}/c")], &add, file("/c")),
        case(vec![convert("REGEX", "/a$", "/d")], &add, file("/d")),
        case(
            vec![convert("REGEX", "^(http://.*/)([a-z]*)$", "${1}x$2")],
            &add,
            refused(
                "failed to load LLB: error evaluating the source policy: too many mutations on a single source: \
                 too many operations",
            ),
        ),
        case(
            vec![rule("CONVERT", "WILDCARD", "http://*", None)],
            &add,
            refused(
                "failed to load LLB: error evaluating the source policy: error mutating source policy: \
                 missing destination for convert rule",
            ),
        ),
        case(
            vec![deny("local://context")],
            &"FROM scratch\nCOPY . /\n".to_owned(),
            refused(
                "failed to load LLB: error evaluating the source policy: source \"local://context\" denied by policy: \
                 source denied by policy",
            ),
        ),
        case(
            vec![deny("docker-image://docker.io/library/alpine:*")],
            &image,
            refused(
                "alpine: failed to resolve source metadata for docker.io/library/alpine:latest: could not resolve \
                 image due to policy: source \"docker-image://docker.io/library/alpine:latest\" denied by policy: \
                 source denied by policy",
            ),
        ),
        case(
            vec![convert("WILDCARD", alpine, &server.url("/b"))],
            &image,
            refused(&format!(
                "alpine: ref mutated by policy to non-image: {alpine} -> {}",
                server.url("/b")
            )),
        ),
        case(
            vec![convert(
                "WILDCARD",
                "docker-image://docker.io/library/alpine:*",
                "docker-image://docker.io/library/debian:$1",
            )],
            &image,
            file("Debian"),
        ),
    ]
}

#[test]
fn rules_work_and_fail_as_in_docker_engine() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases, Need::Sid])? else {
        return Ok(());
    };
    let (server, mut daemon, engine) = (web()?, Daemon::start(&lab)?, Engine::start(&lab)?);
    let (ours, theirs) = (Buildx::remote(&lab, &daemon)?, Buildx::engine(&lab, &engine)?);
    for (number, case) in cases(&server).into_iter().enumerate() {
        let mut told = Vec::new();
        for (name, buildx) in [("ours", &ours), ("theirs", &theirs)] {
            let out = lab.path(&format!("{name}{number}"));
            let outcome = build(buildx.command(["build"])?, &lab, &case.rules, &case.dockerfile, &out)?;
            match (&outcome, &case.want) {
                (Ok(()), Ok((file, text))) => {
                    let made = std::fs::read_to_string(out.join(file))?;
                    ensure!(made.contains(text), "case {number}, {name}: {made}");
                }
                (Err(error), Err(text)) => ensure!(
                    error.ends_with(&format!("failed to solve: {text}")),
                    "case {number}, {name}: {error}\nwant {text}"
                ),
                _ => anyhow::bail!("case {number}, {name}: {outcome:?}"),
            }
            told.push(outcome);
        }
        ensure!(told[0] == told[1], "case {number}: {told:?}");
    }
    daemon.stop()?;
    Ok(())
}

#[test]
fn what_is_denied_is_not_fetched() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Sid])? else {
        return Ok(());
    };
    let (server, mut daemon) = (web()?, Daemon::start(&lab)?);
    let (cairn, buildx) = (Cairn::with(&lab, &daemon), Buildx::remote(&lab, &daemon)?);
    let url = server.url("/a");
    let out = lab.path("out");
    let dockerfile = format!("FROM scratch\nADD {url} /file\n");
    let rules = [deny("http://*")];
    for program in [cairn.command(["build"])?, buildx.command(["build"])?] {
        let outcome = build(program, &lab, &rules, &dockerfile, &out);
        // The lines of the two clients differ.
        ensure!(outcome.is_err() || outcome.is_ok_and(|outcome| outcome.is_err()));
    }
    ensure!(server.requests().is_empty(), "{:?}", server.requests());

    // A tag is pinned, and a checksum set, without the Dockerfile saying so.
    let checksum = cairn_tests::llb::digest(b"/a");
    for (digest, is_built) in [(checksum, true), (format!("sha256:{}", "0".repeat(64)), false)] {
        let mut pin = convert("EXACT", &url, &url);
        pin["updates"]["attrs"] = json!({ "http.checksum": digest });
        for program in [cairn.command(["build"])?, buildx.command(["build"])?] {
            let outcome = build(program, &lab, &[pin.clone()], &dockerfile, &out);
            ensure!(outcome.is_ok_and(|outcome| outcome.is_ok()) == is_built, "{digest}");
        }
    }
    // An exact selector converts as well; Docker Engine leaves such sources as they are.
    let rules = [convert("EXACT", &url, &server.url("/$1"))];
    build(buildx.command(["build"])?, &lab, &rules, &dockerfile, &out)?.map_err(anyhow::Error::msg)?;
    ensure!(std::fs::read_to_string(out.join("file"))? == "/$1");

    let finished = cairn
        .command(["build", &lab.path("context").display().to_string()])?
        .env(VARIABLE, lab.path("nowhere"))
        .run()?;
    ensure!(finished.stderr.contains("source policy"), "{}", finished.stderr);
    daemon.stop()?;
    Ok(())
}

#[test]
fn named_contexts_become_what_rules_say() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Sid])? else {
        return Ok(());
    };
    let (server, mut daemon) = (web()?, Daemon::start(&lab)?);
    let buildx = Buildx::remote(&lab, &daemon)?;
    let out = lab.path("out");
    let dockerfile = "FROM scratch\nCOPY --from=foo context /file\n";
    let named = || buildx.command(["build", "--build-context", "foo=docker-image://example.invalid/x:1"]);
    let image = "docker-image://example.invalid/x:1";
    let rules = [convert("WILDCARD", image, &server.url("/b"))];
    build(named()?, &lab, &rules, dockerfile, &out)?.map_err(anyhow::Error::msg)?;
    ensure!(std::fs::read_to_string(out.join("file"))? == "/b");
    let layout = format!("oci-layout://store@sha256:{}", "0".repeat(64));
    let rules = [
        convert("WILDCARD", image, &layout),
        convert("REGEX", "^oci-layout://.*", image),
    ];
    let refused = build(named()?, &lab, &rules, dockerfile, &out)?.unwrap_err();
    ensure!(refused.contains("too many operations"), "{refused}");
    daemon.stop()?;
    Ok(())
}

#[test]
fn rules_of_clients_do_not_widen_where_frontends_come_from() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases, Need::Sid])? else {
        return Ok(());
    };
    let mut config = mirror_config(&base_registry()?);
    config.push_str("[frontend.\"gateway.v0\"]\nallowedRepositories = [\"docker.io/library/alpine\"]\n");
    let mut daemon = Daemon::start_with(&lab, &lab.path("state"), &config)?;
    let buildx = Buildx::remote(&lab, &daemon)?;
    let dockerfile = "# syntax=docker.io/library/alpine:latest\nFROM scratch\n";
    let debian = "docker-image://docker.io/library/debian:latest";
    for selector in [
        "docker-image://docker.io/library/alpine:latest",
        "docker-image://*alpine*@*",
    ] {
        let rules = [convert("WILDCARD", selector, debian)];
        let refused = build(buildx.command(["build"])?, &lab, &rules, dockerfile, &lab.path("out"))?;
        let refused = refused.err().context("it was built")?;
        ensure!(
            refused.contains("is not an allowed gateway source") && refused.contains("debian"),
            "{refused}"
        );
    }
    daemon.stop()?;
    Ok(())
}

/// Lets images pass that it has seen the digest of, which it pins, and files by their name alone.
#[derive(Default)]
struct Judge {
    asked: Mutex<Vec<String>>,
}

#[tonic::async_trait]
impl Decide for Judge {
    async fn decide(&self, request: CheckPolicyRequest) -> Result<Answer, tonic::Status> {
        let known = request.source.unwrap_or_default();
        let source = known.source.unwrap_or_default();
        if let Ok(mut asked) = self.asked.lock() {
            asked.push(source.identifier.clone());
        }
        let decide = |action: PolicyAction, update, reason: &str| {
            Answer::Decision(DecisionResponse {
                action: action.into(),
                deny_messages: vec![DenyMessage {
                    message: reason.to_owned(),
                }],
                update,
            })
        };
        let ask = |source| {
            Answer::Request(ResolveSourceMetaRequest {
                source: Some(source),
                platform: request.platform.clone(),
                image: Some(ResolveSourceImageRequest::default()),
                ..ResolveSourceMetaRequest::default()
            })
        };
        let instead = |identifier: String| pb::SourceOp {
            identifier,
            attrs: source.attrs.clone(),
        };
        let identifier = source.identifier.as_str();
        Ok(match known.image {
            _ if identifier.ends_with("/refused") => decide(PolicyAction::Deny, None, "not this one"),
            _ if identifier.ends_with("/curious") => ask(source.clone()),
            _ if identifier.ends_with("/other") => ask(instead("http://elsewhere/".to_owned())),
            _ if identifier.ends_with("/old") => {
                let update = instead(identifier.replace("/old", "/new"));
                decide(PolicyAction::Convert, Some(update), "")
            }
            None if identifier.starts_with("docker-image://") && !identifier.contains('@') => ask(source.clone()),
            Some(image) if !identifier.contains('@') => {
                let update = instead(format!("{identifier}@{}", image.digest));
                decide(PolicyAction::Convert, Some(update), "")
            }
            _ => decide(PolicyAction::Allow, None, ""),
        })
    }
}

async fn solve(daemon: &Daemon, judge: &Arc<Judge>, options: SolveOptions, out: &Path) -> anyhow::Result<()> {
    let options = SolveOptions {
        source_judge: Some(judge.clone()),
        outputs: vec![to_dir(out)],
        ..options
    };
    cairn_tests::solve(&daemon.connect().await?, options).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_decide_while_the_build_runs() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let (server, mut daemon) = (web()?, Daemon::start(&lab)?);
    let (judge, out) = (Arc::new(Judge::default()), lab.path("out"));
    let definition = |identifier: &str| {
        let mut graph = Graph::default();
        let digest = graph.add(&source(identifier, &[("http.filename", "file")]));
        SolveOptions {
            definition: Some(graph.asking_for(&digest, 0)),
            ..SolveOptions::default()
        }
    };
    solve(&daemon, &judge, definition(&server.url("/old")), &out).await?;
    ensure!(std::fs::read_to_string(out.join("file"))? == "/new");
    for (path, want) in [
        ("/refused", "not allowed by policy: action DENY"),
        ("/curious", "too many policy requests"),
        ("/other", "policy requested different source identifier"),
    ] {
        let failed = solve(&daemon, &judge, definition(&server.url(path)), &out).await;
        let error = failed.err().context("it was built")?.to_string();
        ensure!(error.contains(want), "{error}");
    }

    let context = lab.files(
        "context",
        &[(
            "Dockerfile",
            "FROM alpine AS a\nFROM scratch\nCOPY --from=a /etc/os-release /\n",
        )],
    )?;
    let dir = LocalDir {
        path: context,
        keeps_owner: false,
    };
    let options = SolveOptions {
        frontend: "dockerfile.v0".to_owned(),
        local_dirs: ["context", "dockerfile"]
            .map(|name| (name.to_owned(), dir.clone()))
            .into(),
        ..SolveOptions::default()
    };
    solve(&daemon, &judge, options, &out).await?;
    ensure!(out.join("os-release").exists());
    let asked = judge.asked.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
    for want in ["local://dockerfile", "docker-image://docker.io/library/alpine:latest"] {
        ensure!(asked.iter().any(|asked| asked == want), "{want} is not in {asked:?}");
    }
    drop(asked);
    daemon.stop()?;
    Ok(())
}
