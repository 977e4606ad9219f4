//! From references to manifests.

use std::time::Duration;

use bytes::Bytes;
use cairn_solver::{Digest, Platform};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response};
use url::Url;

use super::Reference;
use super::attempts::{Attempts, marking_last};
use super::client::Registry;
use super::error::RegistryError;
use super::exchange::{Exchange, protocol, read_limited, transport};
use super::hosts::Endpoint;
use crate::content::{ContentError, ContentStore};
use crate::image::{Content, Descriptor, Document, select};

/// The largest manifest or index (as the specification lets registries have it).
pub(super) const MAX_DOCUMENT: u64 = 4 << 20;
/// The largest image config.
const MAX_CONFIG: u64 = 16 << 20;
/// For a manifest to arrive.
pub(super) const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(120);
/// An index may point to an index, but not for ever.
const MAX_NESTED_INDEXES: usize = 3;

const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";

/// An image for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedImage {
    /// What the reference names: the manifest itself, or the index it was chosen from.
    pub root: Document,
    /// The platform's manifest.
    pub manifest: Document,
    /// The config's descriptor.
    pub config: Descriptor,
    /// The layers' descriptors, bottom first.
    pub layers: Vec<Descriptor>,
}

impl Registry {
    /// Finds out what a reference stands for, without transferring it. A reference with a digest is not asked about.
    ///
    /// # Errors
    /// [`RegistryError`]; [`RegistryError::is_not_found`] when no server has it.
    pub async fn resolve_digest(&self, reference: &Reference) -> Result<Digest, RegistryError> {
        if let Some(digest) = reference.digest() {
            return Ok(digest);
        }
        let mut attempts = Attempts::new(reference);
        for (endpoint, is_last) in marking_last(&self.pull_endpoints(reference.registry())) {
            let answer = self.head_document(reference, endpoint, is_last).await;
            if let Some(done) = attempts.settle(answer) {
                return done;
            }
        }
        Err(attempts.into_error())
    }

    async fn head_document(
        &self,
        reference: &Reference,
        endpoint: &Endpoint,
        is_last: bool,
    ) -> Result<Digest, RegistryError> {
        let name = reference.to_string();
        let call = document_call(reference, &name, endpoint, Method::HEAD)?;
        let head = self
            .exchange_with_retries(endpoint, &call.as_exchange(), is_last)
            .await?;
        match digest_header(&head) {
            Some(digest) => Ok(digest),
            None => self
                .get_document(reference, endpoint, None, is_last)
                .await
                .map(|document| document.digest()),
        }
    }

    /// Gets the manifest or index a reference names. What `store` has is not asked for again; what arrives is put
    /// there. A reference with a digest that is stored needs no server.
    ///
    /// # Errors
    /// [`RegistryError`]; [`RegistryError::Digest`] when a server gives something else than was asked for.
    pub async fn document(&self, reference: &Reference, store: &ContentStore) -> Result<Document, RegistryError> {
        let name = reference.to_string();
        let digest = self.resolve_digest(reference).await?;
        if let Some(bytes) = read_stored(store, digest, MAX_DOCUMENT, &name).await? {
            return Document::parse(bytes, None).map_err(|source| RegistryError::Document {
                reference: name,
                source,
            });
        }
        let document = self
            .get_document_anywhere(&reference.with_digest(digest), digest)
            .await?;
        write_stored(store, document.bytes.clone(), &name).await?;
        Ok(document)
    }

