//! The gateway: how clients drive a build themselves.
//!
//! Every call names its build in a header. A client solves (lazily), looks into results, and returns one, which then
//! becomes the result of its Solve call.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::apicaps::ApiCap;
use cairn_proto::gateway::llb_bridge_server::LlbBridge;
use cairn_proto::gateway::{self as wire};
use cairn_proto::pb;
use cairn_solver::llb::{Definition, ResolveMode, caps};
use cairn_solver::worker::ImageQuery;
use cairn_solver::{Bridge, BridgeRef, Digest, FrontendRefs, FrontendRequest, FrontendResult};
use futures_util::Stream;
use futures_util::future::try_join_all;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::jobs::{self, Job};
use crate::{convert, solve};

/// Header that names the build.
const BUILD_ID: &str = "buildkit-controlapi-buildid";
/// Largest file (or part of one) that is read in one call: a message has to fit it.
const MAX_READ: u64 = 15 << 20;

/// What the gateway offers, sorted.
const CAPS: &[&str] = &[
    "frontend.caps",
    "frontend.inputs",
    "gateway.evaluate",
    "gateway.solve.evaluate",
    "gateway.solve.metadata",
    "gateway.warnings",
    "proto.refarray",
    "readdir",
    "readfile",
    "reference.output",
    "resolveimage",
    "resolveimage.resolvemode",
    "return",
    "returnmap",
    "solve.base",
    "solve.inlinereturn",
    "source.metaresolver",
    "statfile",
];
/// What exporters offer; announced among the capabilities of the graph language.
const EXPORT_CAPS: &[&str] = &["exporter.multiple", "exporter.sourcedateepoch"];

/// Serves [`LlbBridge`].
pub(crate) struct GatewayService {
    pub(crate) daemon: Daemon,
}

impl GatewayService {
    async fn job<T>(&self, request: &Request<T>) -> Result<Arc<Job>, Status> {
        let mut ids = request.metadata().get_all(BUILD_ID).iter();
        let id = match (ids.next(), ids.next()) {
            (Some(id), None) => id.to_str().ok(),
            _ => None,
        };
        let id = id.ok_or_else(|| Status::unknown("no buildid found in context"))?;
        Ok(self.daemon.jobs.get(id, jobs::GATEWAY_WAIT).await?)
    }
}

#[tonic::async_trait]
impl LlbBridge for GatewayService {
    type ExecProcessStream = Pin<Box<dyn Stream<Item = Result<wire::ExecMessage, Status>> + Send>>;

    async fn ping(&self, request: Request<wire::PingRequest>) -> Result<Response<wire::PongResponse>, Status> {
        self.job(&request).await?;
        let info = self.daemon.worker.info();
        let mut llb: Vec<&str> = caps::SUPPORTED.iter().chain(EXPORT_CAPS).copied().collect();
        llb.sort_unstable();
        Ok(Response::new(wire::PongResponse {
            frontend_api_caps: CAPS.iter().copied().map(capability).collect(),
            llb_caps: llb.into_iter().map(capability).collect(),
            workers: vec![convert::worker_record(&info, &[], 0)],
        }))
    }

    async fn solve(&self, request: Request<wire::SolveRequest>) -> Result<Response<wire::SolveResponse>, Status> {
        let job = self.job(&request).await?;
        let request = request.into_inner();
        let result = self.solve_request(&job, request).await?;
        Ok(Response::new(wire::SolveResponse {
            r#ref: String::new(),
            result: Some(result_to_wire(&result)),
        }))
    }

    async fn evaluate(
        &self,
        request: Request<wire::EvaluateRequest>,
    ) -> Result<Response<wire::EvaluateResponse>, Status> {
        let job = self.job(&request).await?;
        if let Some(reference) = find(&job, &request.get_ref().r#ref)? {
            job.bridge.evaluate(&reference).await.map_err(Failure::from)?;
        }
        Ok(Response::new(wire::EvaluateResponse {}))
    }

