//! Made images, read by other programs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cairn_solver::Platform;
use parking_lot::Mutex;

use super::*;
use crate::archive::{Entry, EntryKind, TarWriter};
use crate::compression::{Compression, compress};
use crate::content::ContentStore;
use crate::registry::tests::server::DockerRegistry;
use crate::registry::tests::{anonymous, temp_store};
use crate::registry::{Pushed, Reference};

/// A layer with one file.
fn layer(store: &ContentStore, name: &str, compression: Compression, media_types: MediaTypes) -> ImageLayer {
    let mut tar = TarWriter::new(Vec::new());
    tar.append(
        &Entry {
            size: 5,
            ..Entry::new(name, EntryKind::File, 0o644)
        },
        &b"hello"[..],
    )
    .unwrap();
    let layer = compress(compression, None, &tar.finish().unwrap()[..], store).unwrap();
    let media_type = media_types.layer(compression).unwrap();
    ImageLayer {
        descriptor: Descriptor::new(media_type, layer.digest, layer.size),
        diff_id: layer.diff_id,
        created: Some("2024-05-06T07:08:09Z".parse().unwrap()),
        description: format!("COPY {name}"),
    }
}

fn image(store: &ContentStore, platform: &str, media_types: MediaTypes) -> AssembledImage {
    let platform: Platform = platform.parse().unwrap();
    let mut layers = vec![layer(store, "one", Compression::Gzip, media_types)];
    layers.push(layer(
        store,
        platform.architecture.as_str(),
        Compression::None,
        media_types,
    ));
    if media_types == MediaTypes::Oci {
        layers.push(layer(store, "three", Compression::Zstd, media_types));
    }
    let parts = ImageParts {
        config: Some(br#"{"config":{"Cmd":["/x"],"Labels":{"a":"b"}},"future":1}"#),
        platform: &platform,
        layers: &layers,
        options: ConfigOptions::default(),
        media_types,
        annotations: &BTreeMap::new(),
    };
    assemble_image(&parts, store).unwrap()
}

fn index(store: &ContentStore) -> Document {
    let manifests = ["linux/amd64", "linux/arm64"].map(|platform| Descriptor {
        platform: Some(platform.parse().unwrap()),
        ..image(store, platform, MediaTypes::Oci).manifest.descriptor
    });
    assemble_index(MediaTypes::Oci, &manifests, &BTreeMap::new(), store).unwrap()
}

/// Runs a program that may not be installed; its output, or `None` without the program.
fn run(program: &str, args: &[&str]) -> Option<String> {
    let Ok(output) = Command::new(program).args(args).output() else {
        tracing::warn!(program, "skipped: not installed");
        return None;
    };
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(String::from_utf8(output.stdout).unwrap())
}

fn layout(
    dir: &Path,
    kind: LayoutKind,
    root: &Document,
    names: &[&str],
    store: &ContentStore,
) -> Result<String, LayoutError> {
    let path = dir.join("image.tar");
    let names: Vec<Reference> = names.iter().map(|name| name.parse().unwrap()).collect();
    let created = Some("2024-05-06T07:08:09Z".parse().unwrap());
    write_layout(kind, root, &names, created, store, File::create(&path).unwrap())?;
    Ok(path.to_str().unwrap().to_owned())
}

#[test]
fn documents_have_the_expected_text() {
    let (_dir, store) = temp_store();
    let made = image(&store, "linux/arm64", MediaTypes::Docker);
    let text = String::from_utf8(made.manifest.bytes.to_vec()).unwrap();
    let start = format!(
        "{{\n  \"schemaVersion\": 2,\n  \"mediaType\": \"{}\",\n  \"config\": {{\n    \"mediaType\": \"{}\",\n    \
         \"digest\": \"{}\",\n    \"size\": {}\n  }},\n  \"layers\": [\n    {{\n      \"mediaType\": \
         \"application/vnd.docker.image.rootfs.diff.tar.gzip\",",
        media_type::DOCKER_MANIFEST,
        media_type::DOCKER_CONFIG,
        made.config.digest,
        made.config.size
    );
    assert!(text.starts_with(&start), "{text}");
    let config = store.read(&made.config.digest, 10_000).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(
        (&config["future"], &config["created"]),
        (&1.into(), &"2024-05-06T07:08:09Z".into())
    );
    let (_dir, again) = temp_store();
    assert_eq!(image(&again, "linux/arm64", MediaTypes::Docker), made);
}

#[test]
fn zstd_layers_need_oci_types() {
    let (_dir, store) = temp_store();
    let layers = [layer(&store, "x", Compression::Zstd, MediaTypes::Oci)];
    let parts = ImageParts {
        config: None,
        platform: &Platform::host(),
        layers: &layers,
        options: ConfigOptions::default(),
        media_types: MediaTypes::Docker,
        annotations: &BTreeMap::new(),
    };
    let error = assemble_image(&parts, &store).unwrap_err();
    assert!(error.to_string().contains("needs OCI media types"), "{error}");
}

#[test]
fn skopeo_and_umoci_read_an_oci_layout() {
    let (_dir, store) = temp_store();
    let dir = tempfile::tempdir().unwrap();
    let made = image(&store, "linux/amd64", MediaTypes::Oci);
    let path = layout(
        dir.path(),
        LayoutKind::Oci,
        &made.manifest,
        &["docker.io/library/x:v1"],
        &store,
    )
    .unwrap();
    let source = format!("oci-archive:{path}");
    let Some(shown) = run("skopeo", &["inspect", &source]) else {
        return;
    };
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["Digest"], made.manifest.digest().to_string());
    assert_eq!(shown["Labels"]["a"], "b");
    let copy = dir.path().join("copy");
    run(
        "skopeo",
        &[
            "copy",
            "--insecure-policy",
            &source,
            &format!("oci:{}:v1", copy.display()),
        ],
    );
    let gzip_only = {
        let platform = Platform::host();
        let layers = [layer(&store, "one", Compression::Gzip, MediaTypes::Oci)];
        let annotations = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        let parts = ImageParts {
            config: None,
            platform: &platform,
            layers: &layers,
            options: ConfigOptions::default(),
            media_types: MediaTypes::Oci,
            annotations: &annotations,
        };
        assemble_image(&parts, &store).unwrap()
    };
    let path = layout(
        dir.path(),
        LayoutKind::Oci,
        &gzip_only.manifest,
        &["localhost/y:v2"],
        &store,
    )
    .unwrap();
    let unpacked = dir.path().join("layout");
    fs::create_dir(&unpacked).unwrap();
    run("tar", &["-C", unpacked.to_str().unwrap(), "-xf", &path]);
    let bundle = dir.path().join("bundle");
    let image = format!("{}:v2", unpacked.display());
    if run(
        "umoci",
        &["unpack", "--rootless", "--image", &image, bundle.to_str().unwrap()],
    )
    .is_some()
    {
        assert_eq!(fs::read(bundle.join("rootfs/one")).unwrap(), b"hello");
    }
}

