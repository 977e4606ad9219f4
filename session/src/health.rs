//! The daemon's watch over a session: a client that stops answering loses it.

use std::time::Duration;

use cairn_proto::health::HealthCheckRequest;
use cairn_proto::health::health_client::HealthClient;
use tokio::time::Instant;
use tonic::Code;

use crate::session::Session;

const INTERVAL: Duration = Duration::from_secs(5);
const MIN_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_FAILURES: u32 = 2;

/// When to probe and when to give up.
struct Rules {
    interval: Duration,
    /// Given by the client; otherwise it follows from how long the last probe took.
    timeout: Option<Duration>,
    max_failures: u32,
}

impl Rules {
    fn of(session: &Session) -> Self {
        match session.health_timeout() {
            Some(timeout) => Self {
                interval: timeout,
                timeout: Some(timeout),
                max_failures: 1,
            },
            None => Self {
                interval: INTERVAL,
                timeout: None,
                max_failures: MAX_FAILURES,
            },
        }
    }

    fn timeout(&self, last: Duration) -> Duration {
        self.timeout.unwrap_or_else(|| MIN_TIMEOUT.max(last.mul_f32(1.5)))
    }
}

/// Probes the session until it ends, and ends it after too many failures in a row.
pub(crate) async fn watch(session: Session) {
    let rules = Rules::of(&session);
    let mut failures = 0;
    let mut last = Duration::ZERO;
    while failures < rules.max_failures {
        tokio::select! {
            () = tokio::time::sleep(rules.interval) => {}
            () = session.closed().cancelled() => return,
        }
        let started = Instant::now();
        match session
            .until_closed(tokio::time::timeout(rules.timeout(last), probe(&session)))
            .await
        {
            Ok(Ok(true)) => failures = 0,
            Ok(_) => failures += 1,
            Err(_) => return,
        }
        last = started.elapsed();
    }
    tracing::warn!(session.id = session.id(), "session does not answer and is closed");
    session.closed().cancel();
}

/// Whether the client answers. One that knows no health service but says so is alive.
async fn probe(session: &Session) -> bool {
    match HealthClient::new(session.channel())
        .check(HealthCheckRequest::default())
        .await
    {
        Ok(_) => true,
        Err(status) => status.code() == Code::Unimplemented,
    }
}
