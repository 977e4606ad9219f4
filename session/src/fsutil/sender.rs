//! The sending side of a transfer: lists a tree and answers requests for content.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cairn_proto::fsutil::packet::PacketType;
use cairn_proto::fsutil::{Packet, Stat};
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Status;

use super::error::{BoxError, TransferError};
use super::text;
use crate::mode;

/// Size of a piece of content.
const CHUNK: usize = 32 << 10;
/// Files read at the same time.
const READERS: usize = 4;

/// A tree of files to send. Its methods block, and are called on threads where that is welcome.
pub trait Tree: Send + Sync + 'static {
    /// Calls `emit` for every entry in transfer order (see [`super::order`]); stops when it returns false.
    ///
    /// # Errors
    /// Whatever keeps the tree from being listed; the transfer fails with it.
    fn walk(&self, emit: &mut dyn FnMut(Stat) -> bool) -> Result<(), BoxError>;

    /// Opens the content of a regular file that `walk` emitted. `None` if it has vanished since; the receiver
    /// then sees an empty file, which is all that the protocol has to say about that.
    ///
    /// # Errors
    /// Whatever else keeps the file from being read; the transfer fails with it.
    fn open(&self, path: &Path) -> io::Result<Option<Box<dyn Read + Send>>>;
}

/// What was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SendSummary {
    /// Entries in the list.
    pub entries: u32,
    /// Bytes of content.
    pub content_bytes: u64,
}

/// Sends a tree over a pair of packet streams, and returns when the receiver says that it has everything.
///
/// `progress` is called with the bytes of content so far, from any thread.
///
/// # Errors
/// [`TransferError`]; the receiver has been told if the failure was on this side.
pub async fn send<S>(
    incoming: S,
    outgoing: mpsc::Sender<Packet>,
    tree: Arc<dyn Tree>,
    progress: Arc<dyn Fn(u64) + Send + Sync>,
) -> Result<SendSummary, TransferError>
where
    S: Stream<Item = Result<Packet, Status>> + Unpin + Send,
{
    let shared = Arc::new(Shared {
        tree,
        outgoing,
        progress,
        content_bytes: AtomicU64::new(0),
        state: Mutex::default(),
    });
    let result = run(incoming, &shared).await;
    shared.lock().is_stopped = true;
    if let Err(error) = &result {
        shared.report(error);
    }
    result
}

async fn run<S>(mut incoming: S, shared: &Arc<Shared>) -> Result<SendSummary, TransferError>
where
    S: Stream<Item = Result<Packet, Status>> + Unpin + Send,
{
    // Blocking work that outlives an abandoned transfer stops at its next packet: nobody receives it.
    let mut jobs: JoinSet<Result<(), TransferError>> = JoinSet::new();
    let walker = Arc::clone(shared);
    jobs.spawn_blocking(move || walker.list());
    loop {
        tokio::select! {
            Some(done) = jobs.join_next() => done.map_err(|_| TransferError::Stopped)??,
            packet = incoming.next() => {
                let packet = packet.ok_or(TransferError::EndedEarly)??;
                match packet.r#type() {
                    PacketType::PacketReq => {
                        if shared.request(packet.id)? {
                            let reader = Arc::clone(shared);
                            jobs.spawn_blocking(move || reader.answer());
                        }
                    }
                    PacketType::PacketFin => break,
                    PacketType::PacketErr => return Err(TransferError::FromReceiver(text(&packet.data))),
                    PacketType::PacketStat | PacketType::PacketData => {
                        return Err(TransferError::UnexpectedPacket("files from the receiver"));
                    }
                }
            }
        }
    }
    let entries = shared.finish()?;
    let fin = Packet {
        r#type: PacketType::PacketFin.into(),
        ..Default::default()
    };
    shared.outgoing.send(fin).await.map_err(|_| TransferError::EndedEarly)?;
    Ok(SendSummary {
        entries,
        content_bytes: shared.content_bytes.load(Ordering::Relaxed),
    })
}

