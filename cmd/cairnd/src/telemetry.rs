//! Logs for operators, and traces for whoever collects them.

use anyhow::Context as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// Log filter, in place of the level of the configuration.
const LOG_VARIABLE: &str = "CAIRN_LOG";
/// Where traces go, by gRPC; none is set for nowhere. The first that is set counts.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
/// What begins the names of OpenTelemetry's variables.
const VARIABLES: &str = "OTEL_";
/// Those that count when there is somewhere to send traces to, besides the endpoints.
const EFFECTIVE: &[&str] = &[
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_INSECURE",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_INSECURE",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
];
/// What is done whether it is asked for or not.
const AS_ALWAYS: &[(&str, &str)] = &[
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
    ("OTEL_TRACES_EXPORTER", "otlp"),
];
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
    let set = |name: &&str| std::env::var(name).is_ok_and(|value| !value.is_empty());
    let endpoint = ENDPOINTS.into_iter().find(set);
    let traces = endpoint.map(traces).transpose()?;
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
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        let value = value.to_string_lossy().into_owned();
        Some((name.into_string().ok()?, value))
    });
    let without_effect = without_effect(variables, endpoint);
    if !without_effect.is_empty() {
        let names = without_effect.join(", ");
        tracing::warn!("these variables of OpenTelemetry have no effect: {names}");
    }
    Ok(Telemetry { traces })
}

/// Traces to where a variable says, which the exporter reads itself.
fn traces(variable: &str) -> anyhow::Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .build()
        .with_context(|| format!("failed to send traces to where {variable} says"))?;
    let resource = Resource::builder().with_service_name("cairnd").build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}

/// The variables that are set in vain, given the one that says where traces go.
fn without_effect(variables: impl Iterator<Item = (String, String)>, endpoint: Option<&str>) -> Vec<String> {
    let is_in_vain = |(name, value): &(String, String)| {
        let name = name.as_str();
        let is_of_use = Some(name) == endpoint || endpoint.is_some() && EFFECTIVE.contains(&name);
        let is_as_always = endpoint.is_some() && AS_ALWAYS.contains(&(name, value));
        name.starts_with(VARIABLES) && !value.is_empty() && !is_of_use && !is_as_always
    };
    let mut names: Vec<String> = variables.filter(is_in_vain).map(|(name, _)| name).collect();
    names.sort();
    names
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_are_set_in_vain_are_named() {
        let set = [
            ("HOME", "/"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4317"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_TRACES_EXPORTER", "otlp"),
            ("OTEL_METRICS_EXPORTER", "otlp"),
            ("OTEL_SERVICE_NAME", ""),
        ];
        let variables = || set.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter();
        let with = without_effect(variables(), Some("OTEL_EXPORTER_OTLP_ENDPOINT"));
        assert_eq!(with, ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_METRICS_EXPORTER"]);
        let overridden = without_effect(variables(), Some("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"));
        assert_eq!(overridden[0], "OTEL_EXPORTER_OTLP_ENDPOINT");
        let without = without_effect(variables().filter(|(name, _)| !name.contains("ENDPOINT")), None);
        assert_eq!(without.len(), 4, "there is nowhere to send anything to: {without:?}");
    }
}
