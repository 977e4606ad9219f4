use std::time::UNIX_EPOCH;

use cairn_proto::control::{StatusResponse, Vertex as VertexMessage, VertexLog, VertexStatus as StatusMessage};
use prost_types::Timestamp;

use super::*;

fn at(millis: i64) -> Option<Timestamp> {
    Some(Timestamp {
        seconds: 1_000 + millis.div_euclid(1000),
        nanos: i32::try_from(millis.rem_euclid(1000) * 1_000_000).unwrap(),
    })
}

fn moment(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000) + Duration::from_millis(millis)
}

fn vertex(name: &str, started: Option<i64>, completed: Option<i64>) -> VertexMessage {
    VertexMessage {
        digest: format!("sha256:{name}"),
        name: name.to_owned(),
        started: started.and_then(at),
        completed: completed.and_then(at),
        ..VertexMessage::default()
    }
}

fn log(name: &str, millis: i64, text: &str) -> VertexLog {
    VertexLog {
        vertex: format!("sha256:{name}"),
        timestamp: at(millis),
        stream: 1,
        msg: text.as_bytes().to_vec().into(),
    }
}

fn apply(progress: &mut Progress, status: StatusResponse) -> Vec<Change> {
    progress.apply(&ProgressEvent::Status(status), moment(0))
}

fn apply_vertex(progress: &mut Progress, message: VertexMessage) -> Vec<Change> {
    apply(
        progress,
        StatusResponse {
            vertexes: vec![message],
            ..StatusResponse::default()
        },
    )
}

#[test]
fn a_vertex_goes_through_its_states() {
    let mut progress = Progress::new();
    let state = |progress: &Progress| progress.vertices()[0].state();
    assert_eq!(
        apply_vertex(&mut progress, vertex("a", None, None)),
        [Change::Vertex(0)]
    );
    assert_eq!(state(&progress), VertexState::Pending);
    apply_vertex(&mut progress, vertex("a", Some(0), None));
    assert_eq!(state(&progress), VertexState::Running);
    assert_eq!(progress.vertices()[0].duration(moment(300)), Duration::from_millis(300));
    apply_vertex(&mut progress, vertex("a", Some(0), Some(200)));
    assert_eq!(state(&progress), VertexState::Done);
    assert_eq!(progress.vertices()[0].duration(moment(900)), Duration::from_millis(200));
    apply_vertex(
        &mut progress,
        VertexMessage {
            error: "exit code: 1".into(),
            ..vertex("a", Some(0), Some(200))
        },
    );
    assert_eq!(state(&progress), VertexState::Failed);
    let cancelled = VertexMessage {
        error: "solve: context canceled".into(),
        ..vertex("a", Some(0), Some(200))
    };
    apply_vertex(&mut progress, cancelled);
    assert_eq!(state(&progress), VertexState::Cancelled);
    assert_eq!(progress.vertices().len(), 1);
}

#[test]
fn several_starts_of_one_vertex_add_up() {
    let mut progress = Progress::new();
    apply_vertex(&mut progress, vertex("a", Some(0), Some(100)));
    apply_vertex(&mut progress, vertex("a", Some(500), None));
    assert_eq!(progress.vertices()[0].state(), VertexState::Running);
    assert_eq!(progress.vertices()[0].completed(), None);
    assert_eq!(progress.vertices()[0].duration(moment(700)), Duration::from_millis(300));
    apply_vertex(&mut progress, vertex("a", Some(500), Some(600)));
    assert_eq!(progress.vertices()[0].duration(moment(700)), Duration::from_millis(200));
    assert_eq!(progress.vertices()[0].started(), Some(moment(0)));
    assert_eq!(progress.vertices()[0].completed(), Some(moment(600)));
}

#[test]
fn only_reached_steps_of_the_user_are_counted() {
    let mut progress = Progress::new();
    apply_vertex(
        &mut progress,
        vertex("[internal] load build definition", Some(0), Some(1)),
    );
    apply_vertex(&mut progress, vertex("[a 1/3] FROM x", Some(0), Some(1)));
    apply_vertex(
        &mut progress,
        VertexMessage {
            cached: true,
            ..vertex("[a 2/3] RUN y", Some(0), Some(0))
        },
    );
    apply_vertex(&mut progress, vertex("[a 3/3] RUN z", None, None));
    apply_vertex(&mut progress, vertex("exporting to image", Some(0), Some(1)));
    assert_eq!(progress.steps(), (2, 1));
}

