//! What there is to know about sources before they are fetched.

use std::os::unix::ffi::OsStringExt;

use bytes::Bytes;
use cairn_proto::pb;
use cairn_solver::engine::SourceFacts;
use cairn_solver::llb::{HttpSource, ImageSource, OciLayoutSource, ResolveMode, SourceOp};
use cairn_solver::worker::{AttestationChain, ChecksumAlgorithm, ChecksumRequest, ImageQuery, LayoutStore, SourceMeta};
use cairn_solver::{Bridge as _, Digest, RawSource};

use super::forwarder::Forwarder;
use super::{ops, wire};
use crate::failure::Failure;
use crate::{convert, policy};

/// The image is in a registry.
const REGISTRY: i32 = 0;
/// The image is in an OCI layout of a client.
const OCI_LAYOUT: i32 = 1;
/// Most kinds of statements that are asked for.
const MAX_PREDICATES: usize = 64;
/// Most bytes that may follow a file that is hashed.
const MAX_SUFFIX: usize = 64 << 10;

pub(super) async fn resolve_image_config(
    caller: &Forwarder,
    request: wire::ResolveImageConfigRequest,
) -> Result<wire::ResolveImageConfigResponse, Failure> {
    let policies = policy::from_wire(request.source_policies).await?;
    let layout = match request.resolver_type {
        REGISTRY => None,
        OCI_LAYOUT => Some(LayoutStore {
            session: Some(request.session_id).filter(|session| !session.is_empty()),
            store: request.store_id,
        }),
        other => return Err(invalid(format!("unknown resolver type {other}"))),
    };
    let query = ImageQuery {
        reference: request.r#ref,
        platform: request.platform.as_ref().map(convert::platform_from_wire),
        mode: resolve_mode(&request.resolve_mode)?,
        layout,
    };
    let bridge = caller.bridge.under(&policies);
    let image = bridge.resolve_image(query, &request.log_name).await?;
    Ok(wire::ResolveImageConfigResponse {
        digest: image.digest.to_string(),
        config: image.config,
        r#ref: image.reference,
    })
}

pub(super) async fn resolve_source_meta(
    caller: &Forwarder,
    mut request: wire::ResolveSourceMetaRequest,
) -> Result<wire::ResolveSourceMetaResponse, Failure> {
    let policies = policy::from_wire(std::mem::take(&mut request.source_policies)).await?;
    let source = request.source.take().ok_or_else(|| invalid("source is required"))?;
    let source = RawSource {
        identifier: source.identifier,
        attrs: source.attrs,
    };
    let platform = request.platform.as_ref().map(convert::platform_from_wire);
    let bridge = caller.bridge.under(&policies);
    let admitted = bridge.admit_source(&source, platform.as_ref()).await?;
    request.source = Some(pb::SourceOp {
        identifier: admitted.identifier,
        attrs: admitted.attrs,
    });
    let (response, image) = resolve(&bridge.build().facts(), request).await?;
    if let Some((query, digest)) = &image {
        bridge.note_resolved(query, digest);
    }
    Ok(response)
}

