//! The gateway: how clients and frontends drive a build.
//!
//! Whoever drives solves (lazily), looks into results, runs processes on them, and returns one, which then becomes the
//! result of the build, or of the frontend. Each driver is a [`Forwarder`] and sees what is its own.

mod containers;
mod exec;
mod failed;
mod forwarder;
pub(crate) mod meta;
mod ops;
mod result;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::{ops::check as check_op, result::check as check_result};

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::apicaps::ApiCap;
use cairn_proto::gateway::llb_bridge_server::LlbBridge;
use cairn_proto::gateway::{self as wire};
use cairn_proto::{names, rpc};
use cairn_solver::llb::caps;
use cairn_solver::{Bridge as _, Digest};
use futures_util::Stream;
use prost::Message as _;
use tonic::{Code, Request, Response, Status, Streaming};

use self::result::{result_from_wire, result_to_wire};
use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::{convert, jobs};

pub(crate) use self::forwarder::{Answer, Forwarder};

/// Header that names the build.
const BUILD_ID: &str = "buildkit-controlapi-buildid";
/// Largest file (or part of one) that is read in one call: a message has to fit it.
const MAX_READ: u64 = 15 << 20;

/// What the gateway offers, sorted.
const CAPS: &[&str] = &[
    "frontend.caps",
    "frontend.inputs",
    "gateway.evaluate",
    "gateway.exec",
    "gateway.exec.extrahosts",
    "gateway.exec.filesystem",
    "gateway.exec.secretenv",
    "gateway.exec.signals",
    "gateway.solve.evaluate",
    "gateway.solve.metadata",
    "gateway.warnings",
    "importcaches",
    "proto.refarray",
    "readdir",
    "readfile",
    "reference.attestations",
    "reference.output",
    "resolveimage",
    "resolveimage.resolvemode",
    "return",
    "returnmap",
    "solve.base",
    "solve.inlinereturn",
    "source.metaresolver",
    "source.metaresolver.http.checksumrequest",
    "source.metaresolver.image.attestations",
    "statfile",
];
/// What exporters and the history of builds offer; announced among the capabilities of the graph language.
const EXPORT_CAPS: &[&str] = &[
    // Such caches are refused in words: clients leave out in silence what is not announced.
    "cache.azblob",
    "cache.gha",
    "cache.s3",
    "exporter.image.annotations",
    "exporter.image.attestations",
    "exporter.multiple",
    "exporter.session",
    "exporter.sourcedateepoch",
    "gc.freespacefilter",
    "history.filter",
];

/// Serves [`LlbBridge`].
pub(crate) struct GatewayService {
    callers: Callers,
}

/// Who calls.
enum Callers {
    /// Clients; a header says whose build is meant.
    Clients(Daemon),
    /// One frontend, over a connection of its own.
    Frontend(Arc<Forwarder>),
}

impl GatewayService {
    /// For clients.
    pub(crate) fn for_clients(daemon: Daemon) -> Self {
        Self {
            callers: Callers::Clients(daemon),
        }
    }

    /// For a frontend.
    pub(crate) fn for_frontend(frontend: Arc<Forwarder>) -> Self {
        Self {
            callers: Callers::Frontend(frontend),
        }
    }

    async fn caller<T>(&self, request: &Request<T>) -> Result<Arc<Forwarder>, Status> {
        let daemon = match &self.callers {
            Callers::Clients(daemon) => daemon,
            Callers::Frontend(forwarder) => return Ok(forwarder.clone()),
        };
        let mut ids = request.metadata().get_all(BUILD_ID).iter();
        let id = match (ids.next(), ids.next()) {
            (Some(id), None) => id.to_str().ok(),
            _ => None,
        };
        let id = id.ok_or_else(|| Status::unknown("no buildid found in context"))?;
        Ok(daemon.jobs.get(id, jobs::GATEWAY_WAIT).await?.forwarder.clone())
    }
}

#[tonic::async_trait]
impl LlbBridge for GatewayService {
    type ExecProcessStream = Pin<Box<dyn Stream<Item = Result<wire::ExecMessage, Status>> + Send>>;

