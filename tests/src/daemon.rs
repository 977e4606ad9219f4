//! The daemon under test.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use cairn_client::Client;
use rustix::process::Signal;

use crate::clean::Leftovers;
use crate::lab::{self, Lab};
use crate::process::{Program, Running};

/// No start and no stop takes longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the daemon logs once it listens.
const READY: &str = "cairnd is ready";

/// A `cairnd` of its own: private root, private socket.
pub struct Daemon {
    running: Running,
    more: More,
    config: PathBuf,
    root: PathBuf,
    socket: PathBuf,
    answered: Duration,
}

/// What is said to a daemon besides its places.
#[derive(Default)]
struct More {
    /// Options on its command line.
    options: Vec<String>,
    /// Variables in its environment.
    variables: Vec<(&'static str, &'static str)>,
}

impl Daemon {
    /// Starts a daemon for which the base registry stands for docker.io and quay.io.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn start(lab: &Lab) -> anyhow::Result<Self> {
        Self::start_configured(lab, "")
    }

    /// Starts a daemon as [`Daemon::start`] does, with more configuration.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn start_configured(lab: &Lab, config: &str) -> anyhow::Result<Self> {
        Self::start_with(lab, &lab.path("root"), &beside_mirrors(config))
    }

    /// Starts a daemon with its state in `root` and this configuration.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn start_with(lab: &Lab, root: &Path, config: &str) -> anyhow::Result<Self> {
        Self::start_with_options(lab, root, config, &[])
    }

    /// The same with more options on its command line.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn start_with_options(lab: &Lab, root: &Path, config: &str, options: &[&str]) -> anyhow::Result<Self> {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let more = More {
            options,
            ..More::default()
        };
        Self::start_in(lab, root, config, more)
    }

    /// Starts a daemon as [`Daemon::start`] does, with these variables in its environment.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn start_with_variables(lab: &Lab, variables: &[(&'static str, &'static str)]) -> anyhow::Result<Self> {
        let variables = variables.to_vec();
        let more = More {
            variables,
            ..More::default()
        };
        Self::start_in(lab, &lab.path("root"), &beside_mirrors(""), more)
    }

    fn start_in(lab: &Lab, root: &Path, config: &str, more: More) -> anyhow::Result<Self> {
        let (file, socket) = (lab.path("cairnd.toml"), lab.path("cairnd.sock"));
        std::fs::write(&file, config)?;
        let running = spawn(&file, root, &socket, &more)?;
        let mut daemon = Self {
            running,
            more,
            config: file,
            root: root.to_owned(),
            socket,
            answered: Duration::ZERO,
        };
        daemon.await_ready()?;
        Ok(daemon)
    }

    fn await_ready(&mut self) -> anyhow::Result<()> {
        let ready = self.running.stderr.wait_for(0, PATIENCE, |line| line.contains(READY));
        if ready.is_none() {
            bail!("cairnd did not become ready:\n{}", self.running.stderr.text());
        }
        http2_settings(&self.socket).context("cairnd says it is ready, but does not answer")?;
        self.answered = self.running.started.elapsed();
        Ok(())
    }

    /// From its start to its first answer.
    pub fn time_to_answer(&self) -> Duration {
        self.answered
    }

    /// Its address, for clients.
    pub fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// A connection of the client library to it.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.address().parse()?).await?)
    }

    /// The TCP address that it says it listens on.
    ///
    /// # Errors
    /// If it names none.
    pub fn tcp_address(&self) -> anyhow::Result<String> {
        let text = self.running.stderr.text();
        let ready = text.lines().find(|line| line.contains(READY)).unwrap_or_default();
        let mut words = ready.split(['"', ' ']);
        let address = words
            .find(|word| word.starts_with("tcp://"))
            .context("no TCP address")?;
        Ok(address.to_owned())
    }

    /// Its state directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.running.is_running()
    }

    /// Its last words so far, for messages.
    pub fn log(&self) -> String {
        self.running.stderr.tail(60)
    }

    /// Waits until it logs `text`.
    ///
    /// # Errors
    /// If it does not.
    pub fn wait_for_log(&self, text: &str) -> anyhow::Result<()> {
        self.wait_for_log_of(&[text]).map(drop)
    }

    /// Waits until it logs a line that holds all of `texts`, and returns the line.
    ///
    /// # Errors
    /// If it does not.
    pub fn wait_for_log_of(&self, texts: &[&str]) -> anyhow::Result<String> {
        let fits = |line: &str| texts.iter().all(|text| line.contains(text));
        let logged = self.running.stderr.wait_for(0, PATIENCE, fits);
        logged.with_context(|| format!("nothing about {texts:?}:\n{}", self.log()))
    }

    /// Asks it to stop, and waits.
    ///
    /// # Errors
    /// If it does not stop in time.
    pub fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.running.signal(Signal::TERM)?;
        self.running
            .wait(PATIENCE)
            .with_context(|| format!("cairnd did not stop:\n{}", self.log()))
    }

    /// Kills it without a warning.
    ///
    /// # Errors
    /// If it does not end.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.running.signal(Signal::KILL)?;
        self.running.wait(PATIENCE)?;
        Ok(())
    }

    /// Gives it another configuration for its next start.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn use_configuration(&self, config: &str) -> anyhow::Result<()> {
        Ok(std::fs::write(&self.config, beside_mirrors(config))?)
    }

    /// Starts it again, in the same place with the same configuration.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        self.running = spawn(&self.config, &self.root, &self.socket, &self.more)?;
        self.await_ready()
    }

    /// Mounts and contained processes that it has now.
    pub fn leftovers(&self) -> Leftovers {
        Leftovers::below(&self.root)
    }
}

/// A configuration, and that the base registry stands for others if there is one.
fn beside_mirrors(config: &str) -> String {
    let mirrors = lab::base_registry().map(|registry| lab::mirror_config(&registry));
    // Tables go last: keys before them are in none.
    format!("{config}\n{}", mirrors.unwrap_or_default())
}

/// Opens an HTTP/2 connection and waits for the first frame of the other side.
fn http2_settings(socket: &Path) -> anyhow::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // The preface, and an empty frame of settings.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
    let mut header = [0; 9];
    stream.read_exact(&mut header)?;
    ensure!(header[3] == 4, "the first frame is of type {}", header[3]);
    Ok(())
}

fn spawn(config: &Path, root: &Path, socket: &Path, more: &More) -> anyhow::Result<Running> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).context("failed to remove the socket"),
        _ => {}
    }
    let program = Program::new(lab::own_program("cairnd")?);
    let with = |program: Program, (name, value): &(&str, &str)| program.env(name, value);
    let program = more.variables.iter().fold(program, with);
    program
        .args([
            Path::new("--config"),
            config,
            Path::new("--root"),
            root,
            Path::new("--addr"),
        ])
        .args([format!("unix://{}", socket.display())])
        .args(&more.options)
        .start()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.running.is_running() && self.stop().is_err() {
            let _killed = self.kill();
        }
    }
}
