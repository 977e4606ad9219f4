//! Bare repositories, one per remote, kept between builds.
//!
//! A repository holds commits as they were asked for, mostly without history, each under `refs/cairn/at/<hash>` once it
//! is whole. While git changes a repository a mark is in it; one whose mark is left over is thrown away.

use std::collections::HashMap;
use std::fs::{File, FileTimes};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use cairn_solver::Digest;
use parking_lot::Mutex;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, Semaphore};
use tokio_util::sync::CancellationToken;

use super::bundle::Bundle;
use super::command::{Call, Git, Output};
use super::error::GitError;
use super::remote::Remote;
use super::settings::Settings;
use crate::executor::OutputSink;
use crate::layer::random_name;
use crate::sys::root::create_private_dirs;

/// There while git changes the repository.
const BUSY: &str = "cairn-busy";
/// Holds the remote, for people.
const REMOTE: &str = "cairn-remote";
/// Its modification time is when the repository was used last.
const USED: &str = "cairn-used";
/// Most calls of git at a time that reach for remotes.
const MAX_CALLS: usize = 8;
/// Standard output of calls that are expected to say little.
pub(super) const SHORT: usize = 1 << 20;

/// How a build reaches a remote.
pub(crate) struct Access {
    /// The remote.
    pub(crate) remote: Remote,
    /// What commits come from instead of the remote.
    pub(crate) bundle: Option<Bundle>,
    /// What git goes by.
    pub(crate) settings: Settings,
    /// What takes git's own words.
    pub(crate) log: Arc<dyn OutputSink>,
}

/// All repositories. Clones share everything.
#[derive(Clone)]
pub(crate) struct GitStore(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) git: Git,
    /// `repositories/<name>`, each a bare repository.
    pub(super) repositories: PathBuf,
    /// Repositories in the making, and on their way out.
    scratch: PathBuf,
    pub(super) locks: Mutex<HashMap<String, Arc<RwLock<()>>>>,
    /// Slots for calls that reach for remotes.
    pub(super) slots: Semaphore,
}

/// A repository that nobody throws away meanwhile.
pub(super) struct Repository<G> {
    pub(super) dir: PathBuf,
    guard: G,
}

pub(super) type Exclusive = OwnedRwLockWriteGuard<()>;
pub(super) type Shared = OwnedRwLockReadGuard<()>;

impl GitStore {
    /// Opens the directory, and removes what a killed daemon left half done. Blocks.
    ///
    /// # Errors
    /// If the directory cannot be used.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let (repositories, scratch, home) = (root.join("repositories"), root.join("scratch"), root.join("home"));
        for emptied in [&scratch, &home] {
            match std::fs::remove_dir_all(emptied) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        for dir in [&repositories, &scratch, &home] {
            create_private_dirs(dir)?;
        }
        Ok(Self(Arc::new(Inner {
            git: Git::new(home),
            repositories,
            scratch,
            locks: Mutex::default(),
            slots: Semaphore::new(MAX_CALLS),
        })))
    }
}

impl Inner {
    pub(super) fn lock(&self, name: &str) -> Arc<RwLock<()>> {
        self.locks.lock().entry(name.to_owned()).or_default().clone()
    }

    /// The repository for a remote as it is, if there is one that can be used.
    pub(super) async fn known_repository(
        &self,
        access: &Access,
        hash_length: usize,
        cancel: &CancellationToken,
    ) -> Result<Option<Repository<Shared>>, GitError> {
        let name = repository_name(access, hash_length);
        let guard = tokio::select! {
            guard = self.lock(&name).read_owned() => guard,
            () = cancel.cancelled() => return Err(GitError::cancelled()),
        };
        let dir = self.repositories.join(&name);
        if !dir.exists() || dir.join(BUSY).exists() {
            return Ok(None);
        }
        note_use(&dir)?;
        Ok(Some(Repository { dir, guard }))
    }

    /// The repository for a remote, for nobody else until it is let go; made if need be.
    pub(super) async fn repository(
        self: &Arc<Self>,
        access: &Access,
        hash_length: usize,
        cancel: &CancellationToken,
    ) -> Result<Repository<Exclusive>, GitError> {
        let name = repository_name(access, hash_length);
        let guard = tokio::select! {
            guard = self.lock(&name).write_owned() => guard,
            () = cancel.cancelled() => return Err(GitError::cancelled()),
        };
        let dir = self.repositories.join(&name);
        if dir.join(BUSY).exists() {
            tracing::info!(
                remote = access.remote.url(),
                "a repository was left half done: starting over"
            );
            let (inner, dir) = (self.clone(), dir.clone());
            let discarded = tokio::task::spawn_blocking(move || inner.discard(&dir)).await;
            discarded.map_err(|error| GitError::io("remove a git repository")(io::Error::other(error)))??;
        }
        if !dir.exists() {
            self.make(&dir, access, hash_length, cancel).await?;
        }
        note_use(&dir)?;
        Ok(Repository { dir, guard })
    }

