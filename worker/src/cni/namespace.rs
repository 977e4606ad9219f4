//! A network namespace of our own, with the record of what it is in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Setup;
use super::attachment::{Attachment, Target, add_all, delete_all};
use super::error::CniError;
use crate::causes::with_causes;
use crate::sys::mounts::MountGuard;
use crate::sys::netns::{is_pinned, pin_new_network};
use crate::sys::root::create_private_dirs;

/// The namespace, in the directory of its own.
const NET: &str = "net";
/// All that it takes to take it out of its networks.
const RECORD: &str = "record.json";

/// A namespace in its networks.
#[derive(Debug)]
pub(super) struct Namespace {
    dir: PathBuf,
    record: Record,
    plugin_limit: Duration,
    mount: Option<MountGuard>,
}

/// What is written down about a namespace.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    plugin_dir: PathBuf,
    arguments: String,
    attachments: Vec<Attachment>,
}

impl Namespace {
    /// Makes a namespace below `parent`, whose name is to be known by `hostname` if there is one.
    pub(super) async fn create(parent: &Path, setup: &Setup, hostname: &str) -> Result<Self, CniError> {
        let record = Record {
            plugin_dir: setup.plugin_dir.clone(),
            arguments: arguments(hostname),
            attachments: setup.attachments.clone(),
        };
        let (dir, limit) = (parent.join(crate::layer::random_name()), setup.plugin_limit);
        let mut made = blocking(parent, move || Self::pin(dir, record, limit)).await?;
        match made.join().await {
            Ok(()) => Ok(made),
            Err(error) => {
                // What plugins have not done, they may fail to undo.
                if let Err(error) = made.leave().await {
                    tracing::debug!(%error, "could not undo what was done of a network");
                }
                made.forget().await;
                Err(error)
            }
        }
    }

    /// Puts it into its networks, and notes what is needed to undo that.
    async fn join(&mut self) -> Result<(), CniError> {
        let (net, mut attachments) = (self.net(), self.record.attachments.clone());
        let target = self.record.target(&self.dir, self.plugin_limit, Some(&net));
        let added = add_all(&mut attachments, target).await;
        self.record.attachments = attachments;
        added?;
        if !self.record.attachments.iter().any(Attachment::has_to_be_known) {
            return Ok(());
        }
        let (dir, record) = (self.dir.clone(), self.record.clone());
        blocking(&self.dir, move || record.write(&dir)).await
    }

    fn pin(dir: PathBuf, record: Record, plugin_limit: Duration) -> Result<Self, CniError> {
        create_private_dirs(&dir).map_err(CniError::io("create", &dir))?;
        let net = dir.join(NET);
        let pinned = record.write(&dir).and_then(|()| {
            std::fs::File::create_new(&net).map_err(CniError::io("create", &net))?;
            pin_new_network(&net).map_err(CniError::io("make a network namespace at", &net))
        });
        match pinned {
            Ok(mount) => Ok(Self {
                dir,
                record,
                plugin_limit,
                mount: Some(mount),
            }),
            Err(error) => {
                std::fs::remove_dir_all(&dir).map_err(CniError::io("remove", &dir))?;
                Err(error)
            }
        }
    }

    /// One that an earlier daemon has written down.
    pub(super) fn read(dir: &Path, plugin_limit: Duration) -> Result<Self, CniError> {
        let path = dir.join(RECORD);
        let text = std::fs::read(&path).map_err(CniError::io("read", &path))?;
        let record = serde_json::from_slice(&text).map_err(|error| CniError::io("read", &path)(error.into()))?;
        Ok(Self {
            dir: dir.to_owned(),
            record,
            plugin_limit,
            mount: None,
        })
    }

    /// Where it can be entered.
    pub(super) fn net(&self) -> PathBuf {
        self.dir.join(NET)
    }

    /// Takes it out of its networks.
    pub(super) async fn leave(&self) -> Result<(), CniError> {
        let net = Some(self.net()).filter(|net| is_pinned(net));
        let target = self.record.target(&self.dir, self.plugin_limit, net.as_deref());
        delete_all(&self.record.attachments, target).await
    }

    /// Takes it out of its networks and ends it. If that fails, the next daemon finds it written down, and tries again.
    pub(super) async fn remove(self) {
        match self.leave().await {
            Ok(()) => self.forget().await,
            Err(error) => {
                tracing::warn!(error = with_causes(&error), "could not take a network down");
                drop(self);
            }
        }
    }

    async fn forget(self) {
        let (dir, path) = (self.dir.clone(), self.dir.clone());
        let forgotten = blocking(&path, move || {
            if let Some(mount) = self.mount {
                let path = mount.path().to_owned();
                mount.unmount().map_err(CniError::io("unmount", &path))?;
            }
            std::fs::remove_dir_all(&dir).map_err(CniError::io("remove", &dir))
        });
        if let Err(error) = forgotten.await {
            tracing::warn!(error = with_causes(&error), "could not end a network namespace");
        }
    }
}

impl Record {
    fn target<'a>(&'a self, dir: &'a Path, plugin_limit: Duration, netns: Option<&'a Path>) -> Target<'a> {
        let name = dir.file_name().and_then(|name| name.to_str());
        Target {
            plugin_dir: &self.plugin_dir,
            plugin_limit,
            container: name.unwrap_or_default(),
            netns,
            arguments: &self.arguments,
        }
    }

    fn write(&self, dir: &Path) -> Result<(), CniError> {
        let (path, staged) = (dir.join(RECORD), dir.join("record.new"));
        serde_json::to_vec(self)
            .map_err(std::io::Error::other)
            .and_then(|text| std::fs::write(&staged, text))
            .and_then(|()| std::fs::rename(&staged, &path))
            .map_err(CniError::io("write", &path))
    }
}

/// What plugins are told besides: the name under which others are to find it, as Kubernetes would say it. A name that
/// would be taken for something else is left out.
fn arguments(hostname: &str) -> String {
    if hostname.is_empty() || hostname.contains([';', '=']) {
        return String::new();
    }
    format!("K8S_POD_NAME={hostname};IgnoreUnknown=1")
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, CniError> + Send + 'static,
) -> Result<T, CniError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(CniError::io("work on", path)(std::io::Error::other(error))),
    }
}
