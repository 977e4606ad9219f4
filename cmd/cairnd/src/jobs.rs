//! Builds by the id that clients gave them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use cairn_solver::llb::Definition;
use cairn_solver::progress::EventLog;
use cairn_solver::{Build, BuildBridge};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tonic::Code;

use crate::failure::Failure;
use crate::frontends::BuiltInFrontends;
use crate::gateway::{Answer, Forwarder};
use crate::limits::MAX_ID;

/// How long the events of a build can be asked for after its end.
const LINGER: Duration = Duration::from_secs(10);
/// How long a status request waits for its build.
pub(crate) const STATUS_WAIT: Duration = Duration::from_secs(6);
/// How long a gateway call waits for its build.
pub(crate) const GATEWAY_WAIT: Duration = Duration::from_secs(3);

/// A build and what its client does with it.
pub(crate) struct Job {
    pub(crate) build: Arc<Build>,
    pub(crate) bridge: Arc<BuildBridge>,
    /// The client's way to drive the build itself.
    pub(crate) forwarder: Arc<Forwarder>,
}

impl Job {
    /// A job, and what its client will return.
    pub(crate) fn new(
        build: Arc<Build>,
        inputs: BTreeMap<String, Definition>,
        frontends: Arc<BuiltInFrontends>,
    ) -> (Self, Answer) {
        let worker = frontends.worker.clone();
        let bridge = BuildBridge::new(build.clone(), frontends);
        let (forwarder, answer) = Forwarder::new(bridge.clone(), inputs, worker);
        let job = Self {
            build,
            bridge,
            forwarder,
        };
        (job, answer)
    }
}

/// Every id is in one of them at most.
#[derive(Default)]
struct Known {
    jobs: HashMap<String, Arc<Job>>,
    /// What is left of builds that ended a moment ago. Their results are let go of at once, so that they can be
    /// removed.
    ended: HashMap<String, Arc<EventLog>>,
    /// Ids of builds that were refused a moment ago.
    refused: HashSet<String>,
}

/// The builds of a daemon. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Jobs(Arc<Shared>);

#[derive(Default)]
struct Shared {
    known: Mutex<Known>,
    /// Told of every registration.
    appeared: Notify,
}

impl Jobs {
    /// Registers a build until shortly after the handle is dropped.
    ///
    /// # Errors
    /// If there is a build of that id.
    pub(crate) fn register(&self, id: &str, job: Job) -> Result<JobHandle, Failure> {
        let job = Arc::new(job);
        let mut known = self.0.known.lock();
        if known.jobs.contains_key(id) || known.ended.contains_key(id) {
            return Err(Failure::new(Code::AlreadyExists, format!("job ID {id} exists")));
        }
        known.refused.remove(id);
        known.jobs.insert(id.to_owned(), job.clone());
        drop(known);
        self.0.appeared.notify_waiters();
        Ok(JobHandle {
            id: id.to_owned(),
            job,
            jobs: self.clone(),
        })
    }

    /// Notes that the build of that id was refused before it began, so that who asks for it or what it tells does not wait.
    pub(crate) fn refuse(&self, id: &str) {
        let mut known = self.0.known.lock();
        if id.len() > MAX_ID || known.jobs.contains_key(id) || known.ended.contains_key(id) {
            return;
        }
        known.refused.insert(id.to_owned());
        drop(known);
        self.0.appeared.notify_waiters();
        self.linger(id.to_owned());
    }

    /// Whether there is a running build of that id now.
    pub(crate) fn is_running(&self, id: &str) -> bool {
        self.0.known.lock().jobs.contains_key(id)
    }

    /// Finds a running build, waiting for it to appear.
    ///
    /// # Errors
    /// If it does not.
    pub(crate) async fn get(&self, id: &str, wait: Duration) -> Result<Arc<Job>, Failure> {
        self.find(id, wait, |known| known.jobs.get(id).cloned()).await
    }

