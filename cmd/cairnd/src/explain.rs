//! Cairn's own service: why steps of builds ran.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cairn_proto::control::SolveRequest;
use cairn_proto::explain::explain_server::Explain;
use cairn_proto::explain::{
    Build as WireBuild, Cause as WireCause, Explanation as WireExplanation, FileChange, Link as WireLink,
    ListBuildsRequest, ListBuildsResponse, Verdict as WireVerdict, WhyRequest, WhyResponse,
};
use cairn_solver::Build;
use cairn_solver::engine::{Cause, Detail, ExplainError, Explanation, Link};
use cairn_solver::index::{BuildSummary, CacheIndex, IndexError, StepRecord, Verdict};
use cairn_solver::worker::{ChangeKind, ContentChange};
use futures_util::FutureExt as _;
use tonic::{Request, Response, Status};

use crate::daemon::Daemon;

/// Most steps that are explained in full in one answer.
const MAX_MATCHES: usize = 20;
/// Longest text of a failure that is kept, in characters.
const MAX_ERROR: usize = 1_000;
/// The kind of step that receives a client's files.
const DIRECTORY: &str = "directory";

/// Writes down what became of a build when dropped, however it ends.
pub(crate) struct Remember<'a> {
    daemon: &'a Daemon,
    build: Arc<Build>,
    session: String,
    summary: BuildSummary,
}

impl<'a> Remember<'a> {
    pub(crate) fn new(daemon: &'a Daemon, build: Arc<Build>, request: &SolveRequest) -> Self {
        Self {
            daemon,
            build,
            session: request.session.clone(),
            summary: BuildSummary {
                id: request.r#ref.clone(),
                started: SystemTime::now().into(),
                error: "the build was given up".to_owned(),
                ..BuildSummary::default()
            },
        }
    }

    /// Takes note of how the build ended.
    pub(crate) fn ended(&mut self, error: Option<&str>) {
        self.summary.error = error.unwrap_or_default().chars().take(MAX_ERROR).collect();
    }
}

impl Drop for Remember<'_> {
    fn drop(&mut self) {
        let session = self.daemon.sessions.get(&self.session, Duration::ZERO).now_or_never();
        let mut summary = std::mem::take(&mut self.summary);
        // A client's directory tells what it builds; what is there already is found without waiting.
        if let Some(Ok(session)) = session {
            session.shared_key().clone_into(&mut summary.scope);
        }
        let record = self.build.account(summary);
        // Reading files in order to answer a question is no build that anybody would ask about.
        if record.steps.iter().all(|step| step.kind == DIRECTORY) {
            return;
        }
        if let Err(error) = self.daemon.engine.index().record_build(record) {
            tracing::warn!(%error, "a build is not remembered");
        }
    }
}

/// Serves [`Explain`].
pub(crate) struct ExplainService {
    pub(crate) daemon: Daemon,
}

#[tonic::async_trait]
impl Explain for ExplainService {
    async fn list_builds(&self, _: Request<ListBuildsRequest>) -> Result<Response<ListBuildsResponse>, Status> {
        let builds = self.read(|index| index.builds()).await?;
        Ok(Response::new(ListBuildsResponse {
            builds: builds.into_iter().map(build).collect(),
        }))
    }

    async fn why(&self, request: Request<WhyRequest>) -> Result<Response<WhyResponse>, Status> {
        let WhyRequest { build: id, step } = request.into_inner();
        let builds = self.read(|index| index.builds()).await?;
        let found = choose_build(builds, &id)?;
        let number = found.number;
        let steps = self.read(move |index| index.steps(number)).await?;
        let (wanted, detail) = if step.is_empty() {
            (those_that_ran(&steps), Detail::Brief)
        } else {
            (choose_steps(&steps, &step)?, Detail::Full)
        };
        let explained = self.daemon.engine.explain(&found, &steps, &wanted, detail).await;
        let explained = explained.map_err(|error| explain_status(&error))?;
        let explanations = wanted.into_iter().zip(explained);
        Ok(Response::new(WhyResponse {
            build: Some(build(found)),
            explanations: explanations.map(|(at, explained)| explanation(at, explained)).collect(),
        }))
    }
}

