use std::collections::BTreeMap;

use cairn_proto::control::{BuildHistoryRequest, SolveRequest, UpdateBuildHistoryRequest};
use cairn_proto::rpc;
use cairn_solver::Digest;
use futures_util::StreamExt as _;
use tonic::Code;

use super::*;
use crate::traces::{Parent, Solve, Steps};

fn request(id: &str) -> SolveRequest {
    SolveRequest {
        r#ref: id.to_owned(),
        ..SolveRequest::default()
    }
}

fn record(id: &str, completed: i64) -> BuildHistoryRecord {
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    BuildHistoryRecord {
        r#ref: id.to_owned(),
        created_at: time(completed - 10),
        completed_at: time(completed),
        generation: 1,
        ..BuildHistoryRecord::default()
    }
}

/// A history that keeps everything.
async fn open(root: &Path) -> History {
    History::open(root, Limits::default()).await.unwrap()
}

impl History {
    /// Stores a record with these blobs, as a build that ends does.
    fn store(&self, mut record: BuildHistoryRecord, log: &[u8], error: Option<&[u8]>) {
        let _writing = self.0.writing.lock();
        record.logs = Some(self.0.store.put(logs::MEDIA_TYPE, log).unwrap());
        record.external_error = error.map(|error| self.0.store.put("error", error).unwrap());
        self.0.store.write(&record).unwrap();
        self.insert(record);
    }

    fn blobs(&self) -> usize {
        self.content().list().unwrap().len()
    }
}

async fn listed(history: &History, request: BuildHistoryRequest) -> Vec<(BuildHistoryEventType, String)> {
    let request = BuildHistoryRequest {
        early_exit: true,
        ..request
    };
    let events = history.listen(&request).unwrap();
    events.map(|event| summary(&event.unwrap())).collect().await
}

