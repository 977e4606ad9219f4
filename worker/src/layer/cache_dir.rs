//! Directories that outlive builds: what `RUN --mount=type=cache` mounts.
//!
//! A directory is asked for by a key. Several may exist under one, since users who do not share get one each; which of
//! them a later user gets does not matter to him. Keys come from clients and are only ever hashed.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_solver::llb::CacheSharing;
use cairn_solver::worker::CacheName;
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, futures::Notified};

use super::error::LayerError;
use super::list::LayerList;
use super::metadata::CACHE_DIRS;
use super::record::{CacheDirRecord, LayerId, random_hex};
use super::seed::{CopiedAs, copy_tree};
use super::store::LayerStore;
use crate::sys::{Root, at};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct CacheRequest {
    /// Name given by the client.
    pub id: String,
    /// Content of a fresh directory; part of its identity.
    pub seed: Option<LayerList>,
    /// What happens when somebody else uses it.
    pub sharing: CacheSharing,
    /// For people.
    pub description: String,
}

impl CacheRequest {
    /// Hash of what names the directories. Whoever locks several does so in this order.
    pub(crate) fn key(&self) -> String {
        hash(&self.id, self.seed.iter().flat_map(|seed| seed.ids()))
    }
}

fn hash<'a>(id: &str, seed: impl Iterator<Item = &'a LayerId>) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(id.len() as u64).to_le_bytes());
    hasher.update(id.as_bytes());
    for layer in seed {
        hasher.update(layer.as_str().as_bytes());
        hasher.update(b"\n");
    }
    hex::encode(&hasher.finalize().as_bytes()[..16])
}

/// A cache directory in use; given back when dropped.
#[derive(Debug)]
pub struct CacheDir {
    name: String,
    path: PathBuf,
    root: Root,
    store: LayerStore,
}

impl CacheDir {
    /// Where it is: a path of the daemon's own.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory, whose contents nobody vouches for.
    pub fn root(&self) -> &Root {
        &self.root
    }
}

impl Drop for CacheDir {
    fn drop(&mut self) {
        self.store.give_back(&self.name);
    }
}

impl std::fmt::Debug for LayerStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerStore")
            .field("root", &self.inner.dirs.root)
            .finish_non_exhaustive()
    }
}

/// Who uses which directory now.
#[derive(Default)]
pub(super) struct CacheDirs {
    uses: Mutex<HashMap<String, Use>>,
    /// Those in use that have no record any more: they go when they are given back.
    unrecorded: Mutex<HashSet<String>>,
    freed: Notify,
    /// One at a time chooses or makes a directory under a key, so that sharers find what the first one makes.
    gates: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Shared(usize),
    Exclusive,
}

/// The uses, locked: nobody gets a directory meanwhile.
pub(super) struct LockedUses<'a>(MutexGuard<'a, HashMap<String, Use>>);

impl LockedUses<'_> {
    /// Whether nobody uses the directory, so that it can be forgotten before the lock is given up.
    pub(super) fn forget(&mut self, name: &str) -> bool {
        !self.0.contains_key(name)
    }
}

impl CacheDirs {
    pub(super) fn lock(&self) -> LockedUses<'_> {
        LockedUses(self.uses.lock())
    }

    pub(super) fn is_used(&self, name: &str) -> bool {
        self.uses.lock().contains_key(name)
    }

    /// Whether the directory is to go now.
    fn give_back(&self, name: &str) -> bool {
        let mut uses = self.uses.lock();
        let is_last = match uses.get_mut(name) {
            Some(Use::Shared(count)) if *count > 1 => {
                *count -= 1;
                false
            }
            _ => {
                uses.remove(name);
                true
            }
        };
        drop(uses);
        self.freed.notify_waiters();
        is_last && self.unrecorded.lock().remove(name)
    }

    fn gate(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut gates = self.gates.lock();
        // Those nobody waits at are not needed any more.
        gates.retain(|_, gate| Arc::strong_count(gate) > 1);
        gates.entry(key.to_owned()).or_default().clone()
    }
}

