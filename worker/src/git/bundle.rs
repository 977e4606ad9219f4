//! Bundles: repositories in a file (`git help bundle`), to fetch from and to make.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use cairn_solver::{Digest, WorkerError};
use tokio_util::sync::CancellationToken;

use super::checkout::set_time;
use super::command::{Call, Output};
use super::error::GitError;
use super::fetch::{Fetched, INCOMING, kept_name, no_commit, ways};
use super::reference::{Resolved, Wanted};
use super::settings::path_of;
use super::store::{Access, Exclusive, Inner, Repository, SHORT, Shared};
use crate::layer::random_name;
use crate::sys::Root;

/// The file that a checkout as a bundle consists of.
const NAME: &str = "bundle";
/// In a repository that has everything of its bundle.
const IMPORTED: &str = "cairn-imported";
/// Where the references of a bundle are put: none of them is taken for one of ours.
const REFS: &str = "refs/cairn/bundle/";
/// What a commit is called in a bundle that has no name of its own.
const FALLBACK: &str = "refs/heads/main";
/// How long hashes are.
const HASH_LENGTHS: [usize; 2] = [40, 64];
/// How much of a bundle is looked at for the kind of its hashes.
const HEAD_BYTES: u64 = 4 << 10;

/// A bundle that takes the place of a remote. The repository that is kept for it is for nothing else.
pub(crate) struct Bundle {
    /// Of its bytes.
    pub(crate) digest: Digest,
    /// Where they come from, when they are needed.
    pub(crate) blob: Arc<dyn OpenBundle>,
}

/// Gets bundles.
#[async_trait]
pub(crate) trait OpenBundle: Send + Sync {
    /// Opens the bytes of a bundle, which are those of its digest.
    ///
    /// # Errors
    /// If they are not to be had.
    async fn open(&self) -> Result<File, WorkerError>;
}

impl Bundle {
    async fn open(&self, cancel: &CancellationToken) -> Result<File, GitError> {
        let opened = tokio::select! {
            opened = self.blob.open() => opened,
            () = cancel.cancelled() => return Err(GitError::cancelled()),
        };
        opened.map_err(|source| match source {
            WorkerError::Cancelled => GitError::cancelled(),
            source => GitError::NoBundle {
                digest: self.digest,
                source,
            },
        })
    }
}

impl Inner {
    /// Finds out what a name stands for in a bundle.
    pub(super) async fn ask_bundle(
        self: &Arc<Self>,
        access: &Access,
        bundle: &Bundle,
        wanted: &Wanted,
        cancel: &CancellationToken,
    ) -> Result<Resolved, GitError> {
        let repository = self.imported(access, bundle, cancel).await?;
        if wanted.is_default_branch() {
            // Bundles do not say which branch that is, but there is always a checksum.
            let sum = &wanted.checksum;
            let commit = self.look_up(&repository, access, sum, cancel).await?;
            let commit = commit.ok_or_else(|| no_commit(access, sum))?;
            return Ok(Resolved {
                object: commit.clone(),
                commit,
                name: None,
            });
        }
        let format = "--format=%(objectname)%09refs/%(refname:lstrip=3)";
        let patterns = wanted.names().map(|name| name.replacen("refs/", REFS, 1));
        let mut arguments = vec!["for-each-ref", format];
        arguments.extend(patterns.iter().map(String::as_str));
        let said = self.run(&repository.dir, access, &arguments, cancel).await?.success()?;
        let mut found = wanted.find(&said.text())?;
        let commit = self.look_up(&repository, access, &found.object, cancel).await?;
        found.commit = commit.ok_or_else(|| no_commit(access, &found.object))?;
        Ok(found)
    }

    /// A repository with everything of a bundle.
    async fn imported(
        self: &Arc<Self>,
        access: &Access,
        bundle: &Bundle,
        cancel: &CancellationToken,
    ) -> Result<Repository<Shared>, GitError> {
        for length in HASH_LENGTHS {
            let known = self.known_repository(access, length, cancel).await?;
            if let Some(repository) = known.filter(|repository| repository.dir.join(IMPORTED).exists()) {
                return Ok(repository);
            }
        }
        let file = bundle.open(cancel).await?;
        let length = hash_length(&file, bundle)?;
        let repository = self.repository(access, length, cancel).await?;
        if !repository.dir.join(IMPORTED).exists() {
            repository.disturb()?;
            let imported = self.import(&repository, access, &file, cancel).await;
            repository.settle(imported)?;
        }
        Ok(repository.share())
    }

    /// Gets a commit out of a bundle, of which everything is taken over the first time.
    pub(super) async fn fetch_from_bundle(
        &self,
        repository: &Repository<Exclusive>,
        access: &Access,
        bundle: &Bundle,
        resolved: &Resolved,
        cancel: &CancellationToken,
    ) -> Result<(), GitError> {
        if !repository.dir.join(IMPORTED).exists() {
            let file = bundle.open(cancel).await?;
            if hash_length(&file, bundle)? != resolved.object.len() {
                return Err(no_commit(access, &resolved.object));
            }
            self.import(repository, access, &file, cancel).await?;
        }
        let found = self.look_up(repository, access, &resolved.object, cancel).await?;
        found.ok_or_else(|| no_commit(access, &resolved.object))?;
        self.keep(repository, access, resolved, cancel).await
    }

    async fn import(
        &self,
        repository: &Repository<Exclusive>,
        access: &Access,
        file: &File,
        cancel: &CancellationToken,
    ) -> Result<(), GitError> {
        let (path, spec) = (path_of(file), format!("+refs/*:{REFS}*"));
        let arguments = [
            "fetch",
            "--quiet",
            "--no-tags",
            "--force",
            "--no-write-fetch-head",
            "--",
            &path,
            &spec,
        ];
        let call = Call {
            log: Some(&access.log),
            ..self.call(&repository.dir, access, "import the git bundle".to_owned())
        };
        self.git.run(call, &arguments, cancel).await?.success()?;
        let marked = File::create(repository.dir.join(IMPORTED)).map(drop);
        marked.map_err(GitError::io("mark a git repository"))
    }
}

