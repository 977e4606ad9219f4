//! Getting blobs.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use cairn_solver::Digest;
use futures_util::StreamExt;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::mpsc;

use super::Reference;
use super::attempts::{Attempts, marking_last};
use super::client::{Progress, Registry};
use super::error::RegistryError;
use super::exchange::{Exchange, protocol, transport};
use super::hosts::Endpoint;
use super::resolve::{api_url, blocking, content_error, pull_scope};
use super::sources;
use crate::content::{ContentError, ContentStore, Ingest};
use crate::image::Descriptor;

/// For a registry to say that it has a blob.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How many chunks may wait between network and disk.
const QUEUE: usize = 32;

/// Where a stream of chunks stopped.
struct Received {
    ingest: Ingest,
    end: Result<(), RegistryError>,
}

impl Registry {
    /// Gets a blob of the reference's repository into `store`, unless it is there. Waits for a transfer slot, and for
    /// whoever else is getting the same blob: what one has got, or how far it came, serves the next.
    ///
    /// It is remembered in `store` that the repository has it.
    ///
    /// A broken transfer goes on where it stopped: at once, with another mirror, or in a later call. Only bytes with
    /// the descriptor's digest and size become a blob.
    ///
    /// # Errors
    /// [`RegistryError`].
    ///
    /// # Cancel safety
    /// Dropping the future stops the transfer and keeps what arrived for the next call.
    pub async fn fetch_blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        store: &ContentStore,
        progress: Option<Progress>,
    ) -> Result<(), RegistryError> {
        let name = reference.to_string();
        let (found, digest) = (store.clone(), blob.digest);
        let is_stored = blocking(&name, move || found.size(&digest)).await? == Some(blob.size);
        if !is_stored {
            self.fetch_from_any(reference, &name, blob, store, progress.as_ref())
                .await?;
        }
        sources::note(reference, digest, store).await;
        Ok(())
    }

    async fn fetch_from_any(
        &self,
        reference: &Reference,
        name: &str,
        blob: &Descriptor,
        store: &ContentStore,
        progress: Option<&Progress>,
    ) -> Result<(), RegistryError> {
        let mut attempts = Attempts::new(reference);
        for (endpoint, is_last) in marking_last(&self.pull_endpoints(reference.registry())) {
            let answer = self
                .fetch_from(reference, name, endpoint, blob, store, progress, is_last)
                .await;
            if let Some(done) = attempts.settle(answer) {
                return done;
            }
        }
        Err(attempts.into_error())
    }

    /// How many bytes a blob of the reference's repository has, as its registry says.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn blob_size(&self, reference: &Reference, digest: &Digest) -> Result<u64, RegistryError> {
        let name = reference.to_string();
        let mut attempts = Attempts::new(reference);
        for (endpoint, is_last) in marking_last(&self.pull_endpoints(reference.registry())) {
            let answer = self.blob_size_at(reference, &name, endpoint, digest, is_last).await;
            if let Some(done) = attempts.settle(answer) {
                return done;
            }
        }
        Err(attempts.into_error())
    }

    async fn blob_size_at(
        &self,
        reference: &Reference,
        name: &str,
        endpoint: &Endpoint,
        digest: &Digest,
        is_last: bool,
    ) -> Result<u64, RegistryError> {
        let scopes = [pull_scope(reference)];
        let call = Exchange {
            reference: name,
            method: Method::HEAD,
            url: api_url(endpoint, reference, &format!("blobs/{digest}"))?,
            headers: HeaderMap::new(),
            scopes: &scopes,
            body: None,
            timeout: Some(HEAD_TIMEOUT),
            action: "look for a blob",
        };
        let head = self.exchange_with_retries(endpoint, &call, is_last).await?;
        let length = head.headers().get(CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
        length.ok_or_else(|| protocol(endpoint, &call, "no length of the blob is given".to_owned()))
    }

    #[expect(clippy::too_many_arguments, reason = "one call, split off for its retry loop")]
    async fn fetch_from(
        &self,
        reference: &Reference,
        name: &str,
        endpoint: &Endpoint,
        blob: &Descriptor,
        store: &ContentStore,
        progress: Option<&Progress>,
        is_last: bool,
    ) -> Result<(), RegistryError> {
        let policy = self.client.retry();
        let mut failures = 0;
        let mut has_mismatched = false;
        loop {
            let Some(ingest) = take(name, blob, store).await? else {
                return Ok(());
            };
            let slot = self.client.transfer_slot().await;
            let before = ingest.offset();
            let error = match self.fetch_once(reference, name, endpoint, blob, ingest, progress).await {
                Ok(()) => return Ok(()),
                Err((error, reached)) => {
                    // A transfer that moves on is worth going on with.
                    if reached > before {
                        failures = 0;
                    }
                    error
                }
            };
            drop(slot);
            failures += 1;
            let is_mismatch = matches!(error, RegistryError::Digest { .. });
            // What an earlier run left may be damaged; only a whole new transfer tells.
            let second_chance = is_mismatch && before > 0 && !std::mem::replace(&mut has_mismatched, true);
            let pause = match policy.pause_after(&error, failures, is_last) {
                Some(pause) => pause,
                None if second_chance => policy.pause(failures, None),
                None => return Err(error),
            };
            tracing::debug!(registry.host = %endpoint.host, error = %error, failures, "going on with a blob");
            tokio::time::sleep(pause).await;
        }
    }

    /// One request. A failure comes with how far the blob has got.
    async fn fetch_once(
        &self,
        reference: &Reference,
        name: &str,
        endpoint: &Endpoint,
        blob: &Descriptor,
        mut ingest: Ingest,
        progress: Option<&Progress>,
    ) -> Result<(), (RegistryError, u64)> {
        if ingest.offset() > blob.size {
            ingest.reset().map_err(|err| (content_error(name, err), 0))?;
        }
        let offset = ingest.offset();
        if offset < blob.size || blob.size == 0 {
            let mut headers = HeaderMap::new();
            if offset > 0 {
                let range = HeaderValue::from_str(&format!("bytes={offset}-"));
                headers.extend(range.ok().map(|range| (RANGE, range)));
            }
            let url = api_url(endpoint, reference, &format!("blobs/{}", blob.digest)).map_err(|err| (err, offset))?;
            let scopes = [pull_scope(reference)];
            let call = Exchange {
                reference: name,
                method: Method::GET,
                url,
                headers,
                scopes: &scopes,
                body: None,
                timeout: None,
                action: "get a blob",
            };
            let response = self.exchange(endpoint, &call).await.map_err(|err| (err, offset))?;
            if starts_over(&response, offset).map_err(|problem| (protocol(endpoint, &call, problem), offset))? {
                ingest.reset().map_err(|err| (content_error(name, err), 0))?;
            }
            let received = receive(response, ingest, blob.size, endpoint, &call, progress).await;
            let received = received.map_err(|err| (err, offset))?;
            ingest = received.ingest;
            if let Err(error) = received.end {
                return Err((error, ingest.offset()));
            }
        }
        let reached = ingest.offset();
        let (expected, size) = (blob.digest, blob.size);
        let committed = blocking(name, move || ingest.commit(Some(&expected), Some(size))).await;
        committed.map(drop).map_err(|error| match error {
            RegistryError::Content {
                source: ContentError::DigestMismatch { expected, actual },
                reference,
            } => (
                RegistryError::Digest {
                    reference,
                    host: endpoint.host.clone(),
                    expected,
                    actual,
                },
                reached,
            ),
            error => (error, reached),
        })
    }
}