impl ExplainService {
    /// Reads the index, with everything in it that was written until now.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn CacheIndex) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, Status> {
        let index = self.daemon.engine.index().clone();
        let task = tokio::task::spawn_blocking(move || {
            if let Err(error) = index.flush() {
                tracing::warn!(%error, "explaining without the last writes");
            }
            read(&*index)
        });
        let outcome = task.await.map_err(|error| Status::internal(error.to_string()))?;
        outcome.map_err(|error| explain_status(&error.into()))
    }
}

fn explain_status(error: &ExplainError) -> Status {
    match error {
        ExplainError::NoStep(_) => Status::not_found(error.to_string()),
        ExplainError::Index(_) | ExplainError::Worker(_) => Status::internal(error.to_string()),
    }
}

/// The build of that id, or whose id begins so; the newest if nothing is said.
fn choose_build(builds: Vec<BuildSummary>, id: &str) -> Result<BuildSummary, Status> {
    let mut found = builds.into_iter().filter(|build| build.id.starts_with(id));
    let first = found.next().ok_or_else(|| {
        Status::not_found(if id.is_empty() {
            "no build is remembered".to_owned()
        } else {
            format!("no build {id:?} is remembered")
        })
    })?;
    let is_clear = id.is_empty() || first.id == id || found.next().is_none();
    is_clear
        .then_some(first)
        .ok_or_else(|| Status::invalid_argument(format!("more than one build has an id that begins with {id:?}")))
}

/// Everything that ran; receiving files is no work of the build.
fn those_that_ran(steps: &[StepRecord]) -> Vec<usize> {
    let ran = |step: &StepRecord| step.verdict.has_run() || step.has_failed;
    (0..steps.len()).filter(|&at| ran(&steps[at])).collect()
}

/// The steps that a text means: a number, the beginning of a digest or of a name, with or without the label before it.
fn choose_steps(steps: &[StepRecord], text: &str) -> Result<Vec<usize>, Status> {
    let missing = || Status::not_found(format!("no step {text:?} in this build"));
    if let Ok(number) = text.trim_start_matches('#').parse::<usize>() {
        let at = number.checked_sub(1).filter(|&at| at < steps.len());
        return at.map(|at| vec![at]).ok_or_else(missing);
    }
    let wanted = text.to_lowercase();
    let matches = |step: &StepRecord| {
        let name = step.name.to_lowercase();
        let unlabelled = name.split_once("] ").map_or(name.as_str(), |(_, text)| text);
        let label = name.trim_start_matches('[');
        let digest = step.vertex.to_string();
        let is_digest = wanted.len() >= 6 && (digest.starts_with(&wanted) || step.vertex.hex().starts_with(&wanted));
        is_digest || name.starts_with(&wanted) || unlabelled.starts_with(&wanted) || label.starts_with(&wanted)
    };
    let found: Vec<usize> = (0..steps.len())
        .filter(|&at| matches(&steps[at]))
        .take(MAX_MATCHES)
        .collect();
    if found.is_empty() { Err(missing()) } else { Ok(found) }
}

fn build(summary: BuildSummary) -> WireBuild {
    WireBuild {
        id: summary.id,
        started: summary.started.0,
        ended: summary.ended.0,
        error: summary.error,
        steps: summary.steps as u64,
        ran: summary.ran as u64,
    }
}

fn explanation(at: usize, explained: Explanation) -> WireExplanation {
    let verdict = match explained.verdict {
        Verdict::NotNeeded => WireVerdict::NotNeeded,
        Verdict::Cached => WireVerdict::Cached,
        Verdict::Received => WireVerdict::Received,
        Verdict::Ran { .. } | Verdict::IgnoredCache | Verdict::AfterInput(_) => WireVerdict::Ran,
    };
    let place = explained.place.unwrap_or_default();
    WireExplanation {
        number: u32::try_from(at + 1).unwrap_or(u32::MAX),
        vertex: explained.vertex.to_string(),
        name: explained.name,
        file: place.file,
        line: place.line,
        verdict: verdict.into(),
        failed: explained.has_failed,
        causes: explained.causes.into_iter().map(cause).collect(),
        chain: explained.chain.into_iter().map(link).collect(),
        links_left_out: u32::try_from(explained.links_left_out).unwrap_or(u32::MAX),
    }
}