enum Choice {
    Take(String),
    Make,
    Wait,
}

impl LayerStore {
    /// Gets a cache directory, waiting if it is locked by another user. The layers of the seed must be unpacked.
    ///
    /// # Cancel safety
    /// Cancel safe: a directory that was gotten but not returned is given back.
    pub async fn cache_dir(&self, request: &CacheRequest) -> Result<CacheDir, LayerError> {
        let key = request.key();
        let gate = self.inner.cache_dirs.gate(&key);
        loop {
            let mut freed: std::pin::Pin<Box<Notified<'_>>> = Box::pin(self.inner.cache_dirs.freed.notified());
            // From here on nothing given back is missed.
            freed.as_mut().enable();
            {
                let _turn = gate.lock().await;
                match self.choose_cache_dir(&key, request.sharing)? {
                    Choice::Take(name) => return self.open_cache_dir(name),
                    Choice::Make => return self.make_cache_dir(key, request).await,
                    Choice::Wait => {}
                }
            }
            freed.await;
        }
    }

    /// Has whoever asks for one of these directories from now on get a new one. Those in use now go when they are given
    /// back.
    pub(crate) fn begin_caches_anew(&self, caches: &[CacheName]) -> Result<(), LayerError> {
        let (seeded, empty): (Vec<&CacheName>, _) = caches.iter().partition(|cache| cache.seeded);
        let hashes = |names: Vec<&CacheName>| -> HashSet<String> {
            let hashes = names.iter().map(|name| hash(&name.id, std::iter::empty()));
            hashes.collect()
        };
        let (seeded, empty) = (hashes(seeded), hashes(empty));
        let is_meant = |record: &CacheDirRecord| match &record.seeded_name {
            Some(name) => seeded.contains(name),
            None => empty.contains(&record.key),
        };
        let mut unused = Vec::new();
        {
            let uses = self.inner.cache_dirs.uses.lock();
            let known: Vec<(String, CacheDirRecord)> = self.inner.db.all(CACHE_DIRS)?;
            let meant = known.into_iter().filter(|(_, record)| is_meant(record));
            let names: Vec<String> = meant.map(|(name, _)| name).collect();
            self.inner
                .db
                .write(|changes| names.iter().try_for_each(|name| changes.remove(CACHE_DIRS, name)))?;
            let mut unrecorded = self.inner.cache_dirs.unrecorded.lock();
            for name in names {
                if uses.contains_key(&name) {
                    unrecorded.insert(name);
                } else {
                    unused.push(name);
                }
            }
        }
        // Whoever waited for one of them makes one now.
        self.inner.cache_dirs.freed.notify_waiters();
        unused.iter().try_for_each(|name| self.discard_cache_dir(name))
    }

