//! `cairnd`: serves the build API until it is told to stop.

use std::process::ExitCode;

use anyhow::Context as _;
use cairnd::config::{self, Config, StartUpError};
use cairnd::{DaemonServer, systemd, telemetry};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let outcome = match config::configure(std::env::args_os()) {
        // Help and version are asked for in the same way.
        Err(StartUpError::Usage(usage)) => usage.exit(),
        Err(StartUpError::Config(error)) => Err(error.into()),
        Ok(config) => run(config),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may not be set up yet, and whoever started the daemon reads this.
            use std::io::Write as _;
            drop(writeln!(std::io::stderr(), "cairnd: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(mut config: Config) -> anyhow::Result<()> {
    if config.addresses.is_empty() {
        config.addresses.push(config::default_address());
    }
    cairn_worker::executor::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start")?;
    let served = runtime.block_on(async {
        let telemetry = telemetry::start(&config.log.level, config.log.json)?;
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
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for signals")?;
    let server = DaemonServer::bind(config).await?;
    let addresses: Vec<String> = server.addresses()?.iter().map(ToString::to_string).collect();
    tracing::info!(addresses = addresses.join(" "), "cairnd is ready");
    systemd::notify("READY=1");
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
        systemd::notify("STOPPING=1");
        stop.cancel();
    }
}