    async fn ping(&self, request: Request<wire::PingRequest>) -> Result<Response<wire::PongResponse>, Status> {
        let caller = self.caller(&request).await?;
        let info = caller.worker.info();
        let devices = caller.worker.devices().map_err(Failure::from)?.unwrap_or_default();
        let mut llb: Vec<&str> = caps::SUPPORTED.iter().chain(EXPORT_CAPS).copied().collect();
        llb.sort_unstable();
        Ok(Response::new(wire::PongResponse {
            frontend_api_caps: CAPS.iter().copied().map(capability).collect(),
            llb_caps: llb.into_iter().map(capability).collect(),
            workers: vec![convert::worker_record(&info, &devices, &[], 0)],
        }))
    }

    async fn solve(&self, request: Request<wire::SolveRequest>) -> Result<Response<wire::SolveResponse>, Status> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        let result = caller.solve(request).await.map_err(|failure| caller.failure(failure))?;
        Ok(Response::new(wire::SolveResponse {
            r#ref: String::new(),
            result: Some(result_to_wire(&result)),
        }))
    }

    async fn evaluate(
        &self,
        request: Request<wire::EvaluateRequest>,
    ) -> Result<Response<wire::EvaluateResponse>, Status> {
        let caller = self.caller(&request).await?;
        if let Some(reference) = caller.find(&request.get_ref().r#ref)? {
            let made = caller.bridge.evaluate(&reference).await;
            made.map_err(|error| caller.failure(error))?;
        }
        Ok(Response::new(wire::EvaluateResponse {}))
    }

    async fn r#return(&self, request: Request<wire::ReturnRequest>) -> Result<Response<wire::ReturnResponse>, Status> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        let outcome = match (request.error, request.result) {
            (Some(error), _) => Err(Failure::from(error)),
            (None, Some(result)) => Ok(result_from_wire(|id| caller.find(id), result)?),
            (None, None) => return Err(Status::unknown("gateway return must be either result or err")),
        };
        caller.answer(outcome)?;
        Ok(Response::new(wire::ReturnResponse {}))
    }

    async fn inputs(&self, request: Request<wire::InputsRequest>) -> Result<Response<wire::InputsResponse>, Status> {
        let caller = self.caller(&request).await?;
        let definitions = caller
            .inputs
            .iter()
            .map(|(name, input)| (name.clone(), input.to_wire()));
        Ok(Response::new(wire::InputsResponse {
            definitions: definitions.collect(),
        }))
    }

    async fn read_file(
        &self,
        request: Request<wire::ReadFileRequest>,
    ) -> Result<Response<wire::ReadFileResponse>, Status> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        let reference = caller.required(&request.r#ref)?;
        let range = range(request.range)?;
        let data = caller
            .bridge
            .read_file(&reference, names::path(&request.file_path), range)
            .await;
        Ok(Response::new(wire::ReadFileResponse {
            data: data.map_err(|error| file_error(caller.failure(error)))?,
        }))
    }

    async fn read_dir(
        &self,
        request: Request<wire::ReadDirRequest>,
    ) -> Result<Response<wire::ReadDirResponse>, Status> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        let reference = caller.required(&request.r#ref)?;
        let include = include(&request.include_pattern);
        let entries = caller
            .bridge
            .read_dir(&reference, names::path(&request.dir_path), include)
            .await;
        let entries = entries.map_err(|error| file_error(caller.failure(error)))?;
        Ok(Response::new(wire::ReadDirResponse {
            entries: entries.into_iter().map(convert::stat).collect(),
        }))
    }

    async fn stat_file(
        &self,
        request: Request<wire::StatFileRequest>,
    ) -> Result<Response<wire::StatFileResponse>, Status> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        let reference = caller.required(&request.r#ref)?;
        let stat = caller.bridge.stat_file(&reference, names::path(&request.path)).await;
        Ok(Response::new(wire::StatFileResponse {
            stat: Some(convert::stat(stat.map_err(file_error)?)),
        }))
    }

    async fn resolve_image_config(
        &self,
        request: Request<wire::ResolveImageConfigRequest>,
    ) -> Result<Response<wire::ResolveImageConfigResponse>, Status> {
        let caller = self.caller(&request).await?;
        let resolved = meta::resolve_image_config(&caller, request.into_inner()).await?;
        Ok(Response::new(resolved))
    }

    async fn resolve_source_meta(
        &self,
        request: Request<wire::ResolveSourceMetaRequest>,
    ) -> Result<Response<wire::ResolveSourceMetaResponse>, Status> {
        let caller = self.caller(&request).await?;
        let resolved = meta::resolve_source_meta(&caller, request.into_inner()).await?;
        Ok(Response::new(resolved))
    }

    async fn warn(&self, request: Request<wire::WarnRequest>) -> Result<Response<wire::WarnResponse>, Status> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        let vertex = match request.digest.as_str() {
            "" => None,
            digest => Some(Digest::parse(digest).map_err(|error| Status::invalid_argument(error.to_string()))?),
        };
        caller.bridge.warn(vertex, convert::warning_from_wire(request));
        Ok(Response::new(wire::WarnResponse {}))
    }

    async fn new_container(
        &self,
        request: Request<wire::NewContainerRequest>,
    ) -> Result<Response<wire::NewContainerResponse>, Status> {
        let caller = self.caller(&request).await?;
        containers::create(&caller, request.into_inner()).await?;
        Ok(Response::new(wire::NewContainerResponse {}))
    }

    async fn release_container(
        &self,
        request: Request<wire::ReleaseContainerRequest>,
    ) -> Result<Response<wire::ReleaseContainerResponse>, Status> {
        let caller = self.caller(&request).await?;
        let container = caller.containers.remove(&request.get_ref().container_id)?;
        container.release().await;
        Ok(Response::new(wire::ReleaseContainerResponse {}))
    }

    async fn exec_process(
        &self,
        request: Request<Streaming<wire::ExecMessage>>,
    ) -> Result<Response<Self::ExecProcessStream>, Status> {
        let caller = self.caller(&request).await?;
        Ok(Response::new(exec::serve(caller, request.into_inner())))
    }

    async fn read_file_container(
        &self,
        request: Request<wire::ReadFileRequest>,
    ) -> Result<Response<wire::ReadFileResponse>, Status> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        let (container, mount) = caller.containers.mount(&request.r#ref, request.mount_index)?;
        let data = container
            .read_file(mount, names::path(&request.file_path), range(request.range)?)
            .await;
        Ok(Response::new(wire::ReadFileResponse {
            data: data.map_err(file_error)?,
        }))
    }

    async fn read_dir_container(
        &self,
        request: Request<wire::ReadDirRequest>,
    ) -> Result<Response<wire::ReadDirResponse>, Status> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        let (container, mount) = caller.containers.mount(&request.r#ref, request.mount_index)?;
        let entries = container
            .read_dir(mount, names::path(&request.dir_path), include(&request.include_pattern))
            .await;
        let entries = entries.map_err(file_error)?;
        Ok(Response::new(wire::ReadDirResponse {
            entries: entries.into_iter().map(convert::stat).collect(),
        }))
    }

    async fn stat_file_container(
        &self,
        request: Request<wire::StatFileRequest>,
    ) -> Result<Response<wire::StatFileResponse>, Status> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        let (container, mount) = caller.containers.mount(&request.r#ref, request.mount_index)?;
        let stat = container.stat_file(mount, names::path(&request.path)).await;
        Ok(Response::new(wire::StatFileResponse {
            stat: Some(convert::stat(stat.map_err(file_error)?)),
        }))
    }
}

