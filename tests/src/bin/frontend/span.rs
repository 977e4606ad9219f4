//! A span of our own, sent to where the variables of OpenTelemetry say.

use anyhow::{Context as _, ensure};
use cairn_proto::otlp::trace_service_client::TraceServiceClient;
use cairn_proto::otlp_trace::Span;
use cairn_tests::traces::sending;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::Endpoint;

/// Sends a span that belongs where `TRACEPARENT` says.
pub(crate) async fn send(name: &str) -> anyhow::Result<()> {
    let parent = variable("TRACEPARENT")?;
    let mut parts = parent.split('-').skip(1);
    let (trace, span) = (parts.next().context("no trace")?, parts.next().context("no span")?);
    export(name, &hex::decode(trace)?, &hex::decode(span)?).await
}

/// Sends a span of a trace that no build is in.
pub(crate) async fn send_to_another(name: &str) -> anyhow::Result<()> {
    export(name, &[7; 16], &[7; 8]).await
}

async fn export(name: &str, trace: &[u8], parent: &[u8]) -> anyhow::Result<()> {
    ensure!(variable("OTEL_TRACES_EXPORTER")? == "otlp" && variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")? == "grpc");
    let endpoint = variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")?;
    let path = endpoint.strip_prefix("unix://").context("no unix socket")?.to_owned();
    let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    }));
    let id: Vec<u8> = name.bytes().cycle().take(8).collect();
    let span = Span {
        trace_id: trace.to_vec().into(),
        span_id: id.into(),
        parent_span_id: parent.to_vec().into(),
        name: name.to_owned(),
        ..Span::default()
    };
    let request = sending(&span);
    let answer = TraceServiceClient::new(channel).export(request).await?.into_inner();
    ensure!(answer.partial_success.is_none(), "{answer:?}");
    Ok(())
}

fn variable(name: &str) -> anyhow::Result<String> {
    std::env::var(name).with_context(|| format!("no variable {name}"))
}
