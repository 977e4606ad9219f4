//! Asking remotes, and getting commits from them.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cairn_solver::worker::GitMeta;
use tokio_util::sync::CancellationToken;

use super::command::{Call, Output};
use super::error::GitError;
use super::reference::{Resolved, Wanted};
use super::store::{Access, Exclusive, GitStore, Inner, Repository, Shared};

/// Where a fetch puts what it got, until that is known to be what was wanted.
pub(super) const INCOMING: &str = "refs/cairn/incoming";
/// What remotes say of things that they do not have or give only in another way.
const OTHER_WAY: &[&str] = &[
    "couldn't find remote ref",
    "not our ref",
    "unadvertised object",
    "does not support shallow",
    "remote did not send all necessary objects",
    "Server does not allow request",
];

/// A commit in a repository of ours, which is kept as long as this.
pub(crate) struct Fetched {
    pub(super) store: GitStore,
    pub(super) repository: Repository<Shared>,
    pub(super) resolved: Resolved,
}

impl GitStore {
    /// Finds out what a name stands for at the remote right now. A whole hash stands for itself.
    ///
    /// # Errors
    /// [`GitError::NoReference`], [`GitError::Checksum`], and whatever goes wrong on the way.
    pub(crate) async fn resolve(
        &self,
        access: &Access,
        wanted: &Wanted,
        cancel: &CancellationToken,
    ) -> Result<Resolved, GitError> {
        wanted.check()?;
        let is_pinned = access.bundle.is_some();
        let found = match wanted.known(is_pinned) {
            Some(known) => known,
            None => match &access.bundle {
                None => self.0.ask(access, wanted, cancel).await?,
                Some(bundle) => self.0.ask_bundle(access, bundle, wanted, cancel).await?,
            },
        };
        wanted.verify(&found)?;
        Ok(found)
    }

    /// Gets a commit with all of its files, from the remote if it is not here.
    ///
    /// # Errors
    /// [`GitError::NoCommit`], and whatever goes wrong on the way.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the fetch, which cleans up by itself.
    pub(crate) async fn fetch(
        &self,
        access: Arc<Access>,
        resolved: Resolved,
        cancel: &CancellationToken,
    ) -> Result<Fetched, GitError> {
        // On a task of its own, so that git can clean up also when this future is dropped.
        let token = cancel.child_token();
        let _fire_when_dropped = token.clone().drop_guard();
        let inner = self.0.clone();
        let task = tokio::spawn(async move { inner.fetch(&access, resolved, &token).await });
        let fetched = task
            .await
            .map_err(|error| GitError::io("wait for a fetch")(std::io::Error::other(error)))?;
        let (repository, resolved) = fetched?;
        Ok(Fetched {
            store: self.clone(),
            repository,
            resolved,
        })
    }
}

impl Inner {
    async fn ask(&self, access: &Access, wanted: &Wanted, cancel: &CancellationToken) -> Result<Resolved, GitError> {
        let patterns = wanted.patterns();
        let mut arguments = vec!["ls-remote", "--symref", "--", access.remote.url()];
        arguments.extend(patterns.iter().map(String::as_str));
        let remote = access.remote.url();
        let doing = format!("fetch remote {remote}");
        let reached = self.reach(&self.repositories, access, doing, &arguments, cancel);
        let said = reached.await.and_then(|said| Ok(said.success()?.text()));
        let is_unnamed = wanted.reference.is_empty();
        let said = said.map_err(|error| match error {
            GitError::Failed { .. } if is_unnamed => GitError::DefaultBranch {
                remote: remote.to_owned(),
                source: Box::new(error),
            },
            error => error,
        })?;
        wanted.find(&said).map_err(|error| match error {
            GitError::NoReference { .. } if is_unnamed => GitError::NoDefaultBranch {
                remote: remote.to_owned(),
            },
            error => error,
        })
    }

    async fn fetch(
        self: &Arc<Self>,
        access: &Access,
        mut resolved: Resolved,
        cancel: &CancellationToken,
    ) -> Result<(Repository<Shared>, Resolved), GitError> {
        let (length, kept) = (resolved.object.len(), kept_name(&resolved.object));
        // Most of what is wanted was wanted before, maybe just now by another step: no need to be alone for that.
        if let Some(repository) = self.known_repository(access, length, cancel).await?
            && let Some(commit) = self.look_up(&repository, access, &kept, cancel).await?
        {
            resolved.commit = commit;
            return Ok((repository, resolved));
        }
        let repository = self.repository(access, length, cancel).await?;
        if self.look_up(&repository, access, &kept, cancel).await?.is_none() {
            repository.disturb()?;
            let fetched = match &access.bundle {
                None => self.fetch_into(&repository, access, &resolved, cancel).await,
                Some(bundle) => {
                    let fetched = self.fetch_from_bundle(&repository, access, bundle, &resolved, cancel);
                    fetched.await
                }
            };
            repository.settle(fetched)?;
        }
        let commit = self.look_up(&repository, access, &kept, cancel).await?;
        resolved.commit = commit.ok_or_else(|| no_commit(access, &resolved.object))?;
        Ok((repository.share(), resolved))
    }

    /// The commit that something leads to, if it is here.
    pub(super) async fn look_up<G>(
        &self,
        repository: &Repository<G>,
        access: &Access,
        name: &str,
        cancel: &CancellationToken,
    ) -> Result<Option<String>, GitError> {
        let commit = format!("{name}^{{commit}}");
        let arguments = ["rev-parse", "--verify", "--quiet", "--end-of-options", &commit];
        let found = self.run(&repository.dir, access, &arguments, cancel).await?;
        Ok(found.is_success().then(|| found.text().trim().to_owned()))
    }

