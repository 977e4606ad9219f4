//! Files of a commit in a directory.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::command::Call;
use super::error::GitError;
use super::fetch::{Fetched, kept_name};
use super::store::Access;
use crate::layer::random_name;
use crate::sys::{Root, Time, at};

/// The repository inside of a checkout, and the pointers to it in checkouts of submodules.
const GIT_DIR: &str = ".git";

/// How files are laid out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CheckOut {
    /// Directory of the repository whose contents are wanted; empty for all of it.
    pub(crate) subdir: String,
    /// Whether `.git` is wanted; there is none in a part of a repository.
    pub(crate) keep_git_dir: bool,
    /// Whether submodules are wanted.
    pub(crate) submodules: bool,
    /// Modification time for everything, in seconds since the epoch; as git makes it without.
    pub(crate) mtime: Option<i64>,
}

impl Fetched {
    /// Puts the files into `dir`, an empty directory of the daemon's own at `path`.
    ///
    /// # Errors
    /// [`GitError::Subdir`] if what is wanted is not in the repository, and whatever goes wrong on the way.
    ///
    /// # Cancel safety
    /// Dropping the future may leave files in `dir`, and git writing to it for a moment.
    pub(crate) async fn check_out(
        &self,
        access: &Access,
        dir: Root,
        path: &Path,
        how: &CheckOut,
        cancel: &CancellationToken,
    ) -> Result<(), GitError> {
        // Inside of `dir`, from which files can be renamed; gone in the end.
        let stage = format!(".cairn-{}", random_name());
        let work = path.join(&stage);
        let tree = work.join("tree");
        std::fs::create_dir_all(&tree).map_err(GitError::io("make a directory for a checkout"))?;
        let keeps_git_dir = how.keep_git_dir && how.subdir.is_empty();
        let has_submodules = how.submodules && self.has_submodules(access, cancel).await?;
        if keeps_git_dir || has_submodules {
            self.clone_into(access, &tree, cancel).await?;
            if has_submodules {
                self.update_submodules(access, &tree, cancel).await?;
            }
        } else {
            let written = self.write_files(access, &work, cancel).await;
            if matches!(written, Err(GitError::Failed { .. })) {
                self.repository.suspect();
            }
            written?;
        }
        let how = how.clone();
        let finished = tokio::task::spawn_blocking(move || {
            let tree = dir.sub_root(Path::new(&stage).join("tree"));
            let tree = tree.map_err(GitError::io("open a checkout"))?;
            if has_submodules && !keeps_git_dir {
                remove_git_dirs(&tree).map_err(GitError::io("remove .git from a checkout"))?;
            }
            publish(&dir, &tree, &how)?;
            dir.remove_all(&stage)
                .map_err(GitError::io("clean up after a checkout"))?;
            set_time(&dir, Path::new(""), how.mtime).map_err(GitError::io("set times of a checkout"))
        });
        finished
            .await
            .map_err(|error| GitError::io("finish a checkout")(io::Error::other(error)))?
    }

    fn doing(access: &Access) -> String {
        format!("checkout remote {}", access.remote.url())
    }

    async fn has_submodules(&self, access: &Access, cancel: &CancellationToken) -> Result<bool, GitError> {
        let modules = format!("{}:.gitmodules", self.resolved.commit);
        let arguments = ["cat-file", "-e", &modules];
        let found = self
            .store
            .0
            .run(&self.repository.dir, access, &arguments, cancel)
            .await?;
        Ok(found.is_success())
    }

    /// Files alone, straight out of the bare repository.
    async fn write_files(&self, access: &Access, work: &Path, cancel: &CancellationToken) -> Result<(), GitError> {
        let tree = work.join("tree");
        let call = Call {
            log: Some(&access.log),
            variables: vec![
                ("GIT_DIR", self.repository.dir.clone().into()),
                ("GIT_WORK_TREE", tree.clone().into()),
                ("GIT_INDEX_FILE", work.join("index").into()),
            ],
            ..self.store.0.call(&tree, access, Self::doing(access))
        };
        let arguments = ["read-tree", "--reset", "-u", &self.resolved.commit];
        self.store
            .0
            .git
            .run(call, &arguments, cancel)
            .await?
            .success()
            .map(drop)
    }

