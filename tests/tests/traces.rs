//! Traces of builds: through Docker's own client, which sends its spans and reads them back, and call by call.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use cairn_proto::content::content_client::ContentClient;
use cairn_proto::content::{InfoRequest, ReadContentRequest};
use cairn_proto::control::control_client::ControlClient;
use cairn_proto::control::{BuildHistoryRecord, BuildHistoryRequest, SolveRequest, UpdateBuildHistoryRequest};
use cairn_proto::otlp::trace_service_client::TraceServiceClient;
use cairn_proto::otlp_trace::Span;
use cairn_tests::traces::{MEDIA_TYPE, attribute, exported, id, sending, spans};
use cairn_tests::{Buildx, Daemon, Lab, Need, Program, llb};
use serde_json::Value;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

const SOLVE: &str = "moby.buildkit.v1.Control/Solve";
/// The trace of a client, and its span in which it builds.
const TRACE: &str = "10240e55e84e8579da5166cc86e32e6e";
const PARENT: &str = "98da9b3d93b1c0fb";

fn service(span: &Value) -> &Value {
    attribute(&span["Resource"], "service.name")
}

#[test]
fn docker_s_client_sends_its_spans_and_reads_the_whole_trace() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases, Need::Sid])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let buildx = Buildx::remote(&lab, &daemon)?;
    let dockerfile = "FROM alpine\nRUN echo all is well\nRUN echo all is lost && exit 7\n";
    let context = lab.files("context", &[("Dockerfile", dockerfile)])?;
    let built = buildx.command(["build"])?.args([&context]).run()?;
    ensure!(!built.status.success(), "the last step fails");
    let bundle = lab.path("bundle.dockerbuild");
    let export = buildx.command(["history", "export", "--finalize", "-o"])?;
    export.args([&bundle]).output()?;

    let spans = exported(&lab, &bundle)?;
    let by_id: BTreeMap<&str, &Value> = spans.iter().map(|span| (id(span), span)).collect();
    ensure!(by_id.len() == spans.len(), "ids are used twice");
    let trace = &spans[0]["SpanContext"]["TraceID"];
    ensure!(
        spans.iter().all(|span| &span["SpanContext"]["TraceID"] == trace),
        "all are in one trace"
    );
    let own: Vec<&Value> = spans.iter().filter(|span| service(span) == "cairnd").collect();
    let solve = *own.iter().find(|span| span["Name"] == SOLVE).context("no build")?;
    let call = by_id.get(solve["Parent"]["SpanID"].as_str().unwrap_or_default());
    let call = call.context("the client's call is missing: its spans were not collected")?;
    ensure!(service(call) == "buildx" && call["Name"] == SOLVE, "{call}");
    let step = |name: &str| {
        let found = own
            .iter()
            .find(|span| span["Name"].as_str().unwrap_or_default().ends_with(name));
        found.with_context(|| format!("no step {name}: {own:?}"))
    };
    let well = step("RUN echo all is well")?;
    ensure!(well["Parent"]["SpanID"] == id(solve), "{well}");
    ensure!(
        well["Status"]["Code"] == 0 && attribute(&well["Attributes"], "vertex.cached") == false,
        "{well}"
    );
    let lost = step("RUN echo all is lost && exit 7")?;
    let error = lost["Status"]["Description"].as_str().unwrap_or_default();
    ensure!(lost["Status"]["Code"] == 1 && error.contains("exit code: 7"), "{lost}");
    ensure!(solve["Status"]["Code"] == 1, "{solve}");
    Ok(())
}

/// The part of this one's trace that its steps sent.
const STEPS: &str = r#"FROM debian AS tools
COPY frontend /bin/frontend
FROM tools AS made
RUN /bin/frontend span of-a-step && env > /env
USER nobody
RUN --network=none /bin/frontend span of-nobody
RUN /bin/frontend span-of-another-trace
ENV OTEL_TRACES_EXPORTER=none TRACEPARENT=mine
RUN test "$(env | grep -c ^OTEL_)" = 1 && test "$TRACEPARENT" = mine
FROM scratch
COPY --from=made /env /env
COPY --from=made /dev /dev
"#;

