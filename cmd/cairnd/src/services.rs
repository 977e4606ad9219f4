//! All services of the daemon, put together, and the small ones among them.

use std::pin::Pin;
use std::sync::Arc;

use cairn_proto::content::content_server::{self, ContentServer};
use cairn_proto::control::control_server::{self, ControlServer};
use cairn_proto::explain::explain_server::{self, ExplainServer};
use cairn_proto::gateway::llb_bridge_server::{self, LlbBridgeServer};
use cairn_proto::health::health_check_response::ServingStatus;
use cairn_proto::health::health_server::{self, Health, HealthServer};
use cairn_proto::health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use cairn_proto::otlp::trace_service_server::{self, TraceServiceServer};
use futures_util::{Stream, StreamExt, stream};
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_reflection::server::{v1, v1alpha};

use crate::content::ContentService;
use crate::control::ControlService;
use crate::daemon::Daemon;
use crate::explain::ExplainService;
use crate::gateway::{Forwarder, GatewayService};
use crate::traces::TraceReceiver;
use crate::trailers;

/// Largest message in either direction.
const MAX_MESSAGE: usize = 16 << 20;

/// The names of the services of a daemon, besides the one that tells them.
const SERVED: &[&str] = &[
    control_server::SERVICE_NAME,
    llb_bridge_server::SERVICE_NAME,
    explain_server::SERVICE_NAME,
    content_server::SERVICE_NAME,
    health_server::SERVICE_NAME,
    trace_service_server::SERVICE_NAME,
];

/// The services of `daemon`.
pub(crate) fn routes(daemon: &Daemon) -> Routes {
    let control = ControlServer::new(ControlService { daemon: daemon.clone() })
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let gateway = LlbBridgeServer::new(GatewayService::for_clients(daemon.clone()))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let explain = ExplainServer::new(ExplainService { daemon: daemon.clone() })
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let content = ContentServer::new(ContentService {
        stores: vec![daemon.worker.blobs(), daemon.history.content().clone()],
    });
    let routes = match reflection() {
        Ok((v1, v1alpha)) => Routes::new(v1).add_service(v1alpha),
        Err(error) => {
            tracing::error!(%error, "clients cannot ask which services there are");
            Routes::default()
        }
    };
    let routes = routes
        .add_service(control)
        .add_service(gateway)
        .add_service(explain)
        .add_service(content)
        .add_service(HealthServer::new(HealthService))
        .add_service(TraceServiceServer::new(TraceReceiver(daemon.history.traces().clone())));
    trailers::bounded(routes)
}

/// Tells clients which services there are, and what their messages look like; in both versions of that service.
fn reflection() -> Result<
    (
        v1::ServerReflectionServer<impl v1::ServerReflection>,
        v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection>,
    ),
    tonic_reflection::server::Error,
> {
    let builder = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(cairn_proto::FILE_DESCRIPTORS);
        // What the descriptions also describe is served by clients.
        SERVED
            .iter()
            .fold(builder, |builder, name| builder.with_service_name(*name))
    };
    Ok((builder().build_v1()?, builder().build_v1alpha()?))
}

/// What a frontend can call on the connection that is its own.
pub(crate) fn routes_of_frontend(frontend: Arc<Forwarder>) -> Routes {
    let gateway = LlbBridgeServer::new(GatewayService::for_frontend(frontend))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    trailers::bounded(Routes::new(gateway).add_service(HealthServer::new(HealthService)))
}

/// Says that the daemon is there: it answers, so it is.
struct HealthService;

const SERVING: HealthCheckResponse = HealthCheckResponse {
    status: ServingStatus::Serving as i32,
};

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match request.get_ref().service.as_str() {
            "" => Ok(Response::new(SERVING)),
            other => Err(Status::not_found(format!("unknown service {other}"))),
        }
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        Ok(Response::new(HealthListResponse {
            statuses: [(String::new(), SERVING)].into(),
        }))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        // One state, for as long as there is somebody to tell.
        let states = stream::iter([Ok(SERVING)]).chain(stream::pending());
        Ok(Response::new(states.boxed()))
    }
}
