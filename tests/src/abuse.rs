//! Clients that mean harm, or break in the middle: what they do to a daemon, and what it holds afterwards.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use cairn_proto::control::control_client::ControlClient;
use cairn_proto::control::{SolveRequest, SolveResponse};
use cairn_session::{Services, tunnel};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::cairn::Cairn;
use crate::daemon::Daemon;
use crate::lab::{Lab, Need};

/// Longer than anything takes here, also on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// How much more memory a daemon may have after it was abused: allocators do not give back at once.
const MORE_MEMORY: u64 = 192 << 20;
/// The same for files and threads; a few come and go with every build.
const MORE_OBJECTS: usize = 24;

/// What a process holds of the machine.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// Open files, sockets among them.
    pub files: usize,
    /// Threads.
    pub threads: usize,
    /// Memory that is its own, in bytes.
    pub memory: u64,
}

impl Held {
    /// By a process, now.
    ///
    /// # Errors
    /// If it is gone.
    pub fn by(pid: u32) -> anyhow::Result<Self> {
        let process = Path::new("/proc").join(pid.to_string());
        let count = |name: &str| anyhow::Ok(std::fs::read_dir(process.join(name))?.count());
        let status = std::fs::read_to_string(process.join("status"))?;
        let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kilobytes = own.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
        Ok(Self {
            files: count("fd")?,
            threads: count("task")?,
            memory: kilobytes.context("no memory")? << 10,
        })
    }
}

/// A daemon to be abused, in a lab of its own.
pub struct Victim {
    /// The daemon.
    pub daemon: Daemon,
    before: Held,
    /// Dropped last.
    pub lab: Lab,
}

impl Victim {
    /// Starts a daemon and has it build something; none when this machine lacks something.
    ///
    /// # Errors
    /// If it does not start, or cannot build.
    pub fn start(needs: &[Need], config: &str) -> anyhow::Result<Option<Self>> {
        let Some(lab) = Lab::open(needs)? else {
            return Ok(None);
        };
        let daemon = Daemon::start_with(&lab, &lab.path("root"), config)?;
        build_something(&lab, &daemon, "before")?;
        let before = Held::by(daemon.pid())?;
        Ok(Some(Self { daemon, before, lab }))
    }

    /// A new connection.
    ///
    /// # Errors
    /// If nobody answers.
    pub async fn connect(&self) -> anyhow::Result<Channel> {
        let endpoint = Endpoint::try_from(self.daemon.address())?;
        // As all clients of this API do: details of errors are in headers.
        Ok(endpoint.http2_max_header_list_size(16 << 20).connect().await?)
    }

    /// Expects the daemon to be as it was: it builds, nothing panicked, and it holds what it held.
    ///
    /// # Errors
    /// If it is otherwise.
    pub async fn expect_unharmed(&mut self) -> anyhow::Result<()> {
        ensure!(self.daemon.is_running(), "the daemon is gone:\n{}", self.daemon.log());
        build_something(&self.lab, &self.daemon, "after").context("a good build after the bad ones")?;
        ensure!(!self.daemon.log().contains("panicked"), "{}", self.daemon.log());
        let most = Held {
            files: self.before.files + MORE_OBJECTS,
            threads: self.before.threads + MORE_OBJECTS,
            memory: self.before.memory + MORE_MEMORY,
        };
        // Connections are noticed to have ended, and threads that do nothing end, after a while.
        let deadline = Instant::now() + PATIENCE;
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        loop {
            ticks.tick().await;
            let now = Held::by(self.daemon.pid())?;
            if now.files <= most.files && now.threads <= most.threads && now.memory <= most.memory {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{:?} before, {now:?} after", self.before);
        }
    }
}

fn build_something(lab: &Lab, daemon: &Daemon, text: &str) -> anyhow::Result<()> {
    let files = [("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", text)];
    let (context, out) = (lab.files("right", &files)?, lab.path("right.out"));
    let output = out.display().to_string();
    Cairn::with(lab, daemon).build(["-o", &output, &context.display().to_string()])?;
    ensure!(std::fs::read_to_string(out.join("file"))? == text);
    Ok(())
}

/// Calls that were made to a [`silent`] service.
#[derive(Debug, Clone)]
pub struct Asked(Arc<Semaphore>);

impl Asked {
    /// Waits for the next call.
    ///
    /// # Errors
    /// If none comes.
    pub async fn wait(&self) -> anyhow::Result<()> {
        let call = tokio::time::timeout(PATIENCE, self.0.acquire()).await;
        call.context("nobody called")??.forget();
        Ok(())
    }
}

/// A service of clients, by name.
pub trait ClientService: Send + Sync + 'static {
    /// Its full name.
    const NAME: &'static str;
    /// Full paths of its methods.
    const METHODS: &'static [&'static str];
}

