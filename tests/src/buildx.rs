//! Docker's own client, unmodified.

use std::ffi::OsStr;
use std::path::PathBuf;

use crate::daemon::Daemon;
use crate::engine::Engine;
use crate::lab::{self, Lab};
use crate::process::Program;

/// The builder's name, in a configuration that nobody else uses.
const BUILDER: &str = "under-test";

/// A `docker-buildx` with a private configuration.
#[derive(Debug, Clone)]
pub struct Buildx {
    home: PathBuf,
    docker_host: String,
    builder: &'static str,
    build_options: &'static [&'static str],
}

impl Buildx {
    /// One whose builder is `daemon`, through the remote driver.
    ///
    /// # Errors
    /// If buildx is missing, or refuses.
    pub fn remote(lab: &Lab, daemon: &Daemon) -> anyhow::Result<Self> {
        Self::remote_at(lab, "buildx", &daemon.address(), &[])
    }

    /// One with its configuration in a directory of that name, whose builder is at `address`, with options of the
    /// driver.
    ///
    /// # Errors
    /// If buildx is missing, or refuses.
    pub fn remote_at(lab: &Lab, name: &str, address: &str, options: &[String]) -> anyhow::Result<Self> {
        // Nobody listens at this Docker host: the remote driver does without.
        let buildx = Self {
            home: lab.path(name),
            docker_host: format!("unix://{}", lab.path("no-docker.sock").display()),
            builder: BUILDER,
            build_options: &[],
        };
        std::fs::create_dir_all(&buildx.home)?;
        let options = options.iter().flat_map(|option| ["--driver-opt", option]);
        buildx
            .bare()?
            .args(["create", "--name", BUILDER, "--driver", "remote"])
            .args(options)
            .args([address])
            .output()?;
        Ok(buildx)
    }

    /// One whose builder is the one inside Docker Engine.
    ///
    /// # Errors
    /// If its configuration cannot be made.
    pub fn engine(lab: &Lab, engine: &Engine) -> anyhow::Result<Self> {
        let buildx = Self {
            home: lab.path("buildx-engine"),
            docker_host: engine.address(),
            builder: "default",
            // The engine has no network of its own here, as `cairnd` has none yet.
            build_options: &["--network", "host"],
        };
        std::fs::create_dir_all(&buildx.home)?;
        Ok(buildx)
    }

    fn bare(&self) -> anyhow::Result<Program> {
        let program = Program::new(lab::sid_program("docker-buildx")?)
            .env("HOME", &self.home)
            .env("DOCKER_CONFIG", self.home.join("docker"))
            .env("BUILDX_CONFIG", self.home.join("buildx"))
            .env("DOCKER_HOST", &self.docker_host)
            .env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1");
        Ok(["BUILDX_BUILDER", "BUILDKIT_HOST", "DOCKER_CONTEXT"]
            .into_iter()
            .fold(program, Program::without_env))
    }

    /// The program's version, for which no builder is asked.
    ///
    /// # Errors
    /// If buildx is missing.
    pub fn version(&self) -> anyhow::Result<Program> {
        Ok(self.bare()?.args(["version"]))
    }

    /// A command for its builder, such as `du`.
    ///
    /// # Errors
    /// If buildx is missing.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> anyhow::Result<Program> {
        Ok(self.bare()?.args(["--builder", self.builder]).args(args))
    }

    /// `build`, to which options and a context are to be added.
    ///
    /// # Errors
    /// If buildx is missing.
    pub fn build(&self) -> anyhow::Result<Program> {
        Ok(self.command(["build"])?.args(self.build_options))
    }
}
