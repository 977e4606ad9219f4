//! The Control service: what clients call on the daemon's socket.

use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime};

use cairn_proto::control::control_server::Control;
use cairn_proto::control::{
    BuildHistoryEvent, BuildHistoryRequest, BytesMessage, DiskUsageRequest, DiskUsageResponse, InfoRequest,
    InfoResponse, ListWorkersRequest, ListWorkersResponse, PruneRequest, SolveRequest, SolveResponse, StatusRequest,
    StatusResponse, UpdateBuildHistoryRequest, UpdateBuildHistoryResponse, UsageRecord,
};
use cairn_session::SessionHeaders;
use cairn_solver::index::Removed;
use cairn_worker::filter;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::Instrument;

use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::history::HistoryError;
use crate::traces::Parent;
use crate::{convert, jobs, solve};

/// Response header by which clients correct for clocks that differ.
const CURRENT_TIMESTAMP: &str = "buildkit-current-timestamp";
/// Session messages under way to the client.
const SESSION_MESSAGES: usize = 32;

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves [`Control`].
pub(crate) struct ControlService {
    pub(crate) daemon: Daemon,
}

#[tonic::async_trait]
impl Control for ControlService {
    type PruneStream = Streamed<UsageRecord>;
    type StatusStream = Streamed<StatusResponse>;
    type SessionStream = Streamed<BytesMessage>;
    type ListenBuildHistoryStream = Streamed<BuildHistoryEvent>;