#[test]
fn skopeo_reads_a_docker_archive_and_an_index_is_refused_there() {
    let (_dir, store) = temp_store();
    let dir = tempfile::tempdir().unwrap();
    let made = image(&store, "linux/amd64", MediaTypes::Docker);
    let names = ["docker.io/library/x:v1", "quay.io/a/b:v2"];
    let path = layout(dir.path(), LayoutKind::Docker, &made.manifest, &names, &store).unwrap();
    if let Some(shown) = run(
        "skopeo",
        &["inspect", "--config", &format!("docker-archive:{path}:x:v1")],
    ) {
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);
    }
    let manifest = run("tar", &["-xOf", &path, "manifest.json"]).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest[0]["RepoTags"], serde_json::json!(["x:v1", "quay.io/a/b:v2"]));
    let listing = run("tar", &["-tf", &path]).unwrap();
    let listing: Vec<_> = listing
        .lines()
        .filter(|line| !line.starts_with("blobs/sha256/") || line.ends_with('/'))
        .collect();
    assert_eq!(
        listing,
        ["blobs/", "blobs/sha256/", "index.json", "manifest.json", "oci-layout"]
    );
    let index = index(&store);
    let path = layout(dir.path(), LayoutKind::Docker, &index, &[], &store).unwrap();
    let listing = run("tar", &["-tf", &path]).unwrap();
    assert!(
        listing.contains("index.json") && !listing.contains("manifest.json"),
        "{listing}"
    );
}