    /// Gets the manifest of the image for `platform`, choosing from an index as [`select`] does.
    ///
    /// # Errors
    /// [`RegistryError::NoPlatform`] when the index has none that fits; else as [`Registry::document`].
    pub async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        store: &ContentStore,
    ) -> Result<ResolvedImage, RegistryError> {
        let name = reference.to_string();
        let root = self.document(reference, store).await?;
        let mut manifest = root.clone();
        for _ in 0..=MAX_NESTED_INDEXES {
            let chosen = match &manifest.content {
                Content::Manifest { config, layers } => {
                    let (config, layers) = ((**config).clone(), layers.clone());
                    return Ok(ResolvedImage {
                        root,
                        manifest,
                        config,
                        layers,
                    });
                }
                Content::Index { manifests } => {
                    select(manifests, platform)
                        .cloned()
                        .ok_or_else(|| RegistryError::NoPlatform {
                            reference: name.clone(),
                            wanted: Box::new(platform.clone()),
                            available: available(manifests),
                        })?
                }
            };
            manifest = self.document(&reference.with_digest(chosen.digest), store).await?;
            if !chosen.media_type.is_empty() && chosen.media_type != manifest.descriptor.media_type {
                return Err(RegistryError::Document {
                    reference: name,
                    source: crate::image::DocumentError::Confused {
                        document: manifest.descriptor.media_type,
                        delivered: chosen.media_type,
                    },
                });
            }
        }
        Err(RegistryError::Document {
            reference: name,
            source: crate::image::DocumentError::Unsupported("index of indexes of indexes".into()),
        })
    }

    /// Gets an image's config, raw: fields this program does not know must survive.
    ///
    /// # Errors
    /// [`RegistryError`], as [`Registry::fetch_blob`].
    pub async fn config(
        &self,
        reference: &Reference,
        config: &Descriptor,
        store: &ContentStore,
    ) -> Result<Bytes, RegistryError> {
        let name = reference.to_string();
        if config.size > MAX_CONFIG {
            return Err(content_error(
                &name,
                ContentError::TooLarge {
                    digest: config.digest,
                    size: config.size,
                    limit: MAX_CONFIG,
                },
            ));
        }
        self.fetch_blob(reference, config, store, None).await?;
        let stored = read_stored(store, config.digest, MAX_CONFIG, &name).await?;
        stored.ok_or_else(|| content_error(&name, ContentError::NotFound(config.digest)))
    }

    /// Also an answer that breaks off is asked for again.
    async fn get_document(
        &self,
        reference: &Reference,
        endpoint: &Endpoint,
        expected: Option<Digest>,
        is_last: bool,
    ) -> Result<Document, RegistryError> {
        let mut failures = 0;
        loop {
            let error = match self.get_document_once(reference, endpoint, expected).await {
                Ok(document) => return Ok(document),
                Err(error) => error,
            };
            failures += 1;
            let Some(pause) = self.client.retry().pause_after(&error, failures, is_last) else {
                return Err(error);
            };
            tracing::debug!(registry.host = %endpoint.host, error = %error, failures, "asking again");
            tokio::time::sleep(pause).await;
        }
    }

    async fn get_document_once(
        &self,
        reference: &Reference,
        endpoint: &Endpoint,
        expected: Option<Digest>,
    ) -> Result<Document, RegistryError> {
        let name = reference.to_string();
        let call = document_call(reference, &name, endpoint, Method::GET)?;
        let call = call.as_exchange();
        let response = self.exchange(endpoint, &call).await?;
        let delivered_as = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let delivered_as = delivered_as
            .and_then(|value| value.split(';').next())
            .map(|kind| kind.trim().to_owned());
        let bytes = read_limited(response, MAX_DOCUMENT as usize)
            .await
            .map_err(|err| match err {
                Some(source) => transport(&call, source),
                None => protocol(endpoint, &call, format!("manifest of more than {MAX_DOCUMENT} bytes")),
            })?;
        let actual = Digest::sha256(&bytes);
        if let Some(expected) = expected.filter(|expected| *expected != actual) {
            return Err(RegistryError::Digest {
                reference: name,
                host: endpoint.host.clone(),
                expected,
                actual,
            });
        }
        Document::parse(bytes, delivered_as.as_deref()).map_err(|source| RegistryError::Document {
            reference: name,
            source,
        })
    }

    async fn get_document_anywhere(&self, reference: &Reference, digest: Digest) -> Result<Document, RegistryError> {
        let mut attempts = Attempts::new(reference);
        for (endpoint, is_last) in marking_last(&self.pull_endpoints(reference.registry())) {
            let answer = self.get_document(reference, endpoint, Some(digest), is_last).await;
            if let Some(done) = attempts.settle(answer) {
                return done;
            }
        }
        Err(attempts.into_error())
    }
}

