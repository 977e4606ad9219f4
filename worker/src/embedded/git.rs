//! Git repositories as sources.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use async_trait::async_trait;
use cairn_solver::llb::{BlobSource, GitMtime, GitSigners, GitSource};
use cairn_solver::worker::{CallContext, GitMeta, Ref, ResolvedSource, SourceMeta, WorkerError};

use super::blob;
use super::log::LogSink;
use super::ssh::{Asked, LentAgent};
use super::{EmbeddedWorker, blocking, failed, no_key};
use crate::executor::ExecError;
use crate::git::{
    Access, Authorization, Bundle, CheckOut, Fetched, OpenBundle, Protocol, Remote, Resolved, Settings, SshAccess,
    Wanted, host_keys,
};
use crate::layer::Describe;
use crate::signature::{self, Demands};
use crate::sys::root::clean;

/// Names of what a reference was resolved to.
const COMMIT: &str = "commit";
const OBJECT: &str = "object";
const NAME: &str = "ref";

/// A way to a remote, as one build has it.
struct Way {
    access: Arc<Access>,
    log: Arc<LogSink>,
    _agent: Option<LentAgent>,
}

/// A bundle in a registry, or in a client's OCI layout.
struct BundleBlob {
    worker: EmbeddedWorker,
    source: BlobSource,
    context: CallContext,
}

#[async_trait]
impl OpenBundle for BundleBlob {
    async fn open(&self) -> Result<File, WorkerError> {
        let digest = self.worker.fetch_named_blob(&self.source, &self.context).await?;
        let contents = self.worker.0.content.clone();
        blocking(move || contents.reader(&digest).map_err(|error| failed(&error))).await
    }
}

impl EmbeddedWorker {
    /// Finds out which commit a git source stands for.
    pub(super) async fn resolve_git(
        &self,
        source: &GitSource,
        context: &CallContext,
    ) -> Result<ResolvedSource, WorkerError> {
        let way = self.way(source, context).await?;
        let found = async {
            let found = self
                .0
                .git
                .resolve(&way.access, &wanted(source), &context.cancel)
                .await?;
            if source.signers.is_some() {
                // Results that are known already are only for those whose signers these are as well.
                self.fetch(source, Some(parts(found.clone())), &way, context).await?;
            }
            Ok(found)
        };
        let found = found.await;
        way.log.finish(found.is_err());
        let found = found.map_err(no_key)?;
        if let Some(name) = &found.name {
            context.progress.log(1, format!("{}\t{name}\n", found.commit).into());
        }
        Ok(ResolvedSource {
            pin: pin(source, way.access.remote.url(), &found),
            parts: parts(found),
            result: None,
        })
    }

    /// Fetches a commit and lays its files out.
    pub(super) async fn make_git(
        &self,
        source: &GitSource,
        resolved: Option<&ResolvedSource>,
        context: &CallContext,
    ) -> Result<Option<Ref>, WorkerError> {
        let way = self.way(source, context).await?;
        let made = self.check_out(source, resolved, &way, context).await;
        way.log.finish(made.is_err());
        made
    }

    /// Finds out what a git source's files do not tell.
    pub(super) async fn git_meta(&self, source: &GitSource, context: &CallContext) -> Result<SourceMeta, WorkerError> {
        let way = self.way(source, context).await?;
        let meta = async {
            let fetched = self.fetch(source, None, &way, context).await?;
            Ok::<_, WorkerError>(fetched.meta(&way.access, &context.cancel).await?)
        };
        let meta = meta.await;
        way.log.finish(meta.is_err());
        Ok(SourceMeta::Git(meta?))
    }

    /// The keys that the ssh host of a git source presents; empty if it does not tell.
    pub(super) async fn git_host_keys(&self, source: &GitSource) -> String {
        match Remote::parse(&source.full_url) {
            Ok(remote) => host_keys(&remote).await,
            // Whoever fetches from it says what is wrong with it.
            Err(_) => String::new(),
        }
    }

    async fn fetch(
        &self,
        source: &GitSource,
        resolved: Option<BTreeMap<String, String>>,
        way: &Way,
        context: &CallContext,
    ) -> Result<Fetched, WorkerError> {
        let found = match resolved.as_ref().and_then(of_parts) {
            Some(found) => found,
            None => {
                self.0
                    .git
                    .resolve(&way.access, &wanted(source), &context.cancel)
                    .await?
            }
        };
        let fetched = self.0.git.fetch(way.access.clone(), found, &context.cancel).await?;
        if let Some(signers) = &source.signers {
            let meta = fetched.meta(&way.access, &context.cancel).await?;
            let signers = signers.clone();
            blocking(move || check_signers(&signers, &meta)).await?;
        }
        Ok(fetched)
    }

