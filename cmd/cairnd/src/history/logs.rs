//! The log of a build as a blob: status messages, each after its length.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use cairn_proto::control::StatusResponse;
use cairn_solver::Digest;
use cairn_solver::llb::VertexDigest;
use cairn_solver::progress::Event;
use cairn_worker::content::ContentStore;
use futures_util::{Stream, StreamExt as _, stream};
use prost::Message as _;
use tokio::io::AsyncReadExt as _;

use super::HistoryError;
use crate::convert;

/// What such a blob is called.
pub(super) const MEDIA_TYPE: &str = "application/vnd.buildkit.status.v0";
/// Events in one message.
const BATCH: usize = 1000;
/// Most bytes of output in a blob. What comes after is left out; that it is, is said.
const MAX_OUTPUT: usize = 64 << 20;
/// Longest message that is read back.
const MAX_MESSAGE: u32 = 32 << 20;

/// What a log says about the whole build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) total: i32,
    pub(super) cached: i32,
    pub(super) completed: i32,
    pub(super) warnings: i32,
}

/// Counts steps and findings as they come by.
#[derive(Default)]
struct Tally {
    /// Whether each is cached, and completed.
    steps: BTreeMap<VertexDigest, (bool, bool)>,
    warnings: usize,
}

impl Tally {
    fn add(&mut self, event: &Event) {
        match event {
            Event::Vertex(state) => {
                let (cached, completed) = self.steps.entry(state.vertex.digest).or_default();
                *cached |= state.cached;
                *completed |= state.completed.is_some();
            }
            Event::Warning(..) => self.warnings += 1,
            Event::Status(..) | Event::Log(..) => {}
        }
    }

    fn counts(&self) -> Counts {
        let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        Counts {
            total: number(self.steps.len()),
            cached: number(self.steps.values().filter(|(cached, _)| *cached).count()),
            completed: number(self.steps.values().filter(|(_, completed)| *completed).count()),
            warnings: number(self.warnings),
        }
    }
}

/// Writes all that a build told, and counts it.
pub(super) fn write(events: impl Iterator<Item = Vec<Event>>, out: &mut dyn Write) -> io::Result<Counts> {
    let mut tally = Tally::default();
    let mut output = Output {
        written: 0,
        clipped: BTreeSet::new(),
    };
    let events = events.flatten().inspect(|event| tally.add(event));
    let mut events = events.filter_map(|event| output.admit(event));
    loop {
        let batch: Vec<Event> = events.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            break;
        }
        for message in convert::status_responses(batch) {
            let bytes = message.encode_to_vec();
            let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
            out.write_all(&len.to_le_bytes())?;
            out.write_all(&bytes)?;
        }
    }
    drop(events);
    out.flush()?;
    Ok(tally.counts())
}

/// How much output was written.
struct Output {
    written: usize,
    /// Vertices whose reader was told that there was more.
    clipped: BTreeSet<VertexDigest>,
}

impl Output {
    fn admit(&mut self, event: Event) -> Option<Event> {
        let Event::Log(vertex, mut log) = event else {
            return Some(event);
        };
        if self.written + log.data.len() > MAX_OUTPUT {
            self.written = MAX_OUTPUT;
            log.data = format!("\n[output clipped, history keeps {}MiB of a build]\n", MAX_OUTPUT >> 20).into();
            return self.clipped.insert(vertex).then_some(Event::Log(vertex, log));
        }
        self.written += log.data.len();
        Some(Event::Log(vertex, log))
    }
}

/// Reads what was written; nothing if nothing was.
pub(super) fn replay(
    content: ContentStore,
    build: String,
    blob: Option<Digest>,
) -> impl Stream<Item = Result<StatusResponse, HistoryError>> + Send {
    let opened = stream::once(async move {
        let Some(blob) = blob else { return Ok(None) };
        let file = tokio::task::spawn_blocking(move || content.reader(&blob)).await;
        let file = file.map_err(|_| HistoryError::Damaged(build.clone()))??;
        Ok(Some((
            tokio::io::BufReader::new(tokio::fs::File::from_std(file)),
            build,
        )))
    });
    opened.flat_map(|opened| match opened {
        Err(error) => stream::iter([Err(error)]).boxed(),
        Ok(state) => stream::unfold(state, async |state| {
            let (mut file, build) = state?;
            match next(&mut file).await {
                Ok(Some(message)) => Some((Ok(message), Some((file, build)))),
                Ok(None) => None,
                Err(error) => {
                    tracing::warn!(%build, %error, "failed to read the log of a build");
                    Some((Err(HistoryError::Damaged(build)), None))
                }
            }
        })
        .boxed(),
    })
}

