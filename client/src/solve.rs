//! Running one build: the session that serves it, the stream of its progress, and the call that ends with it.

mod caches;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use cairn_proto::control::control_client::ControlClient;
use cairn_proto::control::{CacheOptions, CacheOptionsEntry, Exporter, SolveRequest, SolveResponse, StatusRequest};
use cairn_proto::pb;
use cairn_proto::sourcepolicy::Policy;
use cairn_session::Services;
use cairn_session::auth::{self, DockerConfig};
use cairn_session::content::{self, LayoutDir};
use cairn_session::filesend::{self, OutputTarget};
use cairn_session::filesync::{self, LocalDir};
use cairn_session::policy::{self, Decide};
use cairn_session::secrets::{self, SecretSource};
use cairn_session::ssh;
use cairn_session::tunnel;
use cairn_session::upload::{self, UploadSource};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Response, Status};

use self::caches::LocalCaches;
use crate::client::Client;
use crate::error::{ClientError, DaemonError};
use crate::id::Id;
use crate::progress::ProgressEvent;

/// How long the last news of a build may take after its end.
const LAST_NEWS: Duration = Duration::from_secs(5);
/// How long to wait for news of a build that was refused before it began.
const NO_NEWS: Duration = Duration::from_millis(300);
/// Carries the daemon's clock at the start of a status stream.
const TIMESTAMP: &str = "buildkit-current-timestamp";

/// What to build, from what, and what becomes of it.
#[derive(Default)]
pub struct SolveOptions {
    /// The id by which the daemon is to know the build; a random one when left out.
    pub reference: Option<Id>,
    /// The frontend that makes the graph, such as `dockerfile.v0`; empty when `definition` is the graph.
    pub frontend: String,
    /// Options of the frontend.
    pub frontend_attrs: BTreeMap<String, String>,
    /// The graph, when no frontend makes it.
    pub definition: Option<pb::Definition>,
    /// Graphs that the frontend may use, by name.
    pub frontend_inputs: BTreeMap<String, pb::Definition>,
    /// What becomes of the result; nothing when empty.
    pub outputs: Vec<SolveOutput>,
    /// Directories of this machine that the build may read, by name.
    pub local_dirs: BTreeMap<String, LocalDir>,
    /// Directories with OCI layouts that the build may read images of, by the name of their store.
    pub layouts: BTreeMap<String, PathBuf>,
    /// Streams that the build may pull, each once, by id: `http://buildkit-session/<id>`.
    pub uploads: HashMap<String, UploadSource>,
    /// Secrets that the build may ask for, by id.
    pub secrets: BTreeMap<String, SecretSource>,
    /// Ssh agents that the build may use, as the sockets they listen on, by id.
    pub ssh_agents: BTreeMap<String, PathBuf>,
    /// The Docker configuration that holds registry credentials; none are offered without it.
    pub docker_config: Option<PathBuf>,
    /// Lets the daemon reuse files that it received earlier; see [`crate::shared_key`].
    pub shared_key: String,
    /// Privileges granted to the build.
    pub entitlements: Vec<String>,
    /// Where the build's cache goes. One of type `local` goes to the directory `dest` of this machine, whose
    /// `index.json` names it when the build has succeeded.
    pub cache_exports: Vec<CacheOptionsEntry>,
    /// Where known results may come from. One of type `local` comes from the directory `src` of this machine; which
    /// manifest there is meant is looked up in its `index.json` unless `digest` says.
    pub cache_imports: Vec<CacheOptionsEntry>,
    /// Rules that allow, deny or rewrite the sources of the build.
    pub source_policy: Option<Policy>,
    /// Decides about every source while the build runs, after the rules.
    pub source_judge: Option<Arc<dyn Decide>>,
}

/// One thing that is made of the result.
pub struct SolveOutput {
    /// The exporter, such as `image` or `local`.
    pub kind: String,
    /// Its options.
    pub attrs: BTreeMap<String, String>,
    /// Where it goes on this machine; none when it stays with the daemon.
    pub target: Option<OutputTarget>,
}

/// A build that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Solved {
    /// The id by which the daemon's history knows the build.
    pub reference: Id,
    /// What the exporters say about their results.
    pub response: BTreeMap<String, String>,
}