    async fn make(
        &self,
        dir: &Path,
        access: &Access,
        hash_length: usize,
        cancel: &CancellationToken,
    ) -> Result<(), GitError> {
        let staged = self.scratch.join(random_name());
        let failed = || GitError::io("make a git repository");
        create_private_dirs(&staged).map_err(failed())?;
        let format = format!("--object-format={}", if hash_length == 64 { "sha256" } else { "sha1" });
        let mut arguments = vec!["init", "--quiet", "--bare", "--template="];
        if hash_length == 64 {
            arguments.push(&format);
        }
        let call = self.call(&staged, access, "make a git repository".to_owned());
        self.git.run(call, &arguments, cancel).await?.success()?;
        std::fs::write(staged.join(REMOTE), access.remote.url()).map_err(failed())?;
        std::fs::rename(&staged, dir).map_err(failed())
    }

    /// Removes a repository: at once as far as anybody can see. Blocks.
    pub(super) fn discard(&self, dir: &Path) -> Result<(), GitError> {
        let gone = self.scratch.join(random_name());
        let failed = || GitError::io(format!("remove the git repository {}", dir.display()));
        std::fs::rename(dir, &gone).map_err(failed())?;
        std::fs::remove_dir_all(gone).map_err(failed())
    }

    /// A call in a repository of ours that says little.
    pub(super) fn call<'a>(&self, dir: &'a Path, access: &'a Access, doing: String) -> Call<'a> {
        Call {
            dir,
            settings: &access.settings,
            log: None,
            variables: vec![("GIT_DIR", ".".into())],
            local: true,
            doing,
            max_output: SHORT,
        }
    }

    /// Calls git in a repository of ours.
    pub(super) async fn run(
        &self,
        dir: &Path,
        access: &Access,
        arguments: &[&str],
        cancel: &CancellationToken,
    ) -> Result<Output, GitError> {
        let doing = format!("read the repository of {}", access.remote.url());
        self.git.run(self.call(dir, access, doing), arguments, cancel).await
    }
}

impl Repository<Exclusive> {
    /// Marks the repository until [`Repository::settle`].
    pub(super) fn disturb(&self) -> Result<(), GitError> {
        let marked = File::create(self.dir.join(BUSY)).map(drop);
        marked.map_err(GitError::io("mark a git repository"))?;
        self.sweep().map_err(GitError::io("clean up a git repository"))
    }

    /// Takes the mark away, unless `outcome` shows that git may not have finished.
    pub(super) fn settle<T>(&self, outcome: Result<T, GitError>) -> Result<T, GitError> {
        if !matches!(&outcome, Err(error) if error.leaves_a_mess()) {
            std::fs::remove_file(self.dir.join(BUSY)).map_err(GitError::io("mark a git repository"))?;
        }
        outcome
    }

    /// Removes what git began to write when it was stopped, and does not remove itself.
    fn sweep(&self) -> io::Result<()> {
        for (dir, prefix) in [("objects/pack", "tmp_"), ("objects", "tmp_objdir-")] {
            for entry in std::fs::read_dir(self.dir.join(dir))? {
                let entry = entry?;
                if !entry.file_name().to_string_lossy().starts_with(prefix) {
                    continue;
                }
                if entry.file_type()?.is_dir() {
                    std::fs::remove_dir_all(entry.path())?;
                } else {
                    std::fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(())
    }

    /// Lets others read, too.
    pub(super) fn share(self) -> Repository<Shared> {
        Repository {
            dir: self.dir,
            guard: self.guard.downgrade(),
        }
    }
}

impl<G> Repository<G> {
    /// Has the repository thrown away before it is used again.
    pub(super) fn suspect(&self) {
        if let Err(error) = File::create(self.dir.join(BUSY)) {
            tracing::warn!(%error, "could not mark a git repository");
        }
    }
}

fn note_use(dir: &Path) -> Result<(), GitError> {
    let noted =
        File::create(dir.join(USED)).and_then(|file| file.set_times(FileTimes::new().set_modified(SystemTime::now())));
    noted.map_err(GitError::io("note the use of a git repository"))
}

/// What is known about a repository on disk.
pub(super) struct Notes {
    pub(super) remote: String,
    pub(super) created: SystemTime,
    pub(super) used: SystemTime,
}

/// Reads what was noted about a repository.
pub(super) fn notes(dir: &Path) -> io::Result<Notes> {
    let remote = dir.join(REMOTE);
    let created = std::fs::metadata(&remote)?.modified()?;
    Ok(Notes {
        remote: std::fs::read_to_string(remote)?,
        created,
        used: std::fs::metadata(dir.join(USED))
            .and_then(|used| used.modified())
            .unwrap_or(created),
    })
}

/// A name that fits to be a directory, whatever the remote is called.
fn repository_name(access: &Access, hash_length: usize) -> String {
    let source = match &access.bundle {
        None => access.remote.url().to_owned(),
        Some(bundle) => format!("bundle {}", bundle.digest),
    };
    Digest::sha256(format!("{hash_length} {source}").as_bytes()).hex()
}