    /// Tries what costs least first: the reference, the commit by its hash, and then everything there is.
    async fn fetch_into(
        &self,
        repository: &Repository<Exclusive>,
        access: &Access,
        resolved: &Resolved,
        cancel: &CancellationToken,
    ) -> Result<(), GitError> {
        let whole = if repository.dir.join("shallow").exists() {
            Some("--unshallow")
        } else {
            None
        };
        let ways: Vec<_> = ways(resolved).collect();
        let mut failure = None;
        for (number, specs) in ways.iter().enumerate() {
            let is_last = number + 1 == ways.len();
            let depth = if is_last { whole } else { Some("--depth=1") };
            let mut arguments = vec![
                "fetch",
                "--quiet",
                "--no-tags",
                "--force",
                "--no-write-fetch-head",
                "--prune",
            ];
            arguments.extend(depth);
            arguments.extend(["--", access.remote.url()]);
            arguments.extend(specs.iter().map(String::as_str));
            let doing = format!("fetch remote {}", access.remote.url());
            let fetched = self.reach(&repository.dir, access, doing, &arguments, cancel).await?;
            if !fetched.is_success() {
                failure = Some(fetched.other_way()?);
                continue;
            }
            failure = None;
            // By now the reference may lead elsewhere.
            if self
                .look_up(repository, access, &resolved.object, cancel)
                .await?
                .is_some()
            {
                return self.keep(repository, access, resolved, cancel).await;
            }
        }
        Err(failure.unwrap_or_else(|| no_commit(access, &resolved.object)))
    }

    /// Gives what is whole its name.
    pub(super) async fn keep(
        &self,
        repository: &Repository<Exclusive>,
        access: &Access,
        resolved: &Resolved,
        cancel: &CancellationToken,
    ) -> Result<(), GitError> {
        let arguments = ["update-ref", &kept_name(&resolved.object), &resolved.object];
        let kept = self.run(&repository.dir, access, &arguments, cancel).await?;
        kept.success().map(drop)
    }

    /// A call that reaches for the remote, when there is a slot for it.
    pub(super) async fn reach(
        &self,
        dir: &Path,
        access: &Access,
        doing: String,
        arguments: &[&str],
        cancel: &CancellationToken,
    ) -> Result<Output, GitError> {
        let _slot = tokio::select! {
            slot = self.slots.acquire() => slot.map_err(|_| GitError::cancelled())?,
            () = cancel.cancelled() => return Err(GitError::cancelled()),
        };
        let call = Call {
            log: Some(&access.log),
            local: false,
            ..self.call(dir, access, doing)
        };
        self.git.run(call, arguments, cancel).await
    }
}

pub(super) fn no_commit(access: &Access, object: &str) -> GitError {
    GitError::NoCommit {
        remote: access.remote.url().to_owned(),
        commit: object.to_owned(),
    }
}

/// What to ask a remote for, what costs least first: the reference, the commit by its hash, and then everything there is.
pub(super) fn ways(resolved: &Resolved) -> impl Iterator<Item = Vec<String>> {
    let from = |source: &str| vec![format!("+{source}:{INCOMING}")];
    let mut everything = vec![
        "+refs/heads/*:refs/cairn/all/heads/*".to_owned(),
        "+refs/tags/*:refs/cairn/all/tags/*".to_owned(),
    ];
    everything.extend(resolved.name.iter().flat_map(|name| from(name)));
    let by_name = resolved.name.as_deref().map(from);
    by_name.into_iter().chain([from(&resolved.object), everything])
}

/// Under which name a commit or tag is kept.
pub(super) fn kept_name(object: &str) -> String {
    format!("refs/cairn/at/{object}")
}

impl Output {
    /// The error of a fetch that failed, if there are other ways that may lead to what is wanted.
    ///
    /// # Errors
    /// [`GitError::Failed`] if there are none.
    pub(super) fn other_way(self) -> Result<GitError, GitError> {
        let has_other_ways = OTHER_WAY.iter().any(|said| self.stderr.contains(said));
        let error = self.into_error();
        if has_other_ways { Ok(error) } else { Err(error) }
    }
}

impl Fetched {
    /// What there is to know about the commit.
    ///
    /// # Errors
    /// If git cannot read its own repository, or an object in it is larger than a megabyte.
    pub(crate) async fn meta(&self, access: &Access, cancel: &CancellationToken) -> Result<GitMeta, GitError> {
        let Resolved { object, commit, name } = &self.resolved;
        let commit_object = self.object(access, "commit", commit, cancel).await?;
        let tag_object = if object == commit {
            Bytes::new()
        } else {
            self.object(access, "tag", object, cancel).await?
        };
        Ok(GitMeta {
            checksum: object.clone(),
            reference: name.clone().unwrap_or_else(|| object.clone()),
            commit_checksum: if object == commit {
                String::new()
            } else {
                commit.clone()
            },
            committed_at: committed_at(&commit_object),
            commit_object,
            tag_object,
        })
    }

    async fn object(
        &self,
        access: &Access,
        kind: &str,
        hash: &str,
        cancel: &CancellationToken,
    ) -> Result<Bytes, GitError> {
        let arguments = ["cat-file", kind, hash];
        let read = self.store.0.run(&self.repository.dir, access, &arguments, cancel).await;
        Ok(read?.success()?.stdout.into())
    }
}

/// When a commit was made, by its committer's clock.
pub(super) fn committed_at(object: &[u8]) -> Option<i64> {
    let text = String::from_utf8_lossy(object);
    let header = text.lines().take_while(|line| !line.is_empty());
    let line = header.filter_map(|line| line.strip_prefix("committer ")).next()?;
    // `Name <address> 1700000000 +0100`, where the name may hold anything.
    line.rsplit(' ').nth(1)?.parse().ok()
}