    fn give_back(&self, name: &str) {
        if self.inner.cache_dirs.give_back(name)
            && let Err(error) = self.discard_cache_dir(name)
        {
            // The next start deletes what has no record.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a cache directory that is to go stays"
            );
        }
    }

    fn discard_cache_dir(&self, name: &str) -> Result<(), LayerError> {
        self.inner.background.discard(&self.inner.dirs.caches.join(name))
    }

    /// Picks a directory and marks it as used.
    fn choose_cache_dir(&self, key: &str, sharing: CacheSharing) -> Result<Choice, LayerError> {
        let mut uses = self.inner.cache_dirs.uses.lock();
        let mut known: Vec<(String, CacheDirRecord)> = self.inner.db.all(CACHE_DIRS)?;
        known.retain(|(_, record)| record.key == key);
        known.sort_by(|a, b| (a.1.created, &a.0).cmp(&(b.1.created, &b.0)));
        if sharing == CacheSharing::Shared {
            for (name, _) in &known {
                if let Some(Use::Shared(count)) = uses.get_mut(name) {
                    *count += 1;
                    return Ok(Choice::Take(name.clone()));
                }
            }
        }
        let free = known.iter().find(|(name, _)| !uses.contains_key(name));
        Ok(match free {
            Some((name, _)) => {
                uses.insert(name.clone(), first_use(sharing));
                Choice::Take(name.clone())
            }
            None if sharing == CacheSharing::Locked && !known.is_empty() => Choice::Wait,
            None => Choice::Make,
        })
    }

    /// Opens a directory that is marked as used.
    fn open_cache_dir(&self, name: String) -> Result<CacheDir, LayerError> {
        let path = self.inner.dirs.caches.join(&name).join("fs");
        let opened = Root::open(&path)
            .map_err(LayerError::io("open", &path))
            .and_then(|root| {
                self.inner.db.write(|changes| {
                    changes.update(CACHE_DIRS, &name, |record: &mut CacheDirRecord| {
                        record.last_used = Timestamp::now();
                        record.usage_count += 1;
                        record.size = None;
                    })
                })?;
                Ok(root)
            });
        match opened {
            Ok(root) => Ok(CacheDir {
                name,
                path,
                root,
                store: self.clone(),
            }),
            Err(error) => {
                self.give_back(&name);
                Err(error)
            }
        }
    }

    async fn make_cache_dir(&self, key: String, request: &CacheRequest) -> Result<CacheDir, LayerError> {
        let (store, request) = (self.clone(), request.clone());
        let made = tokio::task::spawn_blocking(move || {
            let name = format!("c{}", random_hex());
            let staged = store.inner.dirs.staging.join(&name);
            let filled = store.fill_cache_dir(&staged, request.seed.as_ref());
            if let Err(error) = filled {
                store.inner.background.discard(&staged)?;
                return Err(error);
            }
            let target = store.inner.dirs.caches.join(&name);
            std::fs::rename(&staged, &target).map_err(LayerError::io("finish cache directory", &target))?;
            let now = Timestamp::now();
            let record = CacheDirRecord {
                key,
                seeded_name: request.seed.is_some().then(|| hash(&request.id, std::iter::empty())),
                description: request.description.clone(),
                size: None,
                created: now,
                last_used: now,
                usage_count: 0,
            };
            // Used before it is recorded, so that it is not pruned before it was used.
            store
                .inner
                .cache_dirs
                .uses
                .lock()
                .insert(name.clone(), first_use(request.sharing));
            let recorded = store.inner.db.write(|changes| changes.put(CACHE_DIRS, &name, &record));
            if let Err(error) = recorded {
                store.give_back(&name);
                return Err(error);
            }
            store.open_cache_dir(name)
        });
        made.await.unwrap_or_else(|error| {
            Err(LayerError::io(
                "create a cache directory below",
                &self.inner.dirs.caches,
            )(std::io::Error::other(error)))
        })
    }

    fn fill_cache_dir(&self, dir: &Path, seed: Option<&LayerList>) -> Result<(), LayerError> {
        let fs = dir.join("fs");
        std::fs::create_dir_all(&fs).map_err(LayerError::io("create", &fs))?;
        let root = Root::open(&fs).map_err(LayerError::io("open", &fs))?;
        at::chmod_fd(&root, 0o755).map_err(LayerError::io("set attributes of", &fs))?;
        if let Some(seed) = seed {
            let mounted = self.mount_readonly(seed)?;
            copy_tree(mounted.root(), &root, CopiedAs::Files)
                .map_err(LayerError::io("copy the initial content to", &fs))?;
            mounted.unmount()?;
        }
        Ok(())
    }
}

fn first_use(sharing: CacheSharing) -> Use {
    match sharing {
        CacheSharing::Shared => Use::Shared(1),
        CacheSharing::Private | CacheSharing::Locked => Use::Exclusive,
    }
}
