use std::time::Duration;

use bytes::Bytes;
use cairn_session::{Services, SessionError, SessionHandle, SessionHeaders, SessionManager};
use futures_util::stream;
use tokio::sync::mpsc;

use crate::support::{TRANSPORTS, connect};

/// A session whose client never says anything.
async fn silent(manager: &SessionManager, id: &str) -> Result<SessionHandle, SessionError> {
    let (outgoing, kept) = mpsc::channel(8);
    let incoming = stream::once(async move {
        let _kept = kept;
        std::future::pending::<Result<Bytes, std::io::Error>>().await
    });
    manager
        .register(SessionHeaders::new(id, "", &[]), incoming, outgoing)
        .await
}

#[tokio::test]
async fn lookups_wait_for_sessions_to_appear() {
    let manager = SessionManager::default();
    let waiting = manager.get("prefix:later", Duration::from_secs(30));
    let (found, handle) = tokio::join!(waiting, silent(&manager, "later"));
    assert_eq!(found.unwrap().id(), "later");
    drop(handle);
    let error = manager.get("later", Duration::ZERO).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no active session for later: context deadline exceeded"
    );
    assert!(manager.is_empty());
}

#[tokio::test]
async fn a_newer_session_replaces_the_older() {
    let manager = SessionManager::default();
    let older = silent(&manager, "id").await.unwrap();
    let newer = silent(&manager, "id").await.unwrap();
    older.closed().await;
    assert!(!newer.session().closed().is_cancelled());
    drop(older);
    assert_eq!(manager.len(), 1, "the end of the older does not touch the newer");
    manager.get("id", Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn sessions_are_limited() {
    let manager = SessionManager::new(1);
    let _first = silent(&manager, "a").await.unwrap();
    assert!(matches!(
        silent(&manager, "b").await,
        Err(SessionError::TooManySessions(1))
    ));
}

#[tokio::test]
async fn groups_try_one_after_another() {
    let manager = SessionManager::default();
    let _a = silent(&manager, "a").await.unwrap();
    let _b = silent(&manager, "b").await.unwrap();
    let ids = ["a".to_owned(), "b".to_owned()];
    let found = manager
        .any(&ids, async |session: cairn_session::Session| {
            if session.id() == "b" {
                Ok(session.id().to_owned())
            } else {
                Err(SessionError::NoSessions)
            }
        })
        .await;
    assert_eq!(found.unwrap(), "b");
    let error = manager
        .any(&[], async |_: cairn_session::Session| Ok::<(), SessionError>(()))
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "no active sessions");
}

#[tokio::test]
async fn a_session_ends_with_its_client() {
    for transport in TRANSPORTS {
        let mut connected = connect(transport, Services::new()).await;
        assert!(connected.session.supports("/grpc.health.v1.Health/Check"));
        assert_eq!(connected.session.shared_key(), "key");
        connected.client = None;
        let closed = connected.session.closed().cancelled();
        tokio::time::timeout(Duration::from_secs(20), closed).await.unwrap();
        assert!(connected.manager.get("id", Duration::ZERO).await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_answering_loses_its_session() {
    let manager = SessionManager::default();
    let handle = silent(&manager, "id").await.unwrap();
    let started = tokio::time::Instant::now();
    handle.closed().await;
    // The second probe gets half as long again as the first one took.
    assert_eq!(started.elapsed().as_millis(), 5_000 + 15_000 + 5_000 + 22_500);
}
