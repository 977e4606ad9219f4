//! What is stated of images in registries, as frontends and clients that decide about sources are told of it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use cairn_client::{Answer, Client, Decide, SolveOptions};
use cairn_proto::gateway::{AttestationChain, ResolveSourceImageRequest, ResolveSourceMetaRequest};
use cairn_proto::pb;
use cairn_proto::policysession::{CheckPolicyRequest, DecisionResponse, DenyMessage};
use cairn_proto::sourcepolicy::PolicyAction;
use cairn_tests::driven::Driven;
use cairn_tests::llb::{Graph, digest, source};
use cairn_tests::{Cairn, Daemon, Lab, Need, Program, Registry};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
const SBOM: &str = "https://spdx.dev/Document";

/// Asks what is stated of an image.
async fn ask(
    build: &mut Driven,
    reference: &str,
    architecture: &str,
    predicates: &[&str],
) -> anyhow::Result<(String, AttestationChain)> {
    let request = build.request(ResolveSourceMetaRequest {
        source: Some(pb::SourceOp {
            identifier: format!("docker-image://{reference}"),
            ..pb::SourceOp::default()
        }),
        platform: Some(pb::Platform {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            ..pb::Platform::default()
        }),
        image: Some(ResolveSourceImageRequest {
            no_config: true,
            attestation_chain: true,
            resolve_attestations: predicates.iter().map(|&one| one.to_owned()).collect(),
        }),
        ..ResolveSourceMetaRequest::default()
    });
    let answer = build.bridge.resolve_source_meta(request).await?.into_inner();
    let image = answer.image.context("nothing about the image")?;
    ensure!(image.config.is_empty(), "a config that nobody wanted");
    let chain = image.attestation_chain.context("no chain")?;
    for (name, blob) in &chain.blobs {
        let descriptor = blob.descriptor.as_ref().context("no descriptor")?;
        ensure!(*name == digest(&blob.data) && *name == descriptor.digest);
        ensure!(usize::try_from(descriptor.size)? == blob.data.len());
    }
    Ok((image.digest, chain))
}

fn names<'a>(expected: impl IntoIterator<Item = &'a String>) -> Vec<&'a String> {
    let mut names: Vec<_> = expected.into_iter().collect();
    names.sort_unstable();
    names
}

/// Puts blobs and manifests into a repository.
struct Pusher<'a> {
    lab: &'a Lab,
    base: String,
}

impl Pusher<'_> {
    fn put(&self, url: &str, kind: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let file = self.lab.path("pushed");
        std::fs::write(&file, bytes)?;
        let (data, kind) = (format!("@{}", file.display()), format!("Content-Type: {kind}"));
        let curl = Program::new("curl").args(["-sSf", "-X", "PUT", "-H", &kind, "--data-binary", &data, url]);
        curl.output().map(drop)
    }

    fn blob(&self, bytes: &[u8]) -> anyhow::Result<String> {
        let name = digest(bytes);
        let begin = Program::new("curl").args(["-sSf", "-X", "POST", "-o", "/dev/null", "-D", "-"]);
        let headers = begin.args([&format!("{}/blobs/uploads/", self.base)]).output()?;
        let mut lines = headers.lines().map(str::trim);
        let place = lines.find_map(|line| line.strip_prefix("Location: "));
        let place = place.with_context(|| format!("no place for it in {headers}"))?;
        self.put(&format!("{place}&digest={name}"), "application/octet-stream", bytes)?;
        Ok(name)
    }

    fn manifest(&self, tag: Option<&str>, manifest: &Value) -> anyhow::Result<String> {
        let bytes = manifest.to_string();
        let name = digest(bytes.as_bytes());
        let kind = manifest["mediaType"].as_str().context("no type")?;
        let url = format!("{}/manifests/{}", self.base, tag.unwrap_or(&name));
        self.put(&url, kind, bytes.as_bytes())?;
        Ok(name)
    }

    /// Signs a manifest, so to say, where registries have it that cannot list what refers to what.
    fn sign(&self, subject: &str) -> anyhow::Result<(String, String)> {
        let config = self.blob(b"{}")?;
        let signature = self.blob(b"signature")?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": BUNDLE,
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2 },
            "layers": [{ "mediaType": BUNDLE, "digest": signature, "size": 9 }],
        });
        let name = self.manifest(None, &manifest)?;
        let size = manifest.to_string().len();
        let index = json!({
            "schemaVersion": 2, "mediaType": INDEX,
            "manifests": [
                { "mediaType": MANIFEST, "digest": name, "size": size, "artifactType": "application/x-other" },
                { "mediaType": MANIFEST, "digest": name, "size": size, "artifactType": BUNDLE },
            ],
        });
        self.manifest(Some(&subject.replace(':', "-")), &index)?;
        Ok((name, signature))
    }
}

