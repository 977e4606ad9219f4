//! Sessions that stall, die in the middle, or are too many.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use cairn_proto::control::control_client::ControlClient;
use cairn_proto::control::{Exporter, InfoRequest, SolveRequest};
use cairn_proto::pb;
use cairn_session::Services;
use cairn_tests::abuse::{self, Asked, ClientService, PATIENCE, Solving, Victim, open_session, silent};
use cairn_tests::llb::{Graph, image, input, local, make_file, run};
use cairn_tests::{Lab, Need, WebReply, WebServer};
use tonic::transport::Channel;

fn definition(op: &pb::Op) -> Option<pb::Definition> {
    let mut graph = Graph::default();
    let digest = graph.add(op);
    Some(graph.asking_for(&digest, 0))
}

fn request(id: &str, op: &pb::Op) -> SolveRequest {
    SolveRequest {
        r#ref: id.to_owned(),
        session: format!("session-{id}"),
        definition: definition(op),
        ..SolveRequest::default()
    }
}

/// A build whose session offers one service, which never answers.
struct Stalled {
    solving: Solving,
    asked: Asked,
    session: tokio_util::task::AbortOnDropHandle<()>,
}

impl Stalled {
    fn start<S: ClientService>(channel: &Channel, request: SolveRequest) -> Self {
        let mut services = Services::new();
        let asked = silent::<S>(&mut services);
        Self {
            session: open_session(channel, &request.session, services),
            asked,
            solving: Solving::start(channel, request),
        }
    }

    /// The session dies when the daemon has asked it something; the build has to end with that.
    async fn dies(self, name: &str) -> anyhow::Result<()> {
        self.asked.wait().await.with_context(|| name.to_owned())?;
        drop(self.session);
        let started = Instant::now();
        let status = self.solving.failure().await.with_context(|| name.to_owned())?;
        ensure!(!status.message().is_empty(), "{name}: without a word");
        ensure!(!status.message().contains("panic"), "{name}: {status:?}");
        ensure!(
            started.elapsed() < Duration::from_secs(30),
            "{name}: {:?}",
            started.elapsed()
        );
        Ok(())
    }

    /// The client gives the build up when the daemon has asked its session something.
    async fn given_up(self, name: &str) -> anyhow::Result<()> {
        self.asked.wait().await.with_context(|| name.to_owned())?;
        drop(self.solving);
        drop(self.session);
        Ok(())
    }
}

