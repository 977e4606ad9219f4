//! What nobody waits for: deleting, measuring and syncing files, bringing records to disk, each on a thread of the store's own.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cairn_solver::ResultId;

use super::error::LayerError;
use super::list::Holds;
use super::measure::disk_usage;
use super::metadata::{LAYERS, Metadata};
use super::record::{LayerId, LayerRecord, random_hex};
use super::store::Dirs;
use super::transient;
use crate::sys::{Root, at};

/// How long a finished layer waits for others to be made durable together.
const SYNC_DELAY: Duration = Duration::from_secs(5);

enum Chore {
    /// A finished layer: measure it now, sync it with others later.
    Finished(LayerId),
    /// A result that nobody holds any more is to go, with its top layer.
    Forget(ResultId, LayerId),
    /// Sync now, and tell when done.
    Sync(Sender<Result<(), LayerError>>),
}

/// The threads. They end when this is dropped.
pub(super) struct Background {
    chores: Option<Sender<Chore>>,
    trash: Option<Sender<()>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    records: Arc<Metadata>,
    dirs: Dirs,
}

impl Background {
    /// Starts the threads. `unsynced` are layers that an earlier process of this boot did not make durable.
    pub(super) fn start(
        dirs: &Dirs,
        db: &Arc<Metadata>,
        holds: &Arc<Holds>,
        unsynced: HashSet<LayerId>,
    ) -> Result<Self, LayerError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (chores, chore_queue) = mpsc::channel();
        let (trash, trash_queue) = mpsc::channel();
        let keeper = Keeper {
            dirs: dirs.clone(),
            db: db.clone(),
            holds: holds.clone(),
            trash: trash.clone(),
            unsynced,
            stop: stop.clone(),
        };
        let settler = db.clone();
        let cleaner = (dirs.trash.clone(), stop.clone());
        let threads = vec![
            spawn("layer-keeper", move || keeper.run(&chore_queue), dirs)?,
            spawn(
                "layer-trash",
                move || empty_trash(&cleaner.0, &trash_queue, &cleaner.1),
                dirs,
            )?,
            spawn("layer-records", move || settler.keep_settling(), dirs)?,
        ];
        let background = Self {
            chores: Some(chores),
            trash: Some(trash),
            stop,
            threads,
            records: db.clone(),
            dirs: dirs.clone(),
        };
        background.wake_trash();
        Ok(background)
    }

    /// Takes a path of the store out of sight and deletes it later. Nothing there is fine.
    pub(super) fn discard(&self, path: &Path) -> Result<(), LayerError> {
        move_to_trash(&self.dirs, path)?;
        self.wake_trash();
        Ok(())
    }

    /// Tells that a layer is in its place and recorded.
    pub(super) fn finished(&self, id: LayerId) {
        if let Some(chores) = &self.chores {
            // A thread that ended early only costs durability and sizes; both are made up for by the next start.
            chores
                .send(Chore::Finished(id))
                .unwrap_or_else(|_| tracing::warn!("the layer keeper ended early"));
        }
    }

    /// Tells that nobody holds a result any more that goes then.
    pub(super) fn forget(&self, result: ResultId, top: LayerId) {
        if let Some(chores) = &self.chores {
            // The next start makes up for a thread that ended early.
            chores
                .send(Chore::Forget(result, top))
                .unwrap_or_else(|_| tracing::warn!("the layer keeper ended early"));
        }
    }

    /// Waits until everything asked for before is done.
    #[cfg(test)]
    pub(super) fn settle(&self) {
        self.sync().expect("the layer keeper runs");
    }

    /// Makes every finished layer durable before it returns.
    pub(super) fn sync(&self) -> Result<(), LayerError> {
        let (done, wait) = mpsc::channel();
        let sent = self
            .chores
            .as_ref()
            .is_some_and(|chores| chores.send(Chore::Sync(done)).is_ok());
        let ended = || LayerError::io("sync", &self.dirs.layers)(std::io::Error::other("the layer keeper ended early"));
        if !sent {
            return Err(ended());
        }
        wait.recv().unwrap_or_else(|_| Err(ended()))
    }

    fn wake_trash(&self) {
        if let Some(trash) = &self.trash {
            trash
                .send(())
                .unwrap_or_else(|_| tracing::warn!("the trash thread ended early"));
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.chores.take();
        self.trash.take();
        self.records.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::warn!("a background thread of the layer store panicked");
            }
        }
    }
}

