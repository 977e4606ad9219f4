//! What is measured: two daemons, and the clients they are asked through.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use cairn_client::Id;
use cairn_tests::{Buildx, Cairn, Daemon, Engine, Lab, Progress};

/// One of the daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Cairn,
    Engine,
}

/// Both, the one whose ratio is printed last.
pub(crate) const SUBJECTS: [Subject; 2] = [Subject::Cairn, Subject::Engine];

/// A program that asks for builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// Cairn's own command line.
    Own,
    /// Docker's.
    Buildx,
}

/// A daemon that runs, and the clients that know it.
pub(crate) struct Service {
    buildx: Buildx,
    cairn: Option<Cairn>,
    process: Process,
    // Cleared after the daemon has stopped.
    _lab: Lab,
}

enum Process {
    Cairn(Daemon),
    Engine(Engine),
}

impl Subject {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cairn => "cairn",
            Self::Engine => "docker",
        }
    }

    /// From the start of the program to its first answer, with nothing on disk.
    pub(crate) fn time_to_answer(self) -> anyhow::Result<Duration> {
        let lab = Lab::new()?;
        Ok(match self {
            Self::Cairn => Daemon::start(&lab)?.time_to_answer(),
            Self::Engine => Engine::start(&lab)?.time_to_answer(),
        })
    }
}

impl Service {
    pub(crate) fn start(subject: Subject, lab: Lab) -> anyhow::Result<Self> {
        let (buildx, cairn, process) = match subject {
            Subject::Cairn => {
                let daemon = Daemon::start(&lab)?;
                (
                    Buildx::remote(&lab, &daemon)?,
                    Some(Cairn::with(&lab, &daemon)),
                    Process::Cairn(daemon),
                )
            }
            Subject::Engine => {
                let engine = Engine::start(&lab)?;
                (Buildx::engine(&lab, &engine)?, None, Process::Engine(engine))
            }
        };
        Ok(Self {
            buildx,
            cairn,
            process,
            _lab: lab,
        })
    }

    /// Both, each in a place of its own.
    pub(crate) fn start_both() -> anyhow::Result<[Self; 2]> {
        Ok([
            Self::start(Subject::Cairn, Lab::new()?)?,
            Self::start(Subject::Engine, Lab::new()?)?,
        ])
    }

    /// A connection of the client library.
    pub(crate) async fn connect(&self) -> anyhow::Result<cairn_client::Client> {
        match &self.process {
            Process::Cairn(daemon) => daemon.connect().await,
            Process::Engine(engine) => engine.connect().await,
        }
    }

    /// How long a build took from its call to its answer, by the daemon's own account.
    pub(crate) fn time_inside(&self, build: &Id) -> anyhow::Result<Duration> {
        let Process::Cairn(daemon) = &self.process else {
            bail!("this daemon keeps no account");
        };
        let line = daemon.wait_for_log_of(&[build.as_str(), "build completed"])?;
        let mut words = line.split_whitespace();
        let time = words.find_map(|word| word.strip_prefix("duration_ms="));
        let time: f64 = time.context("no time in the log")?.parse()?;
        Ok(Duration::from_secs_f64(time / 1000.0))
    }

    /// How long buildx takes to say who it is.
    pub(crate) fn buildx_alone(&self) -> anyhow::Result<Duration> {
        Ok(self.buildx.version()?.run()?.success()?.took)
    }

    pub(crate) fn subject(&self) -> Subject {
        match self.process {
            Process::Cairn(_) => Subject::Cairn,
            Process::Engine(_) => Subject::Engine,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.subject().name()
    }

    /// Builds the Dockerfile of `context`, keeping the result in the cache alone.
    pub(crate) fn build(&self, client: Client, context: &Path) -> anyhow::Result<(Duration, Progress)> {
        let output = ["--output", "type=cacheonly"];
        match client {
            Client::Own => {
                let cairn = self.cairn.as_ref().context("this daemon has no client of its own")?;
                let outcome = cairn.build(output.iter().map(AsRef::<Path>::as_ref).chain([context]))?;
                Ok((outcome.took, outcome.progress))
            }
            Client::Buildx => {
                let build = self
                    .buildx
                    .build()?
                    .args(["--progress", "rawjson"])
                    .args(output)
                    .args([context]);
                let finished = build.run()?.success()?;
                Ok((finished.took, Progress::parse(finished.stderr.lines())))
            }
        }
    }

    /// What its processes hold in memory.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        let pid = match &self.process {
            Process::Cairn(daemon) => daemon.pid(),
            Process::Engine(engine) => engine.pid(),
        };
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let children = children
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<Vec<u32>, _>>()?;
        [pid].into_iter().chain(children).map(resident_bytes).sum()
    }
}

fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line
        .and_then(|line| line.split_whitespace().next())
        .context("no VmRSS")?;
    Ok(kilobytes.parse::<u64>()? << 10)
}
