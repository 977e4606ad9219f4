//! The client's half: a service whose one method speaks one of two message types.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};

use cairn_proto::filesync::BytesMessage;
use cairn_proto::fsutil::Packet;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use tonic::body::Body;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::Service;

use super::disk::{self, ReceiveMode};
use super::target::{OpenStream, OutputStream};
use super::{DIFF_COPY, EXPORTER_ID, METADATA_PREFIX, MULTI_PLATFORM};
use crate::packets::Answer;
use crate::services::Services;

/// Where the output of one exporter goes.
#[derive(Clone)]
pub enum OutputTarget {
    /// A stream of bytes, such as an image archive.
    Stream(OpenStream),
    /// A directory.
    Directory {
        /// Where; created if missing.
        path: PathBuf,
        /// What becomes of files that are there already.
        mode: ReceiveMode,
    },
}

impl OutputTarget {
    /// Writes a stream to a file.
    #[must_use]
    pub fn file(path: PathBuf) -> Self {
        Self::Stream(Arc::new(move |_| {
            let path = path.clone();
            Box::pin(async move { OutputStream::file(&path).await.map(Some) })
        }))
    }

    /// Writes a stream to this process's standard output.
    #[must_use]
    pub fn stdout() -> Self {
        Self::Stream(Arc::new(|_| {
            Box::pin(async { Ok(Some(OutputStream::new(tokio::io::stdout()))) })
        }))
    }
}

/// Takes the output of exporters, by their index in the build request.
pub fn serve(services: &mut Services, targets: BTreeMap<u32, OutputTarget>) {
    services.add(
        FileSend {
            targets: Arc::new(targets),
        },
        &[DIFF_COPY],
    );
}

#[derive(Clone)]
struct FileSend {
    targets: Arc<BTreeMap<u32, OutputTarget>>,
}

impl FileSend {
    fn target(&self, metadata: &http::HeaderMap) -> Result<OutputTarget, Status> {
        let id = match metadata.get(EXPORTER_ID) {
            // What daemons meant before they numbered exporters.
            None => 0,
            Some(value) => value
                .to_str()
                .ok()
                .and_then(|id| id.parse().ok())
                .ok_or_else(|| Status::invalid_argument(format!("invalid {EXPORTER_ID} {value:?}")))?,
        };
        let target = self.targets.get(&id).cloned();
        target.ok_or_else(|| Status::unknown(format!("exporter {id} not found")))
    }
}

impl NamedService for FileSend {
    const NAME: &'static str = "moby.filesync.v1.FileSend";
}

impl Service<http::Request<Body>> for FileSend {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != DIFF_COPY {
            let status = Status::unimplemented(format!("unknown method {}", request.uri().path()));
            return Box::pin(async move { Ok(status.into_http()) });
        }
        let target = self.target(request.headers());
        Box::pin(async move {
            Ok(match target {
                Err(status) => status.into_http(),
                Ok(OutputTarget::Stream(open)) => {
                    Grpc::new(ProstCodec::<BytesMessage, BytesMessage>::default())
                        .streaming(ToStream(open), request)
                        .await
                }
                Ok(OutputTarget::Directory { path, mode }) => {
                    let service = ToDirectory { path, mode };
                    Grpc::new(ProstCodec::<Packet, Packet>::default())
                        .streaming(service, request)
                        .await
                }
            })
        })
    }
}

struct ToStream(OpenStream);

impl StreamingService<BytesMessage> for ToStream {
    type Response = BytesMessage;
    type ResponseStream = Answer<BytesMessage>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<BytesMessage>>) -> Self::Future {
        let open = Arc::clone(&self.0);
        Box::pin(async move {
            let opened = open(exporter_metadata(request.metadata())).await;
            let opened = opened.map_err(|error| Status::unknown(format!("failed to open output: {error}")))?;
            let Some(output) = opened else {
                return Err(Status::already_exists("output is not wanted"));
            };
            let incoming = request.into_inner();
            Ok(Response::new(Answer::start(move |answer| async move {
                let written = write(incoming, output).await;
                // Nothing is ever said in the answer; it ends with the writing.
                drop(answer);
                written
            })))
        })
    }
}

async fn write(mut incoming: Streaming<BytesMessage>, mut output: OutputStream) -> Result<(), Status> {
    let failed = |error| Status::unknown(format!("failed to write output: {error}"));
    while let Some(message) = incoming.next().await {
        output.write(&message?.data).await.map_err(failed)?;
    }
    output.finish().await.map_err(failed)
}

fn exporter_metadata(metadata: &MetadataMap) -> BTreeMap<String, String> {
    let pairs = metadata.iter().filter_map(|pair| match pair {
        KeyAndValueRef::Ascii(key, value) => Some((
            key.as_str().strip_prefix(METADATA_PREFIX)?.to_owned(),
            value.to_str().ok()?.to_owned(),
        )),
        KeyAndValueRef::Binary(..) => None,
    });
    pairs.collect()
}

struct ToDirectory {
    path: PathBuf,
    mode: ReceiveMode,
}

impl StreamingService<Packet> for ToDirectory {
    type Response = Packet;
    type ResponseStream = Answer<Packet>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Packet>>) -> Self::Future {
        let (path, mode) = (self.path.clone(), self.mode);
        Box::pin(async move {
            if mode == ReceiveMode::Mirror && request.metadata().get(MULTI_PLATFORM).is_none() {
                // Each platform would delete what the others wrote.
                return Err(Status::failed_precondition(
                    "daemon does not send all platforms in one tree",
                ));
            }
            let incoming = request.into_inner();
            Ok(Response::new(Answer::start(move |outgoing| async move {
                disk::receive(incoming, outgoing, path, mode).await?;
                Ok(())
            })))
        })
    }
}
