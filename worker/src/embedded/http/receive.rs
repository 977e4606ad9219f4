//! Moving a file from the network into a layer.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;

use bytes::Bytes;
use cairn_session::upload::Pulled;
use cairn_solver::Digest;
use reqwest::Response;
use rustix::fs::OFlags;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::error::HttpError;
use super::{Limits, blocking};
use crate::content::Sha256Hasher;
use crate::layer::{LayerStore, WritableLayer};
use crate::network::NetworkError;
use crate::sys::{Time, at};

/// How many chunks may wait between network and disk.
const QUEUE: usize = 32;

/// Where and how a file is put.
#[derive(Clone, Debug)]
pub(super) struct Placement {
    /// A plain name.
    pub(super) name: OsString,
    /// Permission bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since the epoch.
    pub(super) modified: i64,
}

/// Where a file comes from.
pub(super) enum Body {
    /// A server, which has to keep up a pace.
    Response(Response, Limits),
    /// A client, who may take as long as it likes; the first bytes are here already.
    Upload(Option<Bytes>, Pulled),
}

/// Receives a file into a new layer, which is not finished: dropping it forgets the file. The network is read here,
/// hashing and writing happen on a thread of the blocking pool.
///
/// # Cancel safety
/// Dropping the future stops the transfer and removes what arrived.
pub(super) async fn receive(
    body: Body,
    placement: Placement,
    layers: &LayerStore,
    url: String,
    progress: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<(WritableLayer, Digest), HttpError> {
    let (chunks, queue) = mpsc::channel::<Bytes>(QUEUE);
    let (store, place) = (layers.clone(), placement.clone());
    let writer = blocking(move || {
        let layer = store.prepare(&store.scratch())?;
        let (file, digest) = write(&layer, &place, queue)?;
        Ok((layer, file, digest))
    });
    let (end, written) = tokio::join!(read(body, chunks, url, progress), writer);
    let (layer, file, digest) = written?;
    end?;
    blocking(move || {
        finish(&file, &placement).map_err(|source| HttpError::Write {
            name: placement.name,
            source,
        })?;
        Ok((layer, digest))
    })
    .await
}

/// Reads a body to its end. The writer is gone only after an error of its own, which then counts.
async fn read(
    body: Body,
    chunks: mpsc::Sender<Bytes>,
    url: String,
    progress: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<(), HttpError> {
    let mut received = 0;
    let mut take = |chunk: &Bytes, total: u64| {
        received += chunk.len() as u64;
        progress(received, total);
    };
    match body {
        Body::Response(mut response, limits) => {
            let total = response.content_length().unwrap_or_default();
            let mut pace = Pace::new(limits);
            loop {
                let chunk = match tokio::time::timeout_at(pace.deadline, response.chunk()).await {
                    Ok(chunk) => chunk.map_err(|source| HttpError::Transport {
                        url: url.clone(),
                        source: NetworkError::during(source),
                    })?,
                    Err(_) => {
                        return Err(HttpError::Stalled {
                            url,
                            window: limits.window,
                        });
                    }
                };
                let Some(chunk) = chunk else { return Ok(()) };
                pace.received(chunk.len() as u64);
                take(&chunk, total);
                if chunks.send(chunk).await.is_err() {
                    return Ok(());
                }
                pace.resume();
            }
        }
        Body::Upload(first, mut pulled) => {
            let mut next = first;
            while let Some(chunk) = next {
                take(&chunk, 0);
                if chunks.send(chunk).await.is_err() {
                    return Ok(());
                }
                next = pulled.next().await.map_err(HttpError::Session)?;
            }
            Ok(())
        }
    }
}

/// Sees to it that a server sends something worth waiting for.
struct Pace {
    limits: Limits,
    /// When [`Limits::pace`] bytes must be here.
    deadline: Instant,
    received: u64,
    paused: Instant,
}

impl Pace {
    fn new(limits: Limits) -> Self {
        let now = Instant::now();
        Self {
            limits,
            deadline: now + limits.window,
            received: 0,
            paused: now,
        }
    }

    fn received(&mut self, bytes: u64) {
        self.paused = Instant::now();
        self.received += bytes;
        if self.received >= self.limits.pace {
            self.received = 0;
            self.deadline = self.paused + self.limits.window;
        }
    }

    /// Time for which our own disk was waited for does not count.
    fn resume(&mut self) {
        self.deadline += self.paused.elapsed();
    }
}

fn write(
    layer: &WritableLayer,
    placement: &Placement,
    mut queue: mpsc::Receiver<Bytes>,
) -> Result<(File, Digest), HttpError> {
    let failed = |source| HttpError::Write {
        name: placement.name.clone(),
        source,
    };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let file = at::open(layer.upper(), &placement.name, flags, 0o600);
    let mut file = File::from(file.map_err(failed)?);
    let mut hasher = Sha256Hasher::new();
    while let Some(chunk) = queue.blocking_recv() {
        hasher.update(&chunk);
        file.write_all(&chunk).map_err(failed)?;
    }
    Ok((file, hasher.digest()))
}

fn finish(file: &File, placement: &Placement) -> std::io::Result<()> {
    let time = Time {
        secs: placement.modified,
        nanos: 0,
    };
    // In this order: a change of owner clears bits of the mode.
    at::chown_fd(file, placement.uid, placement.gid)?;
    at::chmod_fd(file, placement.mode)?;
    at::set_times_fd(file, Some(time), Some(time))
}
