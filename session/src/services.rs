//! The set of services that a client offers in its session.

use std::convert::Infallible;

use cairn_proto::health;
use cairn_proto::health::health_check_response::ServingStatus;
use cairn_proto::health::health_server::{Health, HealthServer};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::{Routes, RoutesBuilder};
use tonic::{Request, Response, Status, async_trait};
use tower::Service;

const HEALTH: &[&str] = &[
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/List",
    "/grpc.health.v1.Health/Watch",
];

/// Services and the methods of them that are announced to the daemon.
pub struct Services {
    routes: RoutesBuilder,
    methods: Vec<&'static str>,
}

impl Default for Services {
    fn default() -> Self {
        Self::new()
    }
}

impl Services {
    /// Starts with the health service, which every session has.
    #[must_use]
    pub fn new() -> Self {
        let mut services = Self {
            routes: RoutesBuilder::default(),
            methods: Vec::new(),
        };
        services.add(HealthServer::new(Alive), HEALTH);
        services
    }

    /// Adds a service; `methods` are the full paths to announce.
    pub fn add<S>(&mut self, service: S, methods: &[&'static str]) -> &mut Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
        S: NamedService + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        self.routes.add_service(service);
        self.methods.extend_from_slice(methods);
        self
    }

    /// Full paths of all methods that are announced.
    #[must_use]
    pub fn methods(&self) -> &[&'static str] {
        &self.methods
    }

    pub(crate) fn into_routes(self) -> Routes {
        self.routes.routes()
    }
}

/// A session that answers at all is healthy.
struct Alive;

#[async_trait]
impl Health for Alive {
    type WatchStream = BoxStream<'static, Result<health::HealthCheckResponse, Status>>;

    async fn check(
        &self,
        _: Request<health::HealthCheckRequest>,
    ) -> Result<Response<health::HealthCheckResponse>, Status> {
        Ok(Response::new(serving()))
    }

    async fn list(
        &self,
        _: Request<health::HealthListRequest>,
    ) -> Result<Response<health::HealthListResponse>, Status> {
        Ok(Response::new(health::HealthListResponse {
            statuses: [(String::new(), serving())].into(),
        }))
    }

    async fn watch(&self, _: Request<health::HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        // The status never changes, and the stream lasts as long as the watcher likes.
        Ok(Response::new(
            stream::once(async { Ok(serving()) }).chain(stream::pending()).boxed(),
        ))
    }
}

fn serving() -> health::HealthCheckResponse {
    health::HealthCheckResponse {
        status: ServingStatus::Serving.into(),
    }
}
