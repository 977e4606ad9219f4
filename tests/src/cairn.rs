//! The command line under test.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::Signal;

use crate::daemon::Daemon;
use crate::lab::{self, Lab};
use crate::process::{Finished, Program, Running};
use crate::progress::Progress;

/// No build of a test takes longer.
const LONGEST: Duration = Duration::from_secs(600);

/// `cairn`, with the arguments that choose its daemon.
#[derive(Debug, Clone)]
pub struct Cairn {
    place: Vec<String>,
    home: String,
}

/// A build that has ended.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; -1 when a signal ended it.
    pub code: i32,
    /// What was told while it ran.
    pub progress: Progress,
    /// What else was said on standard error.
    pub remarks: String,
    /// From start to end.
    pub took: Duration,
}

/// A build under way; killed when dropped.
pub struct RunningBuild {
    running: Running,
}

impl Cairn {
    /// A client of `daemon`.
    pub fn with(lab: &Lab, daemon: &Daemon) -> Self {
        Self::new(lab, vec!["--addr".to_owned(), daemon.address()])
    }

    /// A `cairn` that carries the daemon inside itself.
    pub fn alone(lab: &Lab, root: &Path, config: &Path) -> Self {
        let place = ["--root".to_owned(), root.display().to_string(), "--config".to_owned()];
        Self::new(lab, place.into_iter().chain([config.display().to_string()]).collect())
    }

    fn new(lab: &Lab, place: Vec<String>) -> Self {
        Self {
            place,
            home: lab.path("home").display().to_string(),
        }
    }

    /// Any command.
    ///
    /// # Errors
    /// If the program is missing.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> anyhow::Result<Program> {
        let program = Program::new(lab::own_program("cairn")?)
            .args(&self.place)
            .args(args)
            .env("HOME", &self.home);
        Ok(["CAIRN_HOST", "BUILDKIT_HOST", "DOCKER_CONFIG"]
            .into_iter()
            .fold(program, Program::without_env))
    }

    /// Runs any command, whatever comes out.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> anyhow::Result<Finished> {
        self.command(args)?.run()
    }

    /// Builds, with these arguments after `cairn build`, whatever comes out.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn try_build<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> anyhow::Result<Outcome> {
        self.start_build(args)?.finish()
    }

    /// Builds and expects success.
    ///
    /// # Errors
    /// If the build fails, with everything that was said.
    pub fn build<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> anyhow::Result<Outcome> {
        let outcome = self.try_build(args)?;
        if outcome.code != 0 {
            bail!("the build failed with exit code {}\n{}", outcome.code, outcome.remarks);
        }
        Ok(outcome)
    }

    /// Starts a build.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_build<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> anyhow::Result<RunningBuild> {
        let running = self.command(["build", "--progress", "rawjson"])?.args(args).start()?;
        Ok(RunningBuild { running })
    }
}

impl RunningBuild {
    /// Waits until a step writes `text`.
    ///
    /// # Errors
    /// If the build ends without, or time is up.
    pub fn wait_for_output(&self, text: &str) -> anyhow::Result<()> {
        let said = self.running.stderr.wait_for(0, LONGEST, |line| {
            let progress = Progress::parse([line]);
            progress.vertices().iter().any(|vertex| vertex.log.contains(text))
        });
        said.map(drop)
            .with_context(|| format!("no step wrote {text:?}:\n{}", self.running.stderr.tail(20)))
    }

    /// Ends the client without a warning.
    ///
    /// # Errors
    /// If it does not end.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.running.signal(Signal::KILL)?;
        self.running.wait(LONGEST).map(drop)
    }

    /// Asks the client to stop, as Ctrl-C does.
    ///
    /// # Errors
    /// If it is gone.
    pub fn interrupt(&self) -> anyhow::Result<()> {
        self.running.signal(Signal::INT)
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// If it does not come.
    pub fn finish(mut self) -> anyhow::Result<Outcome> {
        let status = self.running.wait(LONGEST)?;
        let took = self.running.started.elapsed();
        let mut progress = Progress::default();
        let lines = self.running.stderr.all(LONGEST);
        let remarks: Vec<String> = lines.into_iter().filter(|line| !progress.add(line)).collect();
        Ok(Outcome {
            code: status.code().unwrap_or(-1),
            progress,
            remarks: remarks.join("\n"),
            took,
        })
    }
}
