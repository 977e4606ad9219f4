//! Writes the files of one transfer to the store, on threads where blocking is welcome.
//!
//! A file belongs to one worker, so its pieces stay in order; several workers keep the disk busy. Small files are
//! gathered in memory and written at once, or not at all if the store has them.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::error::TreeError;
use super::files::{FileWriter, Stored};
use super::identity::FileMeta;
use super::pins::Arriving;
use super::store::TreeStore;

const MAX_WORKERS: usize = 4;
/// Pieces on their way to a worker.
const QUEUE: usize = 32;
/// A file longer than this goes to disk as it comes.
const SMALL: usize = 128 << 10;
/// Files of one worker that may be incomplete at the same time; together with [`SMALL`] this bounds memory.
const MAX_OPEN: usize = 128;

enum Job {
    Piece(u32, Bytes),
    End(u32, Box<FileMeta>),
}

/// How many processors there are. Finding out reads several files.
static PROCESSORS: LazyLock<usize> = LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));

/// The workers of one transfer. Dropping it stops them.
pub(super) struct Intake {
    queues: Vec<mpsc::Sender<Job>>,
    workers: JoinSet<Result<Vec<(u32, Stored)>, TreeError>>,
}

impl Intake {
    pub(super) fn start(store: &TreeStore, arriving: &Arc<Arriving>) -> Self {
        let count = (*PROCESSORS).min(MAX_WORKERS);
        let mut workers = JoinSet::new();
        let queues = (0..count).map(|_| {
            let (queue, jobs) = mpsc::channel(QUEUE);
            let (store, arriving) = (store.clone(), Arc::clone(arriving));
            workers.spawn_blocking(move || work(&store, &arriving, jobs));
            queue
        });
        Self {
            queues: queues.collect(),
            workers,
        }
    }

    /// Takes the next piece of file `index`.
    pub(super) async fn piece(&mut self, index: u32, bytes: Bytes) -> Result<(), TreeError> {
        self.send(index, Job::Piece(index, bytes)).await
    }

    /// Completes file `index`.
    pub(super) async fn end(&mut self, index: u32, meta: FileMeta) -> Result<(), TreeError> {
        self.send(index, Job::End(index, Box::new(meta))).await
    }

    /// Returns what was stored once all of it is.
    pub(super) async fn finish(mut self) -> Result<Vec<(u32, Stored)>, TreeError> {
        self.queues.clear();
        let mut stored = Vec::new();
        while let Some(done) = self.workers.join_next().await {
            stored.extend(done.map_err(|_| TreeError::Stopped)??);
        }
        Ok(stored)
    }

    async fn send(&mut self, index: u32, job: Job) -> Result<(), TreeError> {
        let queue = &self.queues[index as usize % self.queues.len()];
        if queue.send(job).await.is_ok() {
            return Ok(());
        }
        // The worker has left, and the reason is its result.
        self.queues.clear();
        while let Some(done) = self.workers.join_next().await {
            done.map_err(|_| TreeError::Stopped)??;
        }
        Err(TreeError::Stopped)
    }
}

enum Partial<'a> {
    Small(Vec<u8>),
    Large(Box<FileWriter<'a>>),
}

fn work(
    store: &TreeStore,
    arriving: &Arriving,
    mut jobs: mpsc::Receiver<Job>,
) -> Result<Vec<(u32, Stored)>, TreeError> {
    let mut open: HashMap<u32, Partial<'_>> = HashMap::new();
    let mut done = Vec::new();
    while let Some(job) = jobs.blocking_recv() {
        match job {
            Job::Piece(index, bytes) => {
                if open.len() >= MAX_OPEN && !open.contains_key(&index) {
                    return Err(TreeError::TooManyOpen(MAX_OPEN));
                }
                let partial = open.entry(index).or_insert_with(|| Partial::Small(Vec::new()));
                append(store, partial, &bytes).map_err(TreeError::Store)?;
            }
            Job::End(index, meta) => {
                let partial = open.remove(&index).unwrap_or_else(|| Partial::Small(Vec::new()));
                let register = |key: &super::FileKey| arriving.register(key.0);
                let stored = match partial {
                    Partial::Small(bytes) => store.files().put(&meta, &bytes, register),
                    Partial::Large(writer) => writer.finish(&meta, register),
                };
                done.push((index, stored.map_err(TreeError::Store)?));
            }
        }
    }
    Ok(done)
}

fn append<'a>(store: &'a TreeStore, partial: &mut Partial<'a>, bytes: &[u8]) -> io::Result<()> {
    match partial {
        Partial::Small(gathered) if gathered.len() + bytes.len() <= SMALL => gathered.extend_from_slice(bytes),
        Partial::Small(gathered) => {
            let mut writer = Box::new(store.files().writer()?);
            writer.write(gathered)?;
            writer.write(bytes)?;
            *partial = Partial::Large(writer);
        }
        Partial::Large(writer) => writer.write(bytes)?,
    }
    Ok(())
}