    async fn check_out(
        &self,
        source: &GitSource,
        resolved: Option<&ResolvedSource>,
        way: &Way,
        context: &CallContext,
    ) -> Result<Option<Ref>, WorkerError> {
        let subdir = subdir(source);
        let known = resolved.map(|resolved| resolved.parts.clone());
        let fetched = self.fetch(source, known, way, context).await?;
        let mtime = match source.mtime {
            GitMtime::Checkout => None,
            GitMtime::Commit => fetched.meta(&way.access, &context.cancel).await?.committed_at,
        };
        let layers = self.0.layers.clone();
        let layer = blocking(move || layers.prepare(&layers.scratch()).map_err(|error| failed(&error))).await?;
        let dir = layer.upper().try_clone().map_err(|error| failed(&error))?;
        let path = layer.path();
        if source.as_bundle {
            fetched.bundle(&way.access, dir, &path, mtime, &context.cancel).await?;
        } else {
            let how = CheckOut {
                subdir,
                keep_git_dir: source.keep_git_dir,
                submodules: !source.skip_submodules,
                mtime,
            };
            fetched
                .check_out(&way.access, dir, &path, &how, &context.cancel)
                .await?;
        }
        let describe = Describe {
            description: described(way.access.remote.url(), source),
            record_type: "source.git.checkout".to_owned(),
        };
        let worker = self.clone();
        blocking(move || {
            let list = layer.commit(&describe).map_err(|error| failed(&error))?;
            worker.record(&list)
        })
        .await
    }

    async fn way(&self, source: &GitSource, context: &CallContext) -> Result<Way, WorkerError> {
        tokio::select! {
            way = self.find_way(source, context) => way,
            () = context.cancel.cancelled() => Err(WorkerError::Cancelled),
        }
    }

    /// Collects what it takes to reach a remote: credentials of the clients, for its host alone.
    async fn find_way(&self, source: &GitSource, context: &CallContext) -> Result<Way, WorkerError> {
        let remote = if source.full_url.is_empty() {
            Remote::parse(&format!("https://{}", source.repository))?
        } else {
            Remote::parse(&source.full_url)?
        };
        let (mut authorization, mut ssh, mut agent) = (None, SshAccess::default(), None);
        match remote.protocol() {
            Protocol::Http => authorization = self.authorization(source, &remote, context).await?,
            Protocol::Ssh => {
                if !source.ssh_socket.is_empty() {
                    let lent = self.lend_agent(&source.ssh_socket, &context.sessions).await?;
                    agent = Some(match lent {
                        Asked::Lent(agent) => agent,
                        Asked::Refused(words) => return Err(ExecError::no_ssh(&source.ssh_socket, &words).into()),
                    });
                }
                ssh.known_hosts.clone_from(&source.known_ssh_hosts);
                ssh.agent = agent.as_ref().map(LentAgent::short_path);
            }
            Protocol::Git => {}
        }
        let bundle = match &source.bundle {
            None => None,
            Some(bundle) => Some(Bundle {
                digest: blob::digest(bundle)?,
                blob: Arc::new(BundleBlob {
                    worker: self.clone(),
                    source: bundle.clone(),
                    context: context.clone(),
                }),
            }),
        };
        let log = Arc::new(LogSink::new(context.progress.clone(), self.0.log_limits));
        Ok(Way {
            access: Arc::new(Access {
                settings: Settings::new(&remote, authorization.as_ref(), ssh)?,
                remote,
                bundle,
                log: log.clone(),
            }),
            log,
            _agent: agent,
        })
    }

    /// The first credential there is: those for the host before those for any, headers before tokens, and what the URL
    /// itself holds in the end.
    async fn authorization(
        &self,
        source: &GitSource,
        remote: &Remote,
        context: &CallContext,
    ) -> Result<Option<Authorization>, WorkerError> {
        let (header, token) = (&source.auth_header_secret, &source.auth_token_secret);
        for suffix in [format!(".{}", remote.authority()), String::new()] {
            for (id, is_header) in [(header, true), (token, false)] {
                if id.is_empty() {
                    continue;
                }
                let secret = self.secret(&format!("{id}{suffix}"), &context.sessions).await?;
                if let Some(secret) = secret {
                    return Ok(Some(if is_header {
                        Authorization::Header(secret)
                    } else {
                        Authorization::Token(secret)
                    }));
                }
            }
        }
        let login = remote.login().cloned();
        Ok(login.map(|(user, password)| Authorization::Login(user, password)))
    }
}