/// Renames `path` into the trash directory.
pub(super) fn move_to_trash(dirs: &Dirs, path: &Path) -> Result<(), LayerError> {
    match std::fs::rename(path, dirs.trash.join(random_hex())) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(LayerError::io("discard", path)(error)),
        _ => Ok(()),
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static, dirs: &Dirs) -> Result<JoinHandle<()>, LayerError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(LayerError::io("start a thread for", &dirs.root))
}

struct Keeper {
    dirs: Dirs,
    db: Arc<Metadata>,
    holds: Arc<Holds>,
    trash: Sender<()>,
    unsynced: HashSet<LayerId>,
    stop: Arc<AtomicBool>,
}

impl Keeper {
    fn run(mut self, queue: &Receiver<Chore>) {
        let mut sync_at = (!self.unsynced.is_empty()).then(|| Instant::now() + SYNC_DELAY);
        loop {
            let wait = sync_at.map_or(Duration::from_secs(3600), |at| {
                at.saturating_duration_since(Instant::now())
            });
            match queue.recv_timeout(wait) {
                Ok(Chore::Finished(id)) => {
                    if !self.stop.load(Ordering::Relaxed) {
                        self.measure(&id);
                    }
                    self.unsynced.insert(id);
                    sync_at.get_or_insert_with(|| Instant::now() + SYNC_DELAY);
                }
                Ok(Chore::Forget(result, top)) => {
                    if let Err(error) = self.forget(&result, &top) {
                        tracing::warn!(%error, layer = %top, "could not remove what a failed step left");
                    }
                }
                Ok(Chore::Sync(done)) => {
                    let outcome = self.sync();
                    sync_at = None;
                    // Whoever asked may have left.
                    done.send(outcome).unwrap_or_default();
                }
                Err(RecvTimeoutError::Timeout) => {
                    sync_at = None;
                    if let Err(error) = self.sync() {
                        tracing::warn!(%error, "could not make layers durable");
                        sync_at = Some(Instant::now() + SYNC_DELAY);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if let Err(error) = self.sync() {
            tracing::warn!(%error, "could not make layers durable before closing");
        }
    }

    fn forget(&mut self, result: &ResultId, top: &LayerId) -> Result<(), LayerError> {
        let counts = self.holds.lock();
        let is_gone = self
            .db
            .write_soon(|changes| transient::forget(&counts, changes, result, top))?;
        drop(counts);
        if is_gone {
            self.unsynced.remove(top);
            move_to_trash(&self.dirs, &self.dirs.layer(top))?;
            // Without that thread, the next start empties the trash.
            self.trash.send(()).unwrap_or_default();
        }
        Ok(())
    }

    fn measure(&self, id: &LayerId) {
        let path = self.dirs.layer_fs(id);
        let measured = Root::open(&path).and_then(disk_usage);
        let recorded = match measured {
            Ok(size) => self.db.write_soon(|changes| {
                changes.update(LAYERS, id.as_str(), |record: &mut LayerRecord| record.size = Some(size))
            }),
            // Pruned meanwhile, most likely.
            Err(error) => Err(LayerError::io("measure", path)(error)),
        };
        if let Err(error) = recorded {
            tracing::debug!(%error, layer = %id, "could not measure a layer");
        }
    }

    fn sync(&mut self) -> Result<(), LayerError> {
        if self.unsynced.is_empty() {
            return Ok(());
        }
        Root::open(&self.dirs.layers)
            .and_then(|root| Ok(rustix::fs::syncfs(&root)?))
            .map_err(LayerError::io("sync", &self.dirs.layers))?;
        self.db.write(|changes| {
            for id in &self.unsynced {
                changes.update(LAYERS, id.as_str(), |record: &mut LayerRecord| record.unsynced = None)?;
            }
            Ok(())
        })?;
        self.unsynced.clear();
        Ok(())
    }
}

fn empty_trash(trash: &PathBuf, queue: &Receiver<()>, stop: &AtomicBool) {
    while let Ok(()) = queue.recv() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let emptied = Root::open(trash).and_then(|root| {
            for entry in root.read_dir("")? {
                match at::remove_all_unless(&root, &entry.name, stop) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(()),
                    Err(error) => tracing::warn!(%error, name = ?entry.name, "could not delete from the trash"),
                    Ok(()) => {}
                }
            }
            Ok(())
        });
        if let Err(error) = emptied {
            tracing::warn!(%error, "could not empty the trash of the layer store");
        }
    }
}
