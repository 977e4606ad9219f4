use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use cairn_session::Services;
use cairn_session::exporter::{self, AddExporters, AddedExporter};
use cairn_session::secrets::{self, SecretSource};
use cairn_session::ssh::{self, Lending};

use crate::support::{Transport, connect};

#[tokio::test]
async fn secrets_are_read_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (small, large) = (dir.path().join("small"), dir.path().join("large"));
    fs::write(&small, b"hush\xff").unwrap();
    fs::write(&large, vec![0; (500 << 10) + 1]).unwrap();
    let sources = BTreeMap::from([
        ("small".to_owned(), SecretSource::File(small)),
        ("large".to_owned(), SecretSource::File(large)),
        ("gone".to_owned(), SecretSource::File(dir.path().join("gone"))),
        ("env".to_owned(), SecretSource::Env("PATH".to_owned())),
        (
            "unset".to_owned(),
            SecretSource::Env("CAIRN_TEST_UNSET_VARIABLE".to_owned()),
        ),
    ]);
    let mut services = Services::new();
    secrets::serve(&mut services, sources);
    let connected = connect(Transport::UnixSocket, services).await;
    let get = async |id| secrets::get_secret(&connected.session, id).await;
    assert_eq!(get("small").await.unwrap().unwrap().expose(), b"hush\xff");
    assert!(!get("env").await.unwrap().unwrap().is_empty());
    for id in ["gone", "unset", "never heard of"] {
        assert_eq!(get(id).await.unwrap(), None, "{id}");
    }
    assert!(get("large").await.unwrap_err().to_string().contains("larger than"));

    let without = connect(Transport::Memory, Services::new()).await;
    assert_eq!(secrets::get_secret(&without.session, "small").await.unwrap(), None);
}

/// An agent that answers every request with its kind.
fn echoing_agent(path: &std::path::Path) -> tokio_util::task::AbortOnDropHandle<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::UnixListener::bind(path).unwrap();
    tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut request = [0; 5];
            while connection.read_exact(&mut request).await.is_ok() {
                connection.write_all(&[0, 0, 0, 2, 12, request[4]]).await.unwrap();
            }
        }
    }))
}

#[tokio::test]
async fn agents_are_lent_for_using_keys_only() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let dir = tempfile::tempdir().unwrap();
    let agent = echoing_agent(&dir.path().join("agent"));
    for transport in [Transport::Memory, Transport::UnixSocket] {
        let mut services = Services::new();
        let agents = [("default", "agent"), ("gone", "nowhere")];
        let agents = agents.map(|(id, name)| (id.to_owned(), dir.path().join(name)));
        ssh::serve(&mut services, agents.into());
        let connected = connect(transport, services).await;
        let unknown = Lending::Refused("no ssh agent \"other\" is forwarded".to_owned());
        for (id, lending) in [
            ("", Lending::Granted),
            ("default", Lending::Granted),
            ("gone", Lending::Granted),
            ("other", unknown),
        ] {
            let found = ssh::check_agent(&connected.session, id).await.unwrap();
            assert_eq!(found, lending, "{id:?}");
        }
        let socket = dir.path().join(format!("{transport:?}"));
        let lend = |id: &str, socket: &std::path::Path| {
            let listener = tokio::net::UnixListener::bind(socket).unwrap();
            let lending = ssh::serve_connections(connected.session.clone(), id.to_owned(), listener);
            tokio_util::task::AbortOnDropHandle::new(tokio::spawn(lending))
        };
        let lending = lend("", &socket);
        // Two at once, each with several requests, of which only the middle one may reach the agent.
        for _ in 0..2 {
            let mut step = tokio::net::UnixStream::connect(&socket).await.unwrap();
            let requests = [[0, 0, 0, 1, 19], [0, 0, 0, 1, 11], [0, 0, 0, 1, 22]];
            step.write_all(&requests.concat()).await.unwrap();
            step.shutdown().await.unwrap();
            let mut replies = Vec::new();
            step.read_to_end(&mut replies).await.unwrap();
            assert_eq!(
                replies,
                [&[0, 0, 0, 1, 5][..], &[0, 0, 0, 2, 12, 11], &[0, 0, 0, 1, 5]].concat()
            );
        }
        // Without an agent behind it, and with rubbish in front, connections end.
        let dead = dir.path().join(format!("{transport:?}-dead"));
        let dead_end = lend("gone", &dead);
        for (socket, request) in [(&dead, [0, 0, 0, 1, 11]), (&socket, [0xff; 5])] {
            let mut step = tokio::net::UnixStream::connect(socket).await.unwrap();
            step.write_all(&request).await.unwrap();
            let mut replies = Vec::new();
            step.read_to_end(&mut replies).await.unwrap();
            assert!(replies.is_empty());
        }
        drop((lending, dead_end));
        tokio::task::yield_now().await;
    }
    drop(agent);

    let without = connect(Transport::Memory, Services::new()).await;
    let lending = ssh::check_agent(&without.session, "default").await.unwrap();
    assert_eq!(lending, Lending::Unsupported);
}

