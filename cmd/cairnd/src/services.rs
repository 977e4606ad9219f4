//! All services of the daemon, put together, and the small ones among them.

use std::pin::Pin;
use std::sync::Arc;

use cairn_proto::control::control_server::ControlServer;
use cairn_proto::explain::explain_server::ExplainServer;
use cairn_proto::gateway::llb_bridge_server::LlbBridgeServer;
use cairn_proto::health::health_check_response::ServingStatus;
use cairn_proto::health::health_server::{Health, HealthServer};
use cairn_proto::health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use cairn_proto::otlp::trace_service_server::{TraceService, TraceServiceServer};
use cairn_proto::otlp::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use futures_util::{Stream, StreamExt, stream};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::control::ControlService;
use crate::daemon::Daemon;
use crate::explain::ExplainService;
use crate::gateway::{Forwarder, GatewayService};

/// Largest message in either direction.
const MAX_MESSAGE: usize = 16 << 20;

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
    Routes::new(control)
        .add_service(gateway)
        .add_service(explain)
        .add_service(HealthServer::new(HealthService))
        .add_service(TraceServiceServer::new(NoTraces))
}

/// What a frontend can call on the connection that is its own.
pub(crate) fn routes_of_frontend(frontend: Arc<Forwarder>) -> Routes {
    let gateway = LlbBridgeServer::new(GatewayService::for_frontend(frontend))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    Routes::new(gateway).add_service(HealthServer::new(HealthService))
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

/// Takes the spans that clients send after a build. Nobody collects them.
struct NoTraces;

#[tonic::async_trait]
impl TraceService for NoTraces {
    async fn export(
        &self,
        _: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
