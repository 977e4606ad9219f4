//! Many small messages that nobody reads for a while: the sender is held back, the session goes on.

use std::time::Duration;

use cairn_proto::filesync::file_sync_client::FileSyncClient;
use cairn_proto::filesync::file_sync_server::{FileSync, FileSyncServer};
use cairn_proto::fsutil::Packet;
use cairn_proto::fsutil::packet::PacketType;
use cairn_session::Services;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::support::{Transport, connect};

/// The ends of this many files, of which all fit into the window of one call.
const MESSAGES: u32 = 60_000;
const PATIENCE: Duration = Duration::from_secs(60);

fn packet(id: u32) -> Packet {
    Packet {
        r#type: PacketType::PacketData.into(),
        id,
        ..Packet::default()
    }
}

/// Counts what it has given away. Each message goes into a frame of its own: nothing more is there yet when it is sent.
fn one_at_a_time(sent: watch::Sender<u32>) -> impl Stream<Item = Packet> + Send + 'static {
    stream::unfold((0, sent), async |(next, sent)| {
        tokio::task::yield_now().await;
        sent.send_replace(next);
        (next < MESSAGES).then(|| (packet(next), (next + 1, sent)))
    })
}

/// Reads only once everything is under way.
async fn read_late(mut messages: Streaming<Packet>, mut sent: watch::Receiver<u32>) -> Result<u32, Status> {
    let all = tokio::time::timeout(PATIENCE, sent.wait_for(|sent| *sent == MESSAGES)).await;
    let all = all.map_err(|_| Status::deadline_exceeded("the sender is held back too early"))?;
    drop(all.map_err(|_| Status::aborted("the sender was stopped"))?);
    let mut count = 0;
    while let Some(packet) = messages.next().await {
        assert_eq!(packet?.id, count);
        count += 1;
    }
    Ok(count)
}

/// A client's end that sends, and one that is sent to.
struct Client {
    sends: watch::Sender<u32>,
    is_sent_to: watch::Receiver<u32>,
}

#[async_trait]
impl FileSync for Client {
    type DiffCopyStream = BoxStream<'static, Result<Packet, Status>>;
    type TarStreamStream = BoxStream<'static, Result<Packet, Status>>;

    async fn diff_copy(&self, _: Request<Streaming<Packet>>) -> Result<Response<Self::DiffCopyStream>, Status> {
        let messages = one_at_a_time(self.sends.clone()).map(Ok);
        Ok(Response::new(messages.boxed()))
    }

    async fn tar_stream(&self, request: Request<Streaming<Packet>>) -> Result<Response<Self::TarStreamStream>, Status> {
        let read = read_late(request.into_inner(), self.is_sent_to.clone());
        Ok(Response::new(
            stream::once(async move { Ok(packet(read.await?)) }).boxed(),
        ))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_sends_may_wait() {
    let (sends, is_sent_to) = watch::channel(0);
    let sent = is_sent_to.clone();
    let mut services = Services::new();
    services.add(FileSyncServer::new(Client { sends, is_sent_to }), &[]);
    let connected = connect(Transport::Memory, services).await;
    let mut client = FileSyncClient::new(connected.session.channel());
    let answer = client.diff_copy(stream::pending()).await.unwrap().into_inner();
    assert_eq!(read_late(answer, sent).await.unwrap(), MESSAGES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_daemon_sends_may_wait() {
    let (sends, is_sent_to) = watch::channel(0);
    let sent = sends.clone();
    let mut services = Services::new();
    services.add(FileSyncServer::new(Client { sends, is_sent_to }), &[]);
    let connected = connect(Transport::Memory, services).await;
    let mut client = FileSyncClient::new(connected.session.channel());
    let mut answer = client.tar_stream(one_at_a_time(sent)).await.unwrap().into_inner();
    assert_eq!(answer.next().await.unwrap().unwrap(), packet(MESSAGES));
}