fn build(cairn: &Cairn, context: &Path, args: &[&str]) -> anyhow::Result<()> {
    let context = context.display().to_string();
    let program = cairn.command(["build", "--push", "--platform", "linux/amd64,linux/arm64"])?;
    program.args(args).args([&context]).run()?.success()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_of_images_are_told_with_what_signs_them() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Registry])? else {
        return Ok(());
    };
    let registry = Registry::start(&lab)?;
    let mut daemon = Daemon::start_with(&lab, &lab.path("state"), &registry.config())?;
    let cairn = Cairn::with(&lab, &daemon);
    let context = lab.files("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")])?;
    let (stated, silent) = (
        format!("{}/stated:1", registry.address()),
        format!("{}/silent:1", registry.address()),
    );
    build(&cairn, &context, &["-t", &stated, "--provenance=mode=max"])?;
    build(&cairn, &context, &["-t", &silent, "--provenance=false"])?;
    let mut driven = Driven::start(&daemon, "asking").await?;

    let (root, chain) = ask(&mut driven, &silent, "arm64", &[PROVENANCE]).await?;
    ensure!(chain.root == root && !chain.image_manifest.is_empty() && chain.attestation_manifest.is_empty());
    ensure!(names(chain.blobs.keys()) == [&root], "{chain:?}");

    let mut manifests = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let (root, chain) = ask(&mut driven, &stated, architecture, &[]).await?;
        ensure!(chain.root == root && chain.signature_manifests.is_empty());
        ensure!(
            names(chain.blobs.keys()) == names([&root, &chain.attestation_manifest]),
            "{chain:?}"
        );
        let index: Value = serde_json::from_slice(&chain.blobs[&root].data)?;
        let entries = index["manifests"].as_array().context("no index")?;
        let entry = |name: &str| {
            entries
                .iter()
                .find(|entry| entry["digest"] == name)
                .context("not in the index")
        };
        ensure!(entry(&chain.image_manifest)?["platform"]["architecture"] == architecture);
        let notes = &entry(&chain.attestation_manifest)?["annotations"];
        ensure!(notes["vnd.docker.reference.digest"] == chain.image_manifest, "{notes}");
        manifests.push(chain.image_manifest);

        let (_, chain) = ask(&mut driven, &stated, architecture, &[SBOM]).await?;
        ensure!(chain.blobs.len() == 2, "{chain:?}");
        let (_, chain) = ask(&mut driven, &stated, architecture, &[SBOM, PROVENANCE]).await?;
        let kind = |blob: &cairn_proto::gateway::Blob| {
            let descriptor = blob.descriptor.clone().unwrap_or_default();
            descriptor.annotations.get("in-toto.io/predicate-type").cloned()
        };
        let statement = chain
            .blobs
            .values()
            .find(|blob| kind(blob).as_deref() == Some(PROVENANCE));
        let statement: Value = serde_json::from_slice(&statement.context("no statement")?.data)?;
        ensure!(statement["predicateType"] == PROVENANCE);
        let about = chain.image_manifest.trim_start_matches("sha256:");
        ensure!(statement["subject"][0]["digest"]["sha256"] == about, "{statement}");
    }
    ensure!(manifests[0] != manifests[1]);

    let (root, chain) = ask(&mut driven, &stated, "amd64", &[]).await?;
    let pusher = Pusher {
        lab: &lab,
        base: format!("http://{}/v2/stated", registry.address()),
    };
    let (manifest, signature) = pusher.sign(&chain.attestation_manifest)?;
    let (_, chain) = ask(&mut driven, &stated, "amd64", &[]).await?;
    ensure!(chain.signature_manifests == [manifest.clone()], "{chain:?}");
    let want = names([&root, &chain.attestation_manifest, &manifest, &signature]);
    ensure!(names(chain.blobs.keys()) == want, "{chain:?}");
    ensure!(chain.blobs[&signature].data.as_ref() == b"signature");

    let many = vec![SBOM; 65];
    let refused = ask(&mut driven, &stated, "amd64", &many)
        .await
        .err()
        .context("it is told")?;
    ensure!(refused.to_string().contains("65 types of attestations"), "{refused}");
    drop(driven);

    // A client that decides is told as much.
    for (reference, is_built) in [(&stated, true), (&silent, false)] {
        let mut graph = Graph::default();
        let image = graph.add(&source(&format!("docker-image://{reference}"), &[]));
        let options = SolveOptions {
            definition: Some(graph.asking_for(&image, 0)),
            source_judge: Some(Arc::new(OnlyStated)),
            ..SolveOptions::default()
        };
        let client = Client::connect(&daemon.address().parse()?).await?;
        let (events, mut news) = mpsc::channel(16);
        let drain = async { while news.recv().await.is_some() {} };
        let (solved, ()) = tokio::join!(client.solve(options, events, CancellationToken::new()), drain);
        match solved {
            Ok(_) => ensure!(is_built, "{reference}"),
            Err(error) => {
                let text = format!("{:#}", anyhow::Error::from(error));
                ensure!(
                    !is_built && text.contains("not allowed by policy: action DENY"),
                    "{reference}: {text}"
                );
            }
        }
    }
    daemon.stop()?;
    Ok(())
}

/// Lets images pass of which something is stated.
struct OnlyStated;

#[tonic::async_trait]
impl Decide for OnlyStated {
    async fn decide(&self, request: CheckPolicyRequest) -> Result<Answer, tonic::Status> {
        let known = request.source.unwrap_or_default();
        let Some(image) = known.image else {
            return Ok(Answer::Request(ResolveSourceMetaRequest {
                source: known.source,
                platform: request.platform,
                image: Some(ResolveSourceImageRequest {
                    attestation_chain: true,
                    ..ResolveSourceImageRequest::default()
                }),
                ..ResolveSourceMetaRequest::default()
            }));
        };
        let chain = image.attestation_chain.unwrap_or_default();
        let (action, messages) = match chain.attestation_manifest.is_empty() {
            false => (PolicyAction::Allow, Vec::new()),
            true => (PolicyAction::Deny, vec!["nothing is stated of it".to_owned()]),
        };
        Ok(Answer::Decision(DecisionResponse {
            action: action.into(),
            deny_messages: messages.into_iter().map(|message| DenyMessage { message }).collect(),
            update: None,
        }))
    }
}
