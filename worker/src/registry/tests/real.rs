use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use cairn_solver::{Digest, Platform};
use parking_lot::Mutex;

use super::fake::{FakeServer, Reply};
use super::server::DockerRegistry;
use super::*;
use crate::image::{Manifest, MediaTypes, assemble_index};

/// Puts an image of one layer into `store`.
fn image(store: &ContentStore, text: &str) -> (Document, Descriptor, Descriptor) {
    let config = format!(r#"{{"architecture":"amd64","os":"linux","x":"{text}"}}"#);
    let config = store.put(config.as_bytes()).unwrap();
    let layer = store.put(&text.as_bytes().repeat(100_000)).unwrap();
    let config = Descriptor::new(MediaTypes::Oci.config(), config.digest, config.size);
    let layer = Descriptor::new("application/vnd.oci.image.layer.v1.tar", layer.digest, layer.size);
    let manifest = Manifest::new(MediaTypes::Oci, config.clone(), vec![layer.clone()])
        .store(store)
        .unwrap();
    (manifest, config, layer)
}

fn unused_address() -> String {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string()
}

fn mirrored(upstream: &str, mirrors: &[&str]) -> Registry {
    let config = RegistryConfig {
        mirrors: mirrors.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    let hosts = RegistryHosts {
        by_name: [(upstream.to_owned(), config)].into(),
    };
    client(hosts).with_credentials(Arc::new(Anonymous))
}

#[tokio::test]
async fn images_go_in_and_out_of_a_real_registry() {
    let Some(server) = DockerRegistry::start() else { return };
    let (_dir, store) = temp_store();
    let registry = anonymous();
    let name = reference(&format!("{}/some/image:v1", server.host));
    let (amd64, config, layer) = image(&store, "amd64");
    let (arm64, arm_config, arm_layer) = image(&store, "arm64");

    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = calls.clone();
    let progress: Progress = Arc::new(move |sent, size| seen.lock().push((sent, size)));
    let pushed = registry
        .push_blob(&name, &layer, &store, &[], Some(progress))
        .await
        .unwrap();
    assert_eq!(pushed, Pushed::Uploaded);
    assert_eq!(calls.lock().last(), Some(&(layer.size, layer.size)));
    assert_eq!(
        registry.push_blob(&name, &layer, &store, &[], None).await.unwrap(),
        Pushed::Existed
    );
    for blob in [&config, &arm_config, &arm_layer] {
        registry.push_blob(&name, blob, &store, &[], None).await.unwrap();
    }
    // To another repository without sending anything: the store there is empty.
    let other = reference(&format!("{}/other:v1", server.host));
    let (_empty_dir, empty) = temp_store();
    let mounted = registry
        .push_blob(
            &other,
            &layer,
            &empty,
            &["not/there".to_owned(), "some/image".to_owned()],
            None,
        )
        .await
        .unwrap();
    assert_eq!(mounted, Pushed::Mounted);

    let with_platform = |document: &Document, text: &str| Descriptor {
        platform: Some(text.parse().unwrap()),
        ..document.descriptor.clone()
    };
    let manifests = [
        with_platform(&amd64, "linux/amd64"),
        with_platform(&arm64, "linux/arm64"),
    ];
    let index = assemble_index(MediaTypes::Oci, &manifests, &Default::default(), &store).unwrap();
    for document in [&amd64, &arm64] {
        let by_digest = format!("{}/some/image@{}", server.host, document.digest());
        registry.push_manifest(&reference(&by_digest), document).await.unwrap();
    }
    registry.push_manifest(&name, &index).await.unwrap();

    let (_fresh_dir, fresh) = temp_store();
    let resolved = registry
        .resolve(&name, &"linux/arm64".parse().unwrap(), &fresh)
        .await
        .unwrap();
    assert_eq!((&resolved.root, &resolved.manifest), (&index, &arm64));
    let config = registry.config(&name, &resolved.config, &fresh).await.unwrap();
    assert_eq!(Digest::sha256(&config), arm_config.digest);
    registry
        .fetch_blob(&name, &resolved.layers[0], &fresh, None)
        .await
        .unwrap();
    assert_eq!(fresh.size(&arm_layer.digest).unwrap(), Some(arm_layer.size));

    let error = registry
        .resolve(&name, &"linux/s390x".parse().unwrap(), &fresh)
        .await
        .unwrap_err();
    assert!(error.to_string().ends_with(
        "no match for platform in manifest: not found: linux/s390x is wanted, it has linux/amd64, linux/arm64"
    ));
    // What is stored needs no server.
    let by_digest = reference(&format!("{}/some/image@{}", server.host, index.digest()));
    drop(server);
    registry
        .resolve(&by_digest, &Platform::new("linux", "amd64", ""), &store)
        .await
        .unwrap();
}

#[tokio::test]
async fn missing_images_and_blobs_are_not_found() {
    let Some(server) = DockerRegistry::start() else { return };
    let (_dir, store) = temp_store();
    let name = format!("{}/missing:v1", server.host);
    let error = anonymous().document(&reference(&name), &store).await.unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(error.to_string(), format!("{name}: not found"));
    let blob = Descriptor::of("x", b"nobody has this");
    assert!(
        anonymous()
            .fetch_blob(&reference(&name), &blob, &store, None)
            .await
            .unwrap_err()
            .is_not_found()
    );
    let missing = mirrored("127.0.0.9:1", &[&server.host]);
    let error = missing
        .document(&reference("127.0.0.9:1/missing:v1"), &store)
        .await
        .unwrap_err();
    let text = describe(&error);
    assert!(
        text.contains(&format!("{name}: not found")) || text.contains("missing:v1: not found"),
        "{text}"
    );
    assert!(text.contains("127.0.0.9:1"), "{text}");
}

#[tokio::test]
async fn mirrors_are_asked_in_order_and_then_the_registry() {
    let Some(server) = DockerRegistry::start() else { return };
    let (_dir, store) = temp_store();
    let (manifest, config, layer) = image(&store, "mirrored");
    let name = reference(&format!("{}/hub/library/thing:1", server.host));
    for blob in [&config, &layer] {
        anonymous().push_blob(&name, blob, &store, &[], None).await.unwrap();
    }
    anonymous().push_manifest(&name, &manifest).await.unwrap();

    let dead = unused_address();
    let broken = FakeServer::start(|_| Reply::new(500)).await;
    let registry = mirrored("docker.io", &[&dead, &broken.host, &format!("{}/hub", server.host)]);
    let (_fresh_dir, fresh) = temp_store();
    let pulled = registry
        .resolve(&reference("thing:1"), &Platform::host(), &fresh)
        .await
        .unwrap();
    assert_eq!(pulled.manifest, manifest);
    registry
        .fetch_blob(&reference("thing:1"), &layer, &fresh, None)
        .await
        .unwrap();
    let asked = broken.requests();
    assert!(
        asked.iter().all(|request| request.path.contains("ns=docker.io")),
        "{asked:?}"
    );

    let upstream = unused_address();
    let registry = mirrored(&upstream, &[&dead]);
    let error = registry
        .document(&reference(&format!("{upstream}/x:1")), &fresh)
        .await
        .unwrap_err();
    let text = describe(&error);
    assert!(
        text.contains(&dead) && text.contains(&upstream) && text.contains("get the manifest"),
        "{text}"
    );
}

/// CVE-2024-3727: what arrives under a digest is what the digest says, and a digest is never a path.
#[tokio::test]
async fn cve_2024_3727_wrong_bytes_are_refused_and_both_digests_named() {
    let server = FakeServer::start(|_| Reply::new(200).body(r#"{"manifests":[]}"#)).await;
    let (_dir, store) = temp_store();
    let wanted = Digest::sha256(b"wanted");
    let name = format!("{}/a@{wanted}", server.host);
    let text = anonymous()
        .document(&reference(&name), &store)
        .await
        .unwrap_err()
        .to_string();
    assert!(text.contains(&wanted.to_string()), "{text}");
    assert!(
        text.contains(&Digest::sha256(br#"{"manifests":[]}"#).to_string()),
        "{text}"
    );
    let blob = Descriptor {
        size: 16,
        ..Descriptor::new("x", wanted, 16)
    };
    let error = anonymous()
        .fetch_blob(&reference(&name), &blob, &store, None)
        .await
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::Digest { expected, .. } if expected == wanted),
        "{error}"
    );
    assert!(store.list().unwrap().is_empty());
    assert!("host/a@sha256:../../../../etc/passwd".parse::<Reference>().is_err());
}

#[tokio::test]
async fn broken_transfers_go_on_where_they_stopped() {
    let data: Vec<u8> = (0..500_000_u32).flat_map(u32::to_le_bytes).collect();
    let blob = Descriptor::of("x", &data);
    let body = data.clone();
    let server = FakeServer::start(move |request| {
        let from = request
            .headers
            .get("range")
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        let from: usize = from.and_then(|from| from.parse().ok()).unwrap_or(0);
        let rest = body[from..].to_vec();
        let length = rest.len();
        let reply = match from {
            0 => Reply::new(200),
            _ => Reply::new(206).header(
                "content-range",
                format!("bytes {from}-{}/{}", body.len() - 1, body.len()),
            ),
        };
        reply.body(rest).cut(length.min(300_000))
    })
    .await;
    let (_dir, store) = temp_store();
    let name = reference(&format!("{}/a:1", server.host));
    anonymous().fetch_blob(&name, &blob, &store, None).await.unwrap();
    assert_eq!(store.size(&blob.digest).unwrap(), Some(blob.size));
    // More tries than failures are allowed: each moved on.
    assert!(server.requests().len() >= 7);
    assert!(
        server
            .requests()
            .iter()
            .skip(1)
            .all(|request| request.headers.contains_key("range"))
    );
}

#[tokio::test]
async fn servers_without_ranges_and_damaged_partial_blobs_start_over() {
    let data = b"all of the blob".to_vec();
    let blob = Descriptor::of("x", &data);
    let body = data.clone();
    let server = FakeServer::start(move |request| match request.headers.contains_key("range") {
        true if request.path.contains("/ranges/") => Reply::new(206)
            .header("content-range", format!("bytes 3-14/{}", body.len()))
            .body(body[3..].to_vec()),
        _ => Reply::new(200).body(body.clone()),
    })
    .await;
    for repository in ["plain", "ranges"] {
        let (_dir, store) = temp_store();
        let mut partial = store.resume(&format!("blob-{}", blob.digest)).unwrap();
        std::io::Write::write_all(&mut partial, b"bad").unwrap();
        drop(partial);
        let name = reference(&format!("{}/{repository}/x:1", server.host));
        let result = anonymous().fetch_blob(&name, &blob, &store, None).await;
        result.unwrap_or_else(|error| panic!("{repository}: {error}"));
        assert_eq!(store.read(&blob.digest, 100).unwrap(), data);
    }
}

#[tokio::test]
async fn whoever_wants_a_blob_that_is_being_got_waits_for_it() {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    let server = FakeServer::start(move |_| {
        seen.fetch_add(1, Ordering::Relaxed);
        Reply::new(200).body(vec![7; 300_000])
    })
    .await;
    let (_dir, store) = temp_store();
    let blob = Descriptor::of("x", &[7; 300_000]);
    let name = reference(&format!("{}/a:1", server.host));
    let registry = anonymous();
    let all = (0..20).map(|_| registry.fetch_blob(&name, &blob, &store, None));
    futures_util::future::try_join_all(all).await.unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 1);

    // One that gives up hands over to the next.
    store.delete(&blob.digest).unwrap();
    let held = store.resume(&format!("blob-{}", blob.digest)).unwrap();
    let mut waiting = std::pin::pin!(registry.fetch_blob(&name, &blob, &store, None));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    drop(held);
    waiting.await.unwrap();
    assert_eq!(store.size(&blob.digest).unwrap(), Some(blob.size));
}

#[tokio::test]
async fn temporary_failures_are_tried_again_and_lasting_ones_are_not() {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    let server = FakeServer::start(move |request| {
        let n = seen.fetch_add(1, Ordering::Relaxed);
        match request.path.as_str() {
            path if path.contains("/forever/") => Reply::new(503),
            path if path.contains("/bad/") => Reply::new(400),
            _ if n == 0 => Reply::new(429).header("retry-after", "0"),
            _ if n == 1 => Reply::new(502),
            _ => Reply::new(200).body("data"),
        }
    })
    .await;
    let (_dir, store) = temp_store();
    let blob = Descriptor::of("x", b"data");
    let fetch = async |repository: &str| {
        count.store(0, Ordering::Relaxed);
        let name = reference(&format!("{}/{repository}/x:1", server.host));
        let result = anonymous().fetch_blob(&name, &blob, &store, None).await;
        (result.is_ok(), count.load(Ordering::Relaxed))
    };
    assert_eq!(fetch("forever").await, (false, 3));
    assert_eq!(fetch("bad").await, (false, 1));
    assert_eq!(fetch("good").await, (true, 3));
}

/// CVE-2023-25153, CVE-2017-14992: no answer may fill memory or disk.
#[tokio::test]
async fn cve_2023_25153_answers_are_bounded() {
    let server = FakeServer::start(|request| match request.path.contains("/manifests/") {
        true => Reply::new(200).body(vec![b' '; (4 << 20) + 1]),
        false => Reply::new(200).body(vec![0; 1000]),
    })
    .await;
    let (_dir, store) = temp_store();
    let name = reference(&format!("{}/a:1", server.host));
    let error = anonymous().document(&name, &store).await.unwrap_err();
    assert!(error.to_string().contains("manifest of more than"), "{error}");
    let blob = Descriptor::of("x", b"short");
    let error = anonymous().fetch_blob(&name, &blob, &store, None).await.unwrap_err();
    assert!(error.to_string().contains("longer than its 5 bytes"), "{error}");
    let config = Descriptor { size: 1 << 40, ..blob };
    assert!(anonymous().config(&name, &config, &store).await.is_err());
}

#[tokio::test]
async fn uploads_follow_relative_and_absolute_locations() {
    for absolute in [false, true] {
        let server = FakeServer::start(move |request| match request.method.as_str() {
            "HEAD" => Reply::new(404),
            "POST" => {
                let path = "/v2/a/blobs/uploads/1?state=x";
                let host = &request.headers["host"];
                let location = if absolute {
                    format!("http://{host}{path}")
                } else {
                    path.to_owned()
                };
                Reply::new(202).header("location", location)
            }
            "PUT" => Reply::new(201),
            _ => Reply::new(405),
        })
        .await;
        let (_dir, store) = temp_store();
        let info = store.put(b"payload").unwrap();
        let blob = Descriptor::new("x", info.digest, info.size);
        let name = reference(&format!("{}/a:1", server.host));
        anonymous().push_blob(&name, &blob, &store, &[], None).await.unwrap();
        let requests = server.requests();
        let put = requests.last().unwrap();
        assert_eq!((put.method.as_str(), &put.body[..]), ("PUT", &b"payload"[..]));
        assert_eq!(put.headers["content-length"], "7");
        assert!(
            put.path.starts_with("/v2/a/blobs/uploads/1?state=x&digest=sha256%3A"),
            "{}",
            put.path
        );
    }
}

#[tokio::test]
async fn a_document_is_what_the_registry_says_it_is() {
    let body = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let server = FakeServer::start(move |_| {
        Reply::new(200)
            .header("content-type", MediaTypes::Oci.manifest())
            .body(body)
    })
    .await;
    let (_dir, store) = temp_store();
    let error = anonymous()
        .document(&reference(&format!("{}/a:1", server.host)), &store)
        .await
        .unwrap_err();
    assert!(matches!(error, RegistryError::Document { .. }), "{error}");
    assert!(store.list().unwrap().is_empty());
    assert!(Document::parse(Bytes::from_static(body.as_bytes()), None).is_ok());
}

#[tokio::test]
async fn a_manifest_that_breaks_off_is_asked_for_again() {
    let count = AtomicUsize::new(0);
    let body = r#"{"schemaVersion":2,"manifests":[]}"#;
    let server = FakeServer::start(move |_| {
        let reply = Reply::new(200).body(body);
        if count.fetch_add(1, Ordering::Relaxed) == 0 {
            reply.cut(10)
        } else {
            reply
        }
    })
    .await;
    let (_dir, store) = temp_store();
    let name = format!("{}/a@{}", server.host, Digest::sha256(body.as_bytes()));
    anonymous().document(&reference(&name), &store).await.unwrap();
    assert_eq!(server.requests().len(), 2);
}
