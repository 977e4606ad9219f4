//! One build, from its beginning to its record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use bytes::Bytes;
use cairn_proto::control::{BuildHistoryRecord, BuildResultInfo, Descriptor, Exporter, SolveRequest};
use cairn_proto::rpc;
use cairn_solver::progress::Event;
use cairn_solver::{Build, Digest};
use prost::Message as _;
use serde::Deserialize;
use tonic::Code;

use super::conceal::conceal;
use super::store::{self, Store};
use super::{History, HistoryError, logs};
use crate::convert::timestamp;
use crate::failure::Failure;
use crate::provenance::Predicates;
use crate::traces::{OpenTrace, Parent, Solve, Steps};

/// What a failure with its details is called. The misspelling is part of the name.
const ERROR_TYPE: &str = "application/vnd.googeapis.google.rpc.status+proto";
/// What a statement is called.
const STATEMENT_TYPE: &str = "application/vnd.in-toto+json";
/// Note beside a statement: what it states.
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// Where an exporter says what it made: a descriptor in JSON, in base64.
const DESCRIPTOR: &str = "containerimage.descriptor";
/// Longest value that is kept.
const MAX_VALUE: usize = 256 << 10;
/// Longest id, name or key that is kept.
const MAX_NAME: usize = 1 << 10;
/// Most bytes of all values of a record.
const MAX_VALUES: usize = 1 << 20;

/// What a build made.
#[derive(Debug, Default)]
pub(crate) struct Made {
    /// What each exporter says, in their order.
    pub(crate) exported: Vec<BTreeMap<String, String>>,
    /// What there is to say about caches that were exported.
    pub(crate) cached: BTreeMap<String, String>,
    /// How it was made.
    pub(crate) provenance: Predicates,
    /// What the frontend says of the result.
    pub(crate) metadata: BTreeMap<String, Bytes>,
    /// Whether what a frontend answers to a question reaches the client with the build's end alone; a client that
    /// called the frontend itself has the answer.
    pub(crate) is_answered_here: bool,
}

/// Records a build when it has ended; also when nobody waits for it any more.
pub(crate) struct Recorder {
    history: History,
    build: Arc<Build>,
    record: Option<BuildHistoryRecord>,
    /// Of a build that is recorded.
    trace: Option<OpenTrace>,
}

/// A build that has ended.
pub(super) struct Ended {
    build: Arc<Build>,
    record: BuildHistoryRecord,
    /// With its details.
    error: Option<rpc::Status>,
    provenance: Predicates,
    trace: Option<OpenTrace>,
}

/// Whether a build is recorded, and traced.
fn is_recorded(request: &SolveRequest) -> bool {
    !request.internal && request.r#ref.len() <= MAX_NAME
}

impl Recorder {
    /// Begins the trace of a build that will be recorded.
    pub(crate) fn trace(history: &History, request: &SolveRequest, parent: Parent) -> Option<OpenTrace> {
        is_recorded(request).then(|| history.traces().open(parent))
    }

    /// Announces a build. Those of the daemon's and its clients' own are not recorded.
    pub(crate) fn new(history: &History, build: Arc<Build>, request: &SolveRequest, trace: Option<OpenTrace>) -> Self {
        let record = is_recorded(request).then(|| begun(request));
        if let Some(record) = &record {
            history.begin(record.clone());
        }
        Self {
            history: history.clone(),
            build,
            trace,
            record,
        }
    }

    /// Has it recorded how the build ended, which [`History::settled`] waits for. Nothing is told of it from now on.
    pub(crate) async fn finish(mut self, outcome: &Result<Made, Failure>) {
        // The only wait, before anything is taken: a build that is given up meanwhile is recorded all the same.
        let completing = self.history.0.completing.clone().read_owned().await;
        self.build.close();
        let Some(mut record) = self.record.take() else { return };
        let error = match outcome {
            Ok(made) => {
                made.describe(&mut record);
                None
            }
            Err(failure) => Some(failure.to_wire()),
        };
        let provenance = outcome
            .as_ref()
            .map_or_else(|_| Vec::new(), |made| made.provenance.clone());
        let ended = Ended {
            provenance,
            ..Ended::new(self.build.clone(), record, error, self.trace.take())
        };
        let history = self.history.clone();
        self.history.0.late.spawn(async move {
            let task = tokio::task::spawn_blocking(move || history.complete(ended));
            if let Err(error) = task.await {
                tracing::error!(%error, "a build is not remembered");
            }
            drop(completing);
        });
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let Some(record) = self.record.take() else { return };
        self.build.close();
        let failure = if std::thread::panicking() {
            Failure::new(Code::Internal, "internal error: the build panicked")
        } else {
            Failure::new(Code::Cancelled, "context canceled")
        };
        let ended = Ended::new(self.build.clone(), record, Some(failure.to_wire()), self.trace.take());
        let history = self.history.clone();
        if tokio::runtime::Handle::try_current().is_ok() {
            // Awaited when the history is closed.
            drop(self.history.0.late.spawn_blocking(move || history.complete(ended)));
        } else {
            history.complete(ended);
        }
    }
}

impl Made {
    pub(super) fn describe(&self, record: &mut BuildHistoryRecord) {
        let metadata = self.metadata.iter();
        let mut response = metadata.map(|(key, value)| (key.clone(), String::from_utf8_lossy(value).into_owned()));
        record.exporter_response = bounded(&mut response);
        let descriptors = self.exported.iter().map(|facts| descriptor(facts.get(DESCRIPTOR)?));
        let descriptors: Vec<Option<Descriptor>> = descriptors.collect();
        let is_of_platforms = self.provenance.iter().any(|(platform, _)| platform.is_some());
        if is_of_platforms && descriptors.iter().all(Option::is_none) {
            // Clients look at the results for platforms only if there is no other.
            return;
        }
        record.result = Some(BuildResultInfo {
            result_deprecated: descriptors.first().cloned().flatten(),
            attestations: Vec::new(),
            results: (0..)
                .zip(descriptors)
                .filter_map(|(index, descriptor)| Some((index, descriptor?)))
                .collect(),
        });
    }
}

