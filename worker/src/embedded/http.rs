//! Files behind URLs as sources.
//!
//! Without a checksum the server is asked what the URL stands for right now: it either says that the file is the one
//! fetched before (by `ETag` or `Last-Modified`), or sends it, straight into a layer of its own. With a checksum
//! nobody is asked until somebody needs the file.
//!
//! Rules that everything here keeps:
//! - credentials go to the server that the URL names, never along a redirect to another one;
//! - what the server sends is taken as it is, nothing is decoded or decompressed, and nothing it says names a place;
//! - headers, redirects, tries and silence are bounded; a file's size is not, but it only ever goes to disk.

mod auth;
mod checksum;
mod error;
mod exchange;
mod name;
mod receive;
mod records;
mod signature;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use cairn_session::{LOOKUP_TIMEOUT, SessionManager, upload};
use cairn_solver::Digest;
use cairn_solver::llb::HttpSource;
use cairn_solver::worker::{CallContext, HttpMeta, NO_KEY, Ref, ResolvedSource, ResultId, WorkerError};
use reqwest::header::{ETAG, LAST_MODIFIED};
use tokio::sync::Semaphore;
use url::Url;

use crate::layer::{Describe, LayerList, LayerStore};
use crate::sys::Metadata;
use error::HttpError;
use exchange::{Answer, Ask};
pub(super) use name::file_name;
use receive::{Body, Placement};
use records::{HttpRecord, HttpRecords, record_key, validator};

/// Downloads at a time; the rest waits.
const MAX_DOWNLOADS: usize = 64;
/// Permission bits of files when none are asked for.
const DEFAULT_MODE: u32 = 0o600;

/// Fetches files, and knows what was fetched before.
pub(super) struct HttpSources {
    client: reqwest::Client,
    records: Arc<HttpRecords>,
    layers: LayerStore,
    sessions: SessionManager,
    slots: Semaphore,
    limits: Limits,
}

/// How much patience there is.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// How long a server may take to begin its answer, and in which time it has to send [`Limits::pace`].
    window: Duration,
    /// Bytes of a file that have to come in each window.
    pace: u64,
    /// Tries in all.
    attempts: u32,
    /// The pause before the second try; it doubles from then on.
    pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(60),
            pace: 1024,
            attempts: 3,
            pause: Duration::from_millis(300),
        }
    }
}

/// A file in a layer.
#[derive(Clone)]
struct Fetched {
    digest: Digest,
    filename: OsString,
    /// As the server wrote it.
    last_modified: Option<String>,
    etag: Option<String>,
    result: ResultId,
    list: LayerList,
}

impl Fetched {
    fn into_ref(self) -> Ref {
        Ref::new(self.result, Arc::new(self.list))
    }

    fn modified(&self) -> Option<i64> {
        seconds(self.last_modified.as_deref()?)
    }

    /// Opens the file. Blocks.
    fn open(&self, layers: &LayerStore) -> Result<(File, Metadata), HttpError> {
        let [layer] = self.list.ids() else {
            return Err(self.unreadable(io::Error::other("it is not in a layer of its own")));
        };
        let opened = layers.layer_root(layer)?.open_regular(&self.filename);
        opened.map_err(|source| self.unreadable(source))
    }

    fn unreadable(&self, source: io::Error) -> HttpError {
        HttpError::Read {
            name: self.filename.clone(),
            source,
        }
    }
}

