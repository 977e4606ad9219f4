//! Putting blobs and manifests.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_solver::Digest;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Body, Method, Response, StatusCode};
use url::Url;

use super::Reference;
use super::attempts::{Attempts, marking_last};
use super::client::{Progress, Registry};
use super::error::RegistryError;
use super::exchange::{Exchange, protocol};
use super::hosts::Endpoint;
use super::resolve::{api_url, blocking};
use super::sources;
use crate::content::ContentStore;
use crate::image::{Descriptor, Document};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
const CHUNK: usize = 256 * 1024;

/// How a blob came to be in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// The registry took it from another of its repositories.
    Mounted,
    /// It was sent.
    Uploaded,
}

/// One repository of one server, with the scopes that pushing there needs.
struct Target<'a> {
    endpoint: &'a Endpoint,
    reference: &'a Reference,
    name: String,
    scopes: Vec<String>,
}

impl<'a> Target<'a> {
    fn new(endpoint: &'a Endpoint, reference: &'a Reference, mount_from: Option<&str>) -> Self {
        let mut scopes = vec![format!("repository:{}:pull,push", reference.repository())];
        scopes.extend(mount_from.iter().map(|from| format!("repository:{from}:pull")));
        Self {
            endpoint,
            reference,
            name: reference.to_string(),
            scopes,
        }
    }

    fn call(&self, method: Method, url: Url, action: &'static str) -> Exchange<'_> {
        Exchange {
            reference: &self.name,
            method,
            url,
            headers: HeaderMap::new(),
            scopes: &self.scopes,
            body: None,
            timeout: Some(REQUEST_TIMEOUT),
            action,
        }
    }

    fn url(&self, rest: &str) -> Result<Url, RegistryError> {
        api_url(self.endpoint, self.reference, rest)
    }
}

impl Registry {
    /// Makes sure that the reference's repository has a blob, if that can be done without sending it: finds it there, or
    /// has the registry take it from another of its repositories, those `known` to have it or those remembered in
    /// `store`. `None` if it has to be sent.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn find_blob(
        &self,
        reference: &Reference,
        digest: &Digest,
        store: &ContentStore,
        known: &[String],
    ) -> Result<Option<Pushed>, RegistryError> {
        let mut found = self.has_blob(reference, digest).await?.then_some(Pushed::Existed);
        if found.is_none() {
            for from in sources::candidates(reference, *digest, store, known).await {
                if self.mount_blob(reference, digest, &from).await? {
                    found = Some(Pushed::Mounted);
                    break;
                }
            }
        }
        if found.is_some() {
            sources::note(reference, *digest, store).await;
        }
        Ok(found)
    }

    async fn has_blob(&self, reference: &Reference, digest: &Digest) -> Result<bool, RegistryError> {
        let mut attempts = Attempts::new(reference);
        for (endpoint, is_last) in marking_last(&self.push_endpoints(reference.registry())) {
            let target = Target::new(endpoint, reference, None);
            if let Some(done) = attempts.settle(self.head(&target, digest, is_last).await) {
                return done;
            }
        }
        Err(attempts.into_error())
    }

    /// Makes a blob of the repository `from`, on the same registry, one of the reference's repository, without
    /// transferring it. `false` when the registry does not do that.
    async fn mount_blob(&self, reference: &Reference, digest: &Digest, from: &str) -> Result<bool, RegistryError> {
        let mut attempts = Attempts::new(reference);
        for (endpoint, is_last) in marking_last(&self.push_endpoints(reference.registry())) {
            let target = Target::new(endpoint, reference, Some(from));
            if let Some(done) = attempts.settle(self.try_mount(&target, digest, from, is_last).await) {
                return done;
            }
        }
        Err(attempts.into_error())
    }

