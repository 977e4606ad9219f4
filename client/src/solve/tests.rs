use std::time::UNIX_EPOCH;

use super::*;
use crate::client::PruneOptions;

mod daemon;

use daemon::{Daemon, Role};

/// Runs a build and collects its news.
async fn solve(
    daemon: &Daemon,
    options: SolveOptions,
    cancel: CancellationToken,
) -> (Result<Solved, ClientError>, Vec<ProgressEvent>) {
    let (events, mut news) = mpsc::channel(1);
    let listen = async {
        let mut heard = Vec::new();
        while let Some(event) = news.recv().await {
            heard.push(event);
        }
        heard
    };
    tokio::join!(daemon.client.solve(options, events, cancel), listen)
}

#[tokio::test]
async fn a_build_gets_all_that_it_needs_from_here() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("token"), "hush").unwrap();
    std::fs::write(
        path("config.json"),
        r#"{"auths":{"registry.test":{"auth":"bWU6cHc="}}}"#,
    )
    .unwrap();
    let daemon = daemon::start(Role::Succeed).await;
    let options = SolveOptions {
        frontend: "dockerfile.v0".into(),
        frontend_attrs: [("target".to_owned(), "foo".to_owned())].into(),
        outputs: vec![SolveOutput {
            kind: "tar".into(),
            attrs: BTreeMap::new(),
            target: Some(OutputTarget::file(path("out.tar"))),
        }],
        secrets: [("token".to_owned(), SecretSource::File(path("token")))].into(),
        docker_config: Some(path("config.json")),
        shared_key: "key of the directory".into(),
        ..SolveOptions::default()
    };
    let (solved, news) = solve(&daemon, options, CancellationToken::new()).await;
    let solved = solved.unwrap();
    let response: Vec<(&str, &str)> = solved.response.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        response,
        [
            ("key", "key of the directory"),
            ("secret", "hush"),
            ("target", "foo"),
            ("user", "me")
        ]
    );
    assert_eq!(std::fs::read(path("out.tar")).unwrap(), b"archive");
    let [ProgressEvent::ServerTime(time), ProgressEvent::Status(status)] = news.as_slice() else {
        panic!("{news:?}")
    };
    assert_eq!(*time, UNIX_EPOCH + Duration::from_millis(1_000_000_000_500));
    assert_eq!(status.vertexes[0].name, "[1/1] RUN a");
}

#[tokio::test]
async fn a_failed_build_keeps_its_details() {
    let daemon = daemon::start(Role::Fail).await;
    let (failed, news) = solve(&daemon, SolveOptions::default(), CancellationToken::new()).await;
    let Err(ClientError::Build(error)) = failed else {
        panic!("{failed:?}")
    };
    assert_eq!(error.message, "it broke");
    assert_eq!(error.details.vertex.as_deref(), Some("sha256:a"));
    assert_eq!(news.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_build_does_not_wait_for_news() {
    let daemon = daemon::start(Role::Refuse).await;
    let began = Instant::now();
    let (failed, _) = solve(&daemon, SolveOptions::default(), CancellationToken::new()).await;
    let error = failed.unwrap_err();
    assert_eq!(error.to_string(), "exporter \"x\" could not be found");
    assert!(
        began.elapsed() <= NO_NEWS + Duration::from_millis(50),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn news_that_never_end_do_not_keep_a_finished_build() {
    let daemon = daemon::start(Role::Babble).await;
    let (solved, _) = solve(&daemon, SolveOptions::default(), CancellationToken::new()).await;
    solved.unwrap();
}

#[tokio::test]
async fn a_cancelled_build_is_given_up_at_the_daemon_and_its_last_news_are_heard() {
    let daemon = daemon::start(Role::Hang).await;
    let cancel = CancellationToken::new();
    let (events, mut news) = mpsc::channel(1);
    let cancel_on_first_news = async {
        let mut heard = 0;
        while let Some(event) = news.recv().await {
            if matches!(event, ProgressEvent::Status(_)) {
                heard += 1;
                cancel.cancel();
            }
        }
        heard
    };
    let build = daemon.client.solve(SolveOptions::default(), events, cancel.clone());
    let (result, heard) = tokio::join!(build, cancel_on_first_news);
    assert!(matches!(result, Err(ClientError::Cancelled)), "{result:?}");
    assert_eq!(heard, 1);
    daemon.build_over.cancelled().await;
}

#[tokio::test]
async fn a_dropped_build_is_given_up_at_the_daemon() {
    let daemon = daemon::start(Role::Hang).await;
    let (events, mut news) = mpsc::channel(8);
    {
        let mut build = Box::pin(
            daemon
                .client
                .solve(SolveOptions::default(), events, CancellationToken::new()),
        );
        while !matches!(
            tokio::select! {
                result = &mut build => panic!("{result:?}"),
                event = news.recv() => event,
            },
            Some(ProgressEvent::Status(_))
        ) {}
    }
    daemon.build_over.cancelled().await;
}

#[tokio::test]
async fn a_daemon_that_goes_away_is_told_from_a_failed_build() {
    let daemon = daemon::start(Role::Hang).await;
    let client = daemon.client.clone();
    let (events, mut news) = mpsc::channel(8);
    let end_daemon = async move {
        while !matches!(news.recv().await, Some(ProgressEvent::Status(_))) {}
        drop(daemon);
        news
    };
    let build = client.solve(SolveOptions::default(), events, CancellationToken::new());
    let (result, _news) = tokio::join!(build, end_daemon);
    let error = result.unwrap_err();
    assert!(
        matches!(error, ClientError::Lost(_) | ClientError::Session(_)),
        "{error:?}"
    );
}

#[tokio::test]
async fn unreadable_credentials_are_told_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::fs::write(&path, "{").unwrap();
    let daemon = daemon::start(Role::Succeed).await;
    let options = SolveOptions {
        docker_config: Some(path),
        ..SolveOptions::default()
    };
    let (failed, _) = solve(&daemon, options, CancellationToken::new()).await;
    assert_eq!(
        failed.unwrap_err().to_string(),
        "failed to offer registry credentials to the daemon"
    );
}

#[tokio::test]
async fn simple_calls_are_passed_on() {
    let Daemon { client, .. } = &daemon::start(Role::Succeed).await;
    assert_eq!(client.info().await.unwrap().version, "v1");
    let workers = client.list_workers(vec!["a".into(), "b".into()]).await.unwrap();
    assert_eq!(workers[0].id, "a,b");
    let error = client.disk_usage(Vec::new()).await.unwrap_err();
    assert_eq!(error.to_string(), "failed to ask for disk usage");
    assert_eq!(error.daemon_error().unwrap().message, "no disk");
    let options = PruneOptions {
        keep_duration: Duration::from_nanos(5),
        reserved_space_bytes: u64::MAX,
        max_used_space_bytes: 7,
        min_free_space_bytes: 8,
        ..PruneOptions::default()
    };
    let mut removed = Vec::new();
    client.prune(options, |record| removed.push(record.id)).await.unwrap();
    assert_eq!(removed, ["5", &i64::MAX.to_string(), "7", "8"]);
}

#[tokio::test]
async fn nobody_at_the_address_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let address: crate::Address = format!("unix://{}/none.sock", dir.path().display()).parse().unwrap();
    let error = Client::connect(&address).await.unwrap_err();
    assert_eq!(error.to_string(), format!("no daemon answers at {address}"));
}