/// How long the hashes of a bundle are: its first lines say so.
fn hash_length(file: &File, bundle: &Bundle) -> Result<usize, GitError> {
    let mut head = Vec::new();
    let read = file.take(HEAD_BYTES).read_to_end(&mut head);
    read.map_err(GitError::io("read a git bundle"))?;
    let mut lines = head.split(|byte| *byte == b'\n');
    match lines.next() {
        Some(b"# v2 git bundle") => Ok(HASH_LENGTHS[0]),
        Some(b"# v3 git bundle") => {
            let mut said = lines.take_while(|line| line.starts_with(b"@"));
            let is_long = said.any(|line| line == b"@object-format=sha256");
            Ok(HASH_LENGTHS[usize::from(is_long)])
        }
        _ => Err(GitError::NotABundle(bundle.digest)),
    }
}

impl Resolved {
    /// What the commit is called in a bundle that is made of it.
    pub(crate) fn bundled_name(&self) -> &str {
        self.name.as_deref().unwrap_or(FALLBACK)
    }
}

impl Fetched {
    /// Puts a bundle with the commit and all that led to it into `dir`, an empty directory of the daemon's own at `path`;
    /// with that modification time, if there is one, in seconds since the epoch.
    ///
    /// # Errors
    /// Whatever goes wrong on the way.
    ///
    /// # Cancel safety
    /// Dropping the future may leave files in `dir`, and git writing to it for a moment.
    pub(crate) async fn bundle(
        &self,
        access: &Access,
        dir: Root,
        path: &Path,
        mtime: Option<i64>,
        cancel: &CancellationToken,
    ) -> Result<(), GitError> {
        // Our own repository of the remote has hardly any history, and is in use. This one is gone in the end.
        let stage = format!(".cairn-{}", random_name());
        let (work, out) = (path.join(&stage), path.join(&stage).join(NAME));
        let repository = work.join("repository");
        std::fs::create_dir_all(&repository).map_err(GitError::io("make a directory for a git bundle"))?;
        let mut init = vec!["init", "--quiet", "--bare", "--template="];
        if self.resolved.object.len() == 64 {
            init.push("--object-format=sha256");
        }
        self.in_bundle(&repository, access, &init, cancel).await?.success()?;
        self.fetch_history(&repository, access, cancel).await?;
        let name = self.resolved.bundled_name();
        // A branch leads to a commit, never to a tag.
        let object = match name.starts_with("refs/heads/") {
            true => &self.resolved.commit,
            false => &self.resolved.object,
        };
        let out_text = out.display().to_string();
        for arguments in [
            &["update-ref", name, object][..],
            &["bundle", "create", "--quiet", &out_text, name],
        ] {
            self.in_bundle(&repository, access, arguments, cancel)
                .await?
                .success()?;
        }
        let finished = tokio::task::spawn_blocking(move || -> io::Result<()> {
            dir.rename(Path::new(&stage).join(NAME), NAME)?;
            dir.chmod(NAME, 0o644)?;
            set_time(&dir, Path::new(NAME), mtime)?;
            dir.remove_all(&stage)?;
            set_time(&dir, Path::new(""), mtime)
        });
        let finished = finished.await.map_err(io::Error::other).and_then(|finished| finished);
        finished.map_err(GitError::io("finish a git bundle"))
    }

    /// A call in the repository that a bundle is made of.
    async fn in_bundle(
        &self,
        repository: &Path,
        access: &Access,
        arguments: &[&str],
        cancel: &CancellationToken,
    ) -> Result<Output, GitError> {
        let doing = format!("make a bundle of {}", access.remote.url());
        let call = Call {
            max_output: SHORT,
            ..self.store.0.call(repository, access, doing)
        };
        self.store.0.git.run(call, arguments, cancel).await
    }

    /// Fetches a commit with all that led to it: what costs least first.
    async fn fetch_history(
        &self,
        repository: &Path,
        access: &Access,
        cancel: &CancellationToken,
    ) -> Result<(), GitError> {
        let (store, resolved) = (&self.store.0, &self.resolved);
        let fetch = [
            "fetch",
            "--quiet",
            "--no-tags",
            "--force",
            "--no-write-fetch-head",
            "--",
        ];
        if access.bundle.is_some() {
            let (ours, kept) = (self.repository.dir.display().to_string(), kept_name(&resolved.object));
            let spec = format!("+{kept}:{INCOMING}");
            let arguments = [&fetch[..], &[&ours, &spec]].concat();
            return self
                .in_bundle(repository, access, &arguments, cancel)
                .await?
                .success()
                .map(drop);
        }
        let mut failure = None;
        for specs in ways(resolved) {
            let specs: Vec<_> = specs.iter().map(String::as_str).collect();
            let arguments = [&fetch[..], &[access.remote.url()], &specs].concat();
            let doing = format!("fetch remote {}", access.remote.url());
            let fetched = store.reach(repository, access, doing, &arguments, cancel).await?;
            if !fetched.is_success() {
                failure = Some(fetched.other_way()?);
                continue;
            }
            // By now the reference may lead elsewhere.
            let object = format!("{}^{{commit}}", resolved.object);
            let arguments = ["cat-file", "-e", &object];
            let found = self.in_bundle(repository, access, &arguments, cancel).await?;
            if found.is_success() {
                return Ok(());
            }
        }
        Err(failure.unwrap_or_else(|| no_commit(access, &resolved.object)))
    }
}
