use std::collections::BTreeMap;
use std::fs;

use cairn_session::Services;
use cairn_session::secrets::{self, SecretSource};

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