/// A request for a manifest, owning what [`Exchange`] borrows.
struct DocumentCall<'a> {
    name: &'a str,
    method: Method,
    url: Url,
    scopes: Vec<String>,
}

impl DocumentCall<'_> {
    fn as_exchange(&self) -> Exchange<'_> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
        Exchange {
            reference: self.name,
            method: self.method.clone(),
            url: self.url.clone(),
            headers,
            scopes: &self.scopes,
            body: None,
            timeout: Some(DOCUMENT_TIMEOUT),
            action: "get the manifest",
        }
    }
}

fn document_call<'a>(
    reference: &Reference,
    name: &'a str,
    endpoint: &Endpoint,
    method: Method,
) -> Result<DocumentCall<'a>, RegistryError> {
    let digest = reference.digest().map(|digest| digest.to_string());
    let what = digest.as_deref().or(reference.tag()).unwrap_or(Reference::DEFAULT_TAG);
    let url = api_url(endpoint, reference, &format!("manifests/{what}"))?;
    Ok(DocumentCall {
        name,
        method,
        url,
        scopes: vec![pull_scope(reference)],
    })
}

/// A URL below a repository. Mirrors are told whose place they take.
pub(super) fn api_url(endpoint: &Endpoint, reference: &Reference, rest: &str) -> Result<Url, RegistryError> {
    let text = format!("{}{}/{rest}", endpoint.base(), reference.repository());
    let mut url = Url::parse(&text).map_err(|err| RegistryError::Config {
        host: endpoint.host.clone(),
        problem: format!("{text:?} is no URL: {err}"),
    })?;
    if let Some(registry) = &endpoint.mirror_of {
        url.query_pairs_mut().append_pair("ns", registry);
    }
    Ok(url)
}

pub(super) fn pull_scope(reference: &Reference) -> String {
    format!("repository:{}:pull", reference.repository())
}

fn digest_header(response: &Response) -> Option<Digest> {
    let value = response.headers().get("docker-content-digest")?;
    Digest::parse(value.to_str().ok()?).ok()
}

fn available(manifests: &[Descriptor]) -> String {
    let platforms = manifests.iter().filter_map(|manifest| manifest.platform.as_ref());
    let known: Vec<String> = platforms
        .filter(|p| p.os != "unknown")
        .take(32)
        .map(ToString::to_string)
        .collect();
    if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    }
}

pub(super) fn content_error(reference: &str, source: ContentError) -> RegistryError {
    RegistryError::Content {
        reference: reference.to_owned(),
        source,
    }
}

/// Runs store work where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    reference: &str,
    work: impl FnOnce() -> Result<T, ContentError> + Send + 'static,
) -> Result<T, RegistryError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|source| content_error(reference, source)),
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

async fn read_stored(
    store: &ContentStore,
    digest: Digest,
    limit: u64,
    reference: &str,
) -> Result<Option<Bytes>, RegistryError> {
    let store = store.clone();
    let bytes = blocking(reference, move || match store.read(&digest, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(ContentError::NotFound(_)) => Ok(None),
        Err(err) => Err(err),
    })
    .await?;
    Ok(bytes.map(Bytes::from))
}

async fn write_stored(store: &ContentStore, bytes: Bytes, reference: &str) -> Result<(), RegistryError> {
    let store = store.clone();
    blocking(reference, move || store.put(&bytes).map(drop)).await
}