/// Checks that the right people signed what was fetched.
fn check_signers(signers: &GitSigners, meta: &GitMeta) -> Result<(), WorkerError> {
    let checked = signature::git::verify_objects(
        signature::git::Signers {
            keys: &signers.keys,
            demands: Demands {
                reject_expired: signers.reject_expired,
            },
            require_tag: signers.require_tag,
            ignore_tag: signers.ignore_tag,
        },
        &meta.checksum,
        &meta.commit_object,
        &meta.tag_object,
    );
    checked.map_err(|error| {
        let named = &meta.reference;
        WorkerError::Failed(format!(
            "failed to verify the signature of {named} ({}): {error}",
            meta.checksum
        ))
    })
}

fn wanted(source: &GitSource) -> Wanted {
    Wanted {
        reference: source.reference.clone(),
        checksum: source.checksum.clone(),
        by_commit: source.fetch_by_commit,
    }
}

/// What people are told that a check-out is.
fn described(url: &str, source: &GitSource) -> String {
    let (reference, subdir) = (source.reference.as_str(), source.subdir.as_str());
    match (reference, subdir) {
        ("", "") => format!("git snapshot for {url}"),
        (_, "") => format!("git snapshot for {url}#{reference}"),
        _ => format!("git snapshot for {url}#{reference}:{subdir}"),
    }
}

/// The directory that is wanted, clean; empty for all. Nothing is above the root of the repository.
fn subdir(source: &GitSource) -> String {
    clean(&source.subdir).to_string_lossy().into_owned()
}

/// Everything that the files depend on. Where they come from is part of them only if `.git` is.
fn pin(source: &GitSource, url: &str, found: &Resolved) -> String {
    let mut pin = format!("git {}", found.commit);
    if !source.subdir.is_empty() {
        pin.push_str(&format!(" subdir {:?}", source.subdir));
    }
    if source.skip_submodules {
        pin.push_str(" without submodules");
    }
    if source.mtime == GitMtime::Commit {
        pin.push_str(" dated");
    }
    if source.as_bundle {
        pin.push_str(&format!(" {} as a bundle of {}", found.object, found.bundled_name()));
    }
    if source.keep_git_dir {
        let name = found.name.as_deref().unwrap_or_default();
        pin.push_str(&format!(" with .git {} {name} of {url}", found.object));
    }
    pin
}

fn parts(found: Resolved) -> BTreeMap<String, String> {
    let mut parts = BTreeMap::from([(COMMIT.to_owned(), found.commit), (OBJECT.to_owned(), found.object)]);
    parts.extend(found.name.map(|name| (NAME.to_owned(), name)));
    parts
}

fn of_parts(parts: &BTreeMap<String, String>) -> Option<Resolved> {
    Some(Resolved {
        commit: parts.get(COMMIT)?.clone(),
        object: parts.get(OBJECT)?.clone(),
        name: parts.get(NAME).cloned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_files_depend_on_is_pinned_and_survives_as_parts() {
        let found = Resolved {
            object: "a".repeat(40),
            commit: "b".repeat(40),
            name: Some("refs/tags/v1".to_owned()),
        };
        assert_eq!(of_parts(&parts(found.clone())), Some(found.clone()));
        let plain = GitSource::default();
        let changes: [fn(&mut GitSource); 5] = [
            |source| source.subdir = "x".to_owned(),
            |source| source.skip_submodules = true,
            |source| source.mtime = GitMtime::Commit,
            |source| source.keep_git_dir = true,
            |source| source.as_bundle = true,
        ];
        let mut pins = vec![pin(&plain, "u", &found)];
        for change in changes {
            let mut source = plain.clone();
            change(&mut source);
            pins.push(pin(&source, "u", &found));
        }
        let distinct: std::collections::BTreeSet<_> = pins.iter().collect();
        assert_eq!(distinct.len(), pins.len(), "{pins:?}");
        assert_eq!(pin(&plain, "u", &found), pin(&plain, "another", &found));
    }

    #[test]
    fn subdirs_stay_in_the_repository() {
        for (text, expected) in [
            ("", ""),
            ("/", ""),
            ("./a//b/", "a/b"),
            ("../a", "a"),
            ("a/../..", ""),
            ("a/../b/./c", "b/c"),
        ] {
            let source = GitSource {
                subdir: text.to_owned(),
                ..GitSource::default()
            };
            assert_eq!(subdir(&source), expected, "{text}");
        }
    }
}