struct Shared {
    tree: Arc<dyn Tree>,
    outgoing: mpsc::Sender<Packet>,
    progress: Arc<dyn Fn(u64) + Send + Sync>,
    content_bytes: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By id: the path of a file that may still be asked for.
    files: Vec<Option<Box<Path>>>,
    /// Asked for. Bounded, since each file can be asked for once.
    queue: VecDeque<(u32, Box<Path>)>,
    readers: usize,
    is_listed: bool,
    is_stopped: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends from a thread that may block; false once nobody receives.
    fn put(&self, packet: Packet) -> bool {
        self.outgoing.blocking_send(packet).is_ok()
    }

    fn list(&self) -> Result<(), TransferError> {
        let walked = self.tree.walk(&mut |stat| self.put_entry(stat));
        walked.map_err(TransferError::Source)?;
        self.lock().is_listed = true;
        self.put(Packet {
            r#type: PacketType::PacketStat.into(),
            ..Default::default()
        });
        Ok(())
    }

    fn put_entry(&self, stat: Stat) -> bool {
        let has_content = mode::is_regular(stat.mode) && stat.linkname.is_empty();
        let mut state = self.lock();
        // Known before it is sent, since the request may come at once.
        state.files.push(has_content.then(|| stat.path().into()));
        let is_stopped = state.is_stopped;
        drop(state);
        !is_stopped
            && self.put(Packet {
                r#type: PacketType::PacketStat.into(),
                stat: Some(stat),
                ..Default::default()
            })
    }

    /// Queues a request; true if another reader should be started for it.
    fn request(&self, id: u32) -> Result<bool, TransferError> {
        let mut state = self.lock();
        let file = state.files.get_mut(id as usize).and_then(Option::take);
        let path = file.ok_or(TransferError::InvalidId(id))?;
        state.queue.push_back((id, path));
        let is_reader_wanted = state.readers < READERS;
        if is_reader_wanted {
            state.readers += 1;
        }
        Ok(is_reader_wanted)
    }

    /// Answers requests until none is left.
    fn answer(&self) -> Result<(), TransferError> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let mut state = self.lock();
            let next = if state.is_stopped {
                None
            } else {
                state.queue.pop_front()
            };
            let Some((id, path)) = next else {
                state.readers -= 1;
                return Ok(());
            };
            drop(state);
            self.put_content(id, &path, &mut buffer)?;
        }
    }

    fn put_content(&self, id: u32, path: &Path, buffer: &mut [u8]) -> Result<(), TransferError> {
        let failed = |source: io::Error| TransferError::Source(format!("{}: {source}", path.display()).into());
        if let Some(mut file) = self.tree.open(path).map_err(failed)? {
            loop {
                let len = fill(&mut file, buffer).map_err(failed)?;
                let is_last = len < buffer.len();
                if len > 0 && !self.put(data(id, Bytes::copy_from_slice(&buffer[..len]))) {
                    return Ok(());
                }
                let total = self.content_bytes.fetch_add(len as u64, Ordering::Relaxed) + len as u64;
                (self.progress)(total);
                if is_last {
                    break;
                }
            }
        }
        self.put(data(id, Bytes::new()));
        Ok(())
    }

    fn finish(&self) -> Result<u32, TransferError> {
        let state = self.lock();
        if !state.is_listed {
            return Err(TransferError::UnexpectedPacket("end before the end of the list"));
        }
        // The receiver checks the number of entries, and ids are 32 bits wide.
        u32::try_from(state.files.len()).map_err(|_| TransferError::TooManyEntries(u32::MAX))
    }

    /// Tells the receiver, if there is room to; it will notice the end of the stream in any case.
    fn report(&self, error: &TransferError) {
        let data = error.to_string().into();
        let packet = Packet {
            r#type: PacketType::PacketErr.into(),
            data,
            ..Default::default()
        };
        if self.outgoing.try_send(packet).is_err() {
            tracing::debug!("receiver could not be told why a transfer failed");
        }
    }
}

fn data(id: u32, data: Bytes) -> Packet {
    Packet {
        r#type: PacketType::PacketData.into(),
        id,
        data,
        ..Default::default()
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}
