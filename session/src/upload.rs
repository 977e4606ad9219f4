//! Streams that only the client has, such as a build context from its standard input: each is pulled once.

use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use cairn_proto::upload::BytesMessage;
use cairn_proto::upload::upload_client::UploadClient;
use cairn_proto::upload::upload_server::{Upload, UploadServer};
use futures_util::{Stream, StreamExt, stream};
use tokio::io::{AsyncRead, AsyncReadExt};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::error::SessionError;
use crate::metadata_values;
use crate::packets::{self, Answer};
use crate::services::Services;
use crate::session::Session;

/// The host of URLs that stand for a client's stream: `http://buildkit-session/<id>`.
pub const HOST: &str = "buildkit-session";

const PULL: &str = "/moby.upload.v1.Upload/Pull";
const URL_PATH: &str = "urlpath";
const URL_HOST: &str = "urlhost";
/// Bytes per message.
const MESSAGE: usize = 64 << 10;

/// A stream of the client, as the daemon receives it.
pub struct Pulled {
    session: Session,
    messages: Pin<Box<dyn Stream<Item = Result<BytesMessage, Status>> + Send>>,
}

/// Asks the client for the stream that `http://buildkit-session<path>` stands for. It can be had once.
///
/// # Errors
/// [`SessionError::Unsupported`] if the client has none. That it has not this one shows in [`Pulled::next`].
pub fn pull(session: &Session, path: &str) -> Result<Pulled, SessionError> {
    session.require(PULL)?;
    let mut call = Request::new(stream::empty());
    metadata_values::insert(call.metadata_mut(), URL_PATH, &[path.to_owned()]);
    metadata_values::insert(call.metadata_mut(), URL_HOST, &[HOST.to_owned()]);
    let mut client = UploadClient::new(session.channel());
    Ok(Pulled {
        session: session.clone(),
        messages: packets::incoming(async move { client.pull(call).await }),
    })
}

impl Pulled {
    /// The next bytes; `None` at the end. Takes as long as whoever feeds the client's stream likes.
    ///
    /// # Errors
    /// [`SessionError`] if the client fails or leaves.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>, SessionError> {
        let message = self.session.until_closed(self.messages.next()).await?;
        let message = message.transpose().map_err(|status| SessionError::call(PULL, status))?;
        Ok(message.map(|message| message.data))
    }
}

/// A stream that the client offers.
pub type UploadSource = Box<dyn AsyncRead + Send + Unpin>;

/// Offers streams by id: `http://buildkit-session/<id>`.
pub fn serve(services: &mut Services, sources: HashMap<String, UploadSource>) {
    let uploads = Uploads {
        sources: Arc::new(Mutex::new(sources)),
    };
    services.add(UploadServer::new(uploads), &[PULL]);
}

struct Uploads {
    /// Those that nobody has asked for yet.
    sources: Arc<Mutex<HashMap<String, UploadSource>>>,
}

impl Uploads {
    fn take(&self, metadata: &MetadataMap) -> Option<UploadSource> {
        let path = metadata_values::read(metadata, URL_PATH).pop()?;
        let id = Path::new(&path).file_name()?.to_str()?;
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).remove(id)
    }
}

#[async_trait]
impl Upload for Uploads {
    type PullStream = Answer<BytesMessage>;

    async fn pull(&self, request: Request<Streaming<BytesMessage>>) -> Result<Response<Self::PullStream>, Status> {
        let source = self.take(request.metadata());
        let mut source = source.ok_or_else(|| Status::not_found("no such upload, or it was pulled already"))?;
        Ok(Response::new(Answer::start(|messages| async move {
            let failed = |error| Status::unknown(format!("failed to read what is to be uploaded: {error}"));
            loop {
                let mut data = BytesMut::with_capacity(MESSAGE);
                if source.read_buf(&mut data).await.map_err(failed)? == 0 {
                    return Ok(());
                }
                let message = BytesMessage { data: data.freeze() };
                if messages.send(message).await.is_err() {
                    return Ok(());
                }
            }
        })))
    }
}
