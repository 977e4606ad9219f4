//! The client's half.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use cairn_proto::sshforward::ssh_server::{Ssh, SshServer};
use cairn_proto::sshforward::{BytesMessage, CheckAgentRequest, CheckAgentResponse};
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_util::io::StreamReader;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::frame::{self, FAILURE, only_uses_keys};
use super::{AGENT_ID, CHECK_AGENT, DEFAULT_AGENT, FORWARD_AGENT};
use crate::services::Services;

/// Lends agents, each by the socket it listens on.
pub fn serve(services: &mut Services, agents: BTreeMap<String, PathBuf>) {
    let agents = Agents(Arc::new(agents));
    services.add(SshServer::new(agents), &[CHECK_AGENT, FORWARD_AGENT]);
}

struct Agents(Arc<BTreeMap<String, PathBuf>>);

impl Agents {
    fn socket(&self, id: &str) -> Result<&PathBuf, Status> {
        let id = if id.is_empty() { DEFAULT_AGENT } else { id };
        let socket = self.0.get(id);
        socket.ok_or_else(|| Status::not_found(format!("no ssh agent {id:?} is forwarded")))
    }
}

#[async_trait]
impl Ssh for Agents {
    type ForwardAgentStream = BoxStream<'static, Result<BytesMessage, Status>>;

    async fn check_agent(&self, request: Request<CheckAgentRequest>) -> Result<Response<CheckAgentResponse>, Status> {
        self.socket(&request.into_inner().id)?;
        Ok(Response::new(CheckAgentResponse::default()))
    }

    async fn forward_agent(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::ForwardAgentStream>, Status> {
        let id = request.metadata().get(AGENT_ID).map(|id| id.to_str());
        let id = id
            .transpose()
            .map_err(|_| Status::invalid_argument("invalid agent id"))?;
        let socket = self.socket(id.unwrap_or_default())?;
        let agent = UnixStream::connect(socket).await.map_err(|error| {
            let socket = socket.display();
            Status::unavailable(format!("failed to connect to the ssh agent at {socket}: {error}"))
        })?;
        let requests = request.into_inner().map_ok(|message| message.data);
        let requests = StreamReader::new(requests.map_err(io::Error::other));
        let replies = stream::try_unfold((requests, agent), async |(mut requests, mut agent)| {
            let reply = exchange(&mut requests, &mut agent).await;
            let reply = reply.map_err(|error| Status::aborted(format!("ssh agent: {error}")))?;
            Ok(reply.map(|reply| (BytesMessage { data: reply.into() }, (requests, agent))))
        });
        Ok(Response::new(replies.boxed()))
    }
}

/// Answers one request; `None` once nobody asks, or the agent has hung up.
async fn exchange(requests: &mut (impl AsyncRead + Unpin), agent: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let Some(request) = frame::read(requests).await? else {
        return Ok(None);
    };
    if !only_uses_keys(&request) {
        return Ok(Some(FAILURE.to_vec()));
    }
    agent.write_all(&request).await?;
    frame::read(agent).await
}