/// Resolves what no policy is asked about any more; with the question about an image, if it was one, and what it is.
pub(crate) async fn resolve(
    facts: &SourceFacts,
    request: wire::ResolveSourceMetaRequest,
) -> Result<(wire::ResolveSourceMetaResponse, Option<(ImageQuery, Digest)>), Failure> {
    let source = request.source.ok_or_else(|| invalid("source is required"))?;
    let mut response = wire::ResolveSourceMetaResponse {
        source: Some(source.clone()),
        ..wire::ResolveSourceMetaResponse::default()
    };
    let decoded = ops::source(source, request.platform.clone())?;
    let query = match &decoded {
        SourceOp::Image(ImageSource { reference, .. }) => Some(ImageQuery {
            reference: reference.clone(),
            platform: request.platform.as_ref().map(convert::platform_from_wire),
            mode: resolve_mode(&request.resolve_mode)?,
            layout: None,
        }),
        SourceOp::OciLayout(OciLayoutSource {
            reference,
            session,
            store,
            ..
        }) => Some(ImageQuery {
            reference: reference.clone(),
            platform: request.platform.as_ref().map(convert::platform_from_wire),
            mode: resolve_mode(&request.resolve_mode)?,
            layout: Some(LayoutStore {
                session: session.clone(),
                store: store.clone(),
            }),
        }),
        SourceOp::Git(_) | SourceOp::Http(_) => None,
        // Its name says it all, or nothing is known before it is received.
        SourceOp::Blob(_) | SourceOp::Local(_) => return Ok((response, None)),
    };
    if let Some(query) = query {
        let options = request.image.unwrap_or_default();
        let predicates = options.resolve_attestations;
        if predicates.len() > MAX_PREDICATES {
            let message = format!(
                "{} types of attestations: at most {MAX_PREDICATES} are accepted",
                predicates.len()
            );
            return Err(invalid(message));
        }
        let image = facts.image(&query, &request.log_name).await?;
        let attestation_chain = if options.attestation_chain || !predicates.is_empty() {
            let chain = facts.attestations(&query, image.digest, &predicates).await?;
            Some(chain_to_wire(chain))
        } else {
            None
        };
        response.image = Some(wire::ResolveSourceImageResponse {
            digest: image.digest.to_string(),
            config: if options.no_config { Bytes::new() } else { image.config },
            attestation_chain,
        });
        return Ok((response, Some((query, image.digest))));
    }
    let hash = request.http.and_then(|http| http.checksum_request);
    let hash = hash.map(checksum_request).transpose()?;
    match facts.meta(&decoded, &request.log_name).await? {
        SourceMeta::Git(git) => {
            let wants_objects = request.git.is_some_and(|git| git.return_object);
            response.git = Some(wire::ResolveSourceGitResponse {
                checksum: git.checksum,
                r#ref: git.reference,
                commit_checksum: git.commit_checksum,
                commit_object: if wants_objects { git.commit_object } else { Bytes::new() },
                tag_object: if wants_objects { git.tag_object } else { Bytes::new() },
            });
        }
        SourceMeta::Http(http) => {
            let checksum_response = match (&decoded, hash) {
                (SourceOp::Http(source), Some(request)) => {
                    // Of the file that was found, whatever the server has by now.
                    let source = HttpSource {
                        checksum: Some(http.checksum),
                        ..source.clone()
                    };
                    Some(wire::ChecksumResponse {
                        digest: facts.checksum(&source, &request).await?,
                        suffix: request.suffix,
                    })
                }
                _ => None,
            };
            response.http = Some(wire::ResolveSourceHttpResponse {
                checksum: http.checksum.to_string(),
                filename: http.filename.into_vec().into(),
                last_modified: http
                    .last_modified
                    .map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
                checksum_response,
            });
        }
    }
    Ok((response, None))
}

fn chain_to_wire(chain: AttestationChain) -> wire::AttestationChain {
    let text = |digest: Option<Digest>| digest.map(|digest| digest.to_string()).unwrap_or_default();
    let blobs = chain.blobs.into_iter().map(|blob| {
        let digest = blob.digest.to_string();
        let descriptor = wire::Descriptor {
            media_type: blob.media_type,
            digest: digest.clone(),
            // It is here, so its size is far below the limits of either number.
            size: i64::try_from(blob.data.len()).unwrap_or(i64::MAX),
            annotations: blob.annotations.into_iter().collect(),
        };
        let blob = wire::Blob {
            descriptor: Some(descriptor),
            data: blob.data,
        };
        (digest, blob)
    });
    wire::AttestationChain {
        root: chain.root.to_string(),
        image_manifest: text(chain.image_manifest),
        attestation_manifest: text(chain.attestation_manifest),
        signature_manifests: chain.signature_manifests.iter().map(ToString::to_string).collect(),
        blobs: blobs.collect(),
    }
}

fn checksum_request(request: wire::ChecksumRequest) -> Result<ChecksumRequest, Failure> {
    use wire::checksum_request::ChecksumAlgo;
    let algorithm = match ChecksumAlgo::try_from(request.algo) {
        Ok(ChecksumAlgo::Sha256) => ChecksumAlgorithm::Sha256,
        Ok(ChecksumAlgo::Sha384) => ChecksumAlgorithm::Sha384,
        Ok(ChecksumAlgo::Sha512) => ChecksumAlgorithm::Sha512,
        Err(_) => return Err(invalid(format!("unknown checksum algorithm {}", request.algo))),
    };
    if request.suffix.len() > MAX_SUFFIX {
        let message = format!(
            "a suffix of {} bytes: at most {MAX_SUFFIX} are accepted",
            request.suffix.len()
        );
        return Err(invalid(message));
    }
    Ok(ChecksumRequest {
        algorithm,
        suffix: request.suffix,
    })
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(tonic::Code::InvalidArgument, message)
}

fn resolve_mode(text: &str) -> Result<ResolveMode, Failure> {
    match text {
        "" | "default" => Ok(ResolveMode::Default),
        "pull" => Ok(ResolveMode::Pull),
        "local" => Ok(ResolveMode::Local),
        other => Err(invalid(format!("invalid resolve mode {other:?}"))),
    }
}