/// Adds one exporter for each platform, and fails where the metadata says so.
#[derive(Default)]
struct OnePerPlatform {
    told: std::sync::Mutex<Option<BTreeMap<String, String>>>,
}

#[tonic::async_trait]
impl AddExporters for OnePerPlatform {
    async fn find(
        &self,
        metadata: BTreeMap<String, bytes::Bytes>,
        refs: Vec<String>,
    ) -> Result<Vec<AddedExporter>, tonic::Status> {
        if let Some(code) = metadata.get("fail") {
            return Err(tonic::Status::new(tonic::Code::from_bytes(code), "no exporters today"));
        }
        let added = refs.into_iter().map(|platform| AddedExporter {
            kind: "image".to_owned(),
            attrs: [("name".to_owned(), platform)].into(),
        });
        Ok(added.collect())
    }

    async fn finalize(&self, response: BTreeMap<String, String>) -> Result<(), tonic::Status> {
        *self.told.lock().unwrap() = Some(response);
        Ok(())
    }
}

#[tokio::test]
async fn clients_add_exporters_and_hear_of_the_outcome() {
    for transport in [Transport::Memory, Transport::UnixSocket] {
        let client = Arc::new(OnePerPlatform::default());
        let mut services = Services::new();
        exporter::serve(&mut services, client.clone());
        let connected = connect(transport, services).await;
        let session = &connected.session;
        let find = |metadata: BTreeMap<String, bytes::Bytes>, refs: &[&str]| {
            let refs = refs.iter().map(|&name| name.to_owned()).collect();
            exporter::find_exporters(session, metadata, refs)
        };
        let found = find(BTreeMap::new(), &["linux/amd64", "linux/arm64"]).await.unwrap();
        let names: Vec<&str> = found.iter().map(|added| added.attrs["name"].as_str()).collect();
        assert_eq!(names, ["linux/amd64", "linux/arm64"]);
        assert_eq!(found[0].kind, "image");
        // A client that has the service in name only has no exporters; what it refuses is an error.
        for (code, is_fine) in [("14", true), ("12", true), ("9", false)] {
            let failing = BTreeMap::from([("fail".to_owned(), code.into())]);
            assert_eq!(find(failing, &[]).await.is_ok(), is_fine, "{code}");
        }
        let response = BTreeMap::from([("containerimage.digest".to_owned(), "sha256:1".to_owned())]);
        exporter::finalize_export(session, response.clone()).await.unwrap();
        assert_eq!(*client.told.lock().unwrap(), Some(response));
    }
    let without = connect(Transport::Memory, Services::new()).await;
    let found = exporter::find_exporters(&without.session, BTreeMap::new(), Vec::new()).await;
    assert_eq!(found.unwrap(), []);
    exporter::finalize_export(&without.session, BTreeMap::new())
        .await
        .unwrap();
}
