//! Receives what a client's files look like, as a list in one file, and few of the files themselves.

use std::collections::HashMap;

use bytes::Bytes;
use cairn_patterns::{PatternError, PatternSet};
use cairn_proto::fsutil::Stat;
use cairn_session::fsutil::{BoxError, Decision, ReceiveSink};
use cairn_session::mode;
use prost::Message as _;

use super::handle::Tree;
use super::receive::Receiver;

/// The file with the list, as clients know it: of each entry its length (32 bits, the lowest byte first) and its
/// description.
const LIST: &str = ".fsutil-metadata";
/// The list is handed on in pieces of this size.
const PIECE: usize = 64 << 10;
/// The list is the receiver's first file.
const LIST_INDEX: u32 = 0;

/// One transfer of which most files are only listed.
pub struct ListingReceiver {
    receiver: Receiver,
    /// Files that are received themselves.
    wanted: PatternSet,
    /// Of what is received itself, the receiver's numbers by those of the client.
    indexes: HashMap<u32, u32>,
    /// Entries that the receiver has been given.
    given: u32,
    /// Directories around the current entry that the receiver has not been given.
    around: Vec<Stat>,
    list: Vec<u8>,
}

impl ListingReceiver {
    /// Receives into `receiver`, with the files that match `wanted`.
    ///
    /// # Errors
    /// If a pattern is malformed.
    pub fn new(receiver: Receiver, wanted: &[String]) -> Result<Self, PatternError> {
        Ok(Self {
            receiver,
            wanted: PatternSet::new(wanted)?,
            indexes: HashMap::new(),
            given: 0,
            around: Vec::new(),
            list: Vec::new(),
        })
    }

    /// The tree that was received; `None` if the transfer did not complete.
    pub fn into_tree(self) -> Option<Tree> {
        self.receiver.into_tree()
    }

    async fn give(&mut self, stat: Stat) -> Result<Decision, BoxError> {
        let index = self.given;
        self.given += 1;
        self.receiver.entry(index, stat).await
    }

    /// Announces the list before everything else.
    async fn begin(&mut self) -> Result<(), BoxError> {
        if self.given > 0 {
            return Ok(());
        }
        let stat = Stat {
            path: LIST.into(),
            mode: 0o644,
            // Not known yet, and so never that of an earlier list.
            size: i64::MAX,
            ..Stat::default()
        };
        self.give(stat).await.map(drop)
    }

    async fn enlist(&mut self, stat: &Stat) -> Result<(), BoxError> {
        let length = u32::try_from(stat.encoded_len())?;
        self.list.extend(length.to_le_bytes());
        stat.encode(&mut self.list)?;
        if self.list.len() >= PIECE {
            let piece = Bytes::from(std::mem::take(&mut self.list));
            self.receiver.data(LIST_INDEX, piece).await?;
        }
        Ok(())
    }
}

impl ReceiveSink for ListingReceiver {
    async fn entry(&mut self, index: u32, stat: Stat) -> Result<Decision, BoxError> {
        self.begin().await?;
        // A file of this name would be hidden by the list.
        if stat.path == LIST.as_bytes() {
            return Ok(Decision::Skip);
        }
        self.enlist(&stat).await?;
        let is_below = |dir: &Stat| {
            stat.path
                .strip_prefix(dir.path.as_slice())
                .is_some_and(|rest| rest.starts_with(b"/"))
        };
        while self.around.last().is_some_and(|dir| !is_below(dir)) {
            self.around.pop();
        }
        if !self.wanted.matches(&stat.path)? {
            if mode::to_unix(stat.mode).is_some_and(|mode| mode & libc::S_IFMT == libc::S_IFDIR) {
                self.around.push(stat);
            }
            return Ok(Decision::Skip);
        }
        for dir in std::mem::take(&mut self.around) {
            self.give(dir).await?;
        }
        self.indexes.insert(index, self.given);
        self.give(stat).await
    }

    async fn data(&mut self, index: u32, chunk: Bytes) -> Result<(), BoxError> {
        let index = self
            .indexes
            .get(&index)
            .ok_or("content of a file that is only listed")?;
        self.receiver.data(*index, chunk).await
    }

    async fn end_of_file(&mut self, index: u32) -> Result<(), BoxError> {
        let index = self
            .indexes
            .get(&index)
            .ok_or("content of a file that is only listed")?;
        self.receiver.end_of_file(*index).await
    }

    async fn complete(&mut self) -> Result<(), BoxError> {
        self.begin().await?;
        let rest = Bytes::from(std::mem::take(&mut self.list));
        if !rest.is_empty() {
            self.receiver.data(LIST_INDEX, rest).await?;
        }
        self.receiver.end_of_file(LIST_INDEX).await?;
        self.receiver.complete().await
    }

    fn progress(&mut self, total_bytes: u64) {
        self.receiver.progress(total_bytes);
    }
}