    async fn r#return(&self, request: Request<wire::ReturnRequest>) -> Result<Response<wire::ReturnResponse>, Status> {
        let job = self.job(&request).await?;
        let request = request.into_inner();
        let outcome = match (request.error, request.result) {
            (Some(error), _) => Err(Failure::from(error)),
            (None, Some(result)) => Ok(result_from_wire(&job, result)?),
            (None, None) => return Err(Status::unknown("gateway return must be either result or err")),
        };
        job.answer(outcome)?;
        Ok(Response::new(wire::ReturnResponse {}))
    }

    async fn inputs(&self, request: Request<wire::InputsRequest>) -> Result<Response<wire::InputsResponse>, Status> {
        let job = self.job(&request).await?;
        let definitions = job.inputs.iter().map(|(name, input)| (name.clone(), input.to_wire()));
        Ok(Response::new(wire::InputsResponse {
            definitions: definitions.collect(),
        }))
    }

    async fn read_file(
        &self,
        request: Request<wire::ReadFileRequest>,
    ) -> Result<Response<wire::ReadFileResponse>, Status> {
        let job = self.job(&request).await?;
        let request = request.into_inner();
        let reference = required(&job, &request.r#ref)?;
        let number = |n: i64| u64::try_from(n).map_err(|_| Status::invalid_argument("a negative range"));
        let range = match request.range {
            None => None,
            Some(range) => Some((number(range.offset)?, number(range.length)?.min(MAX_READ))),
        };
        let data = job.bridge.read_file(&reference, &request.file_path, range).await;
        Ok(Response::new(wire::ReadFileResponse {
            data: data.map_err(file_error)?,
        }))
    }

    async fn read_dir(
        &self,
        request: Request<wire::ReadDirRequest>,
    ) -> Result<Response<wire::ReadDirResponse>, Status> {
        let job = self.job(&request).await?;
        let request = request.into_inner();
        let reference = required(&job, &request.r#ref)?;
        let include = (!request.include_pattern.is_empty()).then_some(request.include_pattern.as_str());
        let entries = job.bridge.read_dir(&reference, &request.dir_path, include).await;
        let entries = entries.map_err(file_error)?;
        Ok(Response::new(wire::ReadDirResponse {
            entries: entries.into_iter().map(convert::stat).collect(),
        }))
    }

    async fn stat_file(
        &self,
        request: Request<wire::StatFileRequest>,
    ) -> Result<Response<wire::StatFileResponse>, Status> {
        let job = self.job(&request).await?;
        let request = request.into_inner();
        let reference = required(&job, &request.r#ref)?;
        let stat = job.bridge.stat_file(&reference, &request.path).await;
        Ok(Response::new(wire::StatFileResponse {
            stat: Some(convert::stat(stat.map_err(file_error)?)),
        }))
    }

    async fn resolve_image_config(
        &self,
        request: Request<wire::ResolveImageConfigRequest>,
    ) -> Result<Response<wire::ResolveImageConfigResponse>, Status> {
        let job = self.job(&request).await?;
        let request = request.into_inner();
        if request.resolver_type != 0 {
            return Err(Status::unimplemented("OCI layouts are not supported by this daemon"));
        }
        let query = ImageQuery {
            reference: request.r#ref.clone(),
            platform: request.platform.as_ref().map(convert::platform_from_wire),
            mode: resolve_mode(&request.resolve_mode)?,
            layout: None,
        };
        let image = job.bridge.resolve_image(query, &request.log_name).await;
        let image = image.map_err(Failure::from)?;
        Ok(Response::new(wire::ResolveImageConfigResponse {
            digest: image.digest.to_string(),
            config: image.config,
            r#ref: request.r#ref,
        }))
    }

    async fn resolve_source_meta(
        &self,
        request: Request<wire::ResolveSourceMetaRequest>,
    ) -> Result<Response<wire::ResolveSourceMetaResponse>, Status> {
        let job = self.job(&request).await?;
        let request = request.into_inner();
        let source = request
            .source
            .ok_or_else(|| Status::invalid_argument("source is required"))?;
        let Some(reference) = source.identifier.strip_prefix("docker-image://") else {
            return Err(Status::unimplemented(format!(
                "resolving {} is not supported by this daemon",
                source.identifier
            )));
        };
        let options = request.image.unwrap_or_default();
        if options.attestation_chain || !options.resolve_attestations.is_empty() {
            return Err(Status::unimplemented("attestations are not supported by this daemon"));
        }
        let query = ImageQuery {
            reference: reference.to_owned(),
            platform: request.platform.as_ref().map(convert::platform_from_wire),
            mode: resolve_mode(&request.resolve_mode)?,
            layout: None,
        };
        let image = job.bridge.resolve_image(query, &request.log_name).await;
        let image = image.map_err(Failure::from)?;
        Ok(Response::new(wire::ResolveSourceMetaResponse {
            source: Some(source),
            image: Some(wire::ResolveSourceImageResponse {
                digest: image.digest.to_string(),
                config: if options.no_config { Bytes::new() } else { image.config },
                attestation_chain: None,
            }),
            git: None,
            http: None,
        }))
    }

    async fn warn(&self, request: Request<wire::WarnRequest>) -> Result<Response<wire::WarnResponse>, Status> {
        let job = self.job(&request).await?;
        let request = request.into_inner();
        let digest = Digest::parse(&request.digest).map_err(|error| Status::invalid_argument(error.to_string()))?;
        job.bridge.warn(digest, convert::warning_from_wire(request));
        Ok(Response::new(wire::WarnResponse {}))
    }

    async fn new_container(
        &self,
        _: Request<wire::NewContainerRequest>,
    ) -> Result<Response<wire::NewContainerResponse>, Status> {
        Err(no_containers())
    }

    async fn release_container(
        &self,
        _: Request<wire::ReleaseContainerRequest>,
    ) -> Result<Response<wire::ReleaseContainerResponse>, Status> {
        Err(no_containers())
    }

    async fn exec_process(
        &self,
        _: Request<Streaming<wire::ExecMessage>>,
    ) -> Result<Response<Self::ExecProcessStream>, Status> {
        Err(no_containers())
    }

    async fn read_file_container(
        &self,
        _: Request<wire::ReadFileRequest>,
    ) -> Result<Response<wire::ReadFileResponse>, Status> {
        Err(no_containers())
    }

    async fn read_dir_container(
        &self,
        _: Request<wire::ReadDirRequest>,
    ) -> Result<Response<wire::ReadDirResponse>, Status> {
        Err(no_containers())
    }

    async fn stat_file_container(
        &self,
        _: Request<wire::StatFileRequest>,
    ) -> Result<Response<wire::StatFileResponse>, Status> {
        Err(no_containers())
    }
}

impl GatewayService {
    async fn solve_request(&self, job: &Job, request: wire::SolveRequest) -> Result<FrontendResult, Failure> {
        if request.source_policies.iter().any(|policy| !policy.rules.is_empty()) {
            return Err(Failure::unknown("source policies are not supported by this daemon"));
        }
        let result = match (request.definition, request.frontend.as_str()) {
            (Some(_), frontend) if !frontend.is_empty() => {
                return Err(Failure::unknown(
                    "cannot solve with both Definition and Frontend specified",
                ));
            }
            (Some(definition), _) => FrontendResult {
                refs: FrontendRefs::Single(job.bridge.solve(Definition::from_wire(definition)).await?),
                ..FrontendResult::default()
            },
            (None, "") => FrontendResult::default(),
            (None, frontend) => {
                let inputs = request.frontend_inputs.into_iter();
                let request = FrontendRequest {
                    options: request.frontend_opt,
                    inputs: inputs
                        .map(|(name, definition)| (name, Definition::from_wire(definition)))
                        .collect(),
                };
                solve::run_frontend(job, frontend, request).await?
            }
        };
        if request.evaluate {
            let refs = match &result.refs {
                FrontendRefs::Single(reference) => vec![reference],
                FrontendRefs::Platforms(refs) => refs.values().collect(),
            };
            let refs = refs.into_iter().flatten();
            try_join_all(refs.map(|reference| job.bridge.evaluate(reference))).await?;
        }
        Ok(result)
    }
}

fn no_containers() -> Status {
    Status::unimplemented("containers are not offered by this daemon's gateway")
}

fn capability(id: &str) -> ApiCap {
    ApiCap {
        id: id.to_owned(),
        enabled: true,
        ..ApiCap::default()
    }
}

/// The result called `id`; an empty id is scratch.
fn find(job: &Job, id: &str) -> Result<Option<BridgeRef>, Status> {
    if id.is_empty() {
        return Ok(None);
    }
    let found = job.bridge.find(id);
    found
        .map(Some)
        .ok_or_else(|| Status::unknown(format!("no such ref: {id}")))
}

fn required(job: &Job, id: &str) -> Result<BridgeRef, Status> {
    find(job, id)?.ok_or_else(|| Status::unknown("empty ref: "))
}

/// Clients tell errors about files by their text and expect no particular code.
fn file_error(error: cairn_solver::SolveError) -> Status {
    let status = Status::from(Failure::from(error));
    match status.code() {
        Code::NotFound => Status::unknown(status.message()),
        _ => status,
    }
}

fn resolve_mode(text: &str) -> Result<ResolveMode, Status> {
    match text {
        "" | "default" => Ok(ResolveMode::Default),
        "pull" => Ok(ResolveMode::Pull),
        "local" => Ok(ResolveMode::Local),
        other => Err(Status::invalid_argument(format!("invalid resolve mode {other:?}"))),
    }
}

fn ref_to_wire(reference: Option<&BridgeRef>) -> wire::Ref {
    match reference {
        // Never a message without any field: as the value of a map it would be left out of the encoding, and clients
        // written in Go take a missing value for a null pointer.
        None => wire::Ref {
            id: String::new(),
            def: Some(pb::Definition::default()),
        },
        Some(reference) => wire::Ref {
            id: reference.id.clone(),
            def: Some(pb::Definition::clone(&reference.definition.to_wire())),
        },
    }
}

fn result_to_wire(result: &FrontendResult) -> wire::Result {
    let refs = match &result.refs {
        FrontendRefs::Single(reference) => wire::result::Result::Ref(ref_to_wire(reference.as_ref())),
        FrontendRefs::Platforms(refs) => wire::result::Result::Refs(wire::RefMap {
            refs: refs
                .iter()
                .map(|(platform, reference)| (platform.clone(), ref_to_wire(reference.as_ref())))
                .collect(),
        }),
    };
    wire::Result {
        metadata: result.metadata.clone(),
        attestations: BTreeMap::new(),
        result: Some(refs),
    }
}

fn result_from_wire(job: &Job, result: wire::Result) -> Result<FrontendResult, Status> {
    if !result.attestations.is_empty() {
        return Err(Status::unimplemented("attestations are not supported by this daemon"));
    }
    let find = |id: &str| match find(job, id) {
        Ok(found) => Ok(found),
        Err(_) => Err(Status::unknown(format!("return reference {id} not found"))),
    };
    let map = |refs: Vec<(String, String)>| {
        refs.into_iter()
            .map(|(platform, id)| Ok((platform, find(&id)?)))
            .collect::<Result<_, Status>>()
            .map(FrontendRefs::Platforms)
    };
    let refs = match result.result {
        None => FrontendRefs::Single(None),
        Some(wire::result::Result::RefDeprecated(id)) => FrontendRefs::Single(find(&id)?),
        Some(wire::result::Result::Ref(reference)) => FrontendRefs::Single(find(&reference.id)?),
        Some(wire::result::Result::RefsDeprecated(refs)) => map(refs.refs.into_iter().collect())?,
        Some(wire::result::Result::Refs(refs)) => map(refs
            .refs
            .into_iter()
            .map(|(platform, reference)| (platform, reference.id))
            .collect())?,
    };
    Ok(FrontendResult {
        refs,
        metadata: result.metadata,
    })
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn scratch_for_a_platform_is_an_entry_with_a_value() {
        let result = FrontendResult {
            refs: FrontendRefs::Platforms([("linux/arm64".to_owned(), None)].into_iter().collect()),
            ..FrontendResult::default()
        };
        let Some(wire::result::Result::Refs(refs)) = result_to_wire(&result).result else {
            panic!("one result for all platforms");
        };
        // refs (1): an entry of 17 bytes, with key (1) and value (2).
        let expected = b"\x0a\x11\x0a\x0blinux/arm64\x12\x02\x12\x00";
        assert_eq!(refs.encode_to_vec(), expected);
    }
}