/// Opens the blob for writing as soon as nobody else does; `None` if it is there by then.
async fn take(name: &str, blob: &Descriptor, store: &ContentStore) -> Result<Option<Ingest>, RegistryError> {
    loop {
        let closed = store.closed();
        let (opened, digest, size) = (store.clone(), blob.digest, blob.size);
        let taken = blocking(name, move || {
            let ingest = opened.resume(&format!("blob-{digest}"))?;
            if opened.size(&digest)? == Some(size) {
                ingest.abort();
                return Ok(None);
            }
            Ok(Some(ingest))
        });
        match taken.await {
            Err(RegistryError::Content {
                source: ContentError::Busy(_),
                ..
            }) => closed.await,
            taken => return taken,
        }
    }
}

/// Whether the server sends the blob from its beginning although asked for the rest.
fn starts_over(response: &Response, offset: u64) -> Result<bool, String> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(offset > 0);
    }
    let range = response
        .headers()
        .get(CONTENT_RANGE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let start = range
        .strip_prefix("bytes ")
        .and_then(|range| range.split('-').next()?.parse::<u64>().ok());
    if start == Some(offset) {
        Ok(false)
    } else {
        Err(format!("asked for bytes from {offset}, got {range:?}"))
    }
}

/// Moves a body to disk. Hashing and writing happen on a thread of the blocking pool, next to the network.
async fn receive(
    response: Response,
    mut ingest: Ingest,
    size: u64,
    endpoint: &Endpoint,
    call: &Exchange<'_>,
    progress: Option<&Progress>,
) -> Result<Received, RegistryError> {
    let mut received = ingest.offset();
    let (chunks, mut queue) = mpsc::channel::<Bytes>(QUEUE);
    let writer = tokio::task::spawn_blocking(move || {
        while let Some(chunk) = queue.blocking_recv() {
            if let Err(err) = ingest.write_all(&chunk) {
                return Err(ContentError::io("write", ingest.path())(err));
            }
        }
        Ok(ingest)
    });
    let mut body = response.bytes_stream();
    let end = loop {
        match body.next().await {
            None => break short_or_whole(received, size, endpoint, call),
            Some(Err(source)) => break Err(transport(call, source)),
            Some(Ok(chunk)) => {
                received += chunk.len() as u64;
                if received > size {
                    break Err(protocol(
                        endpoint,
                        call,
                        format!("blob is longer than its {size} bytes"),
                    ));
                }
                // The writer is gone only after an error, which it reports below.
                if chunks.send(chunk).await.is_err() {
                    break Ok(());
                }
                if let Some(progress) = progress {
                    progress(received, size);
                }
            }
        }
    };
    drop(chunks);
    let written = match writer.await {
        Ok(written) => written,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    };
    let ingest = written.map_err(|source| content_error(call.reference, source))?;
    Ok(Received { ingest, end })
}

/// A server that closes early without breaking the connection, as some proxies do, is treated as if it had.
fn short_or_whole(received: u64, size: u64, endpoint: &Endpoint, call: &Exchange<'_>) -> Result<(), RegistryError> {
    if received == size {
        return Ok(());
    }
    Err(RegistryError::Truncated {
        reference: call.reference.to_owned(),
        host: endpoint.host.clone(),
        received,
        size,
    })
}