    /// Makes sure that the reference's repository has a blob: as [`Registry::find_blob`], or sends it from `store`.
    ///
    /// # Errors
    /// [`RegistryError`]; also when it would have to be sent and `store` does not have it.
    pub async fn push_blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        store: &ContentStore,
        known: &[String],
        progress: Option<Progress>,
    ) -> Result<Pushed, RegistryError> {
        if let Some(found) = self.find_blob(reference, &blob.digest, store, known).await? {
            return Ok(found);
        }
        self.upload_blob(reference, blob, store, progress).await?;
        Ok(Pushed::Uploaded)
    }

    /// Sends a blob from `store` without asking whether the repository has it. Waits for a transfer slot.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn upload_blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        store: &ContentStore,
        progress: Option<Progress>,
    ) -> Result<(), RegistryError> {
        let _slot = self.client.transfer_slot().await;
        let mut attempts = Attempts::new(reference);
        for (endpoint, is_last) in marking_last(&self.push_endpoints(reference.registry())) {
            let target = Target::new(endpoint, reference, None);
            let uploaded = self.upload(&target, blob, store, progress.as_ref(), is_last).await;
            match attempts.settle(uploaded) {
                Some(Ok(())) => {
                    sources::note(reference, blob.digest, store).await;
                    return Ok(());
                }
                Some(Err(error)) => return Err(error),
                None => {}
            }
        }
        Err(attempts.into_error())
    }

    /// Puts a manifest or index under the reference's tag, or its digest when it has no tag. Everything it refers to
    /// must be there.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn push_manifest(&self, reference: &Reference, document: &Document) -> Result<(), RegistryError> {
        let mut attempts = Attempts::new(reference);
        for (endpoint, is_last) in marking_last(&self.push_endpoints(reference.registry())) {
            let target = Target::new(endpoint, reference, None);
            if let Some(done) = attempts.settle(self.put_manifest(&target, document, is_last).await) {
                return done;
            }
        }
        Err(attempts.into_error())
    }

    async fn put_manifest(&self, target: &Target<'_>, document: &Document, is_last: bool) -> Result<(), RegistryError> {
        let digest = document.digest();
        let what = target.reference.tag().map_or_else(|| digest.to_string(), str::to_owned);
        let bytes = document.bytes.clone();
        let body = move || Body::from(bytes.clone());
        let mut call = target.call(
            Method::PUT,
            target.url(&format!("manifests/{what}"))?,
            "put the manifest",
        );
        let media_type = HeaderValue::from_str(&document.descriptor.media_type);
        call.headers
            .extend(media_type.ok().map(|media_type| (CONTENT_TYPE, media_type)));
        call.body = Some(&body);
        let response = self.exchange_with_retries(target.endpoint, &call, is_last).await?;
        let stored = response
            .headers()
            .get("docker-content-digest")
            .and_then(|value| value.to_str().ok());
        match stored.and_then(|stored| Digest::parse(stored).ok()) {
            Some(actual) if actual != digest => Err(RegistryError::Digest {
                reference: target.name.clone(),
                host: target.endpoint.host.clone(),
                expected: digest,
                actual,
            }),
            _ => Ok(()),
        }
    }

    async fn head(&self, target: &Target<'_>, digest: &Digest, is_last: bool) -> Result<bool, RegistryError> {
        let call = target.call(Method::HEAD, target.url(&format!("blobs/{digest}"))?, "look for a blob");
        match self.exchange_with_retries(target.endpoint, &call, is_last).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn try_mount(
        &self,
        target: &Target<'_>,
        digest: &Digest,
        from: &str,
        is_last: bool,
    ) -> Result<bool, RegistryError> {
        let mut url = target.url("blobs/uploads/")?;
        url.query_pairs_mut()
            .append_pair("mount", &digest.to_string())
            .append_pair("from", from);
        let call = target.call(Method::POST, url, "mount a blob");
        match self.exchange_with_retries(target.endpoint, &call, is_last).await {
            Ok(response) if response.status() == StatusCode::CREATED => Ok(true),
            // The registry opened an upload instead; it is not used and will lapse, unless closed now.
            Ok(response) => {
                self.cancel_upload(target, &response).await;
                Ok(false)
            }
            // Whoever may push may not be allowed to read there.
            Err(
                RegistryError::NotFound { .. }
                | RegistryError::Denied { .. }
                | RegistryError::Forbidden { .. }
                | RegistryError::Credentials { .. }
                | RegistryError::Status { .. },
            ) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A courtesy: failing it harms nobody.
    async fn cancel_upload(&self, target: &Target<'_>, opened: &Response) {
        if let Some(location) = upload_location(opened) {
            let call = target.call(Method::DELETE, location, "close an upload");
            if let Err(error) = self.exchange(target.endpoint, &call).await {
                tracing::debug!(registry.host = %target.endpoint.host, error = %error, "upload left open");
            }
        }
    }

    async fn upload(
        &self,
        target: &Target<'_>,
        blob: &Descriptor,
        store: &ContentStore,
        progress: Option<&Progress>,
        is_last: bool,
    ) -> Result<(), RegistryError> {
        let mut failures = 0;
        loop {
            let error = match self.upload_once(target, blob, store, progress, is_last).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            failures += 1;
            let Some(pause) = self.client.retry().pause_after(&error, failures, is_last) else {
                return Err(error);
            };
            tracing::debug!(registry.host = %target.endpoint.host, error = %error, failures, "sending a blob again");
            tokio::time::sleep(pause).await;
        }
    }

    /// POST for a place, PUT of everything there.
    async fn upload_once(
        &self,
        target: &Target<'_>,
        blob: &Descriptor,
        store: &ContentStore,
        progress: Option<&Progress>,
        is_last: bool,
    ) -> Result<(), RegistryError> {
        let open = target.call(Method::POST, target.url("blobs/uploads/")?, "open an upload");
        let opened = self.exchange_with_retries(target.endpoint, &open, is_last).await?;
        let mut location = upload_location(&opened)
            .ok_or_else(|| protocol(target.endpoint, &open, "upload opened without a location".to_owned()))?;
        if location.scheme() != "https" && !target.endpoint.allows_http() {
            return Err(protocol(
                target.endpoint,
                &open,
                "upload location does not use https".to_owned(),
            ));
        }
        location
            .query_pairs_mut()
            .append_pair("digest", &blob.digest.to_string());
        let (reader, digest) = (store.clone(), blob.digest);
        let file = Arc::new(blocking(&target.name, move || reader.reader(&digest)).await?);
        let body = || file_body(&file, blob.size, progress.cloned());
        let mut call = target.call(Method::PUT, location, "send a blob");
        call.headers
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        call.headers.insert(CONTENT_LENGTH, HeaderValue::from(blob.size));
        call.timeout = None;
        call.body = Some(&body);
        self.exchange(target.endpoint, &call).await.map(drop)
    }
}

/// Where an upload goes: an absolute URL, or one relative to what was asked.
fn upload_location(response: &Response) -> Option<Url> {
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    response.url().join(location).ok()
}

/// The file from its beginning. Reads at explicit offsets: tries share the descriptor.
fn file_body(file: &Arc<File>, size: u64, progress: Option<Progress>) -> Body {
    let file = file.clone();
    Body::wrap_stream(futures_util::stream::try_unfold(0, move |offset| {
        let (file, progress) = (file.clone(), progress.clone());
        async move {
            let want = usize::try_from(size - offset).map_or(CHUNK, |left| left.min(CHUNK));
            if want == 0 {
                return Ok::<_, io::Error>(None);
            }
            let chunk = tokio::task::spawn_blocking(move || {
                let mut chunk = vec![0; want];
                file.read_exact_at(&mut chunk, offset).map(|()| Bytes::from(chunk))
            });
            let chunk = chunk.await.map_err(io::Error::other)??;
            let sent = offset + chunk.len() as u64;
            if let Some(progress) = &progress {
                progress(sent, size);
            }
            Ok(Some((chunk, sent)))
        }
    }))
}
