//! The daemon's half.

use std::time::Duration;

use cairn_proto::sshforward::ssh_client::SshClient;
use cairn_proto::sshforward::{BytesMessage, CheckAgentRequest};
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::io::ReaderStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Request};

use super::{AGENT_ID, CHECK_AGENT, FORWARD_AGENT};
use crate::error::SessionError;
use crate::fsutil::text;
use crate::session::Session;

const CHECK_TIMEOUT: Duration = Duration::from_secs(30);
/// Size of the byte messages we send.
const CHUNK: usize = 32 << 10;
/// Most connections to one socket at a time; more wait.
const MAX_CONNECTIONS: usize = 64;
/// How long to leave a socket alone that no connection can be taken from.
const PAUSE: Duration = Duration::from_millis(200);

/// What a client says when it is asked for an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lending {
    /// It lends the agent.
    Granted,
    /// It does not know one of that id, in its own words.
    Refused(String),
    /// It lends none at all.
    Unsupported,
}

/// Asks whether the client lends an agent of that id.
///
/// # Errors
/// [`SessionError`] if the client cannot answer.
pub async fn check_agent(session: &Session, id: &str) -> Result<Lending, SessionError> {
    let mut client = SshClient::new(session.channel());
    let request = CheckAgentRequest { id: id.to_owned() };
    match session
        .unary(CHECK_AGENT, CHECK_TIMEOUT, client.check_agent(request))
        .await
    {
        Ok(_) => Ok(Lending::Granted),
        Err(SessionError::Unsupported { .. }) => Ok(Lending::Unsupported),
        Err(SessionError::Call { status, .. }) => match status.code() {
            Code::Unimplemented => Ok(Lending::Unsupported),
            // Docker's client has no code of its own for an id that it does not know.
            Code::NotFound | Code::Unknown => Ok(Lending::Refused(text(status.message().as_bytes()))),
            _ => Err(SessionError::Call {
                method: CHECK_AGENT,
                status,
            }),
        },
        Err(error) => Err(error),
    }
}

/// Joins every connection to `listener` to the client's agent of that id. Never ends.
///
/// # Cancel safety
/// Dropping the future ends all connections.
pub async fn serve_connections(session: Session, id: String, listener: UnixListener) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((connection, _)) => {
                let (session, id) = (session.clone(), id.clone());
                connections.spawn(async move {
                    if let Err(error) = forward(&session, &id, connection).await {
                        tracing::debug!(%error, agent = id, "a connection to an ssh agent failed");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "could not take a connection to an ssh agent");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn forward(session: &Session, id: &str, connection: UnixStream) -> Result<(), SessionError> {
    session.require(FORWARD_AGENT)?;
    let id = AsciiMetadataValue::try_from(id).map_err(|_| SessionError::InvalidHeader {
        header: AGENT_ID,
        reason: "not printable".to_owned(),
    })?;
    let (reader, mut writer) = connection.into_split();
    let requests = ReaderStream::with_capacity(reader, CHUNK)
        .take_while(|read| std::future::ready(read.is_ok()))
        .filter_map(|read| std::future::ready(read.ok().map(|data| BytesMessage { data })));
    let mut request = Request::new(requests);
    request.metadata_mut().insert(AGENT_ID, id);
    let mut client = SshClient::new(session.channel());
    let failed = |status| SessionError::call(FORWARD_AGENT, status);
    let exchange = async {
        let mut replies = client.forward_agent(request).await.map_err(failed)?.into_inner();
        while let Some(reply) = replies.message().await.map_err(failed)? {
            if writer.write_all(&reply.data).await.is_err() {
                // Whoever asked has gone.
                break;
            }
        }
        Ok(())
    };
    session.until_closed(exchange).await?
}