fn link(link: Link) -> WireLink {
    WireLink {
        name: link.name,
        causes: link.causes.into_iter().map(cause).collect(),
    }
}

fn cause(cause: Cause) -> WireCause {
    let wire = WireCause {
        kind: cause.kind().to_owned(),
        text: cause.to_string(),
        ..WireCause::default()
    };
    match cause {
        Cause::New | Cause::IgnoredCache | Cause::Gone(None) | Cause::Unknown => wire,
        Cause::Gone(Some(removal)) | Cause::NotFinished(removal) => WireCause {
            at: removal.at.0,
            ..wire
        },
        Cause::Command { old, new } => WireCause {
            old: Some(old),
            new: Some(new),
            ..wire
        },
        Cause::Variable { name, old, new, .. } | Cause::Property { name, old, new } => {
            WireCause { name, old, new, ..wire }
        }
        Cause::Source { name, old, new, .. } => WireCause { name, old, new, ..wire },
        Cause::Input { name } => WireCause { name, ..wire },
        Cause::Files {
            from,
            changes,
            has_more,
            ..
        } => WireCause {
            name: from,
            files: changes.iter().map(file).collect(),
            more_files: has_more,
            ..wire
        },
    }
}

fn file(change: &ContentChange) -> FileChange {
    let kind = match change.kind {
        ChangeKind::Added => "added",
        ChangeKind::Removed => "removed",
        ChangeKind::Type => "type",
        ChangeKind::Bytes => "bytes",
        ChangeKind::Mode { .. } => "mode",
        ChangeKind::Owner { .. } => "owner",
        ChangeKind::Target { .. } => "target",
        ChangeKind::Attributes => "attributes",
    };
    FileChange {
        path: change.path.clone(),
        kind: kind.to_owned(),
        text: change.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use cairn_solver::Digest;

    use super::*;

    fn step(name: &str, verdict: Verdict) -> StepRecord {
        StepRecord {
            vertex: Digest::sha256(name.as_bytes()),
            name: name.to_owned(),
            kind: "exec".to_owned(),
            key: None,
            verdict,
            has_failed: false,
            inputs: Vec::new(),
        }
    }

    #[test]
    fn steps_are_found_by_number_name_and_digest() {
        let ran = Verdict::Ran { removed: None };
        let steps = [
            step("[internal] load build context", Verdict::Received),
            step("[builder 2/3] RUN make", ran),
            step("[builder 3/3] RUN make install", Verdict::Cached),
        ];
        let digest = steps[2].vertex.to_string();
        for (text, expected) in [
            ("2", vec![1]),
            ("#3", vec![2]),
            ("run make", vec![1, 2]),
            ("RUN make i", vec![2]),
            ("[builder 2", vec![1]),
            ("builder 2/3", vec![1]),
            (&digest[..16], vec![2]),
            (&digest[7..20], vec![2]),
        ] {
            assert_eq!(choose_steps(&steps, text).unwrap(), expected, "{text}");
        }
        for text in ["0", "4", "nothing"] {
            assert!(choose_steps(&steps, text).is_err(), "{text}");
        }
        assert_eq!(those_that_ran(&steps), [1]);
    }

    #[test]
    fn builds_are_found_by_the_beginning_of_their_id() {
        let builds = || {
            ["ab", "abc", "x"].map(|id| BuildSummary {
                id: id.to_owned(),
                ..BuildSummary::default()
            })
        };
        let chosen = |id: &str| choose_build(builds().into(), id).map(|build| build.id);
        assert_eq!(chosen("").unwrap(), "ab");
        assert_eq!(chosen("ab").unwrap(), "ab", "an id as it is");
        assert_eq!(chosen("abc").unwrap(), "abc");
        assert_eq!(chosen("x").unwrap(), "x");
        assert_eq!(chosen("a").unwrap_err().code(), tonic::Code::InvalidArgument);
        assert_eq!(chosen("y").unwrap_err().code(), tonic::Code::NotFound);
    }
}