#[test]
fn steps_add_spans_to_the_trace_of_their_build_and_to_no_other() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases, Need::Sid])? else {
        return Ok(());
    };
    let mut daemon = Daemon::start(&lab)?;
    let buildx = Buildx::remote(&lab, &daemon)?;
    let context = lab.files("context", &[("Dockerfile", STEPS)])?;
    let program = context.join("frontend");
    std::fs::copy(env!("CARGO_BIN_EXE_cairn-test-frontend"), &program)?;
    Program::new("strip").args([&program]).output()?;
    let build = |number: usize| {
        let out = lab.path(&format!("out{number}"));
        let output = format!("type=local,dest={}", out.display());
        buildx
            .command(["build", "-o", &output])?
            .args([&context])
            .run()?
            .success()?;
        let bundle = lab.path(&format!("{number}.dockerbuild"));
        let export = buildx.command(["history", "export", "--finalize", "-o"])?;
        export.args([&bundle]).output()?;
        Ok::<_, anyhow::Error>((out, exported(&lab, &bundle)?))
    };
    let (out, trace) = build(1)?;
    let step = |name: &str| {
        let mut own = trace.iter().filter(|span| service(span) == "cairnd");
        let found = own.find(|span| span["Name"].as_str().is_some_and(|known| known.contains(name)));
        found.with_context(|| format!("no step {name} in {trace:?}"))
    };
    for (name, command) in [
        ("of-a-step", "RUN /bin/frontend span of-a-step"),
        ("of-nobody", "RUN --network=none /bin/frontend span of-nobody"),
    ] {
        let sent = trace.iter().find(|span| span["Name"] == name);
        let sent = sent.with_context(|| format!("no span {name} in {trace:?}"))?;
        ensure!(sent["Parent"]["SpanID"] == id(step(command)?), "{sent}");
    }
    ensure!(
        !trace.iter().any(|span| span["Name"] == "of-another-trace"),
        "{trace:?}"
    );
    let env = std::fs::read_to_string(out.join("env"))?;
    for variable in [
        "OTEL_TRACES_EXPORTER=otlp",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=unix:///dev/otel-grpc.sock",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc",
    ] {
        ensure!(env.lines().any(|line| line == variable), "no {variable} in {env}");
    }
    ensure!(!out.join("dev/otel-grpc.sock").exists(), "the socket is in the image");

    // Where spans go is no part of what a step is.
    let (_, again) = build(2)?;
    let ran: Vec<&Value> = again
        .iter()
        .filter(|span| span["Name"].as_str().is_some_and(|name| name.contains("RUN ")))
        .collect();
    ensure!(
        !ran.is_empty()
            && ran
                .iter()
                .all(|span| attribute(&span["Attributes"], "vertex.cached") == true),
        "{ran:?}"
    );
    let socket = daemon.root().join("otel-grpc.sock");
    ensure!(socket.exists(), "there is no socket");
    daemon.stop()?;
    ensure!(!socket.exists(), "the socket is left");
    Ok(())
}

#[test]
fn the_socket_for_spans_is_where_the_operator_wants_it() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers])? else {
        return Ok(());
    };
    // Longer than the names of sockets may be.
    let dir = lab.path(&"d".repeat(120));
    let socket = dir.join("spans.sock");
    let config = format!("[otel]\nsocketPath = {:?}\n", socket.display().to_string());
    let mut daemon = Daemon::start_with(&lab, &lab.path("root"), &config)?;
    ensure!(socket.exists() && !daemon.root().join("otel-grpc.sock").exists());
    daemon.stop()?;
    ensure!(!socket.exists(), "the socket is left");
    Ok(())
}

/// A daemon, and the calls that have to do with traces.
struct Calls {
    control: ControlClient<Channel>,
    content: ContentClient<Channel>,
    traces: TraceServiceClient<Channel>,
}

impl Calls {
    async fn of(daemon: &Daemon) -> anyhow::Result<Self> {
        let channel = Endpoint::try_from(daemon.address())?.connect().await?;
        Ok(Self {
            control: ControlClient::new(channel.clone()),
            content: ContentClient::new(channel.clone()),
            traces: TraceServiceClient::new(channel),
        })
    }

    /// Makes a file, in a trace if one is named.
    async fn build(&mut self, id: &str, traceparent: Option<&str>) -> anyhow::Result<()> {
        let mut graph = llb::Graph::default();
        let file = graph.add(&llb::make_file("/file", "text"));
        let mut request = tonic::Request::new(SolveRequest {
            r#ref: id.to_owned(),
            definition: Some(graph.asking_for(&file, 0)),
            ..SolveRequest::default()
        });
        if let Some(traceparent) = traceparent {
            request.metadata_mut().insert("traceparent", traceparent.parse()?);
        }
        self.control.solve(request).await?;
        Ok(())
    }