async fn next(file: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<Option<StatusResponse>> {
    let mut len = [0; 4];
    match file.read_exact(&mut len).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        outcome => outcome?,
    };
    let len = u32::from_le_bytes(len);
    if len > MAX_MESSAGE {
        return Err(io::Error::other("a message is too long"));
    }
    let mut bytes = Vec::new();
    let read = file.take(len.into()).read_to_end(&mut bytes).await?;
    if read < len as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    StatusResponse::decode(&bytes[..]).map(Some).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use cairn_solver::progress::{Log, VertexHeader, VertexState};
    use cairn_worker::content::Durability;

    use super::*;

    fn vertex(name: &str, cached: bool, completed: bool) -> Event {
        let now = Some(SystemTime::UNIX_EPOCH);
        let header = VertexHeader {
            digest: VertexDigest::sha256(name.as_bytes()),
            inputs: Box::default(),
            name: name.into(),
            group: None,
        };
        Event::Vertex(VertexState {
            cached,
            started: now,
            completed: now.filter(|_| completed),
            ..VertexState::new(header)
        })
    }

    fn output(vertex: &str, bytes: usize) -> Event {
        let log = Log {
            stream: 1,
            timestamp: SystemTime::UNIX_EPOCH,
            data: vec![b'x'; bytes].into(),
        };
        Event::Log(VertexDigest::sha256(vertex.as_bytes()), log)
    }

    #[test]
    fn steps_are_counted_once_each() {
        let events = [
            vertex("a", false, false),
            vertex("a", false, true),
            vertex("b", true, true),
            vertex("c", false, false),
            Event::Warning(Some(VertexDigest::sha256(b"a")), Box::default()),
        ];
        let want = Counts {
            total: 3,
            cached: 1,
            completed: 2,
            warnings: 1,
        };
        let counts = write(
            [events[..2].to_vec(), events[2..].to_vec()].into_iter(),
            &mut io::sink(),
        );
        assert_eq!(counts.unwrap(), want);
    }

    #[tokio::test]
    async fn what_is_written_is_read_back_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let content = ContentStore::open(dir.path(), Durability::Relaxed).unwrap();
        let mut events: Vec<Event> = (0..2500).map(|n| vertex(&n.to_string(), false, true)).collect();
        events.extend([
            output("a", 100),
            output("a", MAX_OUTPUT),
            output("a", 100),
            output("b", 1),
        ]);
        let mut ingest = content.ingest().unwrap();
        write([events].into_iter(), &mut ingest).unwrap();
        let blob = ingest.commit(None, None).unwrap();
        let messages: Vec<StatusResponse> = replay(content.clone(), "r".to_owned(), Some(blob.digest))
            .map(Result::unwrap)
            .collect()
            .await;
        assert_eq!(
            messages.iter().map(|message| message.vertexes.len()).sum::<usize>(),
            2500
        );
        let logs: Vec<usize> = messages
            .iter()
            .flat_map(|message| &message.logs)
            .map(|log| log.msg.len())
            .collect();
        assert_eq!(logs.len(), 3, "a notice for each of the two vertices");
        assert_eq!(logs[0], 100);

        let nothing = replay(content.clone(), "r".to_owned(), None).count().await;
        assert_eq!(nothing, 0);
        for damaged in [&b"\xff\xff\xff\xff"[..], b"\x05\0\0\0ab", b"\x02\0\0\0\xff\xff"] {
            let blob = content.put(damaged).unwrap();
            let read: Vec<_> = replay(content.clone(), "r".to_owned(), Some(blob.digest))
                .collect()
                .await;
            assert!(
                matches!(read[..], [Err(HistoryError::Damaged(_))]),
                "{damaged:?}: {read:?}"
            );
        }
    }
}
