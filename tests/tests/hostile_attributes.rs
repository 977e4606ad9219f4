//! Settings that lead elsewhere: each is refused, or means nothing outside of where it belongs.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use cairn_client::{Client, ClientError, LocalDir, OutputTarget, ReceiveMode, SolveOptions, SolveOutput, Solved};
use cairn_tests::abuse::Victim;
use cairn_tests::llb::{Graph, make_file};
use cairn_tests::{Need, solve};

const DOCKERFILE: &str = "FROM scratch\nCOPY file /\n";
/// Stands in a file beside what is offered.
const CANARY: &str = "canary-of-the-client";

struct Bench {
    victim: Victim,
    client: Client,
    context: PathBuf,
}

impl Bench {
    async fn open() -> anyhow::Result<Option<Self>> {
        let Some(victim) = Victim::start(&[Need::Containers], "")? else {
            return Ok(None);
        };
        let client = Client::connect(&victim.daemon.address().parse()?).await?;
        let files = [
            ("canary", CANARY),
            ("offered/Dockerfile", DOCKERFILE),
            ("offered/file", "text"),
        ];
        let context = victim.lab.files("client", &files)?.join("offered");
        Ok(Some(Self {
            victim,
            client,
            context,
        }))
    }

    async fn solve(&self, options: SolveOptions) -> Result<Solved, ClientError> {
        let dir = LocalDir {
            path: self.context.clone(),
            keeps_owner: false,
        };
        let options = SolveOptions {
            local_dirs: [("context".to_owned(), dir.clone()), ("dockerfile".to_owned(), dir)].into(),
            ..options
        };
        solve(&self.client, options).await
    }
}

