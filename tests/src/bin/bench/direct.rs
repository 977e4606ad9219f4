//! The client library, in this process: what is left of a build's time when no program has to be started.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use cairn_client::{Client, ClientError, Id, LocalDir, SolveOptions, shared_key};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::subject::{Service, Subject};

/// Runs the client library.
pub(crate) struct Direct {
    runtime: Runtime,
}

impl Direct {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        Ok(Self { runtime })
    }

    /// A connection of its own.
    pub(crate) fn connect(&self, service: &Service) -> anyhow::Result<Client> {
        self.runtime.block_on(service.connect())
    }

    /// Builds; returns how long it took.
    pub(crate) fn solve(&self, client: &Client, options: SolveOptions) -> Result<Duration, ClientError> {
        self.runtime.block_on(solve(client, options))
    }

    /// Builds over all connections at the same time; returns how long all of it took.
    pub(crate) fn solve_at_once(&self, builds: Vec<(Client, SolveOptions)>) -> anyhow::Result<Duration> {
        self.runtime.block_on(async {
            let started = Instant::now();
            let mut running = JoinSet::new();
            for (client, options) in builds {
                running.spawn(async move { solve(&client, options).await });
            }
            while let Some(done) = running.join_next().await {
                done.context("a build panicked")??;
            }
            Ok(started.elapsed())
        })
    }
}

async fn solve(client: &Client, options: SolveOptions) -> Result<Duration, ClientError> {
    let started = Instant::now();
    cairn_tests::solve(client, options).await.map(|_| started.elapsed())
}

/// What a command line asks for that builds the Dockerfile of `context` at `service` and keeps the result.
pub(crate) fn dockerfile_build(service: &Service, context: &Path, reference: Option<Id>) -> SolveOptions {
    let directory = |name: &str| {
        let path = context.to_owned();
        let keeps_owner = false;
        (name.to_owned(), LocalDir { path, keeps_owner })
    };
    let mut options = SolveOptions {
        reference,
        frontend: "dockerfile.v0".to_owned(),
        frontend_attrs: BTreeMap::from([("filename".to_owned(), "Dockerfile".to_owned())]),
        local_dirs: BTreeMap::from(["context", "dockerfile"].map(directory)),
        shared_key: shared_key(context),
        ..SolveOptions::default()
    };
    if service.subject() == Subject::Engine {
        // It has no other network here; see `Buildx::engine`.
        let attrs = &mut options.frontend_attrs;
        attrs.insert("force-network-mode".to_owned(), "host".to_owned());
        options.entitlements.push("network.host".to_owned());
    }
    options
}
