//! Docker Engine: takes images in, and is what builds are measured against.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::Signal;

use crate::clean::Leftovers;
use crate::lab::{self, Lab};
use crate::process::{Program, Running};

/// No start and no stop takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A private `dockerd` that touches neither the network set-up nor other Docker installations.
pub struct Engine {
    running: Running,
    dir: PathBuf,
    socket: PathBuf,
    answered: Duration,
}

impl Engine {
    /// Starts one that takes the base registry for docker.io.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(lab: &Lab) -> anyhow::Result<Self> {
        let dir = lab.path("docker");
        std::fs::create_dir_all(&dir)?;
        let socket = lab.path("docker.sock");
        let dockerd = lab::sid_program("dockerd")?;
        let running = Program::new(&dockerd)
            .env("PATH", search_path(&dockerd)?)
            .args([
                "--iptables=false",
                "--ip6tables=false",
                "--bridge=none",
                "--config-file",
            ])
            .args([config(&dir)?])
            .args(["--data-root", &dir.join("data").display().to_string()])
            .args(["--exec-root", &dir.join("exec").display().to_string()])
            .args(["--pidfile", &dir.join("pid").display().to_string()])
            .args(["--host", &format!("unix://{}", socket.display())])
            .start()?;
        let mut engine = Self {
            running,
            dir,
            socket,
            answered: Duration::ZERO,
        };
        let ready = engine
            .running
            .stderr
            .wait_for(0, PATIENCE, |line| line.contains("API listen on"));
        if ready.is_none() {
            bail!("dockerd did not become ready:\n{}", engine.running.stderr.text());
        }
        UnixStream::connect(&engine.socket).context("dockerd says it is ready, but does not listen")?;
        engine.answered = engine.running.started.elapsed();
        Ok(engine)
    }

    /// From its start to the moment it could be talked to.
    pub fn time_to_answer(&self) -> Duration {
        self.answered
    }

    /// Its address, for clients.
    pub fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The process id of the engine.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// The `docker` command line, talking to it.
    ///
    /// # Errors
    /// If the program is missing.
    pub fn docker(&self) -> anyhow::Result<Program> {
        let program = Program::new(lab::sid_program("docker")?);
        Ok(program
            .env("DOCKER_HOST", self.address())
            .env("DOCKER_CONFIG", self.dir.join("config")))
    }
}

/// The system's own configuration is not read; the base registry is docker.io, if there is one.
fn config(dir: &Path) -> anyhow::Result<PathBuf> {
    let settings = match lab::base_registry() {
        Ok(registry) => serde_json::json!({
            "registry-mirrors": [format!("http://{registry}")],
            "insecure-registries": [registry],
        }),
        Err(_) => serde_json::json!({}),
    };
    let path = dir.join("daemon.json");
    std::fs::write(&path, settings.to_string())?;
    Ok(path)
}

/// `dockerd` finds its containerd, and containerd its shim, by name.
fn search_path(dockerd: &Path) -> anyhow::Result<std::ffi::OsString> {
    let own = dockerd.parent().context("dockerd is in no directory")?.to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let rest = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    Ok(std::env::join_paths([own].into_iter().chain(rest))?)
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _stopped = self.running.signal(Signal::TERM);
        let _stopped = self.running.wait(PATIENCE);
        Leftovers::below(&self.dir).clear();
    }
}
