//! What is kept to explain builds: beside every key, and about every build. None of it enters a key.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::cache_key::{CacheKey, Preimage};
use crate::llb::VertexDigest;
use crate::worker::{ContentSelector, ResultId};

/// Builds that are remembered.
pub const MAX_BUILDS: usize = 50;
/// Steps that are remembered of one build.
pub const MAX_STEPS: usize = 2_000;
/// Keys that are remembered of one site.
pub const MAX_SITE_KEYS: usize = 8;

/// Milliseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Millis(pub u64);

impl Millis {
    /// This moment.
    pub fn now() -> Self {
        SystemTime::now().into()
    }
}

impl From<SystemTime> for Millis {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

impl From<Millis> for SystemTime {
    fn from(time: Millis) -> Self {
        // A moment that the clock cannot show was never recorded.
        let since = Duration::from_millis(time.0);
        Self::UNIX_EPOCH.checked_add(since).unwrap_or(Self::UNIX_EPOCH)
    }
}

/// What went into a key, and how that came about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The parts of the key.
    pub preimage: Preimage,
    /// What is known beside them.
    pub evidence: Evidence,
}

/// What is known about the making of a result, beside what its key consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Display name of the step.
    pub name: String,
    /// Where the step is written down.
    pub place: Option<Place>,
    /// When it was begun.
    pub made_at: Millis,
    /// Variables of the step that its source file declares as arguments.
    pub arguments: Vec<String>,
    /// One per input, in order.
    pub inputs: Vec<InputEvidence>,
}

/// A line of a file that builds are described in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Name of the file, as clients know it.
    pub file: String,
    /// The first line, counted from 1.
    pub line: u32,
}

/// The input that a step was identified by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputEvidence {
    /// The input's key.
    pub key: CacheKey,
    /// What of it counts by content; empty if the input counts by its key.
    pub selectors: Vec<ContentSelector>,
    /// The result in which the selected content was found; `None` is scratch, or that it counts by its key.
    pub result: Option<ResultId>,
}

/// Where results went that are not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// When, or when it was noticed.
    pub at: Millis,
    /// How.
    pub how: Removed,
}

/// How results went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Removed {
    /// Somebody asked for it.
    Pruned,
    /// By the rules that keep the cache small.
    Collected,
    /// In a way that nobody told: a crash, or hands in the state directory.
    Lost,
    /// There never were any: the step did not end well.
    NotFinished,
}

/// Identifies where a step stands, whatever it does there: a hash of whose build it is and of how it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteId(pub [u8; 32]);

/// A key that a site had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteKey {
    /// The key.
    pub key: CacheKey,
    /// Number of the build that brought it.
    pub first: u64,
    /// Number of the last build that had it.
    pub last: u64,
}

/// A build that is over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSummary {
    /// Position in the order of builds; given by the index.
    #[serde(skip)]
    pub number: u64,
    /// The id that its client gave it.
    pub id: String,
    /// Tells builds of different things apart, so that they are not compared; may be empty.
    pub scope: String,
    /// When it began.
    pub started: Millis,
    /// When it ended.
    pub ended: Millis,
    /// Why it failed; empty if it did not.
    pub error: String,
    /// How many steps it had.
    pub steps: usize,
    /// How many of them ran.
    pub ran: usize,
}

/// What became of one step of a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Identity.
    pub vertex: VertexDigest,
    /// Display name.
    pub name: String,
    /// Kind of op.
    pub kind: String,
    /// The key, if it came to be identified.
    pub key: Option<CacheKey>,
    /// What was decided.
    pub verdict: Verdict,
    /// Whether it failed.
    pub has_failed: bool,
    /// Its inputs among the steps of the build; `None` for one that was left out.
    pub inputs: Vec<Option<u32>>,
}

/// What was decided about a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Nothing that was done needed it.
    NotNeeded,
    /// Its result was known.
    Cached,
    /// A client's directory was received.
    Received,
    /// It ran, because no result was known.
    Ran {
        /// What became of a result that was known once.
        removed: Option<Removal>,
    },
    /// It ran although a result might be known, because the build was told so.
    IgnoredCache,
    /// It ran although a result might be known, because this input did.
    AfterInput(u32),
}

impl Verdict {
    /// Whether the step ran.
    pub fn has_run(self) -> bool {
        matches!(self, Self::Ran { .. } | Self::IgnoredCache | Self::AfterInput(_))
    }
}

/// A build to be remembered.
#[derive(Clone, Debug, Default)]
pub struct BuildRecord {
    /// About the whole.
    pub summary: BuildSummary,
    /// Its steps, inputs before what uses them; at most [`MAX_STEPS`].
    pub steps: Vec<StepRecord>,
    /// Which keys are had where.
    pub sites: Vec<(SiteId, CacheKey)>,
    /// Keys of steps that did not end well, and what they are made of.
    pub unfinished: Vec<(CacheKey, std::sync::Arc<Known>)>,
}

/// Puts `key` in front of what a site had, for the build of this number.
pub(super) fn add_to_site(site: &mut Vec<SiteKey>, key: CacheKey, number: u64) {
    let known = site.iter().position(|known| known.key == key);
    let first = known.map_or(number, |at| site.remove(at).first);
    site.insert(
        0,
        SiteKey {
            key,
            first,
            last: number,
        },
    );
    site.truncate(MAX_SITE_KEYS);
}
