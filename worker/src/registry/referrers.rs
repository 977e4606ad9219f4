//! What refers to a manifest: its signatures, for one (OCI distribution specification, "Listing Referrers").

use cairn_solver::Digest;
use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};

use super::Reference;
use super::attempts::{Attempts, marking_last};
use super::client::Registry;
use super::error::RegistryError;
use super::exchange::{Exchange, protocol, read_limited, transport};
use super::hosts::Endpoint;
use super::resolve::{DOCUMENT_TIMEOUT, MAX_DOCUMENT, api_url, pull_scope};
use crate::image::{Content, Descriptor, Document};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

impl Registry {
    /// Lists what of a type refers to a manifest of the reference's repository. Servers that know nothing of such lists
    /// have them under a tag of their own, if at all.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn referrers(
        &self,
        reference: &Reference,
        digest: Digest,
        artifact_type: &str,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let tag = digest.to_string().replace(':', "-");
        let places = [
            (format!("referrers/{digest}"), Some(artifact_type)),
            (format!("manifests/{tag}"), None),
        ];
        for (path, filter) in places {
            let mut listed = match self.list(reference, &path, filter).await {
                Err(error) if error.is_not_found() => continue,
                listed => listed?,
            };
            // Not every server does as it is asked.
            listed.retain(|listed| listed.artifact_type.as_deref() == Some(artifact_type));
            return Ok(listed);
        }
        Ok(Vec::new())
    }

    async fn list(
        &self,
        reference: &Reference,
        path: &str,
        filter: Option<&str>,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let mut attempts = Attempts::new(reference);
        for (endpoint, is_last) in marking_last(&self.pull_endpoints(reference.registry())) {
            let answer = self.list_at(reference, endpoint, path, filter, is_last).await;
            if let Some(done) = attempts.settle(answer) {
                return done;
            }
        }
        Err(attempts.into_error())
    }

    async fn list_at(
        &self,
        reference: &Reference,
        endpoint: &Endpoint,
        path: &str,
        filter: Option<&str>,
        is_last: bool,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let name = reference.to_string();
        let mut url = api_url(endpoint, reference, path)?;
        if let Some(kind) = filter {
            url.query_pairs_mut().append_pair("artifactType", kind);
        }
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(INDEX));
        let call = Exchange {
            reference: &name,
            method: Method::GET,
            url,
            headers,
            scopes: &[pull_scope(reference)],
            body: None,
            timeout: Some(DOCUMENT_TIMEOUT),
            action: "list what refers to the manifest",
        };
        let response = self.exchange_with_retries(endpoint, &call, is_last).await?;
        let read = read_limited(response, MAX_DOCUMENT as usize).await;
        let bytes = read.map_err(|error| match error {
            Some(source) => transport(&call, source),
            None => protocol(endpoint, &call, format!("a list of more than {MAX_DOCUMENT} bytes")),
        })?;
        let document = Document::parse(bytes, Some(INDEX)).map_err(|source| RegistryError::Document {
            reference: name.clone(),
            source,
        })?;
        match document.content {
            Content::Index { manifests } => Ok(manifests),
            Content::Manifest { .. } => Err(protocol(endpoint, &call, "it is no list".to_owned())),
        }
    }
}