#[test]
fn logs_and_parts_of_unknown_vertices_are_ignored() {
    let mut progress = Progress::new();
    let changes = apply(
        &mut progress,
        StatusResponse {
            logs: vec![log("nobody", 0, "x\n")],
            statuses: vec![StatusMessage {
                vertex: "sha256:nobody".into(),
                ..StatusMessage::default()
            }],
            ..StatusResponse::default()
        },
    );
    assert_eq!(changes, []);
}

#[test]
fn log_lines_arrive_complete_and_the_rest_with_the_end() {
    let mut progress = Progress::new();
    let line = |millis, text: &str| {
        let elapsed = Duration::from_millis(millis);
        Change::Log(
            0,
            LogLine {
                elapsed,
                stream: LogStream::Stdout,
                text: text.to_owned(),
            },
        )
    };
    apply_vertex(&mut progress, vertex("a", Some(0), None));
    let logs = vec![log("a", 10, "one\ntw")];
    assert_eq!(
        apply(
            &mut progress,
            StatusResponse {
                logs,
                ..StatusResponse::default()
            }
        ),
        [line(10, "one")]
    );
    let last = StatusResponse {
        vertexes: vec![vertex("a", Some(0), Some(30))],
        logs: vec![log("a", 20, "o\nthree")],
        ..StatusResponse::default()
    };
    assert_eq!(
        apply(&mut progress, last),
        [Change::Vertex(0), line(10, "two"), line(20, "three")]
    );
}

#[test]
fn no_line_of_a_large_message_is_lost_to_views() {
    let mut progress = Progress::new();
    apply_vertex(&mut progress, vertex("a", Some(0), None));
    let text: String = (0..5000).map(|line| format!("{line}\n")).collect();
    let changes = apply(
        &mut progress,
        StatusResponse {
            logs: vec![log("a", 0, &text)],
            ..StatusResponse::default()
        },
    );
    let seen: Vec<String> = changes
        .into_iter()
        .map(|change| match change {
            Change::Log(0, line) => line.text,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(seen.join("\n") + "\n", text);
}

#[test]
fn parts_are_overwritten_by_their_id() {
    let mut progress = Progress::new();
    apply_vertex(&mut progress, vertex("a", Some(0), None));
    let part = |current, completed: Option<i64>| StatusResponse {
        statuses: vec![StatusMessage {
            id: "transferring context:".into(),
            vertex: "sha256:a".into(),
            current,
            started: at(0),
            completed: completed.and_then(at),
            ..StatusMessage::default()
        }],
        ..StatusResponse::default()
    };
    assert_eq!(apply(&mut progress, part(10, None)), [Change::Status(0, 0)]);
    assert!(!progress.vertices()[0].statuses[0].is_done());
    apply(&mut progress, part(-3, Some(40)));
    let status = &progress.vertices()[0].statuses[0];
    assert_eq!((status.current, status.is_done()), (0, true));
    assert_eq!(status.duration(moment(100)), Duration::from_millis(40));
}

#[test]
fn timers_follow_the_clock_of_the_daemon() {
    let mut progress = Progress::new();
    progress.apply(&ProgressEvent::ServerTime(moment(60_000)), moment(0));
    assert_eq!(progress.server_time(moment(5)), moment(60_005));
    progress.apply(&ProgressEvent::ServerTime(moment(0)), moment(7));
    assert_eq!(progress.server_time(moment(10)), moment(3));
}

#[test]
fn timestamps_out_of_range_do_no_harm() {
    let mut progress = Progress::new();
    let wild = Some(Timestamp {
        seconds: i64::MIN,
        nanos: -1,
    });
    apply_vertex(
        &mut progress,
        VertexMessage {
            started: wild,
            completed: wild,
            ..vertex("a", None, None)
        },
    );
    let early = vertex("b", Some(1000), Some(0));
    apply_vertex(&mut progress, early);
    let total: Duration = progress
        .vertices()
        .iter()
        .map(|vertex| vertex.duration(moment(0)))
        .sum();
    assert_eq!(total, Duration::ZERO);
}