/// A registry that wants to be told who asks.
fn locked_registry() -> anyhow::Result<WebServer> {
    let reply = || WebReply::status("401 Unauthorized").header("WWW-Authenticate", "Basic realm=\"x\"");
    WebServer::start(move |_| reply())
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_end_when_their_session_dies() -> anyhow::Result<()> {
    let registry = locked_registry()?;
    let address = registry
        .url("")
        .trim_start_matches("http://")
        .trim_end_matches('/')
        .to_owned();
    let config = format!("[registry.\"{address}\"]\nhttp = true\n");
    let Some(mut victim) = Victim::start(&[Need::Containers], &config)? else {
        return Ok(());
    };
    let channel = victim.connect().await?;
    let file = make_file("/f", "text");
    let exported = |id: &str, kind: &str, attrs: &[(&str, &str)]| SolveRequest {
        exporters: vec![Exporter {
            r#type: kind.to_owned(),
            attrs: attrs
                .iter()
                .map(|&(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        }],
        ..request(id, &file)
    };
    let base = format!("{address}/base:1");
    let pushed = format!("{address}/pushed:1");
    for given_up in [false, true] {
        let id = |name: &str| format!("{name}-{given_up}");
        let phases = [
            (
                "while files are received",
                Stalled::start::<abuse::FileSync>(&channel, request(&id("sync"), &local("context"))),
            ),
            (
                "while credentials are asked for",
                Stalled::start::<abuse::Auth>(&channel, request(&id("auth"), &image(&base))),
            ),
            (
                "while a directory is exported",
                Stalled::start::<abuse::FileSend>(&channel, exported(&id("local"), "local", &[])),
            ),
            (
                "while a tar is exported",
                Stalled::start::<abuse::FileSend>(&channel, exported(&id("oci"), "oci", &[])),
            ),
            (
                "while an image is pushed",
                Stalled::start::<abuse::Auth>(
                    &channel,
                    exported(&id("push"), "image", &[("name", &pushed), ("push", "true")]),
                ),
            ),
        ];
        for (name, stalled) in phases {
            if given_up {
                stalled.given_up(name).await?;
            } else {
                stalled.dies(name).await?;
            }
        }
    }
    // One that is there, and offers nothing.
    let bare = request("bare", &local("context"));
    let _session = open_session(&channel, &bare.session, Services::new());
    let status = Solving::start(&channel, bare).failure().await?;
    ensure!(status.message().contains("not supported by the client"), "{status:?}");
    victim.expect_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_go_on_without_a_session_and_what_needs_it_fails() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    drop(lab);
    let config = cairn_tests::lab::mirror_config(&cairn_tests::lab::base_registry()?);
    let Some(mut victim) = Victim::start(&[Need::Containers, Need::Bases], &config)? else {
        return Ok(());
    };
    let channel = victim.connect().await?;
    let mut graph = Graph::default();
    let base = graph.add(&image("docker.io/library/alpine:latest"));
    let step = graph.add(&run(input(&base, 0), &["sh", "-c", "sleep 2; echo made > /made"]));
    let request = SolveRequest {
        r#ref: "exec".to_owned(),
        session: "session-exec".to_owned(),
        definition: Some(graph.asking_for(&step, 0)),
        exporters: vec![Exporter {
            r#type: "local".to_owned(),
            ..Exporter::default()
        }],
        ..SolveRequest::default()
    };
    let mut services = Services::new();
    let _asked = silent::<abuse::FileSend>(&mut services);
    let session = open_session(&channel, &request.session, services);
    let mut control = ControlClient::new(channel.clone());
    let events = control.status(cairn_proto::control::StatusRequest {
        r#ref: "exec".to_owned(),
    });
    let solving = Solving::start(&channel, request);
    let mut events = events.await?.into_inner();
    let is_running =
        |vertex: &cairn_proto::control::Vertex| vertex.name.starts_with("sh -c sleep") && vertex.started.is_some();
    let started = async {
        while let Some(message) = events.message().await? {
            if message.vertexes.iter().any(is_running) {
                return anyhow::Ok(());
            }
        }
        anyhow::bail!("the step never ran")
    };
    tokio::time::timeout(PATIENCE, started).await??;
    drop(session);
    let status = solving.failure().await?;
    ensure!(status.message().contains("session"), "{status:?}");
    victim.expect_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_sessions_are_served_and_half_of_them_die() -> anyhow::Result<()> {
    let Some(mut victim) = Victim::start(&[Need::Containers], "")? else {
        return Ok(());
    };
    let mut sessions = Vec::new();
    for connection in 0..20 {
        let channel = victim.connect().await?;
        for number in 0..50 {
            sessions.push(open_session(
                &channel,
                &format!("s{connection}-{number}"),
                Services::new(),
            ));
        }
    }
    // Each is there: it says itself that it offers no directories.
    let channel = victim.connect().await?;
    let mut builds = tokio::task::JoinSet::new();
    for connection in 0..20 {
        let id = format!("s{connection}-49");
        let request = SolveRequest {
            session: id.clone(),
            ..request(&format!("b{id}"), &local("context"))
        };
        let solving = Solving::start(&channel, request);
        builds.spawn(async move { solving.failure().await });
    }
    while let Some(status) = builds.join_next().await {
        let status = status??;
        ensure!(status.message().contains("not supported by the client"), "{status:?}");
    }
    let half = sessions.split_off(sessions.len() / 2);
    drop(half);
    ControlClient::new(channel.clone()).info(InfoRequest {}).await?;
    // Sessions that take the id of another end it.
    let again: Vec<_> = (0..100)
        .map(|_| open_session(&channel, "same", Services::new()))
        .collect();
    let same = SolveRequest {
        session: "same".to_owned(),
        ..request("same", &local("context"))
    };
    let status = Solving::start(&channel, same).failure().await?;
    ensure!(!status.message().is_empty());
    drop((sessions, again, channel));
    victim.expect_unharmed().await
}