    /// Finds what a build tells, waiting for it to appear; also shortly after its end. One that was refused tells nothing.
    ///
    /// # Errors
    /// If it does not appear.
    pub(crate) async fn events(&self, id: &str, wait: Duration) -> Result<Arc<EventLog>, Failure> {
        let events = |known: &Known| {
            let running = known.jobs.get(id).map(|job| job.build.events());
            let told = running.or_else(|| known.ended.get(id)).cloned();
            told.or_else(|| known.refused.contains(id).then(silence))
        };
        self.find(id, wait, events).await
    }

    async fn find<T>(&self, id: &str, wait: Duration, look: impl Fn(&Known) -> Option<T>) -> Result<T, Failure> {
        let found = async {
            loop {
                let mut appeared = std::pin::pin!(self.0.appeared.notified());
                // Listening starts before looking, so that no registration falls in between.
                appeared.as_mut().enable();
                {
                    let known = self.0.known.lock();
                    let found = look(&known);
                    if found.is_some() || known.refused.contains(id) {
                        return found;
                    }
                }
                appeared.await;
            }
        };
        let found = tokio::time::timeout(wait, found).await;
        let missing = || Failure::new(Code::NotFound, format!("no such job {id}"));
        found.ok().flatten().ok_or_else(missing)
    }

    /// Ends all builds.
    pub(crate) fn close_all(&self) {
        let jobs: Vec<Arc<Job>> = self.0.known.lock().jobs.values().cloned().collect();
        for job in jobs {
            job.build.close();
        }
    }

    /// Keeps nothing of a build but what it told.
    fn end(&self, id: &str) {
        let mut known = self.0.known.lock();
        if let Some(job) = known.jobs.remove(id) {
            known.ended.insert(id.to_owned(), job.build.events().clone());
        }
    }

    /// Whether there is no build, nor anything left of one.
    fn is_empty(&self) -> bool {
        let known = self.0.known.lock();
        known.jobs.is_empty() && known.ended.is_empty() && known.refused.is_empty()
    }

    fn forget(&self, id: &str) {
        let mut known = self.0.known.lock();
        known.ended.remove(id);
        known.refused.remove(id);
    }

    /// Forgets after a while what is left of a build.
    fn linger(&self, id: String) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return self.forget(&id);
        };
        let jobs = self.clone();
        // Ends by itself; at most `LINGER` after the runtime's last build.
        runtime.spawn(async move {
            tokio::time::sleep(LINGER).await;
            jobs.forget(&id);
            if jobs.is_empty() {
                // Waits for nobody and holds nothing.
                drop(tokio::task::spawn_blocking(cairn_worker::sys::memory::give_back));
            }
        });
    }
}

/// A registered build. Dropping it ends the build; its events stay for a while.
pub(crate) struct JobHandle {
    id: String,
    pub(crate) job: Arc<Job>,
    jobs: Jobs,
}

impl Drop for JobHandle {
    fn drop(&mut self) {
        self.job.build.close();
        self.jobs.end(&self.id);
        self.jobs.linger(std::mem::take(&mut self.id));
    }
}

/// What a build tells that never began.
fn silence() -> Arc<EventLog> {
    let events = Arc::new(EventLog::default());
    events.close();
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_for_a_refused_build_or_what_it_tells_does_not_wait() {
        let jobs = Jobs::default();
        let missing = jobs.events("a", Duration::ZERO).await;
        assert_eq!(
            missing.err().map(|failure| failure.message().to_owned()),
            Some("no such job a".to_owned())
        );
        let asked = jobs.events("a", STATUS_WAIT);
        let (events, ()) = tokio::join!(asked, async { jobs.refuse("a") });
        let events = events.expect("the build is known to be refused");
        assert!(events.reader().next().await.is_none());
        assert!(jobs.get("a", Duration::from_secs(3_600)).await.is_err());
    }
}
