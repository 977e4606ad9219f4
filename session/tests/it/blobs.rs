//! Uploads and content stores.

use std::collections::{BTreeMap, HashMap};
use std::io;

use cairn_session::content::{self, LayoutDir, RemoteContent};
use cairn_session::upload::{self, UploadSource};
use cairn_session::{Services, Session, SessionError};
use tonic::Code;

use crate::support::{TRANSPORTS, Transport, big, connect};

async fn drain(session: &Session, path: &str) -> Result<Vec<u8>, SessionError> {
    let mut pulled = upload::pull(session, path)?;
    let mut all = Vec::new();
    while let Some(bytes) = pulled.next().await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

/// Gives something, and then breaks.
struct Broken(bool);

impl tokio::io::AsyncRead for Broken {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        if std::mem::replace(&mut self.0, true) {
            return std::task::Poll::Ready(Err(io::Error::other("torn")));
        }
        buf.put_slice(b"begun");
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn streams_are_pulled_once() {
    for transport in TRANSPORTS {
        let sources: [(&str, UploadSource); 3] = [
            ("big", Box::new(io::Cursor::new(big()))),
            ("empty", Box::new(tokio::io::empty())),
            ("broken", Box::new(Broken(false))),
        ];
        let mut services = Services::new();
        let sources = sources.map(|(id, source)| (id.to_owned(), source));
        upload::serve(&mut services, HashMap::from(sources));
        let connected = connect(transport, services).await;
        let session = &connected.session;
        assert!(drain(session, "/big").await.unwrap() == big());
        assert!(drain(session, "/empty").await.unwrap().is_empty());
        let broken = drain(session, "/broken").await.unwrap_err();
        assert!(broken.to_string().contains("torn"), "{broken}");
        for path in ["/big", "/other", "", "/", "/.."] {
            assert_eq!(drain(session, path).await.unwrap_err().code(), Code::NotFound, "{path}");
        }
    }
    let without = connect(Transport::Memory, Services::new()).await;
    let refused = drain(&without.session, "/big").await.unwrap_err();
    assert!(matches!(refused, SessionError::Unsupported { .. }), "{refused}");
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_upload() {
    let mut services = Services::new();
    let (_kept_open, source) = tokio::io::duplex(64);
    upload::serve(
        &mut services,
        HashMap::from([("x".to_owned(), Box::new(source) as UploadSource)]),
    );
    let mut connected = connect(Transport::Memory, services).await;
    let mut pulled = upload::pull(&connected.session, "/x").unwrap();
    let (ended, ()) = tokio::join!(pulled.next(), async { drop(connected.client.take()) });
    assert!(ended.is_err());
}

#[tokio::test]
async fn blobs_of_layouts_are_read_from_anywhere_in_them() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = dir.path().join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let (name, missing) = ("a".repeat(64), format!("sha256:{}", "b".repeat(64)));
    std::fs::write(blobs.join(&name), big()).unwrap();
    std::fs::write(dir.path().join("index.json"), "{}").unwrap();
    let digest = format!("sha256:{name}");
    for transport in TRANSPORTS {
        let mut services = Services::new();
        let stores = [(content::layout_store("base"), LayoutDir(dir.path().to_owned()))];
        content::serve(&mut services, BTreeMap::from(stores), BTreeMap::new());
        let connected = connect(transport, services).await;
        let store = RemoteContent::new(&connected.session, "oci:base");
        assert_eq!(store.size(&digest).await.unwrap(), Some(big().len() as u64));
        assert_eq!(store.size(&missing).await.unwrap(), None);
        for offset in [0, 1, big().len() - 1, big().len()] {
            let mut stream = store.read(&digest, offset as u64).unwrap();
            let mut all = Vec::new();
            while let Some(bytes) = stream.next().await.unwrap() {
                all.extend_from_slice(&bytes);
            }
            assert!(all == big()[offset..], "{offset}");
        }
        for (digest, offset, code) in [
            (digest.as_str(), big().len() as u64 + 1, Code::OutOfRange),
            (digest.as_str(), u64::MAX, Code::OutOfRange),
            (missing.as_str(), 0, Code::NotFound),
            ("../../index.json", 0, Code::InvalidArgument),
            ("sha256:../../../index.json", 0, Code::InvalidArgument),
        ] {
            let error = store.read(digest, offset).unwrap().next().await.unwrap_err();
            assert_eq!(error.code(), code, "{digest} {offset}");
        }
        let other = RemoteContent::new(&connected.session, "oci:other");
        assert_eq!(other.size(&digest).await.unwrap(), None);
    }
}

#[tokio::test]
async fn blobs_are_written_only_where_the_client_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let data = big();
    let hash = ring::digest::digest(&ring::digest::SHA256, &data);
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let digest = format!("sha256:{hex}");
    for transport in TRANSPORTS {
        let mut services = Services::new();
        let readable = [(content::layout_store("base"), LayoutDir(dir.path().to_owned()))];
        let writable = [(content::cache_store("/c"), LayoutDir(dir.path().join("cache")))];
        content::serve(&mut services, BTreeMap::from(readable), BTreeMap::from(writable));
        let connected = connect(transport, services).await;
        let refused = RemoteContent::new(&connected.session, "oci:base");
        let refused = refused.write(&digest, data.len() as u64).await.err().unwrap();
        assert_eq!(refused.code(), Code::PermissionDenied);

        let store = RemoteContent::new(&connected.session, "local:/c");
        for escape in ["../../x", "sha256:../x", "", "sha512:00"] {
            assert!(store.write(escape, 1).await.is_err(), "{escape}");
        }
        // Other bytes than promised leave nothing behind.
        let mut writer = store.write(&digest, 3).await.unwrap().unwrap();
        writer.send(bytes::Bytes::from_static(b"abc")).await.unwrap();
        assert!(writer.commit().await.is_err());
        assert_eq!(store.size(&digest).await.unwrap(), None);
        // So does a daemon that gives up.
        let mut writer = store.write(&digest, data.len() as u64).await.unwrap().unwrap();
        writer.send(bytes::Bytes::from_static(b"abc")).await.unwrap();
        drop(writer);

        let mut writer = store.write(&digest, data.len() as u64).await.unwrap().unwrap();
        for chunk in data.chunks(1 << 20) {
            writer.send(bytes::Bytes::copy_from_slice(chunk)).await.unwrap();
        }
        writer.commit().await.unwrap();
        assert_eq!(store.size(&digest).await.unwrap(), Some(data.len() as u64));
        assert!(store.write(&digest, data.len() as u64).await.unwrap().is_none());
        std::fs::remove_dir_all(dir.path().join("cache")).unwrap();
    }
}
