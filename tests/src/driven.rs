//! Builds that their client drives, with processes of its own to look into them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use cairn_proto::control::SolveRequest as ControlSolve;
use cairn_proto::control::control_client::ControlClient;
use cairn_proto::gateway::exec_message::Input;
use cairn_proto::gateway::llb_bridge_client::LlbBridgeClient;
use cairn_proto::gateway::{
    ExecMessage, FdMessage, InitMessage, NewContainerRequest, ReleaseContainerRequest, SolveRequest, result,
};
use cairn_proto::pb;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status, Streaming};

use crate::daemon::Daemon;
use crate::llb::{Graph, image};

/// Longer than anything takes here.
pub const PATIENCE: Duration = Duration::from_secs(60);

async fn connect(daemon: &Daemon) -> anyhow::Result<Channel> {
    let path = daemon.address().trim_start_matches("unix://").to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    Ok(endpoint.connect_with_connector(connector).await?)
}

/// The calls of any client.
///
/// # Errors
/// That the daemon does not answer.
pub async fn control(daemon: &Daemon) -> anyhow::Result<ControlClient<Channel>> {
    Ok(ControlClient::new(connect(daemon).await?))
}

/// A build that its client drives.
pub struct Driven {
    /// The calls of a driver.
    pub bridge: LlbBridgeClient<Channel>,
    id: String,
    /// The Solve call.
    pub solve: AbortOnDropHandle<Result<(), Status>>,
}

impl Driven {
    /// Begins one of this id.
    ///
    /// # Errors
    /// The daemon's, or that it does not answer.
    pub async fn start(daemon: &Daemon, id: &str) -> anyhow::Result<Self> {
        let channel = connect(daemon).await?;
        let mut control = ControlClient::new(channel.clone());
        let request = ControlSolve {
            r#ref: id.to_owned(),
            ..ControlSolve::default()
        };
        let solve = tokio::spawn(async move { control.solve(request).await.map(drop) });
        Ok(Self {
            bridge: LlbBridgeClient::new(channel),
            id: id.to_owned(),
            solve: AbortOnDropHandle::new(solve),
        })
    }

    /// A message of this build.
    ///
    /// # Panics
    /// If its id does not fit a header.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let id = self.id.parse().expect("a header");
        request.metadata_mut().insert("buildkit-controlapi-buildid", id);
        request
    }

    /// A result with the files of an image.
    ///
    /// # Errors
    /// The daemon's, or that it does not answer.
    pub async fn image(&mut self) -> anyhow::Result<String> {
        let mut graph = Graph::default();
        let base = graph.add(&image("docker.io/library/alpine:latest"));
        let request = self.request(SolveRequest {
            definition: Some(graph.asking_for(&base, 0)),
            ..SolveRequest::default()
        });
        let response = self.bridge.solve(request).await?.into_inner();
        match response.result.and_then(|result| result.result) {
            Some(result::Result::Ref(reference)) => Ok(reference.id),
            other => bail!("another result: {other:?}"),
        }
    }

    /// Makes a container.
    ///
    /// # Errors
    /// The daemon's, or that it does not answer.
    pub async fn container(&mut self, id: &str, mounts: Vec<pb::Mount>) -> Result<(), Status> {
        let request = self.request(NewContainerRequest {
            container_id: id.to_owned(),
            mounts,
            hostname: "looking-in".to_owned(),
            ..NewContainerRequest::default()
        });
        self.bridge.new_container(request).await.map(drop)
    }

    /// Opens a stream of processes.
    ///
    /// # Errors
    /// The daemon's, or that it does not answer.
    pub async fn stream(&mut self) -> Result<Talk, Status> {
        let (sender, messages) = mpsc::channel(16);
        let request = self.request(ReceiverStream::new(messages));
        let incoming = self.bridge.exec_process(request).await?.into_inner();
        Ok(Talk { sender, incoming })
    }

    /// Releases a container.
    ///
    /// # Errors
    /// The daemon's, or that it does not answer.
    pub async fn release(&mut self, id: &str) -> Result<(), Status> {
        let request = self.request(ReleaseContainerRequest {
            container_id: id.to_owned(),
        });
        self.bridge.release_container(request).await.map(drop)
    }
}

/// A stream of processes.
pub struct Talk {
    /// To the daemon.
    pub sender: mpsc::Sender<ExecMessage>,
    /// From the daemon.
    pub incoming: Streaming<ExecMessage>,
}

impl Talk {
    /// Sends something to a process.
    ///
    /// # Errors
    /// The daemon's, or that it does not answer.
    pub async fn say(&self, process: &str, input: Input) -> anyhow::Result<()> {
        let message = ExecMessage {
            process_id: process.to_owned(),
            input: Some(input),
        };
        self.sender.send(message).await.context("the stream is gone")
    }

    /// Starts a shell script as a process.
    ///
    /// # Errors
    /// The daemon's, or that it does not answer.
    pub async fn start(&self, container: &str, process: &str, script: &str, tty: bool) -> anyhow::Result<()> {
        let init = InitMessage {
            container_id: container.to_owned(),
            meta: Some(pb::Meta {
                args: ["sh", "-c", script].map(str::to_owned).to_vec(),
                env: vec!["GIVEN=1".to_owned()],
                ..pb::Meta::default()
            }),
            fds: vec![0, 1, 2],
            tty,
            ..InitMessage::default()
        };
        self.say(process, Input::Init(init)).await
    }

    /// Writes to the standard input of a process.
    ///
    /// # Errors
    /// The daemon's, or that it does not answer.
    pub async fn write(&self, process: &str, text: &str, eof: bool) -> anyhow::Result<()> {
        let file = FdMessage {
            fd: 0,
            eof,
            data: text.as_bytes().to_vec().into(),
        };
        self.say(process, Input::File(file)).await
    }

    /// The next message.
    ///
    /// # Errors
    /// The daemon's, or that it does not answer.
    pub async fn next(&mut self) -> anyhow::Result<ExecMessage> {
        let message = tokio::time::timeout(PATIENCE, self.incoming.message()).await?;
        message?.context("the stream has ended")
    }

    /// Everything about processes until so many of them are done, in short words.
    ///
    /// # Errors
    /// The daemon's, or that it does not answer.
    pub async fn until_done(&mut self, count: usize) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
        let mut said: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut done = 0;
        while done < count {
            let message = self.next().await?;
            let words = said.entry(message.process_id).or_default();
            match message.input.context("an empty message")? {
                Input::Started(_) => words.push("started".to_owned()),
                Input::File(file) if file.eof => words.push(format!("end of {}", file.fd)),
                Input::File(file) => {
                    let text = String::from_utf8_lossy(&file.data).into_owned();
                    match words
                        .last_mut()
                        .filter(|last| last.starts_with(&format!("{}: ", file.fd)))
                    {
                        Some(last) => last.push_str(&text),
                        None => words.push(format!("{}: {text}", file.fd)),
                    }
                }
                Input::Exit(exit) => {
                    let error = exit.error.map_or(String::new(), |error| format!(" {}", error.message));
                    words.push(format!("exit {}{error}", exit.code));
                }
                Input::Done(_) => {
                    words.push("done".to_owned());
                    done += 1;
                }
                other => bail!("not for clients: {other:?}"),
            }
        }
        Ok(said)
    }
}
