//! Logs for operators, and traces for whoever collects them.

use anyhow::Context as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// Log filter, in place of the level of the configuration.
const LOG_VARIABLE: &str = "CAIRN_LOG";
/// Where traces go, by gRPC; unset for nowhere.
const TRACES_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// The crates whose events follow the configured level.
const OWN_CRATES: &[&str] = &[
    "cairn",
    "cairnd",
    "cairn_dockerfile",
    "cairn_session",
    "cairn_solver",
    "cairn_worker",
];

/// Sends what is left when the daemon ends.
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

/// Starts the log, and traces if a collector is named in the environment. Needs the runtime for the latter.
///
/// # Errors
/// If the level, the filter or the collector's address makes no sense.
pub fn start(level: &str, json: bool) -> anyhow::Result<Telemetry> {
    let own: Vec<String> = OWN_CRATES.iter().map(|name| format!("{name}={level}")).collect();
    let filter = match std::env::var(LOG_VARIABLE) {
        Ok(filter) => EnvFilter::try_new(filter).context("CAIRN_LOG is no log filter")?,
        Err(_) => EnvFilter::try_new(format!("warn,{}", own.join(",")))
            .with_context(|| format!("{level:?} is no log level"))?,
    };
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt::layer()
        .with_ansi(is_terminal)
        .with_writer(std::io::stderr);
    let log = if json { log.json().boxed() } else { log.boxed() };
    let traces = match std::env::var(TRACES_VARIABLE) {
        Ok(endpoint) if !endpoint.is_empty() => Some(traces(&endpoint)?),
        _ => None,
    };
    // Spans are for collectors whatever the log's level.
    let spans = traces.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("cairnd"))
            .with_filter(
                tracing_subscriber::filter::Targets::new()
                    .with_targets(OWN_CRATES.iter().map(|name| (*name, tracing::Level::INFO))),
            )
    });
    tracing_subscriber::registry()
        .with(log.with_filter(filter))
        .with(spans)
        .init();
    Ok(Telemetry { traces })
}

fn traces(endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .with_context(|| format!("failed to set up traces to {endpoint}"))?;
    let resource = Resource::builder().with_service_name("cairnd").build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}

impl Telemetry {
    /// Sends what is left. A collector that does not answer loses it.
    pub fn finish(self) {
        if let Some(provider) = self.traces
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!(%error, "some traces were not sent");
        }
    }
}
