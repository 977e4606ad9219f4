use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use cairn_solver::Digest;

use super::fake::{FakeServer, Reply, Request};
use super::*;

const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

fn manifest() -> Reply {
    Reply::new(200)
        .header("content-type", "application/vnd.oci.image.index.v1+json")
        .header("docker-content-digest", Digest::sha256(MANIFEST.as_bytes()).to_string())
        .body(MANIFEST)
}

fn challenge(host: &str) -> Reply {
    let value = format!(r#"Bearer realm="http://{host}/token",service="svc",scope="repository:a/b:pull""#);
    Reply::new(401).header("www-authenticate", value)
}

/// Registry and token server in one; `good` is the authorization it accepts.
fn guarded(good: &'static str, token: impl Fn(&Request) -> Reply + Send + Sync) -> impl Fn(&Request) -> Reply {
    move |request| {
        if request.path.starts_with("/token") {
            return token(request);
        }
        match request.headers.get("authorization") {
            Some(given) if given == good => manifest(),
            _ => challenge(&request.headers["host"]),
        }
    }
}

#[derive(Default)]
struct Login {
    user: Option<UserPassword>,
    token: Option<Token>,
    fetches: AtomicUsize,
}

impl Login {
    fn user(username: &str, secret: &str) -> Arc<Self> {
        let user = UserPassword {
            username: username.to_owned(),
            secret: Secret::new(secret),
        };
        Arc::new(Self {
            user: Some(user),
            ..Self::default()
        })
    }
}

#[async_trait]
impl Credentials for Login {
    async fn credentials(&self, _host: &str) -> Result<Option<UserPassword>, CredentialsError> {
        Ok(self.user.clone())
    }

    async fn fetch_token(&self, request: &TokenRequest) -> Result<Option<Token>, CredentialsError> {
        assert_eq!(request.service, "svc");
        assert_eq!(request.scopes, ["repository:a/b:pull"]);
        self.fetches.fetch_add(1, Ordering::Relaxed);
        Ok(self.token.clone())
    }
}

fn registry(credentials: Arc<dyn Credentials>) -> Registry {
    client(RegistryHosts::default()).with_credentials(credentials)
}

async fn resolve(registry: &Registry, server: &FakeServer) -> Result<Digest, RegistryError> {
    registry
        .resolve_digest(&reference(&format!("{}/a/b:tag", server.host)))
        .await
}

#[tokio::test]
async fn anonymous_tokens_are_got_once() {
    let server = FakeServer::start(guarded("Bearer t1", |request| {
        assert!(request.path.contains("service=svc") && request.path.contains("scope=repository%3Aa%2Fb%3Apull"));
        assert!(!request.headers.contains_key("authorization"));
        Reply::new(200).body(r#"{"access_token":"t1","expires_in":300}"#)
    }))
    .await;
    let registry = anonymous();
    for _ in 0..3 {
        assert_eq!(
            resolve(&registry, &server).await.unwrap(),
            Digest::sha256(MANIFEST.as_bytes())
        );
    }
    let token_requests = server
        .requests()
        .iter()
        .filter(|request| request.path.starts_with("/token"))
        .count();
    assert_eq!((token_requests, server.requests().len()), (1, 5));
}

#[tokio::test]
async fn passwords_identity_tokens_and_fetched_tokens_are_used() {
    let password = FakeServer::start(guarded("Bearer t2", |request| {
        assert_eq!(request.headers["authorization"], "Basic dXNlcjpwYXNz");
        Reply::new(200).body(r#"{"token":"t2"}"#)
    }))
    .await;
    resolve(&registry(Login::user("user", "pass")), &password)
        .await
        .unwrap();

    let identity = FakeServer::start(guarded("Bearer t3", |request| {
        let body = String::from_utf8_lossy(&request.body);
        assert_eq!(request.method, "POST");
        assert!(
            body.contains("grant_type=refresh_token") && body.contains("refresh_token=identity"),
            "{body}"
        );
        assert!(!request.path.contains("identity"));
        Reply::new(200).body(r#"{"token":"t3"}"#)
    }))
    .await;
    resolve(&registry(Login::user("", "identity")), &identity)
        .await
        .unwrap();

    let fetched = FakeServer::start(guarded("Bearer t4", |_| Reply::new(500))).await;
    let login = Arc::new(Login {
        token: Some(Token {
            secret: Secret::new("t4"),
            expires_in: Duration::from_secs(60),
        }),
        ..Login::default()
    });
    let registry = registry(login.clone());
    resolve(&registry, &fetched).await.unwrap();
    resolve(&registry, &fetched).await.unwrap();
    assert_eq!(login.fetches.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn basic_challenges_get_the_password() {
    let server = FakeServer::start(|request| match request.headers.get("authorization") {
        Some(given) if given == "Basic dXNlcjpwYXNz" => manifest(),
        Some(_) => Reply::new(403),
        None => Reply::new(401).header("www-authenticate", r#"Basic realm="r""#),
    })
    .await;
    resolve(&registry(Login::user("user", "pass")), &server).await.unwrap();
    let refused = resolve(&anonymous(), &server).await.unwrap_err();
    assert!(refused.is_denied(), "{refused}");
}

#[tokio::test]
async fn refused_tokens_end_in_an_error_that_shows_no_secret() {
    let server = FakeServer::start(guarded("Bearer other", |_| {
        Reply::new(200).body(r#"{"token":"canary-token"}"#)
    }))
    .await;
    let registry = registry(Login::user("user", "canary-password"));
    let error = resolve(&registry, &server).await.unwrap_err();
    assert!(error.is_denied());
    let shown = format!(
        "{} {error:?} {registry:?} {:?}",
        describe(&error),
        Secret::new("canary")
    );
    assert!(!shown.contains("canary"), "{shown}");
    assert!(server.requests().len() < 10);
}

/// CVE-2020-15157: a server that was redirected to must see no credentials, and asks for them in vain.
#[tokio::test]
async fn cve_2020_15157_credentials_do_not_follow_redirects() {
    let blob = b"blob bytes".to_vec();
    let served = blob.clone();
    let attacker = FakeServer::start(move |request| match request.path.as_str() {
        "/plain" => Reply::new(200).body(served.clone()),
        _ => Reply::new(401).header("www-authenticate", r#"Basic realm="give""#),
    })
    .await;
    let target = attacker.host.clone();
    let server = FakeServer::start(move |request| match request.headers.get("authorization") {
        None => Reply::new(401).header("www-authenticate", r#"Basic realm="r""#),
        Some(_) if request.path.starts_with("/v2/good/") => {
            Reply::new(307).header("location", format!("http://{target}/plain"))
        }
        Some(_) => Reply::new(307).header("location", format!("http://{target}/ask")),
    })
    .await;
    let registry = registry(Login::user("user", "pass"));
    let (_dir, store) = temp_store();
    let descriptor = Descriptor::of("x", &blob);
    let good = reference(&format!("{}/good/x:1", server.host));
    registry.fetch_blob(&good, &descriptor, &store, None).await.unwrap();
    assert_eq!(store.read(&descriptor.digest, 100).unwrap(), blob);
    store.delete(&descriptor.digest).unwrap();
    let evil = reference(&format!("{}/evil/x:1", server.host));
    assert!(
        registry
            .fetch_blob(&evil, &descriptor, &store, None)
            .await
            .unwrap_err()
            .is_denied()
    );
    let requests = attacker.requests();
    assert_eq!(requests.len(), 2);
    assert!(
        requests
            .iter()
            .all(|request| !request.headers.contains_key("authorization"))
    );
}

/// CVE-2019-10214, CVE-2026-33540: a token server must be as well protected as the registry, and be a plain URL.
#[tokio::test]
async fn cve_2019_10214_token_servers_are_checked() {
    for realm in [
        "ftp://example.invalid/token",
        "http://user:pass@127.0.0.1/token",
        "no url",
        "file:///etc/passwd",
    ] {
        let server = FakeServer::start(move |_| {
            Reply::new(401).header("www-authenticate", format!(r#"Bearer realm="{realm}",service="svc""#))
        })
        .await;
        let error = resolve(&anonymous(), &server).await.unwrap_err();
        assert!(matches!(error, RegistryError::Protocol { .. }), "{realm}: {error}");
    }
}

#[tokio::test]
async fn endless_redirects_end() {
    let server = FakeServer::start(|request| Reply::new(302).header("location", request.path.clone())).await;
    let error = resolve(&anonymous(), &server).await.unwrap_err();
    assert!(error.to_string().contains("too many redirects"), "{error}");
}

#[tokio::test]
async fn the_registrys_own_words_are_in_the_error() {
    let server = FakeServer::start(|_| {
        Reply::new(418)
            .header("content-type", "application/json")
            .body(r#"{"errors":[{"code":"TEA_POT","message":"short and\n stout"}]}"#)
    })
    .await;
    let by_digest = format!("{}/a/b@{}", server.host, Digest::sha256(b""));
    let (_dir, store) = temp_store();
    let error = anonymous().document(&reference(&by_digest), &store).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{by_digest}: unexpected status from GET request to http://{}/v2/a/b/manifests/{}: 418 I'm a teapot: tea pot: \
             short and stout",
            server.host,
            Digest::sha256(b"")
        )
    );
}

#[tokio::test]
async fn what_a_token_is_not_good_for_is_told_in_known_words() {
    let server = FakeServer::start(|request| {
        let host = &request.headers["host"];
        match request.path.starts_with("/token") {
            true => Reply::new(200).body(r#"{"token":"t"}"#),
            false => Reply::new(401).header(
                "www-authenticate",
                format!(r#"Bearer realm="http://{host}/token",service="s",error="insufficient_scope""#),
            ),
        }
    })
    .await;
    let (_dir, store) = temp_store();
    let name = format!("{}/a/b:1", server.host);
    let error = anonymous().document(&reference(&name), &store).await.unwrap_err();
    assert!(error.is_denied());
    let words = "pull access denied, repository does not exist or may require authorization: server message: \
                 insufficient_scope: authorization failed";
    assert_eq!(error.to_string(), format!("{name}: {words}"));
}

#[test]
fn tokens_are_good_for_as_long_as_is_said() {
    use super::super::auth::read_answer;
    for (expires_in, want) in [
        ("300", 300),
        ("18446744073709551615", u64::MAX),
        ("0", 0),
        ("-1", 0),
        ("3.5", 0),
        ("null", 0),
    ] {
        let token = read_answer(format!(r#"{{"token":"t","expires_in":{expires_in}}}"#).as_bytes()).unwrap();
        assert_eq!(token.expires_in, Duration::from_secs(want), "{expires_in}");
        assert!(token.authorization().is_some(), "{expires_in}");
    }
    assert_eq!(read_answer(b"{}").unwrap_err(), "has no token");
    assert_eq!(read_answer(b"<html>").unwrap_err(), "is not understood");
    let two_lines = read_answer(br#"{"token":"a\r\nb"}"#).unwrap();
    assert!(two_lines.authorization().is_none());
}