impl Client {
    /// Runs a build to its end.
    ///
    /// News about it go to `events`, which the caller has to drain: a build waits for its audience. The channel
    /// closes when nothing more comes.
    ///
    /// # Errors
    /// [`ClientError::Build`] with the daemon's typed details when the build fails.
    ///
    /// # Cancel safety
    /// When `cancel` fires the build is stopped, its last news are awaited, and the result is
    /// [`ClientError::Cancelled`]. Dropping the future stops the build too, without the last news.
    pub async fn solve(
        &self,
        mut options: SolveOptions,
        events: mpsc::Sender<ProgressEvent>,
        cancel: CancellationToken,
    ) -> Result<Solved, ClientError> {
        let reference = match &options.reference {
            Some(reference) => reference.clone(),
            None => Id::random().map_err(ClientError::Id)?,
        };
        let session = Id::random().map_err(ClientError::Id)?;
        let caches = LocalCaches::find(&mut options).await?;
        let services = services(&mut options, &caches).await?;
        let shared_key = options.shared_key.clone();
        let request = request(options, &reference, &session);

        let mut control = self.control();
        let has_news = AtomicBool::new(false);
        let run = Run {
            solve: Some(Box::pin(async move { control.solve(request).await })),
            status: follow(self.control(), reference.to_string(), events, &has_news),
            session: tunnel::serve(self.control(), session.as_str(), &shared_key, services),
            has_news: &has_news,
            cancel,
        };
        let response = run.drive().await?;
        caches.enter(&response.exporter_response).await?;
        Ok(Solved {
            reference,
            response: response.exporter_response,
        })
    }
}

/// The three calls of a build.
struct Run<'a, Solve, Follow, Serve> {
    solve: Option<Solve>,
    status: Follow,
    session: Serve,
    has_news: &'a AtomicBool,
    cancel: CancellationToken,
}

impl<Solve, Follow, Serve> Run<'_, Solve, Follow, Serve>
where
    Solve: Future<Output = Result<Response<SolveResponse>, Status>> + Unpin,
    Follow: Future<Output = Result<(), Status>>,
    Serve: Future<Output = Result<(), tunnel::ServeError>>,
{
    /// Drives all three until the build is over and its last news are here.
    async fn drive(mut self) -> Result<SolveResponse, ClientError> {
        enum Event {
            Solved(Result<Response<SolveResponse>, Status>),
            NewsEnded(Result<(), Status>),
            SessionEnded(Result<(), tunnel::ServeError>),
            Cancelled,
            LateNews,
        }

        let (mut status, mut session) = (pin!(self.status), pin!(self.session));
        let (mut news_ended, mut session_ended) = (false, false);
        let mut outcome = None;
        let mut deadline = Instant::now();
        while outcome.is_none() || !news_ended {
            let event = tokio::select! {
                solved = poll_some(&mut self.solve), if self.solve.is_some() => Event::Solved(solved),
                ended = &mut status, if !news_ended => Event::NewsEnded(ended),
                ended = &mut session, if !session_ended => Event::SessionEnded(ended),
                () = self.cancel.cancelled(), if self.solve.is_some() => Event::Cancelled,
                () = tokio::time::sleep_until(deadline), if outcome.is_some() => Event::LateNews,
            };
            match event {
                Event::Solved(solved) => {
                    self.solve = None;
                    let refused = solved.is_err() && !self.has_news.load(Ordering::Relaxed);
                    deadline = Instant::now() + if refused { NO_NEWS } else { LAST_NEWS };
                    outcome = Some(solved.map(Response::into_inner).map_err(|status| failed(&status)));
                }
                Event::NewsEnded(ended) => {
                    news_ended = true;
                    if let Err(error) = ended {
                        // The build itself tells whether this matters.
                        tracing::debug!(%error, "progress ended early");
                    }
                }
                Event::SessionEnded(ended) => {
                    session_ended = true;
                    if let (Err(error), None) = (ended, &outcome) {
                        // Without a session the daemon would only complain that there is none.
                        self.solve = None;
                        deadline = Instant::now() + LAST_NEWS;
                        outcome = Some(Err(session_lost(error)));
                    }
                }
                Event::Cancelled => {
                    // Dropping the call is what tells the daemon.
                    self.solve = None;
                    deadline = Instant::now() + LAST_NEWS;
                    outcome = Some(Err(ClientError::Cancelled));
                }
                Event::LateNews => {
                    tracing::debug!("progress did not end with the build");
                    break;
                }
            }
        }
        outcome.unwrap_or(Err(ClientError::Cancelled))
    }
}