fn dockerfile(attrs: &[(&str, &str)]) -> SolveOptions {
    SolveOptions {
        frontend: "dockerfile.v0".to_owned(),
        frontend_attrs: attrs
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        ..SolveOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn options_of_the_frontend_reach_only_what_is_offered() -> anyhow::Result<()> {
    let Some(mut bench) = Bench::open().await? else {
        return Ok(());
    };
    let many = "a,".repeat(100_000);
    for attrs in [
        &[("filename", "../canary")][..],
        &[("filename", "../../../../../../etc/passwd")],
        &[("filename", "/etc/passwd")],
        &[("filename", "a\0b")],
        &[("contextsubdir", "../..")],
        &[("context:base", "local:../client")],
        &[("context:base", "docker-image://../../x")],
        &[("context:base", "oci-layout://../../x@sha256:0")],
        &[("context:base", "input:../nothing")],
        &[("context", "file:///etc")],
        &[("context", "ssh://-oProxyCommand=touch /tmp/x/y.git")],
        &[("dockerfilekey", "../client")],
        &[("target", "../../x")],
        &[("platform", "../../x")],
        &[("platform", many.as_str())],
        &[("cgroup-parent", "../../../..")],
        &[("shm-size", "-1")],
        &[("shm-size", "99999999999999999999999")],
        &[("ulimit", "nofile=-5:x")],
        &[("add-hosts", "a=b=c")],
        &[("no-cache", "\0")],
        &[("source", "../../x"), ("cmdline", "../../x")],
    ] {
        let name = format!("{attrs:.120?}");
        let out = bench.victim.lab.path("out");
        let outputs = vec![directory(&out, &[])];
        let options = SolveOptions {
            outputs,
            ..dockerfile(attrs)
        };
        match bench.solve(options).await {
            // Some mean nothing here; what comes out is what was offered.
            Ok(_) => {
                let has_to_fail = matches!(attrs[0].0, "filename" | "platform" | "target" | "ulimit" | "shm-size");
                ensure!(!has_to_fail, "{name} was taken");
                let made: Vec<_> = std::fs::read_dir(&out)?
                    .flatten()
                    .map(|entry| entry.file_name())
                    .collect();
                ensure!(made == ["file"], "{name}: {made:?}");
                std::fs::remove_dir_all(&out)?;
            }
            Err(error) => {
                let said = format!("{error:#}");
                ensure!(
                    !said.is_empty() && !said.contains("panic") && !said.contains(CANARY),
                    "{name}: {said}"
                );
                ensure!(!said.contains("root:x:0"), "{name}: {said}");
            }
        }
    }
    for from in ["../..", "/etc", "local:..", "-", "a/../../b"] {
        let text = format!("FROM scratch\nCOPY --from={from} /passwd /\n");
        std::fs::write(bench.context.join("Dockerfile"), text)?;
        ensure!(bench.solve(dockerfile(&[])).await.is_err(), "--from={from} was taken");
    }
    std::fs::write(
        bench.context.join("Dockerfile"),
        "FROM scratch\nCOPY ../canary ../../file /\n",
    )?;
    let out = bench.victim.lab.path("out");
    let outputs = vec![directory(&out, &[])];
    let copied = bench
        .solve(SolveOptions {
            outputs,
            ..dockerfile(&[])
        })
        .await;
    ensure!(copied.is_err() && !out.join("canary").exists(), "{copied:?}");
    bench.victim.expect_unharmed().await
}

fn directory(path: &std::path::Path, attrs: &[(&str, &str)]) -> SolveOutput {
    SolveOutput {
        kind: "local".to_owned(),
        attrs: attrs
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        target: Some(OutputTarget::Directory {
            path: path.to_owned(),
            mode: ReceiveMode::Merge,
        }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_exporters_lead_nowhere_else() -> anyhow::Result<()> {
    let Some(mut bench) = Bench::open().await? else {
        return Ok(());
    };
    let long = "x".repeat(1 << 20);
    let absurd = format!("annotation.{long}");
    for (kind, attrs) in [
        ("image", &[("name", "../../x")][..]),
        ("image", &[("name", "/etc/passwd")]),
        ("image", &[("name", long.as_str())]),
        ("image", &[("name", "a@sha256:../../../x")]),
        (
            "image",
            &[("name", "a"), ("dangling-name-prefix", "../../x"), ("push", "false")],
        ),
        ("image", &[("annotation", "x"), ("annotation-layer.x", "y")]),
        ("image", &[("annotation[../..].x", "y")]),
        ("image", &[("annotation-index[", "y")]),
        ("image", &[("compression", "../../gzip")]),
        ("image", &[("compression-level", "99999999999999999999")]),
        ("image", &[("compression", "zstd"), ("compression-level", "-9999")]),
        ("image", &[("push", "perhaps")]),
        ("image", &[("source-date-epoch", "9223372036854775807")]),
        ("oci", &[("name", "a:../../b")]),
        ("docker", &[("name", "a b")]),
        ("local", &[("platform-split", "perhaps")]),
        ("tar", &[("source-date-epoch", "x")]),
        ("../../image", &[]),
        ("", &[("dest", "/etc")]),
    ] {
        let mut graph = Graph::default();
        let file = graph.add(&make_file("/f", "text"));
        let output = SolveOutput {
            kind: kind.to_owned(),
            attrs: attrs
                .iter()
                .map(|&(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            target: None,
        };
        let options = SolveOptions {
            definition: Some(graph.asking_for(&file, 0)),
            outputs: vec![output],
            ..SolveOptions::default()
        };
        let refused = bench.solve(options).await;
        let error = refused
            .err()
            .with_context(|| format!("{kind} {attrs:.100?} was taken"))?;
        let said = error.to_string();
        ensure!(
            !said.contains("panic") && said.len() < 16 << 10,
            "{kind} {attrs:.100?}: {said:.300}"
        );
    }
    // Of the client's own place only the client decides: `dest` means nothing to the daemon.
    let out = bench.victim.lab.path("out");
    let elsewhere = bench.victim.lab.path("elsewhere");
    let attrs = [
        ("dest", elsewhere.to_str().context("a path")?),
        ("attestation-prefix", "../../elsewhere/"),
        (absurd.as_str(), "y"),
    ];
    let outputs = vec![directory(&out, &attrs)];
    let exported = bench
        .solve(SolveOptions {
            outputs,
            ..dockerfile(&[])
        })
        .await;
    ensure!(!elsewhere.exists(), "something was written elsewhere");
    ensure!(exported.is_err() || out.join("file").exists(), "{exported:?}");
    bench.victim.expect_unharmed().await
}
