//! The daemon that does the work: elsewhere, or inside this process.

use std::path::Path;
use std::time::Duration;

use cairn_client::Client;
use cairnd::config::{Config, ConfigFile, DEFAULT_FILE};
use cairnd::embedded::{self, Embedded};
use tokio::runtime::{Builder, Runtime};

use crate::error::CliError;
use crate::target::{EmbeddedOptions, Target};
use crate::ui;

/// How long a daemon inside this process may take to put its things away.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// A daemon that answers.
pub(crate) struct Daemon {
    client: Client,
    embedded: Option<Embedded>,
}

impl Daemon {
    /// Connects to the daemon, or starts it.
    pub(crate) async fn reach(target: Target) -> Result<Self, CliError> {
        match target {
            Target::Remote(address) => {
                let client = Client::connect(&address).await?;
                Ok(Self { client, embedded: None })
            }
            Target::Embedded(options) => {
                if !rustix::process::geteuid().is_root() {
                    return Err(CliError::NotRoot);
                }
                let config = configure(&options)?;
                let started = Box::pin(embedded::start(config)).await;
                let embedded = started.map_err(|error| CliError::Embedded(Box::new(error)))?;
                Ok(Self {
                    client: Client::from_channel(embedded.channel()),
                    embedded: Some(embedded),
                })
            }
        }
    }

    /// The way to talk to it.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Lets go of it; one inside this process is stopped.
    pub(crate) async fn release(self) {
        let Some(embedded) = self.embedded else { return };
        // Who presses ctrl-C now wants the process to end; so does who waited long enough.
        tokio::select! {
            () = embedded.shutdown() => {}
            _ = tokio::signal::ctrl_c() => {}
            () = tokio::time::sleep(SHUTDOWN) => {}
        }
    }
}

/// A file that was named must exist; the usual one need not.
fn configure(options: &EmbeddedOptions) -> Result<Config, CliError> {
    let read = match &options.config {
        Some(path) => ConfigFile::read(path),
        None => ConfigFile::read_optional(Path::new(DEFAULT_FILE)),
    };
    let config = read.and_then(|mut file| {
        file.root = options.root.clone().or(file.root);
        Config::from_file(file)
    });
    let config = config.map_err(CliError::Configure)?;
    for key in &config.ignored {
        ui::remark(&format!(
            "warning: the setting {key} is not supported and has no effect\n"
        ));
    }
    Ok(config)
}

/// A client needs one thread; a daemon needs all there are.
pub(crate) fn runtime(target: &Target) -> Result<Runtime, CliError> {
    let mut builder = match target {
        Target::Remote(_) => Builder::new_current_thread(),
        Target::Embedded(_) => Builder::new_multi_thread(),
    };
    let runtime = builder.enable_all().build();
    runtime.map_err(|source| CliError::System {
        action: "start threads",
        source,
    })
}