/// `moby.filesync.v1.FileSync`.
pub struct FileSync;
/// `moby.filesync.v1.FileSend`.
pub struct FileSend;
/// `moby.filesync.v1.Auth`.
pub struct Auth;
/// `moby.buildkit.secrets.v1.Secrets`.
pub struct Secrets;

impl ClientService for FileSync {
    const NAME: &'static str = "moby.filesync.v1.FileSync";
    const METHODS: &'static [&'static str] = &["/moby.filesync.v1.FileSync/DiffCopy"];
}

impl ClientService for FileSend {
    const NAME: &'static str = "moby.filesync.v1.FileSend";
    const METHODS: &'static [&'static str] = &["/moby.filesync.v1.FileSend/DiffCopy"];
}

impl ClientService for Auth {
    const NAME: &'static str = "moby.filesync.v1.Auth";
    const METHODS: &'static [&'static str] = &[
        "/moby.filesync.v1.Auth/Credentials",
        "/moby.filesync.v1.Auth/FetchToken",
        "/moby.filesync.v1.Auth/GetTokenAuthority",
        "/moby.filesync.v1.Auth/VerifyTokenAuthority",
    ];
}

impl ClientService for Secrets {
    const NAME: &'static str = "moby.buildkit.secrets.v1.Secrets";
    const METHODS: &'static [&'static str] = &["/moby.buildkit.secrets.v1.Secrets/GetSecret"];
}

/// Offers a service that takes calls and never answers.
pub fn silent<S: ClientService>(services: &mut Services) -> Asked {
    let asked = Asked(Arc::new(Semaphore::new(0)));
    services.add(Silent::<S>(asked.clone(), PhantomData), S::METHODS);
    asked
}

struct Silent<S>(Asked, PhantomData<S>);

impl<S> Clone for Silent<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), PhantomData)
    }
}

impl<S: ClientService> NamedService for Silent<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Silent<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        self.0.0.add_permits(1);
        Box::pin(std::future::pending())
    }
}

/// Opens a session that lasts until the handle is dropped.
pub fn open_session(channel: &Channel, id: &str, services: Services) -> AbortOnDropHandle<()> {
    let (control, id) = (ControlClient::new(channel.clone()), id.to_owned());
    AbortOnDropHandle::new(tokio::spawn(async move {
        // How it ends is what the test is about.
        drop(tunnel::serve(control, &id, "", services).await);
    }))
}

/// A build under way.
pub struct Solving(AbortOnDropHandle<Result<Response<SolveResponse>, Status>>);

impl Solving {
    /// Asks for a build.
    pub fn start(channel: &Channel, request: SolveRequest) -> Self {
        let mut control = ControlClient::new(channel.clone());
        Self(AbortOnDropHandle::new(tokio::spawn(async move {
            control.solve(request).await
        })))
    }

    /// Waits for the build to fail; returns with what.
    ///
    /// # Errors
    /// If it succeeds, or does not end.
    pub async fn failure(self) -> anyhow::Result<Status> {
        let ended = tokio::time::timeout(PATIENCE, self.0)
            .await
            .context("the build hangs")?;
        match ended? {
            Ok(response) => bail!("the build succeeded: {response:?}"),
            Err(status) => Ok(status),
        }
    }
}
