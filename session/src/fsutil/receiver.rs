//! The receiving side of a transfer: validates the list, asks for what the sink wants, hands over the content.
//!
//! One loop does both directions, so neither waits for the other: requests queue up here while the sender is
//! busy sending, and are written as soon as there is room.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::fsutil::packet::PacketType;
use cairn_proto::fsutil::{Packet, Stat};
use futures_util::{Stream, StreamExt};
use prost::Message;
use tokio::sync::mpsc;
use tonic::{Code, Status};

use super::error::{BoxError, TransferError};
use super::limits::{TransferLimits, max_content};
use super::validate::Validator;
use crate::mode;

/// What to do about an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing more is needed: the sink has the content, or there is none to have.
    Skip,
    /// Ask for the content. Means `Skip` for anything but a regular file that is no hard link.
    Fetch,
}

/// Where received files go.
///
/// Calls come one at a time and in order: every entry, `end_of_list` after the last, and for each fetched
/// entry its chunks and then `end_of_file`, interleaved with entries and with other files. Entries have passed
/// validation: paths are clean, relative, in order, within directories that came before. Symbolic link
/// targets are arbitrary. All of them are bytes, which need not be text. While a call is pending nothing is read, which holds the sender back.
pub trait ReceiveSink: Send {
    /// Takes an entry. `index` counts all entries from zero.
    fn entry(&mut self, index: u32, stat: Stat) -> impl Future<Output = Result<Decision, BoxError>> + Send;

    /// Takes the next piece of a fetched file.
    fn data(&mut self, index: u32, chunk: Bytes) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// A fetched file is complete.
    fn end_of_file(&mut self, index: u32) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// No more entries will come.
    fn end_of_list(&mut self) -> impl Future<Output = Result<(), BoxError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Everything came. Once this returns, the sender is told that it is stored.
    fn complete(&mut self) -> impl Future<Output = Result<(), BoxError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Told of the bytes of packets so far, with every packet.
    fn progress(&mut self, _total_bytes: u64) {}
}

/// What a transfer amounted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReceiveSummary {
    /// Entries in the list.
    pub entries: u32,
    /// Files whose content came over.
    pub files: u32,
    /// Bytes of content.
    pub content_bytes: u64,
    /// Bytes of packets.
    pub packet_bytes: u64,
}

/// Receives a tree over a pair of packet streams.
///
/// Returns when the sender has ended its stream. On failure the sender is told, if it still listens.
///
/// # Errors
/// [`TransferError`]; whatever the sink took so far is incomplete then.
pub async fn receive<S, K>(
    incoming: S,
    outgoing: mpsc::Sender<Packet>,
    limits: &TransferLimits,
    sink: &mut K,
) -> Result<ReceiveSummary, TransferError>
where
    S: Stream<Item = Result<Packet, Status>> + Unpin + Send,
    K: ReceiveSink,
{
    let mut receiver = Receiver {
        incoming,
        outgoing,
        sink,
        validator: Validator::new(limits),
        max_bytes: limits.max_bytes,
        max_pause: limits.max_pause,
        requests: VecDeque::new(),
        open: HashMap::new(),
        is_list_complete: false,
        summary: ReceiveSummary::default(),
    };
    let result = receiver.run().await;
    if let Err(error) = &result {
        receiver.report(error);
    }
    result
}

struct Receiver<'a, S, K> {
    incoming: S,
    outgoing: mpsc::Sender<Packet>,
    sink: &'a mut K,
    validator: Validator,
    max_bytes: u64,
    max_pause: Duration,
    /// Wanted, but not asked for yet. Bounded by the number of entries.
    requests: VecDeque<u32>,
    /// Wanted files, with the bytes that may still come.
    open: HashMap<u32, u64>,
    is_list_complete: bool,
    summary: ReceiveSummary,
}

