//! Agents of clients as sockets of this machine.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use cairn_session::ssh::Lending;
use cairn_session::{LOOKUP_TIMEOUT, Session, SessionError, ssh};
use cairn_solver::SessionGroup;
use cairn_solver::worker::WorkerError;
use tokio::net::UnixListener;
use tokio_util::task::AbortOnDropHandle;

use super::{EmbeddedWorker, failed};
use crate::layer::random_name;
use crate::sys::Root;
use crate::sys::root::create_private_dirs;

/// Name of the socket in its directory.
const SOCKET: &str = "agent.sock";

/// What came of asking the clients for an agent.
pub(super) enum Asked {
    /// One lends it.
    Lent(LentAgent),
    /// None does; what the last one said to that, empty if none did.
    Refused(String),
}

/// A socket that leads to a client's agent. Gone when dropped, with every connection.
pub(super) struct LentAgent {
    dir: PathBuf,
    /// Makes the path short: names of sockets have at most 107 bytes.
    handle: Root,
    _serving: AbortOnDropHandle<()>,
}

impl LentAgent {
    /// Must be called on a runtime.
    fn new(parent: &Path, session: Session, id: &str) -> io::Result<Self> {
        let dir = parent.join(random_name());
        create_private_dirs(&dir)?;
        let handle = Root::open(&dir)?;
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", fd(&handle)))?;
        let serving = tokio::spawn(ssh::serve_connections(session, id.to_owned(), listener));
        Ok(Self {
            dir,
            handle,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    /// Where the socket is.
    pub(super) fn socket(&self) -> PathBuf {
        self.dir.join(SOCKET)
    }

    /// Where another program of this user can connect to it.
    pub(super) fn short_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}/{SOCKET}", std::process::id(), fd(&self.handle)))
    }
}

fn fd(root: &Root) -> i32 {
    use std::os::fd::AsFd;
    root.as_fd().as_raw_fd()
}

impl Drop for LentAgent {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            tracing::warn!(%error, dir = %self.dir.display(), "could not remove the socket of an ssh agent");
        }
    }
}

/// Removes what a killed daemon left of sockets. Blocks.
pub(super) fn remove_leftovers(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => create_private_dirs(dir),
    }
}

impl EmbeddedWorker {
    /// Lends the agent of that id of the first client that has one.
    pub(super) async fn lend_agent(&self, id: &str, sessions: &SessionGroup) -> Result<Asked, WorkerError> {
        let mut failure: Option<SessionError> = None;
        let mut words = String::new();
        for session in sessions.ids() {
            let asked = async {
                let session = self.0.sessions.get(&session, LOOKUP_TIMEOUT).await?;
                let lending = ssh::check_agent(&session, id).await?;
                Ok((session, lending))
            };
            match asked.await {
                Ok((session, Lending::Granted)) => {
                    let lent = LentAgent::new(&self.ssh_dir(), session, id);
                    let failed = |error| WorkerError::Failed(format!("failed to lend an ssh agent: {error}"));
                    return lent.map(Asked::Lent).map_err(failed);
                }
                Ok((_, Lending::Refused(said))) => words = said,
                Ok((_, Lending::Unsupported)) => {}
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            None => Ok(Asked::Refused(words)),
            Some(error) => Err(failed(&error)),
        }
    }

    fn ssh_dir(&self) -> PathBuf {
        self.0.root.join(super::SSH_DIR)
    }
}
