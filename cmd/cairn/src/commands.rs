//! What the program can do.

use std::future::Future;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command, DebugCommand};
use crate::daemon::Daemon;
use crate::error::CliError;
use crate::exit::ExitCode;
use crate::signals::Signals;
use crate::surroundings::Surroundings;
use crate::target::Target;
use crate::ui;

mod answer;
mod build;
mod debug;
mod du;
mod prune;
mod version;
mod why;
mod workers;

/// How long the tasks of a daemon inside this process may take to end, once it has stopped.
const LAST_TASKS: Duration = Duration::from_secs(5);

/// A command that did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// To be reported.
    Error(CliError),
    /// Reported already, with all that is known.
    Reported(ExitCode),
}

impl From<CliError> for Failure {
    fn from(error: CliError) -> Self {
        Self::Error(error)
    }
}

impl From<cairn_client::ClientError> for Failure {
    fn from(error: cairn_client::ClientError) -> Self {
        Self::Error(error.into())
    }
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Error(error) => error.exit_code(),
            Self::Reported(code) => *code,
        }
    }

    pub(crate) fn report(&self, surroundings: &Surroundings) {
        if let Self::Error(error) = self {
            ui::report(error, surroundings);
        }
    }
}

/// Runs the command to its end.
pub(crate) fn run(cli: Cli, surroundings: &Surroundings) -> Result<(), Failure> {
    match cli.command {
        Command::Debug {
            command: DebugCommand::DumpLlb { json, file },
        } => Ok(debug::dump_llb(file.as_deref(), json)?),
        Command::Build(args) => {
            // Before anything is started: mistakes in the arguments cost nothing.
            let plan = crate::build_plan::BuildPlan::new(&args, surroundings)?;
            let target = Target::choose(&cli.daemon, surroundings)?;
            let typed = build::Typed::read(&plan);
            on_daemon(target, typed, async |daemon, typed, signals| {
                build::run(daemon, &plan, typed, signals, surroundings).await
            })
        }
        Command::Du(args) => {
            let target = Target::choose(&cli.daemon, surroundings)?;
            ask(target, async |daemon| du::run(daemon.client(), args).await)
        }
        Command::Prune(args) => {
            let target = Target::choose(&cli.daemon, surroundings)?;
            ask(target, async |daemon| prune::run(daemon.client(), args).await)
        }
        Command::Why(args) => {
            let target = Target::choose(&cli.daemon, surroundings)?;
            ask(target, async |daemon| why::run(daemon.client(), &args).await)
        }
        Command::Workers(args) => {
            let target = Target::choose(&cli.daemon, surroundings)?;
            ask(target, async |daemon| workers::run(daemon.client(), args).await)
        }
        Command::Version => {
            let target = Target::choose(&cli.daemon, surroundings)?;
            version::run(target)
        }
    }
}

/// Asks the daemon something that a signal puts an end to.
fn ask(target: Target, question: impl AsyncFnOnce(&Daemon) -> Result<(), Failure>) -> Result<(), Failure> {
    on_daemon(target, std::future::ready(Ok(())), async |daemon, (), signals| {
        signals.or(question(daemon)).await
    })
}

/// Connects, acts, and stops the daemon again when it is one of our own. Whatever the user is yet to type is awaited
/// before: until then there is nothing that a signal could leave behind.
fn on_daemon<T>(
    target: Target,
    typed: impl Future<Output = Result<T, CliError>>,
    act: impl AsyncFnOnce(&Daemon, T, &mut Signals) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let runtime = crate::daemon::runtime(&target)?;
    let is_own = matches!(target, Target::Embedded(_));
    let result = runtime.block_on(async {
        let typed = typed.await?;
        let mut signals = Signals::listen()?;
        let daemon = signals.or(Daemon::reach(target)).await?;
        let result = act(&daemon, typed, &mut signals).await;
        daemon.release().await;
        result
    });
    if is_own {
        // The daemon takes its mounts down when the last of its tasks is gone.
        runtime.shutdown_timeout(LAST_TASKS);
    } else {
        // What still runs here has nobody to run for.
        runtime.shutdown_background();
    }
    result
}

/// Logs are for those who ask for them: `CAIRN_LOG=debug`.
pub(crate) fn init_logs(surroundings: &Surroundings) {
    let Some(directives) = surroundings.variable("CAIRN_LOG") else {
        return;
    };
    let filter = EnvFilter::builder().parse_lossy(directives);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}