/// The part of a file that is asked for: offset and length.
pub(crate) fn range(wire: Option<wire::FileRange>) -> Result<Option<(u64, u64)>, Status> {
    let number = |n: i64| u64::try_from(n).map_err(|_| Status::invalid_argument("a negative range"));
    match wire {
        None => Ok(None),
        Some(range) => Ok(Some((number(range.offset)?, number(range.length)?.min(MAX_READ)))),
    }
}

fn include(pattern: &[u8]) -> Option<&[u8]> {
    (!pattern.is_empty()).then_some(pattern)
}

fn capability(id: &str) -> ApiCap {
    ApiCap {
        id: id.to_owned(),
        enabled: true,
        ..ApiCap::default()
    }
}

/// Clients tell errors about files by their text and expect no particular code.
fn file_error(error: impl Into<Failure>) -> Status {
    let status = Status::from(error.into());
    match status.code() {
        Code::NotFound => {
            let mut details = Bytes::copy_from_slice(status.details());
            // Clients refuse details that are of another code.
            if let Ok(mut wire) = rpc::Status::decode(details.clone())
                && !details.is_empty()
            {
                wire.code = Code::Unknown.into();
                details = wire.encode_to_vec().into();
            }
            Status::with_details(Code::Unknown, status.message(), details)
        }
        _ => status,
    }
}