#[test]
fn a_layout_is_the_same_every_time_and_names_are_annotated() {
    let (_dir, store) = temp_store();
    let dir = tempfile::tempdir().unwrap();
    let index = index(&store);
    let names = ["docker.io/library/x:v1", "docker.io/library/x:latest"];
    let path = layout(dir.path(), LayoutKind::Oci, &index, &names, &store).unwrap();
    let first = fs::read(&path).unwrap();
    layout(dir.path(), LayoutKind::Oci, &index, &names, &store).unwrap();
    assert!(fs::read(&path).unwrap() == first);
    let text = run("tar", &["-xOf", &path, "index.json"]).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let entries = json["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(
        entries[1]["annotations"]["io.containerd.image.name"],
        "docker.io/library/x:latest"
    );
    assert_eq!(entries[0]["annotations"]["org.opencontainers.image.ref.name"], "v1");
    assert_eq!(
        entries[0]["annotations"]["org.opencontainers.image.created"],
        "2024-05-06T07:08:09Z"
    );
    if let Content::Index { manifests } = &index.content {
        store.delete(&manifests[0].digest).unwrap();
    }
    assert!(matches!(
        layout(dir.path(), LayoutKind::Oci, &index, &[], &store),
        Err(LayoutError::Tree(_))
    ));
}

#[tokio::test]
async fn a_pushed_index_is_complete_and_by_digest_sets_no_tag() {
    let Some(server) = DockerRegistry::start() else { return };
    let (_dir, store) = temp_store();
    let index = index(&store);
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = events.clone();
    let options = PushOptions {
        by_digest: true,
        progress: Some(Arc::new(move |event| seen.lock().push(event))),
        ..PushOptions::default()
    };
    let name: Reference = format!("{}/team/app:v1", server.host).parse().unwrap();
    let registry = anonymous();
    push_image(&registry, &name, &index, &store, &Stored, &options)
        .await
        .unwrap();
    assert!(registry.resolve_digest(&name).await.unwrap_err().is_not_found());
    let uploaded = |event: &PushEvent| {
        matches!(
            event,
            PushEvent::Blob {
                how: Pushed::Uploaded,
                ..
            }
        )
    };
    // Two configs, two common layers, one of its own each.
    assert_eq!(events.lock().iter().filter(|event| uploaded(event)).count(), 6);
    assert_eq!(events.lock().last(), Some(&PushEvent::Manifests));

    push_image(&registry, &name, &index, &store, &Stored, &PushOptions::default())
        .await
        .unwrap();
    assert_eq!(registry.resolve_digest(&name).await.unwrap(), index.digest());
    let image = format!("docker://{}/team/app:v1", server.host);
    if let Some(shown) = run(
        "skopeo",
        &["inspect", "--tls-verify=false", "--override-arch=arm64", &image],
    ) {
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["Architecture"], "arm64");
    }
}

/// Blobs that are all in the content store.
struct Stored;

#[async_trait::async_trait]
impl BlobSource for Stored {
    fn mountable_from(&self, _registry: &str, _blob: &cairn_solver::Digest) -> Vec<String> {
        Vec::new()
    }

    async fn provide(&self, _blob: &Descriptor) -> Result<(), BlobError> {
        Ok(())
    }
}

#[tokio::test]
async fn blobs_known_elsewhere_are_mounted_and_missing_ones_are_asked_for() {
    struct Elsewhere;
    #[async_trait::async_trait]
    impl BlobSource for Elsewhere {
        fn mountable_from(&self, _registry: &str, _blob: &cairn_solver::Digest) -> Vec<String> {
            vec!["base/image".to_owned()]
        }

        async fn provide(&self, blob: &Descriptor) -> Result<(), BlobError> {
            Err(format!("nobody has {}", blob.digest).into())
        }
    }
    let Some(server) = DockerRegistry::start() else { return };
    let (_dir, store) = temp_store();
    let made = image(&store, "linux/amd64", MediaTypes::Oci).manifest;
    let registry = anonymous();
    let base: Reference = format!("{}/base/image:1", server.host).parse().unwrap();
    let derived: Reference = format!("{}/derived:1", server.host).parse().unwrap();
    let written = PushOptions {
        called: "as/written".to_owned(),
        ..PushOptions::default()
    };
    let error = push_image(&registry, &derived, &made, &store, &Elsewhere, &written)
        .await
        .unwrap_err();
    assert!(error.to_string().starts_with("failed to push as/written: "), "{error}");
    let error = push_image(&registry, &derived, &made, &store, &Elsewhere, &PushOptions::default())
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&format!("failed to push {derived}: failed to get blob")),
        "{error}"
    );
    push_image(&registry, &base, &made, &store, &Stored, &PushOptions::default())
        .await
        .unwrap();
    let ImageTree { blobs, .. } = ImageTree::of(&made, &store).unwrap();
    for blob in blobs {
        store.delete(&blob.digest).unwrap();
    }
    push_image(&registry, &derived, &made, &store, &Elsewhere, &PushOptions::default())
        .await
        .unwrap();
    assert_eq!(registry.resolve_digest(&derived).await.unwrap(), made.digest());
}