impl Ended {
    fn new(
        build: Arc<Build>,
        mut record: BuildHistoryRecord,
        error: Option<rpc::Status>,
        trace: Option<OpenTrace>,
    ) -> Self {
        record.completed_at = Some(timestamp(SystemTime::now()));
        record.error = error.as_ref().map(|error| rpc::Status {
            details: Vec::new(),
            ..error.clone()
        });
        Self {
            build,
            record,
            error,
            provenance: Predicates::new(),
            trace,
        }
    }

    /// The finished record, written down if that is wanted, and what there is to say of times.
    pub(super) fn write(
        self,
        store: &Store,
        is_kept: bool,
    ) -> (BuildHistoryRecord, Result<Option<Solve>, HistoryError>) {
        let mut record = self.record;
        if !is_kept {
            return (record, Ok(None));
        }
        let kept = keep(store, &mut record, &self.build, self.error.as_ref(), &self.provenance);
        let solve = kept.map(|steps| self.trace.map(|trace| Solve::new(trace, steps)));
        (record, solve)
    }
}

/// All that a build told, piece by piece.
fn events(build: &Build) -> impl Iterator<Item = Vec<Event>> + use<> {
    let mut reader = build.events().reader();
    std::iter::from_fn(move || reader.ready_blocking())
}

/// Writes a record, after what belongs to it; returns what the log says of times.
fn keep(
    store: &Store,
    record: &mut BuildHistoryRecord,
    build: &Build,
    error: Option<&rpc::Status>,
    provenance: &Predicates,
) -> Result<Steps, HistoryError> {
    let mut steps = Steps::default();
    let events = events(build).inspect(|events| events.iter().for_each(|event| steps.add(event)));
    let mut ingest = store.content.ingest()?;
    let mut buffered = std::io::BufWriter::new(&mut ingest);
    let written = logs::write(events, &mut buffered);
    // Flushed already, unless that failed.
    drop(buffered);
    let counts = written.map_err(|source| HistoryError::Io {
        action: "write a log to",
        path: ingest.path().to_owned(),
        source,
    })?;
    record.num_total_steps = counts.total;
    record.num_cached_steps = counts.cached;
    record.num_completed_steps = counts.completed;
    record.num_warnings = counts.warnings;
    let blob = ingest.commit(None, None)?;
    record.logs = Some(store::descriptor(logs::MEDIA_TYPE, blob.digest, blob.size));
    if let Some(error) = error {
        record.external_error = Some(store.put(ERROR_TYPE, &error.encode_to_vec())?);
    }
    attach(store, record, provenance)?;
    store.write(record)?;
    Ok(steps)
}

/// Keeps beside a record how results were made.
pub(super) fn attach(
    store: &Store,
    record: &mut BuildHistoryRecord,
    provenance: &Predicates,
) -> Result<(), HistoryError> {
    for (platform, predicate) in provenance {
        let mut blob = store.put(STATEMENT_TYPE, &predicate.json)?;
        let kind = (PREDICATE_TYPE.to_owned(), predicate.kind.to_owned());
        blob.annotations = [kind].into();
        let result = match platform {
            None => record.result.get_or_insert_default(),
            Some(platform) => record.results.entry(platform.clone()).or_default(),
        };
        result.attestations.push(blob);
    }
    Ok(())
}

pub(super) fn begun(request: &SolveRequest) -> BuildHistoryRecord {
    let attrs =
        |attrs: &BTreeMap<String, String>| bounded(&mut attrs.iter().map(|(key, value)| (key.clone(), conceal(value))));
    BuildHistoryRecord {
        r#ref: request.r#ref.clone(),
        frontend: request.frontend.chars().take(MAX_NAME).collect(),
        frontend_attrs: attrs(&request.frontend_attrs),
        exporters: request
            .exporters
            .iter()
            .take(MAX_NAME)
            .map(|exporter| Exporter {
                r#type: exporter.r#type.clone(),
                attrs: attrs(&exporter.attrs),
            })
            .collect(),
        created_at: Some(timestamp(SystemTime::now())),
        ..BuildHistoryRecord::default()
    }
}

/// Leaves out what nobody would look at in a list: values of extraordinary length.
fn bounded(pairs: &mut dyn Iterator<Item = (String, String)>) -> BTreeMap<String, String> {
    let mut room = MAX_VALUES;
    let mut kept = BTreeMap::new();
    for (key, value) in pairs {
        let size = key.len() + value.len();
        if key.len() <= MAX_NAME && value.len() <= MAX_VALUE && size <= room {
            room -= size;
            kept.insert(key, value);
        }
    }
    kept
}

/// The descriptor that an exporter reports.
fn descriptor(text: &str) -> Option<Descriptor> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Json {
        media_type: String,
        digest: String,
        size: i64,
        #[serde(default)]
        annotations: BTreeMap<String, String>,
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    let json: Json = serde_json::from_slice(&bytes).ok()?;
    Digest::parse(&json.digest).ok()?;
    Some(Descriptor {
        media_type: json.media_type,
        digest: json.digest,
        size: json.size,
        annotations: json.annotations,
    })
}
