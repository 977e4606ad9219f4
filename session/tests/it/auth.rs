use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_session::auth::{self, DockerConfig, TokenRequest};
use cairn_session::{Services, SessionError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic::Code;

use crate::support::{Connected, Transport, connect};

const SALT: Bytes = Bytes::from_static(&[7; 32]);

/// A session of the user whose configuration is in `dir`.
async fn user(dir: &Path) -> Connected {
    let config = DockerConfig::load(&dir.join("config.json")).await.unwrap();
    let mut services = Services::new();
    auth::serve(&mut services, Arc::new(config));
    connect(Transport::Memory, services).await
}

fn home(config: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config).unwrap();
    dir
}

fn wanted(host: &str, realm: String) -> TokenRequest {
    TokenRequest {
        client_id: "buildkit-client".to_owned(),
        host: host.to_owned(),
        realm,
        service: host.to_owned(),
        scopes: vec!["repository:a:pull".to_owned()],
    }
}

#[tokio::test]
async fn credentials_come_from_the_docker_configuration() {
    let dir = home(r#"{"auths": {"ghcr.io": {"auth": "dTpw"}}}"#);
    let connected = user(dir.path()).await;
    let found = auth::credentials(&connected.session, "ghcr.io").await.unwrap();
    assert_eq!((found.username.as_str(), found.secret.expose_str()), ("u", Some("p")));
    let none = auth::credentials(&connected.session, "quay.io").await.unwrap();
    assert!(none.is_anonymous());

    let missing = dir.path().join("missing");
    let connected = user(&missing).await;
    let none = auth::credentials(&connected.session, "ghcr.io").await.unwrap();
    assert!(none.is_anonymous());
    // Keys are shown even so, and nothing is made for them.
    let key = auth::token_authority(&connected.session, "ghcr.io", SALT).await;
    assert!(key.unwrap().is_some());
    assert!(!missing.exists());
}

#[tokio::test]
async fn tokens_are_fetched_with_the_docker_configuration() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let realm = format!("http://{}/token", listener.local_addr().unwrap());
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut request).await.unwrap();
        }
        let body = r#"{"token": "fresh", "expires_in": 300, "issued_at": "2026-01-01T00:00:00Z"}"#;
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(request).unwrap()
    };
    let dir = home(
        r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "dTpw"},
            "static.test": {"registrytoken": "as it is"}
        }}"#,
    );
    let connected = user(dir.path()).await;
    let hub = wanted("registry-1.docker.io", realm);
    let (token, request) = tokio::join!(auth::fetch_token(&connected.session, hub), server);
    let token = token.unwrap();
    assert_eq!(token.token.expose_str(), Some("fresh"));
    assert_eq!(token.expires_in, Some(Duration::from_secs(300)));
    assert_eq!(token.issued_at, 1_767_225_600);
    assert!(request.contains("authorization: Basic dTpw\r\n"), "{request}");

    let known = wanted("static.test", "https://nobody.invalid/".to_owned());
    let token = auth::fetch_token(&connected.session, known).await.unwrap();
    assert_eq!((token.token.expose_str(), token.expires_in), (Some("as it is"), None));
}

#[tokio::test]
async fn passwords_do_not_go_over_plain_http() {
    let dir = home(r#"{"auths": {"registry.test": {"auth": "dTpw"}}}"#);
    let connected = user(dir.path()).await;
    let open = wanted("registry.test", "http://auth.test/token".to_owned());
    let error = auth::fetch_token(&connected.session, open).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.to_string().contains("plain http"), "{error}");
}

#[tokio::test]
async fn users_are_known_by_their_keys() {
    let (mine, yours) = (home("{}"), home("{}"));
    let (me, me_again, you) = (
        user(mine.path()).await,
        user(mine.path()).await,
        user(yours.path()).await,
    );
    let key = async |of: &Connected| {
        let key = auth::token_authority(&of.session, "ghcr.io", SALT).await.unwrap();
        key.unwrap()
    };
    let my_key = key(&me).await;
    assert_eq!(my_key, key(&me_again).await);
    assert_ne!(my_key, key(&you).await);
    let proves =
        async |of: &Connected, host, salt| auth::verify_token_authority(&of.session, host, salt, &my_key).await;
    assert!(proves(&me, "ghcr.io", SALT).await.unwrap());
    assert!(proves(&me_again, "ghcr.io", SALT).await.unwrap());
    assert!(!proves(&you, "ghcr.io", SALT).await.unwrap());
    assert!(!proves(&me, "quay.io", SALT).await.unwrap());
    assert!(!proves(&me, "ghcr.io", Bytes::from_static(&[8; 32])).await.unwrap());
    let seed = fs::metadata(mine.path().join(".cairn_token_seed")).unwrap();
    assert_eq!(seed.mode() & 0o7777, 0o600);
}

#[tokio::test]
async fn endless_questions_are_refused() {
    let dir = home("{}");
    let connected = user(dir.path()).await;
    let long = Bytes::from(vec![0; 1 << 20]);
    let error = auth::token_authority(&connected.session, "ghcr.io", long).await;
    assert_eq!(error.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn clients_without_credentials_offer_nothing() {
    let connected = connect(Transport::Memory, Services::new()).await;
    let authority = auth::token_authority(&connected.session, "ghcr.io", SALT).await;
    assert_eq!(authority.unwrap(), None);
    let proof = auth::verify_token_authority(&connected.session, "ghcr.io", SALT, &[0; 32]).await;
    assert!(!proof.unwrap());
    let token = auth::fetch_token(&connected.session, TokenRequest::default()).await;
    assert!(matches!(token, Err(SessionError::Unsupported { .. })));
}
