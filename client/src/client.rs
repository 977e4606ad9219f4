//! A connection to a daemon, and its simple calls.

use std::time::Duration;

use cairn_proto::control::control_client::ControlClient;
use cairn_proto::control::{DiskUsageRequest, InfoRequest, ListWorkersRequest, PruneRequest, UsageRecord};
use cairn_proto::explain::explain_client::ExplainClient;
use cairn_proto::types::{BuildkitVersion, WorkerRecord};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::Channel;

use crate::address::Address;
use crate::connection;
use crate::error::ClientError;

/// The largest message that either side of the API sends.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// A daemon to talk to. Clones share one connection.
#[derive(Debug, Clone)]
pub struct Client {
    control: ControlClient<Channel>,
    explain: ExplainClient<Channel>,
}

/// What [`Client::prune`] removes.
#[derive(Debug, Clone, Default)]
pub struct PruneOptions {
    /// Only records that match one of these; all when empty.
    pub filters: Vec<String>,
    /// Internal, frontend and shared records too.
    pub all: bool,
    /// Keep what was used within this time.
    pub keep_duration: Duration,
    /// Keep this many bytes of what was used last; zero keeps none.
    pub reserved_space_bytes: u64,
    /// Remove no more than it takes to have so many bytes in use; zero sets no such limit.
    pub max_used_space_bytes: u64,
    /// Remove no more than it takes to have so many bytes free on the disk; zero sets no such limit.
    pub min_free_space_bytes: u64,
}

impl Client {
    /// Connects to the daemon that listens at `address`.
    ///
    /// # Errors
    /// [`ClientError::Connect`] when nobody answers there.
    pub async fn connect(address: &Address) -> Result<Self, ClientError> {
        connection::connect(address).await.map(Self::from_channel)
    }

    /// Talks over a stream whose other end a daemon serves, such as an in-memory duplex.
    ///
    /// # Errors
    /// [`ClientError::ConnectStream`] when the other end is gone.
    pub async fn from_stream<S>(stream: S) -> Result<Self, ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let channel = connection::connect_stream(stream).await;
        channel.map(Self::from_channel).map_err(ClientError::ConnectStream)
    }

    /// Talks over a channel that is ready.
    pub fn from_channel(channel: Channel) -> Self {
        let control = ControlClient::new(channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let explain = ExplainClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Self { control, explain }
    }

    pub(crate) fn explain(&self) -> ExplainClient<Channel> {
        self.explain.clone()
    }

    pub(crate) fn control(&self) -> ControlClient<Channel> {
        self.control.clone()
    }

    /// Asks for the daemon's version.
    ///
    /// # Errors
    /// [`ClientError::Call`], with code `UNIMPLEMENTED` from old daemons.
    pub async fn info(&self) -> Result<BuildkitVersion, ClientError> {
        let response = self.control().info(InfoRequest {}).await;
        let response = response.map_err(|status| ClientError::call("ask for the daemon's version", &status))?;
        Ok(response.into_inner().buildkit_version.unwrap_or_default())
    }

    /// Lists the daemon's workers that match one of `filters`, all when there are none.
    ///
    /// # Errors
    /// [`ClientError::Call`].
    pub async fn list_workers(&self, filters: Vec<String>) -> Result<Vec<WorkerRecord>, ClientError> {
        let request = ListWorkersRequest { filter: filters };
        let response = self.control().list_workers(request).await;
        let response = response.map_err(|status| ClientError::call("list workers", &status))?;
        Ok(response.into_inner().record)
    }

    /// Lists what the cache holds, of what matches one of `filters`.
    ///
    /// # Errors
    /// [`ClientError::Call`].
    pub async fn disk_usage(&self, filters: Vec<String>) -> Result<Vec<UsageRecord>, ClientError> {
        let request = DiskUsageRequest {
            filter: filters,
            age_limit: 0,
        };
        let response = self.control().disk_usage(request).await;
        let response = response.map_err(|status| ClientError::call("ask for disk usage", &status))?;
        Ok(response.into_inner().record)
    }

    /// Removes what is not needed from the cache; calls `removed` for each record as it goes.
    ///
    /// # Errors
    /// [`ClientError::Call`]; what was removed until then stays removed.
    pub async fn prune(&self, options: PruneOptions, mut removed: impl FnMut(UsageRecord)) -> Result<(), ClientError> {
        let request = PruneRequest {
            filter: options.filters,
            all: options.all,
            keep_duration: i64::try_from(options.keep_duration.as_nanos()).unwrap_or(i64::MAX),
            reserved_space: i64::try_from(options.reserved_space_bytes).unwrap_or(i64::MAX),
            max_used_space: i64::try_from(options.max_used_space_bytes).unwrap_or(i64::MAX),
            min_free_space: i64::try_from(options.min_free_space_bytes).unwrap_or(i64::MAX),
        };
        let failed = |status: tonic::Status| ClientError::call("prune the cache", &status);
        let mut records = self.control().prune(request).await.map_err(failed)?.into_inner();
        while let Some(record) = records.message().await.map_err(failed)? {
            removed(record);
        }
        Ok(())
    }
}