impl<S, K> Receiver<'_, S, K>
where
    S: Stream<Item = Result<Packet, Status>> + Unpin + Send,
    K: ReceiveSink,
{
    async fn run(&mut self) -> Result<ReceiveSummary, TransferError> {
        while !self.is_complete() {
            let packet = self.packet().await?;
            self.apply(packet).await?;
        }
        self.sink.complete().await.map_err(TransferError::Sink)?;
        let finished = tokio::time::timeout(self.max_pause, self.finish()).await;
        finished.map_err(|_| TransferError::Stalled(self.max_pause))??;
        self.summary.entries = self.validator.entries();
        Ok(self.summary)
    }

    fn is_complete(&self) -> bool {
        self.is_list_complete && self.open.is_empty()
    }

    /// Waits for the next packet, sending requests meanwhile as there is room for them.
    async fn packet(&mut self) -> Result<Packet, TransferError> {
        let pause = tokio::time::sleep(self.max_pause);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                permit = self.outgoing.reserve(), if !self.requests.is_empty() => match permit {
                    Ok(permit) => {
                        let id = self.requests.pop_front().expect("checked above");
                        permit.send(Packet { r#type: PacketType::PacketReq.into(), id, ..Default::default() });
                    }
                    // The other side no longer reads; why, its own stream will tell.
                    Err(_) => self.requests.clear(),
                },
                packet = self.incoming.next() => return Ok(packet.ok_or(TransferError::EndedEarly)??),
                () = &mut pause => return Err(TransferError::Stalled(self.max_pause)),
            }
        }
    }

    async fn apply(&mut self, packet: Packet) -> Result<(), TransferError> {
        self.count(&packet)?;
        match packet.r#type() {
            PacketType::PacketStat => match packet.stat {
                Some(stat) => self.take_entry(stat).await,
                None => self.end_list().await,
            },
            PacketType::PacketData => self.take_data(packet.id, packet.data).await,
            PacketType::PacketErr => Err(TransferError::FromSender(text(&packet.data))),
            PacketType::PacketReq => Err(TransferError::UnexpectedPacket("request from the sender")),
            PacketType::PacketFin => Err(TransferError::UnexpectedPacket("end before the receiver's")),
        }
    }

    fn count(&mut self, packet: &Packet) -> Result<(), TransferError> {
        self.summary.packet_bytes += packet.encoded_len() as u64;
        if self.summary.packet_bytes > self.max_bytes {
            return Err(TransferError::TooManyBytes(self.max_bytes));
        }
        self.sink.progress(self.summary.packet_bytes);
        Ok(())
    }

    async fn take_entry(&mut self, stat: Stat) -> Result<(), TransferError> {
        if self.is_list_complete {
            return Err(TransferError::UnexpectedPacket("entry after the end of the list"));
        }
        let index = self.validator.accept(&stat)?;
        let has_content = mode::is_regular(stat.mode) && stat.linkname.is_empty();
        let budget = max_content(stat.size);
        let decision = self.sink.entry(index, stat).await.map_err(TransferError::Sink)?;
        if has_content && decision == Decision::Fetch {
            self.open.insert(index, budget);
            self.requests.push_back(index);
        }
        Ok(())
    }

    async fn end_list(&mut self) -> Result<(), TransferError> {
        if self.is_list_complete {
            return Err(TransferError::UnexpectedPacket("second end of the list"));
        }
        self.is_list_complete = true;
        self.sink.end_of_list().await.map_err(TransferError::Sink)
    }

    async fn take_data(&mut self, id: u32, data: Bytes) -> Result<(), TransferError> {
        let budget = self.open.get_mut(&id).ok_or(TransferError::InvalidId(id))?;
        if data.is_empty() {
            self.open.remove(&id);
            self.summary.files += 1;
            return self.sink.end_of_file(id).await.map_err(TransferError::Sink);
        }
        let len = data.len() as u64;
        *budget = budget.checked_sub(len).ok_or(TransferError::FileTooLarge(id))?;
        self.summary.content_bytes += len;
        self.sink.data(id, data).await.map_err(TransferError::Sink)
    }

    /// Exchanges the last packets and reads to the end of the stream, so that the sender's status is not lost.
    async fn finish(&mut self) -> Result<(), TransferError> {
        let fin = Packet {
            r#type: PacketType::PacketFin.into(),
            ..Default::default()
        };
        if self.outgoing.send(fin).await.is_err() {
            // As with requests, the sender's own stream says why it left.
            tracing::debug!("sender stopped listening before the end of a transfer");
        }
        let packet = self.packet().await?;
        self.count(&packet)?;
        match packet.r#type() {
            PacketType::PacketFin => {}
            PacketType::PacketErr => return Err(TransferError::FromSender(text(&packet.data))),
            _ => return Err(TransferError::UnexpectedPacket("something else than the end")),
        }
        match self.incoming.next().await {
            None => Ok(()),
            Some(Ok(_)) => Err(TransferError::UnexpectedPacket("something after the end")),
            // Some senders drop the call once both sides have said that they are done.
            Some(Err(status)) if status.code() == Code::Cancelled => Ok(()),
            Some(Err(status)) => Err(status.into()),
        }
    }

    /// Tells the sender, if there is room to; it will notice the end of the stream in any case.
    fn report(&self, error: &TransferError) {
        let data = error.to_string().into();
        let packet = Packet {
            r#type: PacketType::PacketErr.into(),
            data,
            ..Default::default()
        };
        if self.outgoing.try_send(packet).is_err() {
            tracing::debug!("sender could not be told why a transfer failed");
        }
    }
}

/// Text that the other side sent, kept to a readable length.
pub(crate) fn text(data: &[u8]) -> String {
    const MAX: usize = 4096;
    String::from_utf8_lossy(&data[..data.len().min(MAX)]).into_owned()
}