    async fn solve(&self, request: Request<SolveRequest>) -> Result<Response<SolveResponse>, Status> {
        let received = Instant::now();
        let parent = Parent::of(request.metadata());
        let request = request.into_inner();
        let span = tracing::info_span!("build", job.id = %request.r#ref);
        let daemon = self.daemon.clone();
        // On a task of its own, so that a panic ends this build alone; aborted when the client goes.
        let build = async move {
            let id = request.r#ref.clone();
            let outcome = solve::solve(&daemon, request, parent).await;
            if outcome.is_err() {
                daemon.jobs.refuse(&id);
            }
            let duration_ms = received.elapsed().as_secs_f64() * 1000.0;
            match &outcome {
                Ok(_) => tracing::info!(duration_ms, "build completed"),
                Err(failure) => tracing::info!(duration_ms, error = failure.message(), "build failed"),
            }
            outcome
        };
        let task = AbortOnDropHandle::new(tokio::spawn(build.instrument(span)));
        match task.await {
            Ok(outcome) => Ok(Response::new(outcome?)),
            Err(error) if error.is_cancelled() => Err(Status::cancelled("context canceled")),
            Err(_) => Err(Status::internal(
                "internal error: the build panicked; see the daemon's log",
            )),
        }
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<Self::StatusStream>, Status> {
        let id = request.into_inner().r#ref;
        if !self.daemon.jobs.is_running(&id)
            && let Some(log) = self.daemon.history.replay(&id)
        {
            let damaged = |error: HistoryError| Status::data_loss(error.to_string());
            return timestamped(log.map(move |message| message.map_err(damaged)).boxed());
        }
        let jobs = self.daemon.jobs.clone();
        // The answer's headers go out at once: clients wait for them before they do anything else.
        let events = stream::once(async move {
            let events = jobs.events(&id, jobs::STATUS_WAIT).await?;
            Ok::<_, Failure>(events.reader())
        });
        let messages = events.flat_map(|reader| match reader {
            Err(failure) => stream::iter([Err(Status::from(failure))]).boxed(),
            Ok(reader) => stream::unfold(reader, async |mut reader| {
                let events = reader.next().await?;
                Some((
                    stream::iter(convert::status_responses(events).into_iter().map(Ok)),
                    reader,
                ))
            })
            .flatten()
            .boxed(),
        });
        timestamped(messages.boxed())
    }

    async fn session(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let invalid = |error: cairn_session::SessionError| Status::invalid_argument(error.to_string());
        let headers = SessionHeaders::from_metadata(request.metadata()).map_err(invalid)?;
        let incoming = request.into_inner().map(|message| message.map(|message| message.data));
        let (outgoing, messages) = mpsc::channel(SESSION_MESSAGES);
        let registered = self.daemon.sessions.register(headers, incoming, outgoing).await;
        let handle = registered.map_err(|error| Status::unavailable(error.to_string()))?;
        // The session lasts as long as the stream that carries it.
        let messages = ReceiverStream::new(messages).map(move |data| {
            let _open = &handle;
            Ok(BytesMessage { data })
        });
        Ok(Response::new(messages.boxed()))
    }

    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        Ok(Response::new(InfoResponse {
            buildkit_version: Some(convert::version()),
        }))
    }

    async fn list_workers(
        &self,
        request: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        let worker = &self.daemon.worker;
        let info = worker.info();
        let filters =
            filter::Filters::parse(&request.into_inner().filter).map_err(|error| invalid_filter("worker", &error))?;
        let matches = filters.matches(|path| filter::worker_field(&info, path));
        let devices = worker.devices().map_err(Failure::from)?.unwrap_or_default();
        let record = convert::worker_record(&info, &devices, &self.daemon.config.gc, worker.disk_size());
        Ok(Response::new(ListWorkersResponse {
            record: if matches { vec![record] } else { Vec::new() },
        }))
    }

    async fn disk_usage(&self, request: Request<DiskUsageRequest>) -> Result<Response<DiskUsageResponse>, Status> {
        let request = request.into_inner();
        let filters = filter::Filters::parse(&request.filter).map_err(|error| invalid_filter("diskusage", &error))?;
        let min_age = nanoseconds(request.age_limit)?;
        let now = SystemTime::now();
        let is_old = |record: &cairn_worker::service::UsageRecord| {
            let last_used = record.last_used_at.unwrap_or(record.created_at);
            now.duration_since(last_used).unwrap_or_default() >= min_age
        };
        let records = self.daemon.worker.disk_usage().await.map_err(Failure::from)?;
        let record = records
            .into_iter()
            .filter(|record| is_old(record) && filters.matches(|path| filter::usage_field(record, path)))
            .map(convert::usage_record)
            .collect();
        Ok(Response::new(DiskUsageResponse { record }))
    }

    async fn prune(&self, request: Request<PruneRequest>) -> Result<Response<Self::PruneStream>, Status> {
        let request = request.into_inner();
        filter::Filters::parse(&request.filter).map_err(|error| invalid_filter("prune", &error))?;
        let request = cairn_worker::service::PruneRequest {
            filters: request.filter,
            all: request.all,
            keep_duration: nanoseconds(request.keep_duration)?,
            reserved_space: bytes(request.reserved_space)?,
            max_used_space: bytes(request.max_used_space)?,
            min_free_space: bytes(request.min_free_space)?,
        };
        let removed = self
            .daemon
            .prune(&request, Removed::Pruned)
            .await
            .map_err(Failure::from)?;
        let removed = removed.into_iter().map(convert::usage_record).map(Ok);
        Ok(Response::new(stream::iter(removed).boxed()))
    }

    async fn listen_build_history(
        &self,
        request: Request<BuildHistoryRequest>,
    ) -> Result<Response<Self::ListenBuildHistoryStream>, Status> {
        self.daemon.history.settled().await;
        timestamped(self.daemon.history.listen(request.get_ref())?)
    }

    async fn update_build_history(
        &self,
        request: Request<UpdateBuildHistoryRequest>,
    ) -> Result<Response<UpdateBuildHistoryResponse>, Status> {
        self.daemon.history.settled().await;
        self.daemon.history.update(request.into_inner()).await?;
        Ok(Response::new(UpdateBuildHistoryResponse {}))
    }
}

fn timestamped<T>(messages: Streamed<T>) -> Result<Response<Streamed<T>>, Status> {
    let mut response = Response::new(messages);
    let now = jiff::Timestamp::now().to_string();
    let now = now.parse().map_err(|_| Status::internal("the clock cannot be read"))?;
    response.metadata_mut().insert(CURRENT_TIMESTAMP, now);
    Ok(response)
}

fn invalid_filter(what: &str, error: &filter::FilterError) -> Status {
    Status::new(
        Code::InvalidArgument,
        format!("failed to parse {what} filters: {error}"),
    )
}

fn nanoseconds(wire: i64) -> Result<Duration, Status> {
    let invalid = |_| Status::invalid_argument(format!("a duration of {wire} ns makes no sense"));
    u64::try_from(wire).map(Duration::from_nanos).map_err(invalid)
}

fn bytes(wire: i64) -> Result<u64, Status> {
    u64::try_from(wire).map_err(|_| Status::invalid_argument(format!("{wire} bytes make no sense")))
}