/// An HTTP date in seconds since the epoch.
fn seconds(date: &str) -> Option<i64> {
    let time = httpdate::parse_http_date(date).ok()?;
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

impl HttpSources {
    /// # Errors
    /// If the directory for records cannot be made, or no client for HTTP.
    pub(super) fn open(
        dir: &Path,
        layers: LayerStore,
        sessions: SessionManager,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self {
            client: crate::registry::plain_client()?,
            records: Arc::new(HttpRecords::open(dir)?),
            layers,
            sessions,
            slots: Semaphore::new(MAX_DOWNLOADS),
            limits: Limits::default(),
        })
    }

    /// Finds out which file a URL stands for, and has it already unless its digest was given.
    pub(super) async fn resolve(
        &self,
        source: &HttpSource,
        context: &CallContext,
    ) -> Result<ResolvedSource, WorkerError> {
        let failed = |error: HttpError| WorkerError::Failed(format!("{NO_KEY}{}", error.describe()));
        let url = parse_url(&source.url).map_err(failed)?;
        if let Some(checksum) = source
            .checksum
            .filter(|_| !is_upload(&url) && source.signature.is_none())
        {
            return Ok(pinned(source, checksum));
        }
        let fetched = self.fetch(source, &url, source.checksum, context).await;
        let fetched = fetched.map_err(failed)?;
        let modified = fetched.modified().unwrap_or_default();
        let attributes = attributes(source, &fetched.filename);
        Ok(ResolvedSource {
            pin: format!("http {} {modified} {attributes}", fetched.digest),
            parts: BTreeMap::from([("digest".to_owned(), fetched.digest.to_string())]),
            result: Some(fetched.into_ref()),
        })
    }

    /// The file that a source was resolved to.
    pub(super) async fn make(
        &self,
        source: &HttpSource,
        resolved: Option<&ResolvedSource>,
        context: &CallContext,
    ) -> Result<Option<Ref>, WorkerError> {
        if let Some(made) = resolved.and_then(|resolved| resolved.result.clone()) {
            return Ok(Some(made));
        }
        let fetch = async {
            let url = parse_url(&source.url)?;
            self.fetch(source, &url, source.checksum, context).await
        };
        match fetch.await {
            Ok(fetched) => Ok(Some(fetched.into_ref())),
            Err(error) => Err(WorkerError::Failed(error.describe())),
        }
    }

    /// What there is to know about the file that a URL stands for. Given a digest, nobody is asked.
    pub(super) async fn meta(&self, source: &HttpSource, context: &CallContext) -> Result<HttpMeta, WorkerError> {
        let failed = |error: HttpError| WorkerError::Failed(error.describe());
        let url = parse_url(&source.url).map_err(failed)?;
        if let Some(checksum) = source.checksum.filter(|_| source.signature.is_none()) {
            return Ok(HttpMeta {
                checksum,
                filename: given_name(source).unwrap_or_else(|| file_name(&url, None)),
                last_modified: None,
            });
        }
        let fetched = self
            .fetch(source, &url, source.checksum, context)
            .await
            .map_err(failed)?;
        Ok(HttpMeta {
            checksum: fetched.digest,
            last_modified: fetched.modified(),
            filename: fetched.filename,
        })
    }

    async fn fetch(
        &self,
        source: &HttpSource,
        url: &Url,
        wanted: Option<Digest>,
        context: &CallContext,
    ) -> Result<Fetched, HttpError> {
        let fetched = self.fetch_unsigned(source, url, wanted, context).await?;
        match &source.signature {
            None => Ok(fetched),
            Some(signature) => self.check_signature(signature, fetched).await,
        }
    }

    async fn fetch_unsigned(
        &self,
        source: &HttpSource,
        url: &Url,
        wanted: Option<Digest>,
        context: &CallContext,
    ) -> Result<Fetched, HttpError> {
        if is_upload(url) {
            return self.pull(source, url, wanted, context).await;
        }
        let key = record_key(source);
        let known = self.known(&key).await?;
        if let Some(known) = known.as_ref().filter(|known| Some(known.digest) == wanted) {
            return Ok(known.clone());
        }
        // Whether the file is the same as one that is not wanted is of no use.
        let known = known.filter(|_| wanted.is_none());
        let authorization = self.authorization(source, url, context).await?;
        let ask = Ask {
            url,
            headers: exchange::headers(source, known.as_ref())?,
            authorization,
        };
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await;
        let mut failures = 0;
        let fetched = loop {
            let error = match self.fetch_once(source, &ask, known.as_ref(), wanted, context).await {
                Ok(fetched) => break fetched,
                Err(error) => error,
            };
            failures += 1;
            if !error.is_transient() || failures >= self.limits.attempts {
                return Err(error);
            }
            tracing::debug!(error = %error.describe(), failures, "fetching again");
            tokio::time::sleep(self.limits.pause * (1 << (failures - 1))).await;
        };
        self.remember(key, &fetched).await?;
        Ok(fetched)
    }

    /// One request, and what comes of it.
    async fn fetch_once(
        &self,
        source: &HttpSource,
        ask: &Ask<'_>,
        known: Option<&Fetched>,
        wanted: Option<Digest>,
        context: &CallContext,
    ) -> Result<Fetched, HttpError> {
        let response = match exchange::get(&self.client, ask, known, self.limits.window).await? {
            Answer::Unchanged(known) => return Ok(known),
            Answer::File(response) => response,
        };
        let header = |name| response.headers().get(&name).and_then(|value| value.to_str().ok());
        let last_modified = header(LAST_MODIFIED).and_then(validator);
        let etag = header(ETAG).and_then(validator);
        let name = given_name(source).unwrap_or_else(|| file_name(ask.url, Some(response.headers())));
        let placement = placement(source, &name, last_modified.as_deref());
        let body = Body::Response(response, self.limits);
        let (digest, result, list) = self.receive(body, placement, wanted, ask.url, context).await?;
        Ok(Fetched {
            digest,
            filename: name,
            last_modified,
            etag,
            result,
            list,
        })
    }

    /// Receives a stream of a client, who has it only once.
    async fn pull(
        &self,
        source: &HttpSource,
        url: &Url,
        wanted: Option<Digest>,
        context: &CallContext,
    ) -> Result<Fetched, HttpError> {
        let mut failure = HttpError::Session(cairn_session::SessionError::NoSessions);
        for id in context.sessions.ids() {
            let begun = async {
                let session = self.sessions.get(&id, LOOKUP_TIMEOUT).await?;
                let mut pulled = upload::pull(&session, url.path())?;
                let first = pulled.next().await?;
                Ok((first, pulled))
            };
            let (first, pulled) = match begun.await {
                Ok(begun) => begun,
                Err(error) => {
                    failure = HttpError::Session(error);
                    continue;
                }
            };
            let name = given_name(source).unwrap_or_else(|| file_name(url, None));
            let placement = placement(source, &name, None);
            let body = Body::Upload(first, pulled);
            let (digest, result, list) = self.receive(body, placement, wanted, url, context).await?;
            return Ok(Fetched {
                digest,
                filename: name,
                last_modified: None,
                etag: None,
                result,
                list,
            });
        }
        Err(failure)
    }

    async fn receive(
        &self,
        body: Body,
        placement: Placement,
        wanted: Option<Digest>,
        url: &Url,
        context: &CallContext,
    ) -> Result<(Digest, ResultId, LayerList), HttpError> {
        let describe = Describe {
            description: format!("http url {}", shown(url)),
            record_type: "regular".to_owned(),
        };
        let status = context
            .progress
            .begin(format!("downloading {}", placement.name.display()));
        let progress = |done, total| status.update(done, total);
        let (layer, digest) = receive::receive(body, placement, &self.layers, shown(url), &progress).await?;
        if let Some(wanted) = wanted.filter(|wanted| *wanted != digest) {
            return Err(HttpError::Mismatch { actual: digest, wanted });
        }
        let layers = self.layers.clone();
        blocking(move || {
            let list = layer.commit(&describe)?;
            let result = layers.record_result(&list)?;
            Ok((digest, result, list))
        })
        .await
    }

    /// The file as it was fetched before, if it is still here.
    async fn known(&self, key: &str) -> Result<Option<Fetched>, HttpError> {
        let (records, layers, key) = (self.records.clone(), self.layers.clone(), key.to_owned());
        blocking(move || {
            let Some(record) = records.get(&key) else {
                return Ok(None);
            };
            let result = ResultId::new(record.result);
            let list = layers.pin(&result)?;
            Ok(list.map(|list| Fetched {
                digest: record.digest,
                filename: record.filename,
                last_modified: record.last_modified,
                etag: record.etag,
                result,
                list,
            }))
        })
        .await
    }

    async fn remember(&self, key: String, fetched: &Fetched) -> Result<(), HttpError> {
        let record = HttpRecord {
            etag: fetched.etag.clone(),
            last_modified: fetched.last_modified.clone(),
            digest: fetched.digest,
            filename: fetched.filename.clone(),
            result: fetched.result.as_str().to_owned(),
        };
        let records = self.records.clone();
        blocking(move || {
            if let Err(error) = records.put(&key, &record) {
                // The file is here; only the next build pays.
                tracing::warn!(%error, "could not remember what a URL stands for");
            }
            Ok(())
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HttpError> + Send + 'static,
) -> Result<T, HttpError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

fn parse_url(text: &str) -> Result<Url, HttpError> {
    let problem = match Url::parse(text) {
        Ok(url) if url.has_host() => return Ok(url),
        Ok(_) => "it has no host".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(HttpError::Url { problem })
}

fn is_upload(url: &Url) -> bool {
    url.host_str() == Some(upload::HOST)
}

/// A URL without what may be secret in it, for messages and records.
fn shown(url: &Url) -> String {
    format!(
        "{}://{}{}",
        url.scheme(),
        url.authority().rsplit('@').next().unwrap_or_default(),
        url.path()
    )
}

fn given_name(source: &HttpSource) -> Option<OsString> {
    (!source.filename.is_empty()).then(|| source.filename.clone().into())
}

fn placement(source: &HttpSource, name: &OsStr, last_modified: Option<&str>) -> Placement {
    Placement {
        name: name.to_owned(),
        mode: source.mode.unwrap_or(DEFAULT_MODE),
        uid: source.uid,
        gid: source.gid,
        modified: last_modified.and_then(seconds).unwrap_or_default(),
    }
}

/// What a result says about its file besides contents and time.
fn attributes(source: &HttpSource, filename: &OsStr) -> String {
    let mode = source.mode.unwrap_or(DEFAULT_MODE);
    format!("{mode:o} {}:{} {filename:?}", source.uid, source.gid)
}

/// A file whose contents are known by their digest. Where the server may give it its name, another URL is another one.
fn pinned(source: &HttpSource, checksum: Digest) -> ResolvedSource {
    let named = match given_name(source) {
        Some(name) => attributes(source, &name),
        None => format!(
            "{} {}",
            attributes(source, OsStr::new("")),
            Digest::sha256(source.url.as_bytes())
        ),
    };
    ResolvedSource {
        pin: format!("http-pinned {checksum} {named}"),
        parts: BTreeMap::from([("digest".to_owned(), checksum.to_string())]),
        result: None,
    }
}