    /// Sends a span, and returns how many are refused.
    async fn send(&mut self, trace: &str, name: &str) -> anyhow::Result<i64> {
        let span = Span {
            trace_id: hex::decode(trace)?.into(),
            span_id: hex::decode(PARENT)?.into(),
            name: name.to_owned(),
            ..Span::default()
        };
        let request = sending(&span);
        let answer = self.traces.export(request).await?.into_inner();
        Ok(answer.partial_success.map_or(0, |partial| partial.rejected_spans))
    }

    async fn finalize(&mut self, id: &str) -> anyhow::Result<()> {
        let request = UpdateBuildHistoryRequest {
            r#ref: id.to_owned(),
            finalize: true,
            ..UpdateBuildHistoryRequest::default()
        };
        self.control.update_build_history(request).await?;
        Ok(())
    }

    async fn record(&mut self, id: &str) -> anyhow::Result<BuildHistoryRecord> {
        let request = BuildHistoryRequest {
            r#ref: id.to_owned(),
            early_exit: true,
            ..BuildHistoryRequest::default()
        };
        let mut events = self.control.listen_build_history(request).await?.into_inner();
        let event = events.message().await?.context("no record")?;
        event.record.context("an event without a record")
    }

    async fn trace(&mut self, id: &str) -> anyhow::Result<Vec<Value>> {
        let blob = self.record(id).await?.trace.context("no trace")?;
        ensure!(blob.media_type == MEDIA_TYPE, "{blob:?}");
        let request = ReadContentRequest {
            digest: blob.digest,
            ..ReadContentRequest::default()
        };
        let mut messages = self.content.read(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(message) = messages.message().await? {
            bytes.extend_from_slice(&message.data);
        }
        ensure!(i64::try_from(bytes.len())? == blob.size);
        spans(&bytes)
    }
}

fn named<'a>(spans: &'a [Value], name: &str) -> Vec<&'a Value> {
    spans.iter().filter(|span| span["Name"] == name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_is_complete_when_it_was_asked_for_and_lives_with_its_record() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers])? else {
        return Ok(());
    };
    let mut daemon = Daemon::start_with(&lab, &lab.path("root"), "")?;
    let mut calls = Calls::of(&daemon).await?;
    ensure!(
        calls.send(TRACE, "too early").await? == 0,
        "it is of no interest, and no mistake"
    );
    calls.build("mine", Some(&format!("00-{TRACE}-{PARENT}-01"))).await?;
    ensure!(calls.send(TRACE, "the client's").await? == 0);
    ensure!(calls.send(&"7".repeat(32), "another's").await? == 0);
    ensure!(calls.send(TRACE, &"x".repeat(1 << 20)).await? == 1, "it is too large");
    calls.finalize("mine").await?;
    let trace = calls.trace("mine").await?;
    let solve = *named(&trace, SOLVE).first().context("no build")?;
    ensure!(
        solve["SpanContext"]["TraceID"] == TRACE && solve["Parent"]["SpanID"] == PARENT,
        "{solve}"
    );
    ensure!(attribute(&solve["Attributes"], "build.ref") == "mine", "{solve}");
    let steps: Vec<&Value> = trace
        .iter()
        .filter(|span| span["Parent"]["SpanID"] == id(solve))
        .collect();
    ensure!(steps.len() == 1, "{trace:?}");
    ensure!(
        named(&trace, "the client's").len() == 1 && trace.len() == 3,
        "{trace:?}"
    );
    ensure!(calls.record("mine").await?.generation == 1);
    calls.finalize("mine").await?;
    ensure!(calls.record("mine").await?.generation == 1, "there is nothing to add");

    calls.build("other", Some("nonsense")).await?;
    calls.finalize("other").await?;
    let own = calls.trace("other").await?;
    let solve = *named(&own, SOLVE).first().context("no build")?;
    ensure!(
        solve["SpanContext"]["TraceID"] != TRACE && solve["Parent"]["SpanID"] == "0".repeat(16),
        "{solve}"
    );

    // Nobody asks for this one: it is stored before the daemon ends.
    calls.build("last", None).await?;
    drop(calls);
    daemon.stop()?;
    daemon.start_again()?;
    let mut calls = Calls::of(&daemon).await?;
    ensure!(calls.trace("mine").await? == trace, "it is kept");
    ensure!(calls.trace("last").await?.len() == 2);
    let blob = calls.record("mine").await?.trace.context("no trace")?;
    let delete = UpdateBuildHistoryRequest {
        r#ref: "mine".to_owned(),
        delete: true,
        ..UpdateBuildHistoryRequest::default()
    };
    calls.control.update_build_history(delete).await?;
    let info = calls.content.info(InfoRequest { digest: blob.digest }).await;
    ensure!(info.unwrap_err().code() == Code::NotFound, "it goes with its record");
    Ok(())
}