fn summary(event: &BuildHistoryEvent) -> (BuildHistoryEventType, String) {
    (event.r#type(), event.record.as_ref().unwrap().r#ref.clone())
}

async fn all(history: &History) -> Vec<String> {
    let events = listed(history, BuildHistoryRequest::default()).await;
    events.into_iter().map(|(_, id)| id).collect()
}

fn update(id: &str) -> UpdateBuildHistoryRequest {
    UpdateBuildHistoryRequest {
        r#ref: id.to_owned(),
        ..UpdateBuildHistoryRequest::default()
    }
}

#[tokio::test]
async fn records_survive_and_share_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let history = open(dir.path()).await;
    // Ids are what clients like.
    for (at, id) in ["a", "../b", "c/d"].into_iter().enumerate() {
        history.store(record(id, 1000 + at as i64), b"same", Some(id.as_bytes()));
    }
    assert_eq!(history.blobs(), 4, "equal logs are stored once");
    drop(history);

    let history = open(dir.path()).await;
    assert_eq!(all(&history).await, ["a", "../b", "c/d"]);
    let delete = |id: &str| UpdateBuildHistoryRequest {
        delete: true,
        ..update(id)
    };
    history.update(delete("a")).await.unwrap();
    assert_eq!(history.blobs(), 3, "the log is still of use");
    history.update(delete("c/d")).await.unwrap();
    history.update(delete("../b")).await.unwrap();
    assert_eq!((history.blobs(), all(&history).await.len()), (0, 0));
    assert_eq!(std::fs::read_dir(dir.path().join("records")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_a_crash_left_is_cleared_up() {
    let dir = tempfile::tempdir().unwrap();
    let history = open(dir.path()).await;
    history.store(record("good", 1000), b"log", None);
    history.store(record("torn", 1001), b"log", None);
    history.store(record("short", 1002), b"a log that is lost", None);
    history.content().put(b"stray").unwrap();
    let lost = history
        .replay("short")
        .map(|_| Digest::sha256(b"a log that is lost"))
        .unwrap();
    let lost = history.content().path(&lost);
    drop(history);
    let path = |id: &str| dir.path().join("records").join(Digest::sha256(id.as_bytes()).hex());
    let bytes = std::fs::read(path("torn")).unwrap();
    std::fs::write(path("torn"), &bytes[..bytes.len() - 1]).unwrap();
    std::fs::write(path("unfinished").with_extension("new"), b"cair").unwrap();
    std::fs::copy(path("good"), path("copied")).unwrap();
    std::fs::write(lost, b"").unwrap();

    let history = open(dir.path()).await;
    assert_eq!(all(&history).await, ["good", "short"]);
    assert_eq!(history.blobs(), 1, "only the log of the sound one");
    assert_eq!(history.replay("short").unwrap().count().await, 0);
    assert_eq!(std::fs::read_dir(dir.path().join("records")).unwrap().count(), 2);
}

#[tokio::test]
async fn pins_are_remembered_and_spare() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        max_age: Duration::ZERO,
        max_entries: 1,
    };
    let history = History::open(dir.path(), limits).await.unwrap();
    history.store(record("old", 1000), b"1", None);
    let pin = |pinned| UpdateBuildHistoryRequest {
        pinned,
        ..update("old")
    };
    history.update(pin(true)).await.unwrap();
    history.update(pin(true)).await.unwrap();
    history.store(record("newer", 2000), b"2", None);
    history.store(record("newest", 3000), b"3", None);
    history.expire().await;
    assert_eq!(all(&history).await, ["old", "newest"]);
    drop(history);

    let history = History::open(dir.path(), limits).await.unwrap();
    let events = history.listen(&BuildHistoryRequest {
        r#ref: "old".to_owned(),
        early_exit: true,
        ..BuildHistoryRequest::default()
    });
    let events: Vec<_> = events
        .unwrap()
        .map(|event| event.unwrap().record.unwrap())
        .collect()
        .await;
    assert_eq!(events.len(), 1);
    assert_eq!(
        (events[0].pinned, events[0].generation),
        (true, 3),
        "also what is set again is told to those who listen"
    );
    history.update(pin(false)).await.unwrap();
    history.expire().await;
    assert_eq!(all(&history).await, ["newest"]);
}

#[tokio::test]
async fn unknown_records_cannot_be_changed() {
    let dir = tempfile::tempdir().unwrap();
    let history = open(dir.path()).await;
    for change in [
        update("x"),
        UpdateBuildHistoryRequest {
            delete: true,
            ..update("x")
        },
        UpdateBuildHistoryRequest {
            pinned: true,
            ..update("x")
        },
    ] {
        let failure = history.update(change).await.unwrap_err();
        assert_eq!(failure.message(), "failed to retrieve ref x: file does not exist");
    }
    let finalize = UpdateBuildHistoryRequest {
        finalize: true,
        ..update("x")
    };
    history.update(finalize).await.unwrap();
    history.begin(record("running", 5));
    let delete = UpdateBuildHistoryRequest {
        delete: true,
        ..update("running")
    };
    assert!(
        history
            .update(delete)
            .await
            .unwrap_err()
            .message()
            .contains("is running")
    );
    assert!(history.replay("running").is_none());
}

#[tokio::test]
async fn listeners_get_what_is_known_and_then_news() {
    use BuildHistoryEventType::{Complete, Deleted, Started};
    let dir = tempfile::tempdir().unwrap();
    let history = open(dir.path()).await;
    for (at, id) in ["a", "b", "c"].into_iter().enumerate() {
        history.store(record(id, 1000 + at as i64), b"", None);
    }
    let running = BuildHistoryRecord {
        completed_at: None,
        ..record("r", 2000)
    };
    history.begin(running.clone());
    let event = |kind, id: &str| (kind, id.to_owned());
    for (request, want) in [
        (
            BuildHistoryRequest::default(),
            vec![
                event(Started, "r"),
                event(Complete, "a"),
                event(Complete, "b"),
                event(Complete, "c"),
            ],
        ),
        (
            BuildHistoryRequest {
                limit: 2,
                ..BuildHistoryRequest::default()
            },
            vec![event(Started, "r"), event(Complete, "c"), event(Complete, "b")],
        ),
        (
            BuildHistoryRequest {
                active_only: true,
                ..BuildHistoryRequest::default()
            },
            vec![event(Started, "r")],
        ),
        (
            BuildHistoryRequest {
                r#ref: "b".to_owned(),
                ..BuildHistoryRequest::default()
            },
            vec![event(Complete, "b")],
        ),
        (
            BuildHistoryRequest {
                r#ref: "nothing".to_owned(),
                ..BuildHistoryRequest::default()
            },
            vec![],
        ),
        (
            BuildHistoryRequest {
                filter: vec!["status==running".to_owned(), "ref==c".to_owned()],
                ..BuildHistoryRequest::default()
            },
            vec![event(Started, "r"), event(Complete, "c")],
        ),
    ] {
        assert_eq!(listed(&history, request.clone()).await, want, "{request:?}");
    }

    let only = BuildHistoryRequest {
        r#ref: "r".to_owned(),
        ..BuildHistoryRequest::default()
    };
    let (mut news, mut of_one) = (
        history.listen(&BuildHistoryRequest::default()).unwrap().skip(4),
        history.listen(&only).unwrap().skip(1),
    );
    history.begin(record("other", 3000));
    history.store(record("r", 4000), b"", None);
    history.remove(&["r".to_owned(), "a".to_owned()]);
    for want in [
        event(Started, "other"),
        event(Complete, "r"),
        event(Deleted, "r"),
        event(Deleted, "a"),
    ] {
        assert_eq!(summary(&news.next().await.unwrap().unwrap()), want);
    }
    for want in [event(Complete, "r"), event(Deleted, "r")] {
        assert_eq!(summary(&of_one.next().await.unwrap().unwrap()), want);
    }
    history.close().await;
    assert!(
        news.next().await.is_none() && of_one.next().await.is_none(),
        "a daemon that stops lets go"
    );
}

#[tokio::test]
async fn listeners_that_do_not_read_are_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let history = open(dir.path()).await;
    let mut slow = history.listen(&BuildHistoryRequest::default()).unwrap();
    for n in 0..=BACKLOG {
        history.begin(record(&n.to_string(), 1));
    }
    assert_eq!(slow.next().await.unwrap().unwrap_err().code(), Code::DataLoss);
    assert!(slow.next().await.is_none());
}