async fn poll_some<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// A connection that breaks is the daemon's end, whatever it was used for; anything else is about the session.
fn session_lost(error: tunnel::ServeError) -> ClientError {
    match error {
        tunnel::ServeError::Connection(cause) => {
            tracing::debug!(error = %cause, "the session's connection broke");
            let status = Status::unavailable("the connection was closed");
            ClientError::Lost(Box::new(DaemonError::from_status(&status)))
        }
        error => ClientError::Session(Box::new(error)),
    }
}

/// An error with a cause came from the connection, not from the daemon.
fn failed(status: &Status) -> ClientError {
    let error = Box::new(DaemonError::from_status(status));
    if std::error::Error::source(status).is_some() {
        ClientError::Lost(error)
    } else {
        ClientError::Build(error)
    }
}

async fn follow(
    mut control: ControlClient<Channel>,
    reference: String,
    events: mpsc::Sender<ProgressEvent>,
    has_news: &AtomicBool,
) -> Result<(), Status> {
    let response = control.status(StatusRequest { r#ref: reference }).await?;
    let clock = response.metadata().get(TIMESTAMP).and_then(|value| value.to_str().ok());
    let clock = clock.and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let mut audience = Some(events);
    if let Some(clock) = clock {
        tell(&mut audience, ProgressEvent::ServerTime(SystemTime::from(clock))).await;
    }
    let mut news = response.into_inner();
    while let Some(message) = news.message().await? {
        has_news.store(true, Ordering::Relaxed);
        tell(&mut audience, ProgressEvent::Status(message)).await;
    }
    Ok(())
}

/// An audience that left is not told any more; the build goes on.
async fn tell(audience: &mut Option<mpsc::Sender<ProgressEvent>>, event: ProgressEvent) {
    if let Some(events) = audience
        && events.send(event).await.is_err()
    {
        *audience = None;
    }
}

fn request(options: SolveOptions, reference: &Id, session: &Id) -> SolveRequest {
    let exporter = |output: SolveOutput| Exporter {
        r#type: output.kind,
        attrs: output.attrs,
    };
    SolveRequest {
        r#ref: reference.to_string(),
        session: session.to_string(),
        definition: options.definition,
        frontend: options.frontend,
        frontend_attrs: options.frontend_attrs,
        frontend_inputs: options.frontend_inputs,
        entitlements: options.entitlements,
        source_policy: options.source_policy,
        source_policy_session: options.source_judge.map(|_| session.to_string()).unwrap_or_default(),
        exporters: options.outputs.into_iter().map(exporter).collect(),
        cache: Some(CacheOptions {
            exports: options.cache_exports,
            imports: options.cache_imports,
            ..CacheOptions::default()
        }),
        ..SolveRequest::default()
    }
}

/// What this machine offers to the build, and nothing else.
async fn services(options: &mut SolveOptions, caches: &LocalCaches) -> Result<Services, ClientError> {
    let mut services = Services::new();
    if !options.local_dirs.is_empty() {
        filesync::serve(&mut services, options.local_dirs.clone());
    }
    let outputs = (0..).zip(&options.outputs);
    let targets = outputs.filter_map(|(index, output)| Some((index, output.target.clone()?)));
    let targets: BTreeMap<u32, OutputTarget> = targets.collect();
    if !targets.is_empty() {
        filesend::serve(&mut services, targets);
    }
    if !options.layouts.is_empty() || !caches.is_empty() {
        let layouts = options.layouts.iter();
        let stores = layouts.map(|(id, path)| (content::layout_store(id), LayoutDir(path.clone())));
        content::serve(
            &mut services,
            stores.chain(caches.sources()).collect(),
            caches.targets(),
        );
    }
    if let Some(judge) = &options.source_judge {
        policy::serve(&mut services, judge.clone());
    }
    if !options.uploads.is_empty() {
        upload::serve(&mut services, std::mem::take(&mut options.uploads));
    }
    if !options.secrets.is_empty() {
        secrets::serve(&mut services, options.secrets.clone());
    }
    if !options.ssh_agents.is_empty() {
        ssh::serve(&mut services, options.ssh_agents.clone());
    }
    if let Some(path) = &options.docker_config {
        let config = DockerConfig::load(path).await.map_err(|error| ClientError::Offer {
            what: "registry credentials",
            source: Box::new(error),
        })?;
        auth::serve(&mut services, Arc::new(config));
    }
    Ok(services)
}

#[cfg(test)]
mod tests;
