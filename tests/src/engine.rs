//! Docker Engine: takes images in, and is what builds are measured against.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use cairn_client::Client;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::clean::Leftovers;
use crate::lab::{self, Lab};
use crate::process::{Program, Running};

/// No start and no stop takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// No answer to an upgrade has a longer head.
const LONGEST_HEAD: usize = 16 << 10;

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
        Self::start_with(lab, serde_json::json!({}))
    }

    /// The same, of one that keeps images in containerd's store: it exports indexes and attestations too.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_with_image_store(lab: &Lab) -> anyhow::Result<Self> {
        Self::start_with(lab, serde_json::json!({ "containerd-snapshotter": true }))
    }

    fn start_with(lab: &Lab, features: serde_json::Value) -> anyhow::Result<Self> {
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
            .args([config(&dir, features)?])
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

    /// A connection of the client library to the build daemon inside it.
    ///
    /// # Errors
    /// If it does not hand over the connection.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        let mut stream = tokio::net::UnixStream::connect(&self.socket).await?;
        upgrade(&mut stream).await.context("dockerd does not speak gRPC")?;
        Ok(Client::from_stream(stream).await?)
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

/// Turns a connection to the engine into one to the build daemon inside it.
async fn upgrade(stream: &mut tokio::net::UnixStream) -> anyhow::Result<()> {
    let request = "POST /grpc HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    // Not one byte more than the head may be read: the first frame comes right behind it.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < LONGEST_HEAD, "the answer to the upgrade has no end");
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    ensure!(
        head.starts_with("HTTP/1.1 101 "),
        "the upgrade was answered with {head:?}"
    );
    Ok(())
}

/// The system's own configuration is not read; the base registry is docker.io, if there is one.
fn config(dir: &Path, features: serde_json::Value) -> anyhow::Result<PathBuf> {
    let mut settings = match lab::base_registry() {
        Ok(registry) => serde_json::json!({
            "registry-mirrors": [format!("http://{registry}")],
            "insecure-registries": [registry],
        }),
        Err(_) => serde_json::json!({}),
    };
    settings["features"] = features;
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