#[tokio::test]
async fn nonsense_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let history = open(dir.path()).await;
    for (request, want) in [
        (
            BuildHistoryRequest {
                limit: -1,
                ..BuildHistoryRequest::default()
            },
            "invalid limit -1",
        ),
        (
            BuildHistoryRequest {
                filter: vec!["=".to_owned()],
                ..BuildHistoryRequest::default()
            },
            "failed to parse history filters",
        ),
    ] {
        let Err(failure) = history.listen(&request) else {
            panic!("{request:?} is accepted")
        };
        assert!(failure.message().contains(want), "{}", failure.message());
    }
}

#[test]
fn records_say_what_was_asked_for_without_passwords() {
    let request = SolveRequest {
        frontend: "dockerfile.v0".to_owned(),
        frontend_attrs: [
            ("context", "https://user:secret@example.com/a.git"),
            ("build-arg:PROXY", "http://u:secret@proxy"),
            ("target", "x"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into(),
        exporters: vec![cairn_proto::control::Exporter {
            r#type: "image".to_owned(),
            attrs: [("name".to_owned(), "a".to_owned())].into(),
        }],
        ..request("r")
    };
    let record = recorder::begun(&request);
    assert_eq!(record.frontend_attrs.len(), 3);
    assert_eq!(record.exporters[0].attrs["name"], "a");
    assert!(!format!("{record:?}").contains("secret"), "{record:?}");
    assert!(record.created_at.is_some() && record.completed_at.is_none());

    let large = SolveRequest {
        frontend_attrs: (0..100).map(|n| (n.to_string(), "x".repeat(200_000))).collect(),
        ..request
    };
    let len = prost::Message::encoded_len(&recorder::begun(&large));
    assert!(len < 2 << 20, "{len}");
}

#[test]
fn results_are_described_by_exporter() {
    use base64::Engine as _;
    let digest = Digest::sha256(b"image").to_string();
    let json = format!(r#"{{"mediaType":"m","digest":"{digest}","size":5,"annotations":{{"a":"b"}},"platform":{{}}}}"#);
    let facts = |text: String| {
        let encoded = base64::engine::general_purpose::STANDARD.encode(text);
        std::collections::BTreeMap::from([("containerimage.descriptor".to_owned(), encoded)])
    };
    let made = Made {
        exported: vec![BTreeMap::new(), facts(json), facts("{}".to_owned())],
        cached: BTreeMap::new(),
        provenance: Vec::new(),
        metadata: [("containerimage.config".to_owned(), "{}".into())].into(),
        is_answered_here: true,
    };
    let mut record = record("r", 1);
    made.describe(&mut record);
    let result = record.result.unwrap();
    assert_eq!(result.results.keys().copied().collect::<Vec<_>>(), [1]);
    assert_eq!(
        (result.results[&1].digest.as_str(), result.results[&1].size),
        (digest.as_str(), 5)
    );
    assert_eq!(result.results[&1].annotations["a"], "b");
    assert!(result.result_deprecated.is_none(), "the first exporter made no image");
    assert_eq!(record.exporter_response["containerimage.config"], "{}");
    assert_eq!(record.error, None::<rpc::Status>);
}

#[tokio::test]
async fn how_results_were_made_is_kept_beside_their_record() {
    let predicate = |text: &'static str| crate::provenance::Predicate {
        kind: "https://example.org/made",
        json: text.into(),
    };
    let dir = tempfile::tempdir().unwrap();
    let history = open(dir.path()).await;
    for (id, provenance) in [
        ("single", vec![(None, predicate("one"))]),
        (
            "several",
            vec![
                (Some("linux/amd64".to_owned()), predicate("one")),
                (Some("linux/arm64".to_owned()), predicate("two")),
            ],
        ),
    ] {
        let mut ended = record(id, 1000);
        let made = Made {
            provenance,
            ..Made::default()
        };
        made.describe(&mut ended);
        recorder::attach(&history.0.store, &mut ended, &made.provenance).unwrap();
        history.store(ended, b"log", None);
    }
    assert_eq!(history.blobs(), 3, "the log and two predicates");
    let lost = history.content().path(&Digest::sha256(b"two"));
    drop(history);
    std::fs::remove_file(lost).unwrap();

    let history = open(dir.path()).await;
    let kept = |id: &str| history.0.table.lock().finished[id].record.clone();
    let single = kept("single").result.clone().unwrap();
    let blob = &single.attestations[0];
    assert_eq!(blob.media_type, "application/vnd.in-toto+json");
    assert_eq!(
        blob.annotations["in-toto.io/predicate-type"],
        "https://example.org/made"
    );
    let several = kept("several");
    assert!(several.result.is_none(), "clients then look at the platforms");
    assert_eq!(several.results["linux/amd64"].attestations[0].digest, blob.digest);
    assert!(several.results["linux/arm64"].attestations.is_empty(), "it was lost");
    let delete = |id: &str| UpdateBuildHistoryRequest {
        delete: true,
        ..update(id)
    };
    history.update(delete("single")).await.unwrap();
    assert_eq!(history.blobs(), 2, "it is still of use");
    history.update(delete("several")).await.unwrap();
    assert_eq!(history.blobs(), 0);
}

/// A history with a build that has ended and whose trace is not stored, and where its client's spans are collected.
fn traced(history: &History, id: &str) {
    let trace = history.traces().open(Parent::of(&tonic::metadata::MetadataMap::new()));
    let solve = Solve::new(trace, Steps::default());
    history.0.table.lock().traced.insert(id.to_owned(), solve);
    history.store(record(id, 1000), b"log", None);
    history.store_trace_later(id.to_owned());
}

fn trace_of(history: &History, id: &str) -> Option<String> {
    let record = history.0.table.lock().finished[id].record.clone();
    let blob = record.trace.as_ref()?;
    assert_eq!(
        (blob.media_type.as_str(), record.generation),
        (crate::traces::MEDIA_TYPE, 2)
    );
    let path = history.content().path(&store::digest_of(blob).unwrap());
    Some(std::fs::read_to_string(path).unwrap())
}

#[tokio::test]
async fn a_trace_is_stored_when_it_is_asked_for_and_goes_with_its_record() {
    let dir = tempfile::tempdir().unwrap();
    let history = open(dir.path()).await;
    traced(&history, "a");
    assert_eq!(trace_of(&history, "a"), None, "the client may have more to say");
    let mut news = history.listen(&BuildHistoryRequest::default()).unwrap();
    news.next().await.unwrap().unwrap();
    let finalize = UpdateBuildHistoryRequest {
        finalize: true,
        ..update("a")
    };
    history.update(finalize.clone()).await.unwrap();
    let trace = trace_of(&history, "a").unwrap();
    assert!(trace.contains("moby.buildkit.v1.Control/Solve"), "{trace}");
    let told = news.next().await.unwrap().unwrap().record.unwrap();
    assert!(told.trace.is_some(), "listeners are told");
    history.update(finalize).await.unwrap();
    assert!(trace_of(&history, "a").is_some(), "it is stored once");
    drop((news, history));

    let history = open(dir.path()).await;
    assert_eq!(trace_of(&history, "a").unwrap(), trace);
    let delete = UpdateBuildHistoryRequest {
        delete: true,
        ..update("a")
    };
    history.update(delete).await.unwrap();
    assert_eq!(history.blobs(), 0);
}

#[tokio::test]
async fn a_trace_that_was_lost_is_not_promised() {
    let dir = tempfile::tempdir().unwrap();
    let history = open(dir.path()).await;
    traced(&history, "a");
    history.store_trace("a").unwrap();
    let kept = history.0.table.lock().finished["a"].record.clone();
    let lost = history
        .content()
        .path(&store::digest_of(kept.trace.as_ref().unwrap()).unwrap());
    drop(history);
    std::fs::remove_file(lost).unwrap();
    let history = open(dir.path()).await;
    assert_eq!(trace_of(&history, "a"), None);
}

#[tokio::test(start_paused = true)]
async fn a_trace_is_stored_after_a_while_or_when_the_daemon_ends() {
    let dir = tempfile::tempdir().unwrap();
    let history = open(dir.path()).await;
    let mut news = history.listen(&BuildHistoryRequest::default()).unwrap();
    traced(&history, "waits");
    assert_eq!(summary(&news.next().await.unwrap().unwrap()).1, "waits");
    let told = news.next().await.unwrap().unwrap().record.unwrap();
    assert!(told.trace.is_some());
    traced(&history, "deleted");
    let delete = UpdateBuildHistoryRequest {
        delete: true,
        ..update("deleted")
    };
    history.update(delete).await.unwrap();
    traced(&history, "hurries");
    history.close().await;
    assert!(trace_of(&history, "hurries").is_some());
    assert_eq!(
        all(&history).await,
        ["hurries", "waits"],
        "what was deleted does not come back"
    );
    assert_eq!(history.blobs(), 3, "two traces, and one log that is the same");
}