    /// A repository of its own, with this one commit in it.
    async fn clone_into(&self, access: &Access, tree: &Path, cancel: &CancellationToken) -> Result<(), GitError> {
        let (resolved, bare) = (&self.resolved, self.repository.dir.display().to_string());
        let kept = kept_name(&resolved.object);
        let mut steps = vec![
            vec!["init", "--quiet", "--template="],
            vec!["config", "remote.origin.url", access.remote.url()],
            vec!["config", "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"],
            vec![
                "fetch",
                "--quiet",
                "--no-tags",
                "--depth=1",
                "--no-write-fetch-head",
                "--",
                &bare,
                &kept,
            ],
            vec!["checkout", "--quiet", "--detach", &resolved.commit],
        ];
        if resolved.object.len() == 64 {
            steps[0].push("--object-format=sha256");
        }
        if let Some(name) = &resolved.name {
            steps.insert(4, vec!["update-ref", name, &resolved.object]);
        }
        for arguments in steps {
            let call = Call {
                log: Some(&access.log),
                // So that git looks for a repository here and nowhere above.
                variables: vec![("GIT_DIR", GIT_DIR.into())],
                ..self.store.0.call(tree, access, Self::doing(access))
            };
            self.store.0.git.run(call, &arguments, cancel).await?.success()?;
        }
        Ok(())
    }

    async fn update_submodules(
        &self,
        access: &Access,
        tree: &Path,
        cancel: &CancellationToken,
    ) -> Result<(), GitError> {
        let update = ["submodule", "--quiet", "update", "--init", "--recursive"];
        // Not every server gives single commits.
        let attempts: [&[&str]; 2] = [&["--depth=1"], &[]];
        let mut outcome = Ok(());
        for depth in attempts {
            let call = Call {
                log: Some(&access.log),
                variables: Vec::new(),
                local: false,
                ..self
                    .store
                    .0
                    .call(tree, access, format!("update submodules of {}", access.remote.url()))
            };
            let arguments = [&update[..], depth].concat();
            outcome = self
                .store
                .0
                .git
                .run(call, &arguments, cancel)
                .await?
                .success()
                .map(drop);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }
}

/// Moves what is wanted of the tree to where it is wanted. Blocks.
fn publish(dir: &Root, tree: &Root, how: &CheckOut) -> Result<(), GitError> {
    let failed = || GitError::io("lay out a checkout");
    let part;
    let wanted = if how.subdir.is_empty() {
        tree
    } else {
        // Links are followed inside of the repository, as if it were the whole file system.
        part = tree.sub_root(&how.subdir).map_err(|source| GitError::Subdir {
            subdir: how.subdir.clone(),
            source,
        })?;
        &part
    };
    if how.mtime.is_some() {
        for path in paths(wanted).map_err(failed())? {
            set_time(wanted, &path, how.mtime).map_err(failed())?;
        }
    }
    for entry in at::read_dir(wanted).map_err(failed())? {
        at::rename(wanted, &entry.name, dir, &entry.name).map_err(failed())?;
    }
    Ok(())
}

/// Everything below a directory.
fn paths(root: &Root) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut pending) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(dir) = pending.pop() {
        for entry in root.read_dir(&dir)? {
            let path = dir.join(&entry.name);
            if root.lstat(&path)?.is_dir() {
                pending.push(path.clone());
            }
            found.push(path);
        }
    }
    Ok(found)
}

pub(super) fn set_time(root: &Root, path: &Path, seconds: Option<i64>) -> io::Result<()> {
    match seconds {
        Some(seconds) => {
            let time = Some(Time::from_nanos(seconds.saturating_mul(1_000_000_000)));
            root.set_times(path, time, time)
        }
        None => Ok(()),
    }
}

/// Removes `.git` everywhere. No commit can hold a file of that name: git refuses.
fn remove_git_dirs(tree: &Root) -> io::Result<()> {
    let is_git_dir = |path: &PathBuf| path.file_name() == Some(OsStr::new(GIT_DIR));
    // The outermost one goes with everything in it, so that what is in there need not be looked at.
    if tree.lstat(GIT_DIR).is_ok() {
        tree.remove_all(GIT_DIR)?;
    }
    for path in paths(tree)?.into_iter().filter(is_git_dir) {
        tree.remove_all(&path)?;
    }
    Ok(())
}
