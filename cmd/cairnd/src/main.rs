//! `cairnd`: serves the build API until it is told to stop.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use cairnd::config::{self, Config, ConfigFile};
use cairnd::{DaemonServer, telemetry};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Builds container images for clients of the BuildKit API.
#[derive(Parser)]
#[command(name = "cairnd", version)]
struct Arguments {
    /// Configuration file, in buildkitd's layout [default: /etc/cairn/cairnd.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on: unix:///path or tcp://host:port; can be repeated [default: unix:///run/cairn/cairnd.sock]
    #[arg(long = "addr", value_name = "ADDRESS")]
    addresses: Vec<String>,
    /// State directory [default: /var/lib/cairn]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Log more
    #[arg(long)]
    debug: bool,
    /// Form of the log
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"])]
    log_format: Option<String>,
    /// Entitlement that clients may ask for: network.host or security.insecure; can be repeated
    #[arg(long = "allow-insecure-entitlement", value_name = "NAME")]
    entitlements: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may not be set up yet, and whoever started the daemon reads this.
            use std::io::Write as _;
            drop(writeln!(std::io::stderr(), "cairnd: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut file = match &arguments.config {
        Some(path) => ConfigFile::read(path)?,
        None => ConfigFile::read_optional(config::DEFAULT_FILE.as_ref())?,
    };
    if !arguments.addresses.is_empty() {
        file.grpc.address.clone_from(&arguments.addresses);
    }
    file.root = arguments.root.clone().or(file.root);
    file.insecure_entitlements
        .extend(arguments.entitlements.iter().cloned());
    let debug = arguments.debug || file.debug;
    let level = if debug {
        "debug".to_owned()
    } else {
        file.log.level.clone().unwrap_or_else(|| "info".to_owned())
    };
    let json = arguments.log_format.or_else(|| file.log.format.clone()).as_deref() == Some("json");
    let mut config = Config::from_file(file)?;
    if config.addresses.is_empty() {
        config.addresses.push(config::default_address());
    }
    cairn_worker::executor::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start")?;
    let served = runtime.block_on(async {
        let telemetry = telemetry::start(&level, json)?;
        for key in &config.ignored {
            tracing::warn!(key, "this setting is not supported and has no effect");
        }
        let served = serve(config).await;
        telemetry.finish();
        served
    });
    // Blocking work, such as the removal of a large directory, can be taken up again by the next daemon.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    served
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let addresses: Vec<String> = config.addresses.iter().map(ToString::to_string).collect();
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for signals")?;
    let server = DaemonServer::bind(config).await?;
    tracing::info!(addresses = addresses.join(" "), "cairnd is ready");
    let stop = CancellationToken::new();
    let mut serving = std::pin::pin!(server.serve(stop.clone()));
    loop {
        tokio::select! {
            served = &mut serving => return Ok(served?),
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if stop.is_cancelled() {
            anyhow::bail!("stopped by a second signal");
        }
        tracing::info!("stopping");
        stop.cancel();
    }
}
