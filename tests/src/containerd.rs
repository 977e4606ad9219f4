//! containerd, as somebody who is given an image.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::Signal;

use crate::lab::{self, Lab};
use crate::process::{Program, Running};

/// No start and no stop takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A private `containerd`.
pub struct Containerd {
    running: Running,
    socket: PathBuf,
}

impl Containerd {
    /// Starts one.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(lab: &Lab) -> anyhow::Result<Self> {
        let dir = lab.path("containerd");
        std::fs::create_dir_all(&dir)?;
        let (config, socket) = (dir.join("config.toml"), lab.path("containerd.sock"));
        let settings = format!(
            "version = 3\nroot = \"{0}/root\"\nstate = \"{0}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.runtime\", \"io.containerd.cri.v1.images\"]\n\
             [grpc]\naddress = \"{1}\"\n[ttrpc]\naddress = \"{1}.ttrpc\"\n",
            dir.display(),
            socket.display()
        );
        std::fs::write(&config, settings)?;
        let containerd = Program::new(lab::sid_program("containerd")?);
        let running = containerd.args(["--config", &config.display().to_string()]).start()?;
        let ready = running
            .stderr
            .wait_for(0, PATIENCE, |line| line.contains("successfully booted"));
        if ready.is_none() {
            bail!("containerd did not become ready:\n{}", running.stderr.text());
        }
        UnixStream::connect(&socket).context("containerd says it is ready, but does not listen")?;
        Ok(Self { running, socket })
    }

    /// Its command line, talking to it.
    ///
    /// # Errors
    /// If the program is missing.
    pub fn ctr(&self) -> anyhow::Result<Program> {
        let program = Program::new(lab::sid_program("ctr")?);
        Ok(program.args(["--address", &self.socket.display().to_string(), "--namespace", "test"]))
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _stopped = self.running.signal(Signal::TERM);
        let _stopped = self.running.wait(PATIENCE);
    }
}
